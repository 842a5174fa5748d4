"""A line for a whole sweep: what is done, what runs, the best so far, the time left."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from quartet.sweeps.jobs import Job


class Live:
    """Rewritten in place on a terminal; elsewhere a line for each job that ends.

    Args:
        jobs: Of the whole sweep.
        slots: Jobs at once.
        total: How many jobs it will have, if there are more to come.
    """

    def __init__(self, jobs: Sequence[Job], slots: int = 1, total: int | None = None) -> None:
        self.total = max(total or 0, len(jobs))
        self.slots = slots
        self.results = {job.number: job.result for job in jobs}
        self.shared = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
        self.running: set[int] = set()
        self.begun = time.monotonic()
        self.ended = 0
        self.bar = tqdm(
            bar_format="{desc}", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False
        )

    @contextmanager
    def shown(self) -> Iterator["Live"]:
        """Within it the line stands below what is printed."""
        try:
            if self.bar.disable:
                yield self
            else:
                out: Any = DummyTqdmFile(sys.stdout)
                err: Any = Log(sys.stderr)
                with redirect_stdout(out), redirect_stderr(err):
                    yield self
        finally:
            self.bar.close()

    def start(self, job: Job) -> None:
        self.running.add(job.number)
        self.draw()

    def end(self, job: Job, reason: str | None = None) -> None:
        """A job has ended here.

        Args:
            job: That ended.
            reason: Why it did not finish, where it could not say so itself.
        """
        self.running.discard(job.number)
        self.ended += 1
        self.see(job)
        if self.bar.disable:
            status = reason or job.status or "did not end"
            own = " ".join(each for each in job.overrides if each not in self.shared)
            print(f"job {job.number} ({own}) {status}; {self}", file=sys.stderr)

    def see(self, job: Job) -> None:
        """Takes up what has become of a job, perhaps in another process."""
        self.results[job.number] = job.result
        self.draw()

    def draw(self) -> None:
        self.bar.set_description_str(str(self))

    def __str__(self) -> str:
        found = [(number, result) for number, result in self.results.items() if result]
        done = [(number, result) for number, result in found if result["status"] == "finished"]
        failed = sum(result["status"] in ("failed", "refused") for _, result in found)
        parts = [f"{len(done)} of {self.total} done"]
        if self.running:
            parts.append(f"{len(self.running)} running")
        if failed:
            parts.append(f"{failed} failed")
        scored = [(n, r["monitor"]) for n, r in done if r["monitor"]["best"] is not None]
        # Jobs may watch different figures; the best is that of the first one's.
        scored = [each for each in scored if each[1]["metric"] == scored[0][1]["metric"]]
        if scored:
            choose = max if scored[0][1]["mode"] == "max" else min
            number, best = choose(scored, key=lambda each: each[1]["best"])
            parts.append(f"best {best['metric']} {best['best']:.4g} (job {number})")
        left = self.total - len(done) - failed
        if left and self.ended:
            seconds = (time.monotonic() - self.begun) / self.ended * left
            parts.append(f"{tqdm.format_interval(seconds)} left")
        return "sweep: " + ", ".join(parts)


class Log:
    """stderr on a terminal; whole lines, as `logging` writes them, appear above what is redrawn."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if text.strip() and text.endswith("\n"):
            tqdm.write(text, file=self.stream, end="")
            return len(text)
        return self.stream.write(text)  # of a bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
