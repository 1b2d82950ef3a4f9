"""RAVDESS with faces: action units of OpenFace beside the sound, frame by frame (actors 1 to 5) or one vector a clip (all 24 actors).

Derived from RAVDESS (CC BY-NC-SA 4.0) with OpenFace (academic use). The two come from different passes of OpenFace: 14 of the 35 values of
the vectors are means of the frames, the others are not and must not be mixed up with them.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.datasets import corpus, ravdess
from models.datasets.examples import Examples, Floats, nothing, ragged
from models.datasets.speech import Clip
from models.datasets.voicerows import voice_rows
from models.perception import voice
from models.window import Sequence, Window

FRAMES, VECTORS = "ravdess_au_seq.npz", "ravdess_au_clip.npz"
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The corpus's own eight, in its order."""
UNITS = 35
"""17 intensities 0 to 5 and 18 presences 0 or 1."""
SEGMENT = {"voice": 8, "face": 4}
"""Rows of the live features, or frames, that make one row here: 0.16 s of voice and 0.13 s of face, each at its own rate."""
ROWS = {"voice": 25, "face": 30}
"""Most rows: 4 s. The few longer clips lose their beginning, which is silence."""
ROW_S = voice.HOP / voice.SAMPLE_RATE
SPOKEN, MARGIN = 120, 8
"""Most of a clip's own live voice rows that are kept, 2.4 s, and how many of them before and behind the speech: a clip is silent for a
second at each end."""
MSAF_FOLDS = 6


def frames() -> dict[str, tuple[Floats, Floats]]:
    """Action units (n, 35) and times (n,) from the clip's start, by clip: 300 clips of actors 1 to 5."""
    with np.load(corpus(FRAMES), allow_pickle=False) as file:
        units = np.concatenate([file["au_intensity"], file["au_presence"].astype(np.float32)], 1)
        at, offset, names = file["time_s"], file["offset"], file["clip_id"]
    return {str(name): (units[a:b], at[a:b]) for name, a, b in zip(names, offset[:-1], offset[1:], strict=True)}


def vectors() -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
    """One vector (35,) a clip by clip, all 1,440; and which of its columns are means of `frames` (35,)."""
    with np.load(corpus(VECTORS), allow_pickle=False) as file:
        units, names, same = file["au"].astype(np.float32), file["clip_id"], file["same_as_seq_mean"]
    return dict(zip(map(str, names), units, strict=True)), same


@functools.lru_cache(maxsize=2)
def fine() -> Examples:
    """As `load("vectors")`, but the voice as the live rows (44) around the speech, and the action units `with_logarithms`. The vector,
    which is a mean, stands in the middle of the speech."""
    clips = ravdess.load(trimmed=False)
    sound = [spoken(rows, rows_end(rows)) for rows in voice_rows(clips)]
    whole, _ = vectors()
    units = np.stack([whole[clip.id] for clip in clips])[:, None]
    middle = np.array([[times.mean()] for _, times in sound], np.float32)
    face = Sequence(with_logarithms(units), middle, np.ones((len(clips), 1), np.float32))
    return labelled(clips, ragged(*_apart(sound), SPOKEN, voice.DIM), face)


@functools.lru_cache(maxsize=2)
def load(faces: str) -> Examples:
    """All 1,440 clips, 8 classes, group the actor ("01" to "24"): voice (mean and deviation of the live rows over 0.16 s), and `faces`:

    "vectors": one row a clip. "frames": actors 1 to 5, means over 0.13 s; of the others, whose frames are not public, the 14 comparable
    columns of their vector all through the clip, the other columns being 0 (which is no movement).
    """
    if faces not in ("vectors", "frames"):
        raise ValueError(f"no faces {faces!r}; there are vectors and frames")
    clips = ravdess.load(trimmed=False)
    sound = [segments(rows, rows_end(rows), SEGMENT["voice"], True) for rows in voice_rows(clips)]
    heard = ragged(*_apart(sound), ROWS["voice"], 2 * voice.DIM)
    whole, same = vectors()
    seen = frames() if faces == "frames" else {}
    shown = []
    for clip, (_, times) in zip(clips, sound, strict=True):
        if clip.id in seen:
            units, at = seen[clip.id]
            # Seconds before the clip's own end, as the sound's; the video is at most 67 ms shorter.
            shown.append(segments(units, (at - len(clip.pcm) / voice.SAMPLE_RATE).clip(max=0).astype(np.float32), SEGMENT["face"], False))
        elif seen:
            shown.append((np.repeat((whole[clip.id] * same)[None], len(times), 0), times))
        else:
            shown.append((whole[clip.id][None], np.zeros(1, np.float32)))
    face = ragged(*_apart(shown), ROWS["face"] if seen else 1, UNITS)
    return labelled(clips, heard, face)


