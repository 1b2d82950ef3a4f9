"""Aff-Wild2's annotation folders: valence and arousal, or one of eight expressions, a frame (Kollias and Zafeiriou 2019, BMVC).

One text file a video, a header line, then a line a frame. What the annotators could not tell is -5 (valence, arousal) or -1
(expression) and is masked. The videos themselves are given out by their authors on request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.datasets import corpus
from models.datasets.table import TableError

FOLDER = "aff-wild2"
SETS = {"train": ("Train_Set", "Training_Set"), "valid": ("Validation_Set",)}
TRACKS = {
    "affect": ("VA_Estimation_Challenge", "VA_Set"),
    "expression": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge", "EXPR_Set"),
}
EXPRESSIONS = ("neutral", "angry", "disgusted", "fearful", "happy", "sad", "surprised", "other")
"""The corpus's own order of its eight expressions."""


@dataclass(frozen=True)
class Video:
    """Annotations of one video, frame by frame: affect (n, 2) valence and arousal in [-1, 1], or expression (n,); valid (n,) 1 or 0."""

    name: str
    split: str
    affect: npt.NDArray[np.float32] = field(repr=False)
    expression: npt.NDArray[np.int64] = field(repr=False)
    valid: npt.NDArray[np.float32] = field(repr=False)


def load(track: str = "affect", folder: str = FOLDER) -> list[Video]:
    """All annotated videos of "affect" or "expression". Raises DataMissing or TableError with the file and line."""
    if track not in TRACKS:
        raise ValueError(f"unknown track {track!r}: use {' or '.join(TRACKS)}")
    root = corpus(folder)
    found = next((root / name for name in TRACKS[track] if (root / name).is_dir()), None)
    if found is None:
        raise TableError(f"{root} has no folder {' or '.join(TRACKS[track])}.")
    videos = []
    for split, names in SETS.items():
        for name in names:
            videos += [_video(path, split, track) for path in sorted((found / name).glob("*.txt"))]
    if not videos:
        raise TableError(f"{found} has no annotations in {', '.join(name for names in SETS.values() for name in names)}.")
    return videos


def _video(path: Path, split: str, track: str) -> Video:
    columns = 2 if track == "affect" else 1
    lines = path.read_text(encoding="utf-8-sig").splitlines()[1:]
    rows = np.zeros((len(lines), columns), np.float32)
    for number, line in enumerate(lines, 2):
        try:
            one, *more = (float(cell) for cell in line.split(","))
            if len(more) + 1 != columns:
                raise ValueError
            rows[number - 2] = [one, *more]
        except ValueError:
            raise TableError(f"{path}, line {number}: {line!r} is not {columns} number{'s' * (columns > 1)}.") from None
    if track == "affect":
        valid = np.abs(rows).max(1, initial=0) <= 1  # -5 is not
        return Video(path.stem, split, np.where(valid[:, None], rows, 0), np.full(len(rows), -1), valid.astype(np.float32))
    label = rows[:, 0].astype(np.int64)
    valid = (label >= 0) & (label < len(EXPRESSIONS))
    return Video(path.stem, split, np.zeros((len(rows), 2), np.float32), np.where(valid, label, -1), valid.astype(np.float32))
