"""The hashed subword table while it is being trained, and its beginning: an imitation of word vectors that know much more text."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from models.perception.words import VECTOR, buckets

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class WordTable(nn.Module):
    """The hashed table being trained, with the bucket lists of a fixed vocabulary worked out once."""

    def __init__(self, vocabulary: list[str], size: int, scale: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, VECTOR) * scale)
        lists = [buckets(word, size) for word in vocabulary]
        self._own: Ints = np.array([row[0] for row in lists])
        self._grams: Ints = np.concatenate([np.array(row[1:] or row[:1]) for row in lists])
        self._begin: Ints = np.cumsum([0, *(max(len(row) - 1, 1) for row in lists)])
        self._alone = torch.tensor([len(row) == 1 for row in lists])

    def forward(self, words: Ints, own_dropout: float = 0.0) -> Tensor:
        """Vectors (n, 64) of vocabulary indices (n,), composed as `models.perception.words.compose` does."""
        begin, count = self._begin[words], self._begin[words + 1] - self._begin[words]
        offsets = np.cumsum(count) - count
        flat = self._grams[np.repeat(begin - offsets, count) + np.arange(count.sum())]
        grams = F.embedding_bag(torch.from_numpy(flat), self.table, torch.from_numpy(offsets), mode="mean")
        alone = self._alone[torch.from_numpy(words)].unsqueeze(1)
        own = self.table[torch.from_numpy(self._own[words])]
        if own_dropout:
            own = own * (torch.rand(len(words), 1) >= own_dropout)
        return own + grams.masked_fill(alone, 0.0)


def imitate(
    words: list[str], vectors: Floats, wanted: set[str], size: int, scale: float, steps: int, rate: float, draw: np.random.Generator
) -> Tensor:
    """A table (size, 64) whose composed words come close to `vectors` (n, 64), the frequent ones (first in `words`) and `wanted` most."""
    table = WordTable(words, size, scale)
    target = torch.from_numpy(vectors)
    odds = (np.arange(len(words)) + 50.0) ** -0.5 * np.where([word in wanted for word in words], 20.0, 1.0)
    upto = np.cumsum(odds / odds.sum())
    optimiser = torch.optim.Adam(table.parameters(), rate)
    schedule = LambdaLR(optimiser, lambda n: 0.5 + 0.5 * math.cos(math.pi * n / steps))
    for _ in range(steps):
        rows = np.unique(np.searchsorted(upto, draw.random(4096)).clip(0, len(words) - 1))
        loss = F.mse_loss(table(rows), target[torch.from_numpy(rows)])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return table.table.detach()
