"""The study of an Optuna search: its storage and pruner. Imports Optuna where it is used."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

PRUNERS = ("none", "median", "hyperband")

# Environment variable with the directory of the search that started a process.
SEARCH = "QUARTET_SEARCH"


def make_storage(url: str | None, directory: Path) -> "BaseStorage":
    """Opens the database at `url`, or a journal in the sweep's directory; processes can share it.

    Raises:
        ValueError: reading the database could run code.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    refuse_pickles(url)
    if url:
        return get_storage(url)
    return JournalStorage(JournalFileBackend(str(journal_path(directory))))


def journal_path(directory: Path) -> Path:
    """The journal of the search in a sweep's directory."""
    return directory / "optuna" / "study.journal"


def refuse_pickles(url: str | None) -> None:
    """Refuses a database whose content Optuna would unpickle."""
    if url and url.startswith("redis"):
        raise ValueError(
            f"sweep.storage={url}: Optuna unpickles what it reads there, which may run code; name "
            "another database, such as sqlite:///searches.db."
        )


def make_pruner(name: str, warmup_epochs: int, max_epochs: int | None) -> "BasePruner":
    """Creates the pruner with a name in `PRUNERS`."""
    from optuna import pruners

    if name == "median":
        # Epochs count from 1, Optuna's steps from 0.
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        longest = max_epochs if max_epochs and max_epochs > 0 else "auto"
        return pruners.HyperbandPruner(min_resource=max(1, warmup_epochs), max_resource=longest)
    return pruners.NopPruner()


def repair_journal(directory: Path) -> None:
    """Removes an unfinished last line of a sweep's journal, which Optuna cannot read."""
    path = journal_path(directory)
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)
