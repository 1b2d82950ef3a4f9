"""RAVDESS's voices as a speech recogniser's encoder hears them (`models.datasets.moonshine`), beside the live voice rows; faces as one
vector of action units a clip. 8 classes, all 24 actors.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Sequence as Many
from dataclasses import asdict

import numpy as np

from models.datasets import cache_root, moonshine, ravdess
from models.datasets.acoustics import SAMPLE_RATE, Acoustics
from models.datasets.carried import carried
from models.datasets.examples import Examples, Floats, ragged
from models.datasets.ravdess_faces import labelled, rows_end, spoken, vectors, with_logarithms
from models.datasets.speech import Clip
from models.datasets.voicerows import keep, kept, voice_rows
from models.perception import voice
from models.window import Sequence

RENDERINGS = 2
"""How often each clip is there for training besides as it is: at another speed, in another room, by another microphone."""
SPEED = (0.85, 1.18)
"""Pitch, formants and speed are changed together, as by a tape that runs slower or faster."""
SEGMENT = 8
"""Rows of the encoder whose mean makes one row here: 0.19 s."""
ROWS = 16
"""Most rows, 3.1 s of speech."""
DIM = moonshine.DIM + 2 * voice.DIM
"""The encoder's mean, then mean and deviation of the live voice rows over the same part of the clip."""
SEGMENT_S = SEGMENT * moonshine.HOP / moonshine.SAMPLE_RATE


@functools.lru_cache(maxsize=1)
def encoded() -> tuple[Examples, list[Sequence]]:
    """All clips, group the actor, and the voice of each rendering, in the clips' order. Times are seconds before the end of the speech.

    The live voice rows of a rendering are those of the clip as it is, at the same share of the speech. Raises DataMissing.
    """
    clips = ravdess.load(trimmed=False)
    speech = [spoken(rows, rows_end(rows)) for rows in voice_rows(clips)]
    sounds = [cut(clip, times) for clip, (_, times) in zip(clips, speech, strict=True)]
    heard = [_voice(states, [rows for rows, _ in speech]) for states in (_states(clips, sounds, k) for k in range(1 + RENDERINGS))]
    whole, _ = vectors()
    middle = np.array([[times[mask > 0].mean()] for times, mask in zip(heard[0].t, heard[0].mask, strict=True)], np.float32)
    face = Sequence(with_logarithms(np.stack([whole[clip.id] for clip in clips])[:, None]), middle, np.ones((len(clips), 1), np.float32))
    return labelled(clips, heard[0], face), heard[1:]


def cut(clip: Clip, times: Floats) -> Floats:
    """The sound of voice rows that end at times (n,), in seconds before the clip's end."""
    first, last = (len(clip.pcm) + round(float(time) * voice.SAMPLE_RATE) for time in (times[0], times[-1]))
    return clip.pcm[max(first - voice.HOP, 0) : last]


def faster(pcm: Floats, speed: float) -> Floats:
    """A sound (n,) played `speed` times as fast, (n / speed,)."""
    played: Floats = np.interp(np.arange(int(len(pcm) / speed)) * speed, np.arange(len(pcm)), pcm).astype(np.float32)
    return played


def _states(clips: list[Clip], sounds: list[Floats], rendering: int) -> list[Floats]:
    """The encoder's rows (n_i, 288) of each sound; rendering 0 is the sound as it is. Kept in the cache."""
    weights = carried(moonshine.PACKAGE, moonshine.FILE).stat().st_size
    effects = Acoustics()
    body = [weights, moonshine.LEVEL, rendering, SPEED, asdict(effects) if rendering else {}, [zlib.crc32(one.tobytes()) for one in sounds]]
    path = cache_root() / f"encoded-{hashlib.sha256(json.dumps(body).encode()).hexdigest()[:24]}.npz"
    found = kept(path, len(sounds), moonshine.DIM)
    if found is None:
        found = []
        for clip, sound in zip(clips, sounds, strict=True):
            if rendering:
                draw = np.random.default_rng([rendering, zlib.crc32(clip.id.encode())])
                sound = effects(faster(sound, draw.uniform(*SPEED)), draw)
            found.append(moonshine.rows(sound))
        keep(path, found)
    return found


def _voice(states: Many[Floats], live: Many[Floats]) -> Sequence:
    rows = [beside(*pair) for pair in zip(states, live, strict=True)]
    times = [(np.arange(len(one), dtype=np.float32) + 0.5 - len(one)) * np.float32(SEGMENT_S) for one in rows]
    return ragged(rows, times, ROWS, DIM)


def beside(states: Floats, live: Floats) -> Floats:
    """Of the encoder's rows (n, 288) means of `SEGMENT` at a time, the last of what is left; beside each the mean and the deviation of
    the live rows (m, 44) of its share of the speech; (ceil(n / 8), 376)."""
    count = -(-len(states) // SEGMENT)
    edges = np.linspace(0, len(live), count + 1).astype(int)
    out = []
    for k in range(count):
        own = live[edges[k] : max(edges[k + 1], edges[k] + 1)]
        out.append(np.concatenate([states[k * SEGMENT : (k + 1) * SEGMENT].mean(0), own.mean(0), own.std(0)]))
    return np.stack(out).astype(np.float32)


assert SAMPLE_RATE == moonshine.SAMPLE_RATE == voice.SAMPLE_RATE
