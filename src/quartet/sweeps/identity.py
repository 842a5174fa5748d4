"""Whether a job of a sweep is still the one that was planned, or trained. Without torch."""

import copy
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_repository import ConfigRepository
from omegaconf import DictConfig, OmegaConf

from quartet.config.resume import flat
from quartet.sweeps.jobs import Job

if TYPE_CHECKING:
    from hydra_plugins.quartet import GridSweeper


class ReadOnce(ConfigRepository):
    """The files of conf/ as the first job found them, for all jobs of a start.

    To read them again for each job would take 50 ms of 130.
    """

    def initialize_sources(self, config_search_path: Any) -> None:
        super().initialize_sources(config_search_path)
        self.files: dict[str, bytes] = {}

    def __deepcopy__(self, memo: Any) -> "ReadOnce":
        return copy.copy(self)  # Hydra composes with a copy, which may get other sources

    def load_config(self, config_path: str) -> Any:
        if config_path not in self.files:
            self.files[config_path] = pickle.dumps(super().load_config(config_path))
        return pickle.loads(self.files[config_path])  # Hydra changes what it composes


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
