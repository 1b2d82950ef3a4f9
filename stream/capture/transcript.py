"""Sound with voice activity in, words with spoken times out: gate, recogniser and agreement together, in stream time. No sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.perception.words import WordPerception
from stream.capture.agreement import RATE, Agreement, Heard, Policy
from stream.capture.gate import HOP_MS, Gate, Gating, Turn
from stream.capture.recognisers import Pcm, Recogniser
from stream.protocol import SECOND, Word

HOP = RATE * HOP_MS // 1000
CHUNK = 5
"""Hops fed to a recogniser at once: 100 ms."""


@dataclass(frozen=True)
class Spoken:
    """A word with its session times, and its feature row (67,)."""

    word: Word
    row: npt.NDArray[np.float32]


class Timeline:
    """Session time of samples, from the stamps of the blocks they came in."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, int, int, int]] = deque(maxlen=600)

    def add(self, first: int, count: int, begin: int, end: int) -> None:
        """Samples [first, first + count) sounded in [begin, end] (ns)."""
        self._blocks.append((first, count, begin, end))

    def at(self, sample: int) -> int:
        """Session time (ns) of the beginning of a sample; what lies outside is clamped. 0 before the first block."""
        if not self._blocks:
            return 0
        for first, count, begin, end in reversed(self._blocks):
            if sample >= first:
                return begin + (end - begin) * min(sample - first, count) // count
        return self._blocks[0][2]


class Transcript:
    """Follows one sound. After each `feed` or `finish`: `take` what was committed, look at `tentative` and `watermark`."""

    def __init__(self, recogniser: Recogniser, words: WordPerception, gating: Gating | None = None, policy: Policy | None = None) -> None:
        self._recogniser, self._words, self._policy = recogniser, words, policy
        self._gate = Gate(gating)
        self._before = (self._gate.gating.before + self._gate.gating.onset) // HOP_MS
        self.tentative: list[Spoken] = []
        self.watermark = 0
        """No word that ends at or before this (session ns) will be committed any more."""
        self._committed: list[Spoken] = []
        self._reset()

    def _reset(self) -> None:
        self._gate.reset()
        self._timeline = Timeline()
        self._past: deque[Pcm] = deque(maxlen=self._before + 1)
        self._chunk: list[Pcm] = []
        self._agreement = Agreement(self._policy)
        self._begin = self._fed = 0
        self._previous: int | None = None
        self._recogniser.reset()

    def take(self) -> list[Spoken]:
        """Words committed since the last call."""
        committed, self._committed = self._committed, []
        return committed

    def feed(self, pcm: Pcm, speech: list[float], begin: int, end: int) -> None:
        """Sound that follows what was fed: whole hops of 20 ms, one speech probability each, sounded in [begin, end] (ns).

        Raises ValueError when sound and probabilities do not fit.
        """
        if len(pcm) != HOP * len(speech):
            raise ValueError(f"{len(pcm)} samples do not go with {len(speech)} speech probabilities of {HOP} samples")
        if not speech:
            return
        self._timeline.add(self._gate.now * HOP, len(pcm), begin, end)
        for k, probability in enumerate(speech):
            self._hop(pcm[k * HOP : (k + 1) * HOP], probability)
        earliest = self._timeline.at(self._gate.earliest * HOP)
        if self._gate.open:
            earliest = max(earliest, self._time(self._agreement.floor))
        self.watermark = max(self.watermark, earliest)

    def finish(self, at: int | None = None) -> None:
        """The sound stops or jumps: what is being said ends here, all is forgotten. Nothing before `at` (ns) will be committed."""
        if self._gate.open:
            self._gate.shut()
            self._close()
        self.tentative = []
        self._reset()
        self.watermark = max(self.watermark, at or 0)

    def _hop(self, pcm: Pcm, probability: float) -> None:
        self._past.append(pcm)
        turn = self._gate.hop(probability)
        if turn is Turn.OPEN:
            self._begin, self._fed = self._gate.begin * HOP, 0
            self._agreement = Agreement(self._policy)
            self._recogniser.begin()
            self._chunk = list(self._past)[-(self._gate.now - self._gate.begin):]
        elif turn is Turn.CLOSE:
            self._chunk.append(pcm)
            self._close()
        elif self._gate.open:
            self._chunk.append(pcm)
        if self._gate.open and len(self._chunk) >= CHUNK:
            self._advance()

    def _advance(self) -> None:
        """Feeds the recogniser, and asks it when it is time."""
        before = self._fed // self._recogniser.interval
        self._flush()
        if self._fed // self._recogniser.interval == before:
            return
        self._commit(self._agreement.update(self._recogniser.hypothesis(), self._fed))
        self._recogniser.settle(self._agreement.floor)
        self.tentative = self._spoken(self._agreement.tentative)

    def _flush(self) -> None:
        if self._chunk:
            sound = np.concatenate(self._chunk)
            self._recogniser.feed(sound)
            self._fed += len(sound)
            self._chunk = []

    def _close(self) -> None:
        self._flush()
        self._commit(self._agreement.finish(self._recogniser.finish()))
        self.tentative = []

    def _commit(self, words: list[Heard]) -> None:
        spoken = self._spoken(words)
        self._committed += spoken
        if spoken:
            self._previous = spoken[-1].word.end

    def _time(self, sample: int) -> int:
        """Session time of a sample of the utterance."""
        return self._timeline.at(self._begin + sample)

    def _spoken(self, words: list[Heard]) -> list[Spoken]:
        out = []
        previous = self._previous
        for heard in words:
            begin, end = self._time(heard.begin), self._time(heard.end)
            if previous is not None:
                begin = max(begin, previous)
            if end <= begin:
                continue  # beyond the sound there is: nothing was spoken
            since = None if previous is None else previous / SECOND
            row = self._words.row(heard.text, begin / SECOND, end / SECOND, since, heard.probability)
            out.append(Spoken(Word(text=heard.text, begin=begin, end=end, probability=heard.probability), row))
            previous = end
        return out
