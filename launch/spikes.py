"""Loss spikes: a step's loss far above those before it, counted and, if asked, not learned from."""

import torch
from torch import Tensor, nn

WINDOW = 64
FACTOR = 10.0
"""Robust standard deviations (1.4826 times the median absolute deviation) above the median."""


class Spikes(nn.Module):
    """The last `WINDOW` losses that were not spikes; as a buffer they are saved with the run, so
    that a resumed run judges its steps as the undisturbed one does."""

    recent_W: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("recent_W", torch.full((WINDOW,), torch.nan, dtype=torch.float64))

    def deviations(self, loss: float) -> float | None:
        """How many deviations a loss stands above the recent ones, if that makes it a spike.

        None for all others, and until the window is full; a loss that is no spike enters it.
        """
        recent = self.recent_W.cpu()
        median = recent.median()
        deviation = 1.4826 * (recent - median).abs().median()
        above = float((loss - median) / deviation)
        if above > FACTOR:
            return above
        self.recent_W.copy_(torch.cat([recent[1:], torch.tensor([loss], dtype=recent.dtype)]))
        return None
