"""Word features: one committed word, one row. numpy only; the same on every platform."""

from __future__ import annotations

import math
import os
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models import weights as shipped
from models.features import FeatureSet

VECTOR = 64
DURATION, PAUSE, PROBABILITY = VECTOR, VECTOR + 1, VECTOR + 2
"""Columns after the word vector 0..63."""
DIM = VECTOR + 3
LONGEST_PAUSE_S = 4.0
SHORTEST_GRAM, LONGEST_GRAM = 3, 5

Row = npt.NDArray[np.float32]


def normal(word: str) -> str:
    """`word` as it is looked up: lower case, without punctuation or emoji, apostrophes inside kept straight. May be empty."""
    folded = unicodedata.normalize("NFKC", word).lower().replace("\u2019", "'")
    return "".join(c for c in folded if c.isalnum() or c == "'").strip("'")


def buckets(word: str, size: int) -> list[int]:
    """Rows of a table of `size` rows that make up a normal word: itself first, then its character 3- to 5-grams with ends marked.

    As in Bojanowski et al. 2017 (TACL 5), hashed by CRC-32 of the UTF-8 bytes.
    """
    marked = f"<{word}>"
    grams = [marked[i : i + n] for n in range(SHORTEST_GRAM, LONGEST_GRAM + 1) for i in range(len(marked) - n + 1) if n < len(marked)]
    return [zlib.crc32(b"w" + marked.encode()) % size, *(zlib.crc32(gram.encode()) % size for gram in grams)]


def compose(rows: npt.NDArray[Any]) -> Row:
    """The vector of a word from its table rows (n, 64): its own row plus the mean of its n-grams' rows."""
    vector: Row = rows[0].astype(np.float32)
    if len(rows) > 1:
        vector += rows[1:].mean(axis=0, dtype=np.float32)
    return vector


def feature_set(weights: str | os.PathLike[str] = "words") -> FeatureSet:
    """The feature set that goes with the table in `weights`; before there is one, a set that no trained model carries."""
    try:
        table = shipped.sha256(weights)
    except shipped.WeightsError:
        table = "untrained"
    recipe = {
        "columns": "vector*64,log1p_duration_s,log1p_pause_s,probability", "longest_pause_s": LONGEST_PAUSE_S,
        "hash": "crc32", "grams": [SHORTEST_GRAM, LONGEST_GRAM], "table_sha256": table,
    }  # fmt: skip
    return FeatureSet("words", version=1, dim=DIM, rate_hz=0.0, recipe=recipe)


WORDS = feature_set()


class WordPerception:
    """Words in, rows out. Raises WeightsError when the weights are missing or of another kind."""

    def __init__(self, weights: str | os.PathLike[str] = "words") -> None:
        arrays, _ = shipped.load(weights)
        table = arrays.get("table")
        if table is None or table.ndim != 2 or table.shape[1] != VECTOR:
            raise shipped.WeightsError(f"{shipped.path(weights)} holds no word table (n, {VECTOR}): these are not word weights.")
        self._table = table
        self._vector = lru_cache(maxsize=4096)(self._look_up)

    def vector(self, word: str) -> Row:
        """Affective vector (64,) of a word as written by a recogniser; zeros where nothing of it can be spoken (punctuation, emoji)."""
        return self._vector(normal(word)).copy()

    def row(self, word: str, begin_s: float, end_s: float, previous_end_s: float | None, probability: float) -> Row:
        """Feature row (67,) of one word spoken from `begin_s` to `end_s`, seconds on any one clock.

        Columns: the vector; log(1 + duration); log(1 + pause before it), at most 4 s and 4 s where no word came before;
        the recogniser's probability, 0..1.
        """
        pause = LONGEST_PAUSE_S if previous_end_s is None else begin_s - previous_end_s
        out = np.empty(DIM, np.float32)
        out[:VECTOR] = self._vector(normal(word))
        out[DURATION] = math.log1p(max(end_s - begin_s, 0.0))
        out[PAUSE] = math.log1p(min(max(pause, 0.0), LONGEST_PAUSE_S))
        out[PROBABILITY] = min(max(probability, 0.0), 1.0)
        return out

    def rows(self, words: Sequence[str]) -> Row:
        """Vectors (n, 64) of several words."""
        return np.stack([self._vector(normal(word)) for word in words]) if words else np.zeros((0, VECTOR), np.float32)

    def _look_up(self, word: str) -> Row:
        return compose(self._table[buckets(word, len(self._table))]) if word else np.zeros(VECTOR, np.float32)
