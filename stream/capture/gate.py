"""Which stretches of sound are speech: opens and closes utterances by voice activity, in stream time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

HOP_MS = 20
"""One voice-activity probability covers this much sound."""


class Turn(Enum):
    """What a hop did to the gate."""

    NONE = 0
    OPEN = 1
    CLOSE = 2


@dataclass(frozen=True)
class Gating:
    """When an utterance begins and ends. Milliseconds of stream time."""

    start: float = 0.5
    stop: float = 0.35
    """Speech probabilities: above `start` it begins, below `stop` it may end."""
    onset: int = 60
    """Speech must last this long to open the gate."""
    before: int = 300
    """Sound before the onset that belongs to the utterance: soft beginnings."""
    hang: int = 500
    """Silence that ends an utterance."""
    patience: int = 10_000
    """After this long any short pause (`breath`) ends it, so that recognisers work on bounded sound."""
    breath: int = 160
    longest: int = 20_000
    """It ends here at the latest, be it within a word."""


class Gate:
    """Follows speech hop by hop. Positions count hops since the last `reset`."""

    def __init__(self, gating: Gating | None = None) -> None:
        self.gating = gating or Gating()
        self.reset()

    def reset(self) -> None:
        """Shut, at hop 0."""
        self.now = 0
        self.begin = 0
        """First hop of the open utterance, its lead-in included."""
        self.open = False
        self._run = self._quiet = self._free = 0

    @property
    def earliest(self) -> int:
        """The earliest hop that could still become the beginning of an utterance; of an open gate, that of its own."""
        if self.open:
            return self.begin
        return max(self._free, self.now - self._run - self.gating.before // HOP_MS)

    def hop(self, probability: float) -> Turn:
        """Takes the next hop; says whether an utterance began (see `begin`) or ended with it."""
        self.now += 1
        return self._inside(probability) if self.open else self._outside(probability)

    def shut(self) -> None:
        """Ends the open utterance here, whatever is being said."""
        self.open, self._run, self._free = False, 0, self.now

    def _outside(self, probability: float) -> Turn:
        self._run = self._run + 1 if probability > self.gating.start else 0
        if self._run * HOP_MS < self.gating.onset:
            return Turn.NONE
        self.begin = self.earliest
        self.open, self._quiet, self._run = True, 0, 0
        return Turn.OPEN

    def _inside(self, probability: float) -> Turn:
        self._quiet = self._quiet + 1 if probability < self.gating.stop else 0
        length = (self.now - self.begin) * HOP_MS
        hang = self.gating.hang if length < self.gating.patience else self.gating.breath
        if self._quiet * HOP_MS < hang and length < self.gating.longest:
            return Turn.NONE
        self.shut()
        return Turn.CLOSE