def with_logarithms(units: Floats) -> Floats:
    """Action units x (..., D) with log(1 + 5 x) beside them, (..., 2 D): half of them are nearly zero."""
    return np.concatenate([units, np.log1p(5 * units)], -1)


def labelled(clips: list[Clip], heard: Sequence, face: Sequence) -> Examples:
    """Windows of clips: their voices, their faces, the corpus's eight classes; group the actor ("01" to "24")."""
    label = np.array([EMOTIONS.index(clip.emotion) for clip in clips])
    actor = np.array([clip.speaker.removeprefix("ravdess") for clip in clips])
    return Examples.of_classes(Window(nothing(len(clips)), heard, face), label, len(EMOTIONS), actor, np.array([clip.id for clip in clips]))


def rows_end(rows: Floats) -> Floats:
    """When each voice row ends, in seconds before the last one's end."""
    return -np.arange(len(rows), dtype=np.float32)[::-1] * ROW_S


def spoken(rows: Floats, times: Floats) -> tuple[Floats, Floats]:
    """Of voice rows (n, 44) and times (n,) those from the first to the last where somebody speaks and `MARGIN` around; all where nobody
    does."""
    active = np.flatnonzero(rows[:, voice.SPEECH] > 0.5)
    part = slice(max(active[0] - MARGIN, 0), active[-1] + 1 + MARGIN) if len(active) else slice(None)
    return rows[part], times[part]


def segments(rows: Floats, times: Floats, length: int, spread: bool) -> tuple[Floats, Floats]:
    """Means, and with `spread` deviations beside them, of `length` rows (n, D) at a time, counted from the end; and their mean times."""
    count = len(rows) // length
    if not count:
        return np.zeros((0, rows.shape[1] * (1 + spread)), np.float32), np.zeros(0, np.float32)
    pieces = rows[-count * length:].reshape(count, length, -1)
    out = [pieces.mean(1), pieces.std(1)] if spread else [pieces.mean(1)]
    return np.concatenate(out, 1).astype(np.float32), times[-count * length:].reshape(count, length).mean(1).astype(np.float32)


def _apart(pairs: list[tuple[Floats, Floats]]) -> tuple[list[Floats], list[Floats]]:
    return [rows for rows, _ in pairs], [times for _, times in pairs]


def calibrated(everything: Examples) -> Examples:
    """Every actor's clips relative to that actor's own neutral face and voice, without the two neutral clips that tell these.

    The mean row of the first repetitions of the actor's neutral clips is taken from all of the actor's rows.
    """
    asked = np.array([name.split("-")[2] == "01" and name.split("-")[5] == "01" for name in everything.id])
    parts = []
    for sequence in everything.window:
        x = sequence.x.copy()
        for actor in np.unique(everything.group):
            own = everything.group == actor
            told = sequence.x[own & asked][sequence.mask[own & asked] > 0]
            if len(told):
                x[own] -= told.mean(0)
        parts.append(sequence._replace(x=x * sequence.mask[..., None]))
    return replace(everything, window=Window(*parts)).take(~asked)


def six_folds(fold: int) -> tuple[list[str], list[str], list[str]]:
    """Actors to train on, to choose by and to test on: the MSAF paper's six folds of four in order; the next fold chooses."""
    groups = [[f"{actor:02d}" for actor in range(first, first + 4)] for first in range(1, 25, 4)]
    if not 0 <= fold < MSAF_FOLDS:
        raise ValueError(f"there are folds 0 to {MSAF_FOLDS - 1}, not {fold}")
    test, valid = groups[fold], groups[(fold + 1) % MSAF_FOLDS]
    return [actor for group in groups for actor in group if actor not in test + valid], valid, test


def five_actors(fold: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """As `six_folds`, leaving one of actors 1 to 5 out; another of them, by seed, chooses, and actors 6 to 24 train too."""
    five = [f"{actor:02d}" for actor in range(1, 6)]
    if not 0 <= fold < len(five):
        raise ValueError(f"there are folds 0 to {len(five) - 1}, not {fold}")
    test, valid = five[fold], five[(fold + 1 + seed % 4) % 5]
    return [f"{actor:02d}" for actor in range(1, 25) if f"{actor:02d}" not in (test, valid)], [valid], [test]
