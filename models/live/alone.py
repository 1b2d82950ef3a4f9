"""Windows of one real corpus alone: its face held, its clip's end, its text spoken whole, for figures and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.datasets import data_root, emodb, ferplus, ravdess
from models.datasets.voicerows import voice_rows
from models.live.composed import DIMS
from models.live.material import Floats, Ints, Material, load_texts
from models.perception import voice
from models.perception.words import LONGEST_PAUSE_S, VECTOR
from models.window import Window, WindowSpec, empty

FRAMES, FRAME_S = 100, 0.04
WORD_S = 0.16


class Corpus(NamedTuple):
    """A split of a corpus: its windows, their labels (n,), and the class shares (7,) of its training part."""

    name: str
    window: Window
    label: Ints
    shares: Floats


def corpora(spec: WindowSpec, stock: Material, split: str) -> Iterator[Corpus]:
    """FER+, RAVDESS, EmoDB and GoEmotions; `stock` is the split's material. Raises DataMissing with the cure."""
    yield Corpus(
        "ferplus", faces(spec, stock.faces.rows[:, 0].astype(np.float32)), stock.faces.label,
        _shares(ferplus.load(data_root(), "train").label))
    for corpus in (ravdess, emodb):
        clips = corpus.load()
        chosen = [clip for clip in clips if clip.split == split]
        yield Corpus(
            chosen[0].corpus, voices(spec, voice_rows(chosen)), np.array([clip.label7 for clip in chosen]),
            _shares(np.array([clip.label7 for clip in clips if clip.split == "train"])))
    labelled = np.flatnonzero(stock.texts.label >= 0)
    yield Corpus("goemotions", texts(spec, stock, labelled), stock.texts.label[labelled], _shares(load_texts("train").label))


def faces(spec: WindowSpec, rows: Floats) -> Window:
    """Each still (N, 39) held for a whole window at 25 frames a second."""
    window = empty(spec, DIMS, len(rows))
    window.face.x[:, :FRAMES] = rows[:, None]
    window.face.t[:, :FRAMES] = -np.arange(FRAMES)[::-1] * FRAME_S - FRAME_S
    window.face.mask[:, :FRAMES] = 1
    return window


def voices(spec: WindowSpec, clips: list[Floats]) -> Window:
    """The last 4 s of each clip's rows, ending with the window."""
    window = empty(spec, DIMS, len(clips))
    for k, rows in enumerate(clips):
        n = min(len(rows), spec.voice)
        window.voice.x[k, :n] = rows[-n:]
        window.voice.t[k, :n] = -np.arange(n)[::-1] * voice.HOP / voice.SAMPLE_RATE - 0.03
        window.voice.mask[k, :n] = 1
    return window


def texts(spec: WindowSpec, stock: Material, chosen: Ints) -> Window:
    """The first 24 words of each text, spoken fast enough to fit the window."""
    window = empty(spec, DIMS, len(chosen))
    for k, which in enumerate(chosen):
        said = stock.texts.words[which][: spec.text]
        n = len(said)
        window.text.x[k, :n, :VECTOR] = stock.texts.vectors[said]
        pauses = np.where(np.arange(n) == 0, LONGEST_PAUSE_S, 0)
        window.text.x[k, :n, VECTOR:] = np.stack([np.full(n, np.log1p(WORD_S)), np.log1p(pauses), np.full(n, 0.9)], 1)
        window.text.t[k, :n] = -np.arange(n)[::-1] * WORD_S - 0.1
        window.text.mask[k, :n] = 1
    return window


def _shares(label: npt.NDArray[np.integer[Any]]) -> Floats:
    shares: Floats = (np.bincount(label[label >= 0], minlength=7) / (label >= 0).sum()).astype(np.float32)
    return np.maximum(shares, np.float32(1e-3))
