"""Windows composed from separate corpora: what training sees in place of the joint face, voice and words corpus that nobody has here.

A window has a state that may change at any moment; its target is the state at the window's end. Each modality shows that state as its
stream would: at its own rate, late by its own lag, with gaps, or not at all. Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.emotions import EMOTIONS, MODALITIES
from models.live.faceplay import FacePlay, pick, pools
from models.live.material import Floats, Ints, Material, Talk
from models.perception import voice, words
from models.window import Sequence, Window, WindowSpec, empty

NEUTRAL = EMOTIONS.index("neutral")
SUBSETS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Which of text, voice and face are there."""
DIMS = {"text": words.DIM, "voice": voice.DIM, "face": 39}
AFFECT_MEANS = np.array(
    [[0, 0], [0.81, 0.51], [-0.63, -0.27], [-0.51, 0.59], [-0.64, 0.60], [-0.60, 0.35], [0.40, 0.67]], np.float32
)
"""Valence and arousal of each emotion: the means of Russell and Mehrabian 1977 (J. Research in Personality 11), neutral at zero."""
SOON_S = 1.0
"""How long before a window's end `Composition.soon` has a change at most."""
SAME_S = 0.1
"""A talk that changed this close to the asked time is taken for a turn then."""
ROW_S = voice.HOP / voice.SAMPLE_RATE
LEAST_VOICED_S = 0.5
"""Less speech than this in a window: voice is absent."""


@dataclass(frozen=True)
class Composition:
    """Odds and ranges (seconds) of what happens in a window."""

    subsets: tuple[float, ...] = (0.12, 0.16, 0.20, 0.06, 0.08, 0.24, 0.14)
    """Of `SUBSETS`; text is there in 40 %."""
    shares: tuple[float, ...] = (1.0,) * len(EMOTIONS)
    """How often each emotion is a window's state at the end, in proportion. Training lowers the rare ones, whose few items would be
    learnt by heart, and sets its logits right for it."""
    change: float = 0.5
    """Odds that the state changes within the window (where no voice decides it)."""
    soon: float = 0.0
    """Odds that it changes in the window's last second, wherever else it might have. A result that must follow a change at once is
    decided there, and changes at any time of four seconds seldom lie there."""
    onset: float = 0.5
    """How long after a change the target still holds some of the old state, in falling shares."""
    conflict: float = 0.2
    """Odds, with two or more modalities, that one shows another emotion; the target is then shared by head count."""
    quiet: tuple[float, float, float] = (0.55, 0.55, 0.15)
    """Odds, where an emotion is shown, two or more modalities are there and none conflicts, that text, voice or face stays neutral and the
    target keeps the emotion; one of them always shows it. People often show what they feel in one channel only (Duran, Reisenzein and
    Fernandez-Dols 2017), and words and voices of a conversation are plainer than those of the corpora, so that a neutral voice says less
    against an emotion than a neutral clip of its corpus says for neutral. Text's is measured (`tools/quiet_words.py`), voice's is assumed
    to be the same, face's is assumed."""
    as_misread: bool = False
    """Draw training faces and texts that their networks misread as often as they misread unseen ones, so that fusion learns their
    true reliability. See `Composer.misread`."""
    as_misheard: bool = False
    """In windows with other modalities, draw the voice of a confused emotion as often as unseen voices are confused."""
    only_text_affect: float = 0.25
    """Share of text-only windows with EmoBank sentences, which have valence and arousal but no emotion."""
    voice_lag: tuple[float, float] = (0.02, 0.04)
    face_lag: tuple[float, float] = (0.03, 0.08)
    text_lag: tuple[float, float] = (0.7, 3.0)
    whole_text: float = 0.35
    """Odds that a text is spoken whole, at whatever pace fits the window."""
    final: float = 0.4
    """Odds that the words are complete, as in a final result; otherwise they lag."""


class Truth(NamedTuple):
    """classes (B, 7), class_weight (B,), affect (B, 2), affect_weight (B,) as `models.losses.Targets` wants them."""

    classes: Floats
    class_weight: Floats
    affect: Floats
    affect_weight: Floats


class Turn(NamedTuple):
    """A state that turns from one emotion to another, seconds before the window's end (negative)."""

    begin: float
    before: int
    after: int


@dataclass
class _Course:
    """The state over the window: `label[k]` from `begin[k]` on, begin rising, begin[0] = -4 s."""

    begin: list[float]
    label: list[int]

    def at_end(self, onset: float) -> Floats:
        """Soft label (7,) at the window's end; a change takes `onset` seconds."""
        soft = np.zeros(len(EMOTIONS), np.float32)
        share = min(-self.begin[-1] / onset, 1.0)
        soft[self.label[-1]] += share
        soft[self.label[max(len(self.label) - 2, 0)]] += 1 - share
        return soft


