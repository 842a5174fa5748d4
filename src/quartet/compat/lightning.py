"""Lightning: private names and messages."""

import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def quieten() -> None:
    """Silences what Lightning says of itself; its real warnings stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # or every message comes twice under Hydra
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # torch 2.15 renamed what Lightning 2.6 uses
        "The number of training batches",  # nothing is logged by step
        ".*sync_dist=True",  # the meters have synchronised already
        "Total length of `list`",  # no validation part
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data knows where
        "Checkpoint directory .* exists and is not empty",  # going on with a run
        "Be aware that when using `ckpt_path`",  # evaluating needs no checkpoint callbacks
        ".*does not have many workers",  # small files are read faster without
        "A `OneCycleLR` scheduler is using",  # its length is counted in epochs, too
    ):
        warnings.filterwarnings("ignore", message)
