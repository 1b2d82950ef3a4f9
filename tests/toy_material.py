"""Toy material in which every row says its emotion: faces by their top, voices by band 0, words by column 0."""

from __future__ import annotations

import numpy as np

from models.datasets.spoken import Hearing, Recogniser
from models.live.material import VARIANTS, Faces, Material, Talk, Texts
from models.perception import voice


def toy_material() -> Material:
    draw = np.random.default_rng(0)
    label = np.repeat(np.arange(7), 4)
    rows = np.full((28, VARIANTS, 39), -4, np.float16)
    rows[np.arange(28), :, 32 + label] = -0.01
    misread = np.tile([False, False, False, True], 7)
    rows[misread, :, 0] = 9
    talks = []
    for k in range(14):
        labels = np.repeat([k % 7, (k + 3) % 7], 150)
        sound = np.zeros((300, voice.DIM), np.float32)
        sound[:, 0], sound[:, voice.SPEECH] = labels, draw.random(300) < 0.7
        talks.append(Talk(sound, labels, np.tile(np.arange(150) * 0.02, 2).astype(np.float32)))
    words = [[k, k, k] for k in range(7)] * 2 + [[7, 7]]
    vectors = np.repeat(np.arange(8, dtype=np.float32)[:, None], 64, 1)
    affect = np.full((15, 2), np.nan, np.float32)
    affect[14] = 0.3, -0.2
    vocabulary = {f"word{k}": k for k in range(8)}
    hear = Recogniser([list(vocabulary)] * 2, vocabulary, Hearing(share=0, crop=0))
    texts = Texts(words, np.array([*range(7), *range(7), -1]), affect, np.zeros(15, bool), vectors, hear)
    return Material(Faces(rows, label, misread), talks, texts)
