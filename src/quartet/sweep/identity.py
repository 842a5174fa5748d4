"""Whether a job of a sweep is still the one that was trained. Without torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from quartet.resume import flat
from quartet.sweep.jobs import Job

if TYPE_CHECKING:
    from hydra_plugins.quartet import GridSweeper


def fingerprint(sweeper: "GridSweeper") -> str:
    """A hash of every file that Hydra composes from."""
    digest = hashlib.sha256()
    assert sweeper.hydra_context
    for source in sweeper.hydra_context.config_loader.get_search_path().get_path():
        if source.path and not source.path.startswith(("pkg://", "structured://")):
            folder = Path(source.path.removeprefix("file://"))
            for path in sorted(folder.rglob("*.yaml")):
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def refuse_changes(sweeper: "GridSweeper", suspects: Sequence[Job], directory: Path) -> None:
    """Composes jobs whose files have changed since, and compares with what they were started with.

    Raises:
        ValueError: they differ; tells where.
    """
    told: list[str] = []
    others = 0
    for job in suspects:
        before = job.directory / ".hydra" / "config.yaml"
        if not before.exists() or not (job.result or job.go_on()):
            continue  # nothing was trained
        cfg = compose(sweeper, job.overrides)
        if OmegaConf.to_yaml(cfg) == before.read_text():
            continue
        was, now = flat(before), flat(cfg)
        lines = [
            f"    {key}: {was.get(key)} -> {now.get(key)}"
            for key in dict.fromkeys([*was, *now])
            if was.get(key) != now.get(key)
        ]
        if lines and len(told) < 3:
            told.append("\n".join([f"  job {job.number}: {' '.join(job.overrides)}", *lines]))
        elif lines:
            others += 1
    if told:
        told += [f"  and {others} others"] if others else []
        raise ValueError(
            "\n".join(
                [
                    f"conf/ has changed since jobs in {directory} were trained, and nothing in it was touched:",
                    *told,
                    "Take the change back, or start a sweep of its own in another hydra.sweep.dir.",
                ]
            )
        )


def compose(sweeper: "GridSweeper", overrides: Sequence[str]) -> DictConfig:
    assert sweeper.hydra_context
    assert sweeper.config
    load = sweeper.hydra_context.config_loader.load_sweep_config
    cfg = load(sweeper.config, [*overrides, *sweeper.how])
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
