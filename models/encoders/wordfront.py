"""The text front end of the live models: word rows -> tokens, beginning as the trained text head reads words."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.emotions import EMOTIONS
from models.layers import BLOCKED, Front, any_row, mean_over_time, shut, time_code, veil
from models.perception.words import DIM, VECTOR

CODE = 16


class TextReader(nn.Module):
    """States of words and their neighbours -> seven emotions, valence and arousal; pooled by attention, mean and maximum."""

    def __init__(self, width: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.attention = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(3 * width, width)
        self.emotion = nn.Linear(width, len(EMOTIONS))
        self.affect = nn.Linear(width, 2)

    def gather(self, h: Tensor, mask: Tensor) -> Tensor:
        """State of the text (B, width) from h (B, T, width), mask (B, T): finite for no words, blind to padding."""
        score = self.attention(h).squeeze(-1) + (1 - mask) * BLOCKED
        attended = (score.softmax(1).unsqueeze(1) @ h).squeeze(1)
        peak = (h + (1 - mask).unsqueeze(-1) * BLOCKED).amax(1) * any_row(mask).unsqueeze(-1)
        gathered: Tensor = functional.gelu(self.mix(self.dropout(torch.cat([attended, mean_over_time(h, mask), peak], 1))))
        return gathered

    def read(self, h: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, 7) in the order of EMOTIONS beside valence and arousal (B, 2) before their tanh; (B, 9)."""
        state = self.dropout(self.gather(h, mask))
        return torch.cat([self.emotion(state), self.affect(state)], 1)


class Recency(nn.Module):
    """Words of the past: how much an old word still counts, and how sure a reading may be whose newest word is old or that has few words.

    Begins as if there were no time: every word counts, every reading stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.word, self.text = nn.Linear(CODE, 1), nn.Linear(CODE + 1, 1)
        for layer, bias in ((self.word, 4.0), (self.text, math.log(math.e - 1))):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """t, mask (B, T) -> each word's share (B, T, 1) in 0..1, and what to multiply the reading's logits by (B, 1), positive."""
        share = torch.sigmoid(self.word(time_code(t, CODE)))
        newest = (t + (1 - mask) * BLOCKED).amax(1, keepdim=True) * any_row(mask).unsqueeze(-1)
        seen = torch.cat([time_code(newest, CODE).squeeze(1), mask.sum(1, keepdim=True) / mask.shape[1]], 1)
        return share, functional.softplus(self.text(seen))


class WordFront(Front):
    """A word and its neighbours (the first layer of `TextHead`), its duration, pause and probability; (B, T, 67) -> (B, T, d).

    With `reads` also what `TextHead` would say of the words alone, the old ones counting less.
    """

    def __init__(self, d: int = 40, width: int = 128, reads: bool = True) -> None:
        super().__init__(DIM - VECTOR)
        self.words = nn.Linear(VECTOR, width)
        self.phrases = nn.Conv1d(VECTOR, width, 3, padding=1)
        self.out = nn.Linear(width + DIM - VECTOR, d)
        self.reader = TextReader(width) if reads else None
        self.recency = Recency() if reads else None

    def begin_as(self, head: nn.Module) -> None:
        """Takes over what the text head (`encoders.text.TextHead`) learnt of words, phrases and texts."""
        learnt = head.state_dict()
        for module, prefix in ((self.words, "words."), (self.phrases, "phrases."), (self.reader, "")):
            if module is not None:
                module.load_state_dict({name: learnt[prefix + name] for name in module.state_dict()})

    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Takes mean and deviation of the columns behind the vector from word rows x (B, T, 67), mask (B, T)."""
        super().fit(x[..., VECTOR:], mask)

    def pretrained(self) -> list[nn.Parameter]:
        """The weights that `begin_as` sets."""
        parts = [self.words, self.phrases] + ([self.reader] if self.reader is not None else [])
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (B, T, 67), t and mask (B, T) -> tokens (B, T, d), their times and mask, and what the words alone say (B, 9)."""
        x = shut(x, mask)
        vector, manner = x[..., :VECTOR], self.standardise(x[..., VECTOR:])
        states = veil(functional.gelu(self.words(vector) + self.phrases(vector.transpose(1, 2)).transpose(1, 2)), mask)
        said = None
        if self.reader is not None and self.recency is not None:
            share, sure = self.recency(shut(t, mask), mask)
            said = self.reader.read(states * share, mask)
            emotions = len(EMOTIONS)
            said = torch.cat([said[:, :emotions] * sure, said[:, emotions:]], 1)
        return veil(self.out(torch.cat([states, manner], -1)), mask), shut(t, mask), mask, said
