"""A recurrent network for sequences."""

from collections.abc import Sequence

from torch import Tensor, nn


class GRU(nn.Module):
    """Sequences ``(batch, time, columns)`` -> outputs ``(batch, num_outputs)``.

    Args:
        input_shape: (time, columns) of a sequence.
        num_outputs: Values to forecast.
        hidden: Size of the state.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.GRU(input_shape[1], hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_outputs)

    def forward(self, sequences: Tensor) -> Tensor:
        states, _ = self.encoder(sequences)
        outputs: Tensor = self.head(states[:, -1])
        return outputs
