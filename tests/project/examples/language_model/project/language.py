"""Language modelling: the next character at every place of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import quartet

TEXT = "the quick brown fox jumps over the lazy dog while five wizards box my jugs. " * 40


class LanguageModelling(quartet.Task):
    """Outputs are logits ``(batch, time, vocab_size)``, targets ids ``(batch, time)``."""

    def labels(self, targets: Tensor) -> Tensor:
        return targets.long()

    def target_columns(self, labels: Tensor, names: Sequence[str]) -> dict[str, Any]:
        return {"text": [spell(ids, names) for ids in labels]}

    def prediction_columns(self, predictions: Tensor, names: Sequence[str]) -> dict[str, Any]:
        return {"prediction": [spell(ids, names) for ids in predictions.argmax(2)]}


def spell(ids: Tensor, characters: Sequence[str]) -> str:
    return "".join(characters[i] for i in ids.tolist())


class TokenCrossEntropy(nn.Module):
    """Cross-entropy of the next character, the mean over all places."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.flatten(0, 1), targets.flatten().long())


def characters(*, length: int) -> quartet.Parts:
    """Windows of a text: ids uint8 ``(windows, length)``, targets the same one place later.

    Args:
        length: Characters of a window; the last fifths of all windows are for validation and test.
    """
    known = sorted(set(TEXT))
    ids = torch.tensor([known.index(character) for character in TEXT], dtype=torch.uint8)
    windows = ids.unfold(0, length + 1, length)
    fifth = len(windows) // 5
    train, val, test = (
        TensorDataset(part[:, :-1].contiguous(), part[:, 1:].contiguous())
        for part in windows.split([len(windows) - 2 * fifth, fifth, fifth])
    )
    facts = {"vocab_size": len(known)}
    return quartet.Parts(train, val, test, class_names=tuple(known), facts=facts)


class TextSample(Callback):
    """Writes a text of the model after each validation, into ``texts`` of the run's directory.

    Args:
        start: Its beginning.
        length: Characters to add, each the most probable one.
    """

    def __init__(self, *, start: str, length: int) -> None:
        self.start, self.length = start, length

    @torch.no_grad()
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        names, text = pl_module.class_names, self.start
        for _ in range(self.length):
            ids = torch.tensor([[names.index(c) for c in text]], device=pl_module.device)
            text += names[int(pl_module.model(ids)[0, -1].argmax())]
        folder = Path(trainer.default_root_dir, "texts")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{trainer.global_step}.txt").write_text(text)
