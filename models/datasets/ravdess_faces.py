"""RAVDESS with faces: action units of OpenFace beside the sound, frame by frame (actors 1 to 5) or one vector a clip (all 24 actors).

Derived from RAVDESS (CC BY-NC-SA 4.0) with OpenFace (academic use). The two come from different passes of OpenFace: 14 of the 35 values of
the vectors are means of the frames, the others are not and must not be mixed up with them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.datasets import corpus, ravdess
from models.datasets.voicerows import voice_rows
from models.examples import Examples, Floats, nothing, ragged
from models.perception import voice
from models.window import Window

FRAMES, VECTORS = "ravdess_au_seq.npz", "ravdess_au_clip.npz"
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The corpus's own eight, in its order."""
UNITS = 35
"""17 intensities 0 to 5 and 18 presences 0 or 1."""
ROWS = (200, 120)
"""Most rows of voice and face: the whole clip but for a few long ones, whose beginning, which is silence, is cut."""
ROW_S = voice.HOP / voice.SAMPLE_RATE
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


def load(faces: str) -> Examples:
    """All 1,440 clips, 8 classes, group the actor ("01" to "24"): voice rows at 50 Hz, and `faces`:

    "vectors": one row a clip. "frames": actors 1 to 5 frame by frame at 30 Hz; of the others, whose frames are not public, one row at
    the clip's end that holds the 14 comparable columns, the rest being 0 (which is no movement).
    """
    clips = ravdess.load(trimmed=False)
    sound = voice_rows(clips)
    heard = ragged(sound, [-np.arange(len(rows), dtype=np.float32)[::-1] * ROW_S for rows in sound], ROWS[0], voice.DIM)
    whole, same = vectors()
    rows = [whole[clip.id][None] for clip in clips]
    times: list[Floats] = [np.zeros(1, np.float32)] * len(clips)
    if faces == "frames":
        seen = frames()
        rows = [seen[clip.id][0] if clip.id in seen else one * same for clip, one in zip(clips, rows, strict=True)]
        # Of the clip's own end, as the sound's; the video is at most 67 ms shorter.
        times = [
            (seen[clip.id][1] - len(clip.pcm) / voice.SAMPLE_RATE).clip(max=0).astype(np.float32) if clip.id in seen else end
            for clip, end in zip(clips, times, strict=True)
        ]
    elif faces != "vectors":
        raise ValueError(f"no faces {faces!r}; there are vectors and frames")
    face = ragged(rows, times, ROWS[1] if faces == "frames" else 1, UNITS)
    label = np.array([EMOTIONS.index(clip.emotion) for clip in clips])
    actor = np.array([clip.speaker.removeprefix("ravdess") for clip in clips])
    return Examples.of_classes(Window(nothing(len(clips)), heard, face), label, len(EMOTIONS), actor, np.array([clip.id for clip in clips]))


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
