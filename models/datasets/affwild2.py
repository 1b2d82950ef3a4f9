"""Aff-Wild2's annotation folders: valence and arousal, or one of eight expressions, a frame (Kollias and Zafeiriou 2019, BMVC).

One text file a video, a header line, then a line a frame. What the annotators could not tell is -5 (valence, arousal) or -1
(expression) and is masked. The videos themselves are given out by their authors on request; whoever has them puts features of each into
`features/VIDEO.npz`: voice (n, D) and face (m, E) rows, voice_t (n,) and face_t (m,) their times in seconds from the video's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.datasets import DataMissing, corpus
from models.datasets.examples import Examples, nothing, ragged
from models.datasets.table import TableError
from models.window import Window

FOLDER = "aff-wild2"
SETS = {"train": ("Train_Set", "Training_Set"), "valid": ("Validation_Set",)}
TRACKS = {
    "affect": ("VA_Estimation_Challenge", "VA_Set"),
    "expression": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge", "EXPR_Set"),
}
EXPRESSIONS = ("neutral", "angry", "disgusted", "fearful", "happy", "sad", "surprised", "other")
"""The corpus's own order of its eight expressions."""
FPS = 30.0
WINDOW_S, HOP_S, STEPS = 4.0, 2.0, 16
"""Windows, how far they are apart, and steps a window, a quarter of a second each."""
ROWS = {"voice": 200, "face": 120}
"""Most rows a window."""


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


def windows(videos: list[Video], folder: str = FOLDER) -> Examples:
    """Windows of the videos with features and valence and arousal: steps are the means of their valid frames, values those of the newest
    step that has a label. Windows without any are left out. Raises DataMissing where no video has features, TableError for odd ones."""
    pieces: dict[str, list[Any]] = {name: [] for name in ("voice", "voice_t", "face", "face_t", "steps", "weight", "video")}
    for video in videos:
        path = corpus(folder) / "features" / f"{video.name}.npz"
        if path.is_file():
            _cut(video, path, pieces)
    if not pieces["video"]:
        raise DataMissing(f"{corpus(folder) / 'features'} has features of none of {len(videos)} videos: one VIDEO.npz each is needed.")
    voice, face = (
        ragged(pieces[name], pieces[f"{name}_t"], ROWS[name], pieces[name][0].shape[1]) for name in ("voice", "face")
    )
    steps, weight = np.stack(pieces["steps"]), np.stack(pieces["weight"])
    newest = STEPS - 1 - weight[:, ::-1].argmax(1)
    names = np.array(pieces["video"])
    made = Examples.of_values(Window(nothing(len(names)), voice, face), steps[np.arange(len(steps)), newest], names, names)
    return replace(made, steps=steps, steps_weight=weight)


def _cut(video: Video, path: Path, pieces: dict[str, list[Any]]) -> None:
    with np.load(path, allow_pickle=False) as file:
        lacking = {"voice", "voice_t", "face", "face_t"} - set(file.files)
        if lacking:
            raise TableError(f"{path} lacks {', '.join(sorted(lacking))}.")
        arrays = {name: file[name].astype(np.float32) for name in ("voice", "voice_t", "face", "face_t")}
    at = np.arange(len(video.valid)) / FPS
    for end in np.arange(WINDOW_S, at[-1] + 1 / FPS if len(at) else 0, HOP_S):
        step = np.floor((at - end) / WINDOW_S * STEPS).astype(int) + STEPS
        inside = (step >= 0) & (step < STEPS) & (video.valid > 0)
        count = np.bincount(step[inside], minlength=STEPS)
        if not count.sum():
            continue
        sums = np.stack([np.bincount(step[inside], video.affect[inside, k], STEPS) for k in range(2)], 1)
        pieces["steps"].append((sums / np.maximum(count, 1)[:, None]).astype(np.float32))
        pieces["weight"].append((count > 0).astype(np.float32))
        pieces["video"].append(video.name)
        for name in ("voice", "face"):
            t = arrays[f"{name}_t"] - np.float32(end)
            here = (t > -WINDOW_S) & (t <= 0)
            pieces[name].append(arrays[name][here])
            pieces[f"{name}_t"].append(t[here])
