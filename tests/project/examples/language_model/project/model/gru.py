"""A recurrent network over characters."""

from torch import Tensor, nn


class GRU(nn.Module):
    """Ids ``(batch, time)`` -> logits of the next character, ``(batch, time, vocab_size)``.

    Args:
        vocab_size: Number of different characters.
        width: Units.
        dropout: Probability to zero a unit in training, in [0, 1).
    """

    def __init__(self, *, vocab_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.layers(self.embedding(ids.long()))
        outputs: Tensor = self.head(self.dropout(states))
        return outputs
