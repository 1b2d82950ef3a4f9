"""Labelled windows in memory: what the research corpora give and the trainings take."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.window import Sequence, Window

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[Any]
WINDOW_S = 4.0
"""Windows of corpora without times of their own are taken to be this long."""


@dataclass(frozen=True)
class Examples:
    """N windows and what is true of them.

    classes (N, C) soft labels, C = 0 where the corpus has none; class_weight (N,), 0 where the class is unknown; values (N, k)
    sentiment, or valence and arousal; values_weight (N,); group (N,) who speaks or which video it is: what must not be on both sides
    of a split; id (N,).
    """

    window: Window
    classes: Floats
    class_weight: Floats
    values: Floats
    values_weight: Floats
    group: npt.NDArray[np.str_]
    id: npt.NDArray[np.str_]
    steps: Floats | None = None
    """Values (N, L, k) at L steps of equal length through the window, where the corpus has them."""
    steps_weight: Floats | None = None
    """(N, L), 0 where a step has no label."""

    @classmethod
    def of_classes(cls, window: Window, label: Rows, count: int, group: Rows, id: Rows) -> Examples:
        """Of class numbers label (N,), -1 where unknown."""
        known = (label >= 0).astype(np.float32)
        classes = np.eye(count, dtype=np.float32)[np.maximum(label, 0)] * known[:, None]
        return cls(window, classes, known, _none(len(label)), np.zeros(len(label), np.float32), group.astype(str), id.astype(str))

    @classmethod
    def of_values(cls, window: Window, values: Rows, group: Rows, id: Rows) -> Examples:
        """Of numbers values (N, k)."""
        n, values = len(values), values.astype(np.float32)
        return cls(window, _none(n), np.zeros(n, np.float32), values, np.ones(n, np.float32), group.astype(str), id.astype(str))

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Rows) -> Examples:
        """Those of indices or of a truth value each."""
        window = Window(*(Sequence(*(part[rows] for part in sequence)) for sequence in self.window))
        rest = {name: part for name, part in vars(self).items() if name != "window" and part is not None}
        return Examples(window, **{name: part[rows] for name, part in rest.items()})

    @property
    def dims(self) -> tuple[int, int, int]:
        """Columns of text, voice and face."""
        text, voice, face = (sequence.x.shape[2] for sequence in self.window)
        return text, voice, face

    @property
    def rows(self) -> tuple[int, int, int]:
        """Capacity of text, voice and face."""
        text, voice, face = (sequence.x.shape[1] for sequence in self.window)
        return text, voice, face

    @property
    def label(self) -> npt.NDArray[np.int64]:
        """The class (N,), -1 where unknown."""
        if not self.classes.shape[1]:
            return np.full(len(self), -1)
        return np.where(self.class_weight > 0, self.classes.argmax(1), -1)


def _none(n: int) -> Floats:
    return np.zeros((n, 0), np.float32)


def untimed(x: Rows, seconds: float = WINDOW_S) -> Sequence:
    """Padded rows (N, T, D) without times -> a Sequence. Rows of zeros are padding and go to the end; what is not finite becomes 0.

    The rows that are left are spread evenly over `seconds`, the newest at 0.
    """
    x = np.nan_to_num(np.asarray(x, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    real = (x != 0).any(2)
    order = np.argsort(~real, axis=1, kind="stable")
    x, mask = np.take_along_axis(x, order[..., None], 1), np.take_along_axis(real, order, 1).astype(np.float32)
    count = mask.sum(1, keepdims=True)
    place = np.arange(x.shape[1], dtype=np.float32)
    t = (place - (count - 1)) / np.maximum(count, 1) * seconds * mask
    return Sequence(x, t.astype(np.float32), mask)


def ragged(rows: Many[Floats], times: Many[Floats], capacity: int, dim: int) -> Sequence:
    """Rows (n_i, dim) with times (n_i,) up to 0 -> a padded Sequence; the newest `capacity` rows of each are kept."""
    x = np.zeros((len(rows), capacity, dim), np.float32)
    t, mask = np.zeros((len(rows), capacity), np.float32), np.zeros((len(rows), capacity), np.float32)
    for k, (one, when) in enumerate(zip(rows, times, strict=True)):
        n = min(len(one), capacity)
        if n:
            x[k, :n], t[k, :n], mask[k, :n] = one[-n:], when[-n:], 1
    return Sequence(x, t, mask)


def nothing(n: int, dim: int = 1) -> Sequence:
    """A modality that a corpus does not have: one row of padding a window."""
    return Sequence(np.zeros((n, 1, dim), np.float32), np.zeros((n, 1), np.float32), np.zeros((n, 1), np.float32))
