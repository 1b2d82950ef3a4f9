"""Written text as a speech recogniser would give it: lower case, bare words, some of them dropped or misheard."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.perception.words import normal

_UNSPOKEN = re.compile(r"\[\w+\](?:'s)?|https?://\S+|\b[ru]/\w+|&\w+;")
_BREAK = re.compile(r"[\s\-\u2013\u2014/_\u2026]+|\.{2,}|(?<=[a-z])[.,!?](?=[A-Za-z])")


def spoken(text: str) -> list[str]:
    """The normal words of `text`. Masks such as [NAME], links and forum references, which nobody says, are left out."""
    return [word for word in map(normal, _BREAK.split(_UNSPOKEN.sub(" ", text.replace("\u2019", "'")))) if word]


@dataclass(frozen=True)
class Hearing:
    """How training texts are damaged. `share` of the texts are misheard at all, `crop` of them cut to a few words at a random place."""

    share: float = 0.5
    errors: tuple[float, float] = (0.1, 0.3)
    dropped: float = 0.4
    """Of the errors; the rest are substitutions, half of them by a word that begins and ends alike."""
    crop: float = 0.2
    crop_words: tuple[int, int] = (3, 12)


class Recogniser:
    """Mishears words given as indices into `vocabulary`, the words of the training texts."""

    def __init__(self, texts: Iterable[Sequence[str]], vocabulary: dict[str, int], hearing: Hearing) -> None:
        counts = Counter(word for words in texts for word in words)
        self.hearing = hearing
        known = [word for word, n in counts.items() if n > 1]
        share = np.array([counts[word] for word in known], np.float64) ** 0.75
        self._known = np.array([vocabulary[word] for word in known])
        self._cumulative = np.cumsum(share / share.sum())
        alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for word in known:
            alike[word[:1], word[-1:]].append(vocabulary[word])
        by_index = {index: word for word, index in vocabulary.items()}
        self._alike = {index: alike[word[:1], word[-1:]] for index, word in by_index.items()}

    def hear(self, words: Sequence[int], rng: np.random.Generator) -> list[int]:
        """What is heard of `words`: never nothing of something."""
        heard = list(words)
        if len(heard) > self.hearing.crop_words[0] and rng.random() < self.hearing.crop:
            length = int(rng.integers(self.hearing.crop_words[0], self.hearing.crop_words[1] + 1))
            start = int(rng.integers(0, max(len(heard) - length, 0) + 1))
            heard = heard[start : start + length]
        if rng.random() < self.hearing.share:
            wrong = rng.random(len(heard)) < rng.uniform(*self.hearing.errors)
            kinds = rng.random(len(heard))
            heard = [self._mishear(word, kind, rng) if bad else word for word, bad, kind in zip(heard, wrong, kinds, strict=True)]
            heard = [word for word in heard if word >= 0] or list(words[:1])
        return heard

    def _mishear(self, word: int, kind: float, rng: np.random.Generator) -> int:
        if kind < self.hearing.dropped:
            return -1
        candidates = self._alike[word]
        if kind < (1 + self.hearing.dropped) / 2 and candidates:
            return candidates[int(rng.integers(len(candidates)))]
        return int(self._known[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._known) - 1)])
