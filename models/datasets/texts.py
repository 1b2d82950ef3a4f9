"""GoEmotions, EmoBank and MELD as one set of spoken texts with soft emotion targets and affect ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.datasets import emobank, goemotions, meld
from models.datasets.spoken import spoken
from models.emotions import EMOTIONS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """N texts. `words` index `vocabulary`. What a corpus does not give has weight 0.

    target (N, 7) share of each emotion, weight (N,); label7 (N,), -1 none or several; affect (N, 2), rated (N,);
    fine (N, 28) GoEmotions' own labels, fined (N,); corpus and split (N,) names.
    """

    vocabulary: list[str]
    words: list[list[int]]
    target: Floats
    weight: Floats
    label7: Ints
    affect: Floats
    rated: Floats
    fine: Floats
    fined: Floats
    corpus: npt.NDArray[np.str_]
    split: npt.NDArray[np.str_]

    def rows(self, split: str, corpus: str | None = None) -> Ints:
        """Row numbers of a split; with `corpus`, of that corpus and only where it gives a single truth."""
        wanted = self.split == split
        if corpus is not None:
            wanted &= (self.corpus == corpus) & ((self.label7 >= 0) | (self.rated > 0))
        return np.flatnonzero(wanted)


def texts(meld_weight: float) -> Texts:
    """All texts that hold at least one spoken word. A comment of several emotions counts in equal shares."""
    comments, sentences, utterances = goemotions.load(), emobank.load(), meld.load()
    groups = _groups(comments)
    names = sorted({label for comment in comments for label in comment.labels})
    found: dict[str, int] = {}
    kept: list[tuple[list[int], Floats, float, int, tuple[float, float], float, Floats, float, str, str]] = []

    def add(
        text: str, classes: set[int], weight: float, affect: tuple[float, float] | None, fine: tuple[str, ...], corpus: str, split: str
    ) -> None:
        words = [found.setdefault(word, len(found)) for word in spoken(text)]
        if not words:
            return
        target = np.zeros(len(EMOTIONS), np.float32)
        target[list(classes)] = 1 / max(len(classes), 1)
        labels = np.isin(names, fine).astype(np.float32)
        label7 = next(iter(classes)) if len(classes) == 1 else -1
        rated, fined = float(affect is not None), float(bool(fine))
        kept.append((words, target, weight, label7, affect or (0.0, 0.0), rated, labels, fined, corpus, split))

    for c in comments:
        add(c.text, {groups[label] for label in c.labels}, 1.0, None, c.labels, "goemotions", c.split)
    for s in sentences:
        add(s.text, set(), 0.0, s.affect, (), "emobank", s.split)
    for u in utterances if meld_weight > 0 else ():
        add(u.text, {u.label7}, meld_weight, None, (), "meld", u.split)
    words, target, weight, label7, affect, rated, fine, fined, corpus, split = zip(*kept, strict=True)
    return Texts(
        list(found), list(words), np.stack(target), np.array(weight, np.float32), np.array(label7), np.array(affect, np.float32),
        np.array(rated, np.float32), np.stack(fine), np.array(fined, np.float32), np.array(corpus), np.array(split),
    )  # fmt: skip


def _groups(comments: list[goemotions.Comment]) -> dict[str, int]:
    """Which of the seven classes each of the 28 labels belongs to, as comments with that label alone show."""
    return {comment.labels[0]: comment.label7 for comment in comments if len(comment.labels) == 1}
