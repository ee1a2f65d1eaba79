"""Loss spikes: a step's loss far above those before it, counted and, if asked, not learned from."""

import torch
from torch import Tensor, nn

WINDOW = 64
FACTOR = 10.0
"""Robust standard deviations (1.4826 times the median absolute deviation) above the median."""
PATIENCE = 8
"""Spikes in a row after which the loss has a new level, which is judged, and learned from, anew."""


class Spikes(nn.Module):
    """The last `WINDOW` losses that were not spikes, and how many spikes came since: buffers, so
    that a resumed run judges its steps as the undisturbed one does."""

    recent_W: Tensor
    in_a_row: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("recent_W", torch.full((WINDOW,), torch.nan, dtype=torch.float64))
        self.register_buffer("in_a_row", torch.zeros((), dtype=torch.int64))

    def deviations(self, loss: float) -> float | None:
        """How many deviations a loss stands above the recent ones, if that makes it a spike.

        None for all others, and until the window is full; a loss that is no spike enters it.
        """
        recent = self.recent_W.cpu()
        median = recent.median()
        deviation = 1.4826 * (recent - median).abs().median()
        above = float((loss - median) / deviation)
        if above > FACTOR:
            if self.in_a_row.add_(1) < PATIENCE:
                return above
            recent = torch.full_like(recent, torch.nan)
        self.in_a_row.zero_()
        self.recent_W.copy_(torch.cat([recent[1:], torch.tensor([loss], dtype=recent.dtype)]))
        return None
