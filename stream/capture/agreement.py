"""From growing hypotheses to words that never change: LocalAgreement-2 with an edge guard, forced commit by age, repetition guard.

After the policy of Machacek et al. 2023 (arXiv:2307.14743, section 2): of what follows the committed words, commit the longest common
prefix of the last two hypotheses. Pure; time is counted in samples of the stream, so that the same sound gives the same words at
whatever speed it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

RATE = 16_000
"""Samples a second of every time here."""


@dataclass(frozen=True)
class Heard:
    """One word of a hypothesis: text, begin and end in samples since the utterance began, probability 0..1."""

    text: str
    begin: int
    end: int
    probability: float = 1.0


@dataclass(frozen=True)
class Policy:
    """When words are committed. Seconds."""

    guard: float = 0.5
    """A word that ends closer than this to the newest sound may still grow: not committed by agreement."""
    age: float = 3.0
    """A word that ended longer ago than this is committed as it is; nothing that ended before is taken any more.

    Finals wait 4 s for words: this, one decoding interval and the decoding itself must fit in."""
    repeats: int = 3
    """A phrase of up to four words said more often than this in a row is a recogniser caught in a loop: the rest is dropped."""


class Agreement:
    """Words of one utterance. Feed it every hypothesis with `update`, the last with `finish`."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.tentative: list[Heard] = []
        """The present guess of what follows the committed words."""
        self.floor = 0
        """No word that ends at or before this sample will be committed any more."""
        self._committed: list[Heard] = []

    @property
    def last(self) -> Heard | None:
        """The last committed word."""
        return self._committed[-1] if self._committed else None

    def update(self, hypothesis: Sequence[Heard], now: int) -> list[Heard]:
        """Takes a hypothesis about the sound up to sample `now`; returns the words it commits."""
        fresh = self._follow(hypothesis)
        agreed = 0
        for before, word in zip(self.tentative, fresh, strict=False):
            # The last word of a growing hypothesis is a guess at half a word.
            if not _same(before, word) or word.end > now - self.policy.guard * RATE or word is fresh[-1]:
                break
            agreed += 1
        old = now - int(self.policy.age * RATE)
        while agreed < len(fresh) and fresh[agreed].end <= old:
            agreed += 1
        new = self._commit(fresh[:agreed])
        self.floor = max(self.floor, old)
        self.tentative = self._follow(fresh[agreed:])
        return new

    def finish(self, hypothesis: Sequence[Heard]) -> list[Heard]:
        """The utterance is over: commits all that is left of its last hypothesis."""
        new = self._commit(self._follow(hypothesis))
        self.tentative = []
        return new

    def _commit(self, words: list[Heard]) -> list[Heard]:
        self._committed = [*self._committed, *words][-4 * (self.policy.repeats + 1):]
        if words:
            self.floor = max(self.floor, words[-1].end)
        return words

    def _follow(self, hypothesis: Sequence[Heard]) -> list[Heard]:
        """What of a hypothesis follows the committed words, in order and without overlap."""
        words: list[Heard] = []
        edge = self.floor
        for word in hypothesis:
            if not word.text or word.end <= edge or (word.begin + word.end) // 2 < edge:
                continue
            last = words[-1] if words else self.last
            # A committed word heard again across the seam is the same word, a little longer.
            if last is not None and not words and word.begin < last.end and _same(last, word):
                continue
            word = replace(word, begin=max(word.begin, edge))
            if self._loops([*self._committed, *words, word]):
                break
            words.append(word)
            edge = word.end
        return words

    def _loops(self, words: list[Heard]) -> bool:
        texts = [word.text.casefold() for word in words]
        for size in range(1, 5):
            span = size * (self.policy.repeats + 1)
            if len(texts) >= span and texts[-span:] == texts[-size:] * (self.policy.repeats + 1):
                return True
        return False


def _same(a: Heard, b: Heard) -> bool:
    return a.text.strip(".,!?;:\"").casefold() == b.text.strip(".,!?;:\"").casefold()
