"""Clips of acted speech: what `ravdess` and `emodb` give, and how to trim them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import soundfile

from models.datasets import DataMissing, corpus
from models.datasets.table import TableError

SAMPLE_RATE = 16_000
_FRAME = 320
_QUIET = 10 ** (-35 / 10)
_MARGIN_S = 0.15

Pcm = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """One clip: mono float32 sound in [-1, 1] at 16 kHz, who speaks, and which of the seven emotions (-1: none of them)."""

    corpus: str
    id: str
    speaker: str
    gender: str
    split: str
    label7: int
    emotion: str
    pcm: Pcm = field(repr=False)


def cut(folder: str, places: Iterable[tuple[str, int, int]]) -> Iterator[Pcm]:
    """Sound of each (file, first sample, samples) in `folder` of the data. Each file is read once if its places come in a row."""
    name, sound = "", np.zeros(0, np.float32)
    for file, start, samples in places:
        if file != name:
            path = corpus(f"{folder}/{file}")
            try:
                sound, rate = soundfile.read(path, dtype="float32")
            except soundfile.LibsndfileError as error:
                raise DataMissing(f"{path} cannot be read as sound: {error}. Fetch the file again.") from error
            if rate != SAMPLE_RATE or sound.ndim != 1:
                raise TableError(f"{path} is {rate} Hz with shape {sound.shape}; mono sound at {SAMPLE_RATE} Hz is needed.")
            name = file
        if start < 0 or start + samples > len(sound):
            raise TableError(f"{folder}/{file} has {len(sound)} samples, a clip should end at {start + samples}: index and sound differ.")
        yield sound[start : start + samples].copy()


def trim(pcm: Pcm) -> Pcm:
    """Without the silence at both ends: all 20 ms frames from the first to the last within 35 dB of the loudest, and 150 ms around."""
    frames = len(pcm) // _FRAME
    if not frames:
        return pcm
    power = (pcm[: frames * _FRAME].reshape(frames, _FRAME) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * _QUIET)
    if not len(loud):
        return pcm
    margin = int(_MARGIN_S * SAMPLE_RATE)
    return pcm[max(int(loud[0]) * _FRAME - margin, 0) : (int(loud[-1]) + 1) * _FRAME + margin]
