"""Voice features of whole corpora, computed once by the live code and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.datasets import cache_root
from models.datasets.acoustics import Acoustics
from models.datasets.speech import Clip
from models.perception.voice import DIM, VOICE, VoicePerception

Rows = npt.NDArray[np.float32]


def voice_rows(
    clips: Sequence[Clip],
    copy: int = 0,
    seed: int = 0,
    acoustics: Acoustics | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Rows]:
    """`VOICE` rows (n_i, 44) of each clip, n_i = samples // 320, row k covering the clip's samples [320 k, 320 (k + 1)).

    Copy 0 is the clean clip. Copies 1, 2, … are each another random rendering of every clip through `acoustics` (room, noise, band,
    gain), the same for the same `seed`. To train on several renderings, ask for several copies and draw one per example::

        clips = ravdess.load() + emodb.load()
        train = [i for i, clip in enumerate(clips) if clip.split == "train"]
        copies = [voice_rows(clips, copy) for copy in range(4)]
        rows = copies[rng.integers(4)][i]          # (n_i, 44); the label is clips[i].label7

    Every clip begins with the recogniser reset, as after a pause. Rows are raw (no level normalisation) and as the live code makes
    them, bit for bit. The result is cached in `cache_root()`, keyed by the hash of the features, the sound and all parameters; a
    damaged cache file is computed anew. `progress(done, total)` is called while computing.
    """
    path = cache_root() / f"voice-{_key(clips, copy, seed, acoustics)}.npz"
    cached = kept(path, len(clips), DIM)
    if cached is not None:
        return cached
    effects = acoustics or Acoustics()
    perception = VoicePerception()
    rows = []
    for done, clip in enumerate(clips):
        pcm = clip.pcm
        if copy:
            pcm = effects(pcm, np.random.default_rng([seed, copy, zlib.crc32(f"{clip.corpus}/{clip.id}".encode())]))
        perception.reset()
        rows.append(perception.feed(pcm))
        if progress:
            progress(done + 1, len(clips))
    keep(path, rows)
    return rows


def _key(clips: Sequence[Clip], copy: int, seed: int, acoustics: Acoustics | None) -> str:
    effects = [seed, asdict(acoustics or Acoustics())] if copy else []
    body = [VOICE.hash, copy, effects, [[clip.corpus, clip.id, zlib.crc32(clip.pcm.tobytes())] for clip in clips]]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:24]


def kept(path: Path, clips: int, dim: int) -> list[Rows] | None:
    """The rows (n_i, dim) of so many clips that `keep` wrote to path; None where there is no such file, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            rows, offset = file["rows"], file["offset"]
    except Exception:  # whatever is wrong with a cache file, it can be made again
        return None
    if len(offset) != clips + 1 or rows.shape != (offset[-1], dim):
        return None
    return [rows[a:b] for a, b in itertools.pairwise(offset)]


def keep(path: Path, rows: Sequence[Rows]) -> None:
    """Writes rows (n_i, dim) of clips to path, whole or not at all."""
    offset = np.cumsum([0, *(len(r) for r in rows)])
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, rows=np.concatenate(rows) if rows else np.zeros((0, DIM), np.float32), offset=offset)
    part.replace(path)
