"""The text front end of the live models: word rows -> tokens, beginning as the trained text head reads words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import Standardise, shut, veil
from models.perception.words import DIM, VECTOR

if TYPE_CHECKING:
    from models.encoders.text import TextHead  # brings its training along, which an engine does not need


class WordFront(nn.Module):
    """A word and its neighbours (the first layer of `TextHead`), its duration, pause and probability; (B, T, 67) -> (B, T, d)."""

    def __init__(self, d: int = 40, width: int = 128) -> None:
        super().__init__()
        self.words = nn.Linear(VECTOR, width)
        self.phrases = nn.Conv1d(VECTOR, width, 3, padding=1)
        self.standardise = Standardise(DIM - VECTOR)
        self.out = nn.Linear(width + DIM - VECTOR, d)

    def begin_as(self, head: TextHead) -> None:
        """Takes over what the head learnt of words and phrases."""
        self.words.load_state_dict(head.words.state_dict())
        self.phrases.load_state_dict(head.phrases.state_dict())

    def pretrained(self) -> list[nn.Parameter]:
        """The weights that `begin_as` sets."""
        return [*self.words.parameters(), *self.phrases.parameters()]

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, 67), t and mask (B, T) -> tokens (B, T, d), their times and mask."""
        x = shut(x, mask)
        vector, manner = x[..., :VECTOR], self.standardise(x[..., VECTOR:])
        read = functional.gelu(self.words(vector) + self.phrases(vector.transpose(1, 2)).transpose(1, 2))
        return veil(self.out(torch.cat([read, manner], -1)), mask), shut(t, mask), mask