class Composer:
    """Makes windows from the material of one split."""

    def __init__(self, material: Material, spec: WindowSpec | None = None, composition: Composition | None = None) -> None:
        self.material, self.spec, self.composition = material, spec or WindowSpec(), composition or Composition()
        self.play = FacePlay(material.faces, self.spec)
        self.misread: dict[str, Floats] = {}
        """With `as_misread`: share misread (7,) by emotion of unseen "face" and "text"; see `misread_shares`."""
        self.misheard: Floats | None = None
        """With `as_misheard`: (7, 7) what unseen voices of an emotion (row) are taken for."""
        self._texts = pools(material.texts.label, material.texts.misread)
        self._sentences = np.flatnonzero(material.texts.label < 0)
        ends = [(t, row, talk.label[row]) for t, talk in enumerate(material.talks) for row in range(25, len(talk.label), 3)]
        self._ends = [[(t, row) for t, row, label in ends if label == k] for k in range(len(EMOTIONS))]
        self._since = [_since_change(talk.label) for talk in material.talks]
        self._turns = [[(t, row) for t, row in of if self._since[t][row] < SOON_S] for of in self._ends]

    def batch(self, count: int, seed: int | tuple[int, ...], subset: tuple[int, ...] | None = None) -> tuple[Window, Truth]:
        """`count` windows and their truth, the same for the same seed; all with the modalities of `subset` where it is given."""
        draw = np.random.default_rng(seed)
        window = empty(self.spec, DIMS, count)
        truth = Truth(*(np.zeros(shape, np.float32) for shape in ((count, 7), count, (count, 2), count)))
        truth.affect_weight[:] = 1
        for k in range(count):
            chosen = subset or SUBSETS[draw.choice(len(SUBSETS), p=self.composition.subsets)]
            classes, affect = self._compose(draw, chosen, [Sequence(*(part[k] for part in s)) for s in window])
            truth.classes[k], truth.affect[k] = classes, affect
            truth.class_weight[k] = float(classes.sum() > 0)
        return window, truth

    def turn(self, draw: np.random.Generator, subset: tuple[int, ...], ago: float) -> tuple[Window, Turn]:
        """One window whose state turned for the last time about `ago` seconds before its end, all its modalities showing what it was."""
        window, after = empty(self.spec, DIMS), int(draw.integers(len(EMOTIONS)))
        before = int((after + draw.integers(1, len(EMOTIONS))) % len(EMOTIONS))
        text, voices, face = (Sequence(*(part[0] for part in s)) for s in window)
        course = _Course([-self.spec.seconds, -ago], [before, after])
        if subset[1]:
            course = self._hear(draw, voices, [(t, row) for t, row in self._ends[after] if abs(self._since[t][row] - ago) < SAME_S])
        if subset[2]:
            lag = draw.uniform(*self.composition.face_lag)
            self.play.act(draw, face, course.begin, course.label, _speaking(voices), lag)
        if subset[0]:
            self._speak(draw, text, course)
        return window, Turn(course.begin[-1], course.label[-2], course.label[-1])

    def _compose(self, draw: np.random.Generator, subset: tuple[int, ...], out: list[Sequence]) -> tuple[Floats, Floats]:
        c = self.composition
        here = dict(zip(MODALITIES, subset, strict=True))
        if subset == (1, 0, 0) and draw.random() < c.only_text_affect and len(self._sentences):
            chosen = int(draw.choice(self._sentences))
            self._speak(draw, out[0], _Course([-self.spec.seconds], [-1]), chosen)
            return np.zeros(7, np.float32), self.material.texts.affect[chosen]
        end = int(draw.choice(len(EMOTIONS), p=np.array(c.shares) / sum(c.shares)))
        soon = c.soon > 0 and draw.random() < c.soon
        course, odd = self._course(draw, end, soon), None
        if sum(subset) > 1 and draw.random() < c.conflict:
            odd = str(draw.choice([m for m in MODALITIES if here[m]]))
        other = int((end + draw.integers(1, len(EMOTIONS))) % len(EMOTIONS))
        stray = {} if odd is None else {odd: other}
        if sum(subset) > 1 and odd is None and end != NEUTRAL:
            quiet = [m for m, odds in zip(MODALITIES, c.quiet, strict=True) if here[m] and draw.random() < odds]
            shows = str(draw.choice([m for m in MODALITIES if here[m]]))
            stray = {m: NEUTRAL for m in quiet if m != shows or len(quiet) < sum(subset)}
        if here["voice"]:
            said = stray.get("voice", end)
            if odd is None and "voice" not in stray and sum(subset) > 1 and c.as_misheard and self.misheard is not None:
                said = int(draw.choice(len(EMOTIONS), p=self.misheard[end]))
            heard = self._hear(draw, out[1], (self._turns if soon else self._ends)[said])
            # The voice has a course of its own, from its corpus; the others follow it as long as they are to agree.
            course = heard if said == end else course
        speaking = _speaking(out[1])
        if here["face"]:
            shown = _Course([-self.spec.seconds], [stray["face"]]) if "face" in stray else course
            self.play.act(draw, out[2], shown.begin, shown.label, speaking, draw.uniform(*c.face_lag), self.misread.get("face"))
        if here["text"]:
            self._speak(draw, out[0], _Course([-self.spec.seconds], [stray["text"]]) if "text" in stray else course)
        classes = course.at_end(c.onset)
        if odd is not None:
            strange = np.eye(7, dtype=np.float32)[other]
            classes = (classes * (sum(subset) - 1) + strange) / sum(subset)
        return classes, classes @ AFFECT_MEANS

    def _course(self, draw: np.random.Generator, end: int, soon: bool) -> _Course:
        if not soon and draw.random() >= self.composition.change:
            return _Course([-self.spec.seconds], [end])
        before = NEUTRAL if end != NEUTRAL and draw.random() < 0.5 else int((end + draw.integers(1, 7)) % 7)
        return _Course([-self.spec.seconds, draw.uniform(-SOON_S if soon else -self.spec.seconds + 0.2, -0.05)], [before, end])

    def _hear(self, draw: np.random.Generator, out: Sequence, ends: list[tuple[int, int]]) -> _Course:
        """Fills voice rows that end at one of `ends`, talk and row, and gives their course. Tries again where too little is voiced."""
        while True:
            t, row = ends[draw.integers(len(ends))]
            talk: Talk = self.material.talks[t]
            first = max(row + 1 - self.spec.voice, 0)
            if (talk.rows[first:row + 1, voice.SPEECH] > 0.5).sum() * ROW_S >= LEAST_VOICED_S:
                break
        lag, phase = draw.uniform(*self.composition.voice_lag), draw.uniform(0, ROW_S)
        times = -(np.arange(row - first, -1, -1) * ROW_S) - phase
        keep = times <= -lag
        n = int(keep.sum())
        out.x[:n], out.t[:n], out.mask[:n] = talk.rows[first:row + 1][keep], times[keep], 1
        labels = talk.label[first:row + 1]
        starts = [0, *(np.flatnonzero(np.diff(labels)) + 1)]
        begins = [float(times[k]) for k in starts]
        return _Course([-self.spec.seconds, *begins[1:]], [int(labels[k]) for k in starts])

    def _speak(self, draw: np.random.Generator, out: Sequence, course: _Course, text: int | None = None) -> None:
        """Fills word rows: texts of the course's emotions, from the newest word backward, at a random pace."""
        c, texts, rows = self.composition, self.material.texts, self.spec.text
        end = -draw.uniform(0, 0.7) if draw.random() < c.final else -draw.uniform(*c.text_lag)
        pace = draw.uniform(0.16, 0.22) if draw.random() < 0.15 else draw.uniform(0.24, 0.45)
        placed: list[tuple[int, float, float]] = []
        fill = text is None
        whole = draw.random() < c.whole_text
        while end > -self.spec.seconds and len(placed) < rows:
            current = int(np.searchsorted(course.begin, end, side="right")) - 1
            chosen = self._text(draw, course.label[max(current, 0)]) if text is None else text
            heard = texts.hear.hear(texts.words[chosen], draw)
            since = course.begin[max(current, 0)]
            if whole and not placed:
                pace = min(pace, (end - max(since, -self.spec.seconds)) / min(len(heard), rows))
            elif fill and not placed and draw.random() < 0.5:  # The newest text may have been cut short by the window's end.
                heard = heard[: int(draw.integers(1, len(heard) + 1))]
            for word in reversed(heard[-rows:]):
                length = pace * draw.uniform(0.5, 1.3)
                if len(placed) == rows or end <= max(-self.spec.seconds, since - 0.3):
                    break
                placed.append((word, end - length, end))
                end -= length + (0.0 if draw.random() < 0.85 else draw.uniform(0.05, 0.5))
            if current > 0 and end > since:
                end = since
            if text is not None or (current <= 0 and draw.random() < 0.5):
                break
            end -= draw.uniform(0.1, 0.6)
        previous: float | None = None
        for k, (word, begin, finish) in enumerate(reversed(placed)):
            pause = words.LONGEST_PAUSE_S if previous is None else min(max(begin - previous, 0.0), words.LONGEST_PAUSE_S)
            out.x[k, :words.VECTOR] = texts.vectors[word]
            out.x[k, words.VECTOR:] = np.log1p(finish - begin), np.log1p(pause), draw.uniform(0.3, 1.0)
            out.t[k], out.mask[k] = finish, 1
            previous = finish

    def _text(self, draw: np.random.Generator, label: int) -> int:
        return pick(draw, self._texts[label], self.misread.get("text"), label)


def misread_shares(label: Ints, misread: npt.NDArray[np.bool_]) -> Floats:
    """Share (7,) of each emotion's items that their own network misreads."""
    return np.array([misread[label == k].mean() if (label == k).any() else 0 for k in range(len(EMOTIONS))], np.float32)


def _since_change(label: Ints) -> Floats:
    """Seconds (n,) since a talk's label last changed; infinite before its first change."""
    rows = np.arange(len(label))
    last = np.maximum.accumulate(np.where(np.diff(label, prepend=label[:1]) != 0, rows, -1))
    since: Floats = np.where(last < 0, np.inf, (rows - last) * ROW_S).astype(np.float32)
    return since


def _speaking(heard: Sequence) -> tuple[Floats, Floats]:
    """Times (n,) of the voice rows and whether there is speech in them (n,)."""
    rows = heard.mask > 0
    return heard.t[rows], (heard.x[rows, voice.SPEECH] > 0.5).astype(np.float32)
