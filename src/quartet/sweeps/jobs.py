"""Shared by all ways to train the jobs of a sweep: how one is resumed, the progress. Without torch."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from quartet.config.overrides import quote
from quartet.records.run_directory import STARTING
from quartet.records.sweep_table import Job

SWEEP_GROUPS = ("launcher", "sweep")  # groups that configure the sweep itself, not its jobs
EXIT_LOCKED = 75  # exit status of a job that another process trains


def resume_overrides(job: Job) -> list[str]:
    """Overrides that resume a job from its checkpoints; none if it has no checkpoint."""
    if not job.has_checkpoint:
        return []
    return [f"resume={quote(job.directory)}", f"hydra.output_subdir=.hydra/{STARTING}"]


class Progress:
    """Prints a line to stderr for each job that ends: its status, and how far the sweep is.

    Args:
        jobs: Of the whole sweep.
        total: Number of jobs that it will have, if there are more to come.
    """

    def __init__(self, jobs: Sequence[Job], total: int | None = None) -> None:
        self.total = max(total or 0, len(jobs))
        self.results = {job.number: job.result for job in jobs}
        self.shared = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
        self.begun = time.monotonic()
        self.ended = 0

    def update(self, job: Job) -> None:
        """Reads the result of a job, which another process may have trained."""
        self.results[job.number] = job.result

    def end(self, job: Job, reason: str | None = None) -> None:
        """Prints the line of a job that has ended here.

        Args:
            job: That ended.
            reason: Why it did not finish, if it could not record that itself.
        """
        self.ended += 1
        self.update(job)
        status = reason or job.status or "did not end"
        own = " ".join(each for each in job.overrides if each not in self.shared)
        print(f"job {job.number} ({own}) {status}; {self}", file=sys.stderr)

    def __str__(self) -> str:
        found = [(number, result) for number, result in self.results.items() if result]
        done = [(number, result) for number, result in found if result["status"] == "finished"]
        failed = sum(result["status"] in ("failed", "refused") for _, result in found)
        parts = [f"{len(done)} of {self.total} done"]
        if failed:
            parts.append(f"{failed} failed")
        if best := find_best(done):
            parts.append(best)
        left = self.total - len(done) - failed
        if left and self.ended:
            seconds = round((time.monotonic() - self.begun) / self.ended * left)
            parts.append(f"about {timedelta(seconds=seconds)} left")
        return "sweep: " + ", ".join(parts)


def find_best(done: Sequence[tuple[int, Any]]) -> str | None:
    """The best of the finished jobs by the figure that the first one monitors, in words."""
    scored = [(n, r["monitor"]) for n, r in done if r["monitor"]["best"] is not None]
    if not scored:
        return None
    first = scored[0][1]
    comparable = [each for each in scored if each[1]["metric"] == first["metric"]]
    choose = max if first["mode"] == "max" else min
    number, best = choose(comparable, key=lambda each: each[1]["best"])
    return f"best {best['metric']} {best['best']:.4g} (job {number})"
