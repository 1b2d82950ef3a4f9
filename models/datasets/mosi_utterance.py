"""CMU-MOSI by utterance: one text, voice and face vector each, a video's utterances being the sequence (Poria et al. 2017, ACL).

The text and face vectors come from networks that saw the labels of the training videos: a linear reading of the text alone is right for
98 % of them, of videos it has not seen for about 75 %; the face for 91 % and 52 %, which is chance. Two things follow, the same for all
models: training windows mix these vectors with another utterance's by a random share, and so do the windows that choose the weights.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from models.datasets import corpus
from models.datasets.examples import Examples, Floats, ragged
from models.datasets.spoken import spoken
from models.window import Sequence, Window

FILE = "mosi_utterance.npz"
TEXTS = ("corpus", "words", "sentences")
CONTEXT = 4
"""Utterances before and after the one that is to be judged."""
PLACE = 2
"""Columns after the features: 1 for the utterance itself, and the others' distance from -1 to 1."""
SPREAD = 3.0
"""Sentiment is -3 to 3; models tell it divided by this."""
VALID_VIDEOS = 12
"""Training videos that choose the weights."""
MIXED = {"text": (0.0, 1.0), "face": (0.9, 1.0)}
"""Share of another utterance in a training vector, drawn evenly from this range: text then speaks for another label in a quarter of
the windows, about as often as in unseen videos, and a face says next to nothing, as there."""
RENDERINGS = 2
"""How often each validation window is there, each time mixed otherwise."""
Ints = npt.NDArray[np.int64]


def load(text: str = "corpus") -> dict[str, Examples]:
    """"train" (62 videos) and "test" (31): classes negative, not negative; values (N, 1) sentiment / 3.

    text: "corpus", its own vectors; or these followed by what a network that never saw MOSI reads in the transcript: "words", our own
    word table and text head; "sentences", `models.encoders.sentence`. Raises DataMissing.
    """
    if text not in TEXTS:
        raise ValueError(f"no text {text!r}; there are {', '.join(TEXTS)}")
    with np.load(corpus(FILE), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    vectors = arrays["text_cnn100"].astype(np.float32)
    if text != "corpus":
        transcripts = tuple(str(one) for one in arrays["transcript"])
        vectors = np.concatenate([vectors, words(transcripts) if text == "words" else sentences(transcripts)], 1)
    face = arrays["video100"].astype(np.float32)
    features = [vectors, arrays["audio73"].astype(np.float32), np.log1p(np.maximum(face, 0))]
    out = {}
    for k, name in enumerate(("train", "test")):
        rows = np.flatnonzero(arrays["split_bclstm"] == k)
        out[name] = _windows(rows, features, arrays)
    return out


@functools.lru_cache(maxsize=1)
def sentences(transcripts: tuple[str, ...]) -> Floats:
    """What the sentence reader reads in each transcript, (N, 37)."""
    from models.encoders.sentence import read

    return read(transcripts)


@functools.lru_cache(maxsize=1)
def words(transcripts: tuple[str, ...]) -> Floats:
    """State of the text head, its emotions and affect, and the mean word vector of each transcript, (N, 128 + 9 + 64)."""
    import torch

    from models.encoders.text import load_head
    from models.perception.words import VECTOR, WordPerception

    table, head, out = WordPerception(), load_head(), []
    with torch.inference_mode():
        for transcript in transcripts:
            vectors = table.rows(spoken(transcript))
            vectors = vectors if len(vectors) else np.zeros((1, VECTOR), np.float32)
            rows, mask = torch.from_numpy(vectors)[None], torch.ones(1, len(vectors))
            emotion, affect = head(rows, mask)
            out.append(np.concatenate([head.embed(rows, mask)[0].numpy(), emotion[0].numpy(), affect[0].numpy(), vectors.mean(0)]))
    return np.stack(out).astype(np.float32)


def _windows(rows: Ints, features: list[Floats], arrays: dict[str, npt.NDArray[np.generic]]) -> Examples:
    video, begin = arrays["video_id"].astype(str), arrays["interval_s"][:, 0].astype(np.float64)
    order = {name: sorted(np.flatnonzero(video == name), key=lambda k: begin[k]) for name in np.unique(video[rows])}
    place = {int(k): (name, position) for name, ones in order.items() for position, k in enumerate(ones)}
    pieces: list[list[Floats]] = [[], [], []]
    times: list[Floats] = []
    for k in rows:
        name, position = place[int(k)]
        around = np.arange(max(position - CONTEXT, 0), min(position + CONTEXT + 1, len(order[name])))
        # The utterance itself stands once more at the end: models that read the newest row then read it.
        chosen = np.array([*(order[name][p] for p in around), k])
        offset = np.array([*(around - position), 0]) / CONTEXT
        times.append(np.array([*((around - position - CONTEXT - 1) * 4.0 / (2 * CONTEXT + 2)), 0.0], np.float32))
        marks = np.stack([offset == 0, offset], 1).astype(np.float32)
        for m in range(3):
            pieces[m].append(np.concatenate([features[m][chosen], marks], 1))
    most = 2 * CONTEXT + 2
    window = Window(*(ragged(pieces[m], times, most, features[m].shape[1] + PLACE) for m in range(3)))
    sentiment = arrays["sentiment"][rows].astype(np.float32)
    label = arrays["label_bin"][rows].astype(np.int64)
    made = Examples.of_classes(window, label, 2, video[rows], arrays["utterance_id"][rows])
    return replace(made, values=sentiment[:, None] / SPREAD, values_weight=np.ones(len(rows), np.float32))


def split(train: Examples, seed: int) -> tuple[Examples, Examples]:
    """The training windows without `VALID_VIDEOS` videos, drawn by seed, and those videos' windows."""
    videos = np.random.default_rng([seed, 93]).permutation(np.unique(train.group))[:VALID_VIDEOS]
    held = np.isin(train.group, videos)
    return train.take(~held), train.take(held)


def mixed(examples: Examples, others: Examples, draw: np.random.Generator, leaky: int = 100) -> Window:
    """The windows with the text and face vectors of every row mixed with those of other utterances of `others`, by shares drawn evenly.

    All rows of an utterance in a window get the same. Only the first `leaky` columns, which saw labels, are mixed.
    """
    out = {}
    for m, name in enumerate(Window._fields):
        sequence: Sequence = getattr(examples.window, name)
        if name in MIXED:
            pool = others.window[m]
            b, t, _ = sequence.x.shape
            who = draw.integers(0, len(others), (b, t))
            newest = pool.mask.sum(1).astype(int) - 1  # each window's own utterance
            share = draw.uniform(*MIXED[name], (b, t, 1)).astype(np.float32)
            itself = sequence.x[..., -PLACE] > 0  # stands twice
            who = np.where(itself, who[:, :1], who)
            share = np.where(itself[..., None], share[:, :1], share)
            x = sequence.x.copy()
            x[..., :leaky] += share * (pool.x[who, newest[who], :leaky] - x[..., :leaky])
            sequence = sequence._replace(x=x * sequence.mask[..., None])
        out[name] = sequence
    return Window(**out)


def rendered(examples: Examples, others: Examples, seed: int) -> Examples:
    """`examples` `RENDERINGS` times over, each time mixed otherwise, the same for the same seed."""
    draw = np.random.default_rng([seed, 7])
    many = examples.take(np.tile(np.arange(len(examples)), RENDERINGS))
    return replace(many, window=mixed(many, others, draw))
