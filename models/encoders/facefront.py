"""The face front end of the live models: face rows -> tokens, and what the expression network read in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.emotions import EMOTIONS
from models.layers import BLOCKED, Patches, any_row, shut

MEMORY_S = 0.8
"""Where the memory of a face begins to learn: older frames count less by e each 0.8 s."""
FLOOR = 0.01
"""Share of the averaged reading that is spread over all emotions: no frame rules one out."""


class FaceReader(nn.Module):
    """The network's own posteriors, averaged with weights that fade with age, as logits under equal priors; (B, T, 7) -> (B, 7).

    Each frame's begin as the plain rule of Bayes: posterior over share of the emotion in the corpus. Few windows of rare emotions
    cannot teach a fusion model to contradict a network that has seen every picture. Probabilities are averaged, not their
    logarithms: these would go on ruling out, long after a face has turned, whatever it ruled out before (mea.md).
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.tensor([math.log(MEMORY_S)]))
        self.gain = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(len(EMOTIONS)))

    def begin_as(self, shares: Tensor) -> None:
        """shares (7,) of the emotions where the posteriors were calibrated."""
        with torch.no_grad():
            self.bias.copy_(-shares.clamp_min(1e-3).log())

    def pretrained(self) -> list[nn.Parameter]:
        """The weights that `begin_as` sets, or that stand for the plain rule."""
        return [self.gain, self.bias]

    def read(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        """Face rows x (B, T, 39), t (B, T) seconds before the window's end (none above 0), mask (B, T)."""
        weights = (t * torch.exp(-self.memory) + (1 - mask) * BLOCKED).softmax(1)
        each = (x[..., -len(EMOTIONS):] + self.bias).softmax(-1)
        mean = (1 - FLOOR) * (weights.unsqueeze(1) @ each).squeeze(1) + FLOOR / len(EMOTIONS)
        logits: Tensor = self.gain * mean.log() * any_row(mask).unsqueeze(-1)
        return logits


class FaceFront(Patches):
    """Strided patches of face rows. With `reads` also the emotions the rows name themselves."""

    def __init__(self, dim: int, d: int, kernel: int, stride: int, reads: bool = True) -> None:
        super().__init__(dim, d, kernel, stride)
        self.reader = FaceReader() if reads else None

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (B, T, 39), t and mask (B, T) -> tokens (B, N, d), their times and mask (B, N), and what the rows say (B, 7)."""
        x, t = shut(x, mask), shut(t, mask)
        said = self.reader.read(x, t, mask) if self.reader is not None else None
        return *self.embed(x, t, mask), said
