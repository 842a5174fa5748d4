"""Which process of a run this is, and the directory of the first. Without torch.

torchrun and Slurm start all processes of a run at once; Lightning, on one machine, starts the further
ones itself, and hands them the directory.
"""

import os
import time
from datetime import timedelta
from pathlib import Path

from quartet.core import slurm

PATIENCE = timedelta(minutes=5)


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_by_slurm() -> bool:
    """Whether Slurm started this process with others, by rules that are Lightning's, too."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return not interactive and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def started_externally() -> bool:
    """Whether the processes of the run were started from outside."""
    return started_by_torchrun() or started_by_slurm()


def started_by_lightning() -> bool:
    """Whether Lightning started this process for a run that has its directory."""
    return "LOCAL_RANK" in os.environ and not started_externally()


def process_rank() -> int:
    """Of this process among those of the run, from 0."""
    name = (
        "RANK" if started_by_torchrun() else "SLURM_PROCID" if started_by_slurm() else "LOCAL_RANK"
    )
    return int(os.environ.get(name, 0))


def share(directory: str | Path | None) -> Path:
    """The directory of the first process, which gives it; the others wait for it.

    Raises:
        TimeoutError: the first process did not tell.
    """
    if started_by_torchrun():
        return over_network(directory)
    path = slurm.NOTES / f"{slurm.step()}.directory"
    if directory is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(str(directory))
        temporary.replace(path)
    end = time.monotonic() + PATIENCE.total_seconds()
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(
                f"{path.absolute()} was not written by the first process of this Slurm step; start "
                "all of them in one folder that every machine sees, or name hydra.run.dir=DIR."
            )
        time.sleep(0.2)
    return Path(path.read_text())


def over_network(directory: str | Path | None) -> Path:
    """As `share`, through the store by which torchrun's processes meet."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise TimeoutError(
            "this rendezvous of torchrun has no store to share; name hydra.run.dir=DIR."
        )
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=PATIENCE)
    key = f"directory/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if directory is not None:
        store.set(key, str(directory))
    return Path(store.get(key).decode())
