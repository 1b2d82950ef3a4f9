"""The research corpora as tasks, by the name that `affect train --data` takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from models import metrics
from models.datasets import affwild2, iemocap, mosei, mosi, mosi_utterance, ravdess_encoded, ravdess_faces
from models.datasets.examples import Examples, Floats
from models.encoders.voice import augment
from models.research.task import Answers, Disturb, Task, deviation, some_absent
from models.window import Sequence, Window

Builder = Callable[[int, int], Task]
ABSENT = 0.1
"""How often a modality is taken from a training window."""


def build(name: str, fold: int = 0, seed: int = 0) -> Task:
    """The task `name`, its test part being fold `fold` and its validation part drawn by `seed` where the corpus has neither.

    Raises DataMissing, ValueError for an unknown name or fold.
    """
    if name not in TASKS:
        raise ValueError(f"no data {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name](fold, seed)


def standard(load: Callable[[], dict[str, Examples]], name: str) -> Builder:
    """A corpus of sentiment -3 to 3 with official splits."""

    def made(fold: int, seed: int) -> Task:
        _only_fold(name, fold)
        parts = load()
        return Task(
            name, parts["train"], parts["valid"], parts["test"], lambda said, true: metrics.sentiment(said.values[:, 0], true.values[:, 0]),
            "mae", bounded=False, loss={"values": "l1"},
        )

    return made


def iemocap_four(fold: int, seed: int) -> Task:
    """IEMOCAP's four emotions; each is also judged as a yes or no of its own."""
    _only_fold("iemocap", fold)
    parts = iemocap.load()

    def measure(said: Answers, true: Examples) -> dict[str, float]:
        return by_class(said, true) | metrics.emotions_each(said.probabilities, true.classes, iemocap.EMOTIONS)

    return Task("iemocap", parts["train"], parts["valid"], parts["test"], measure, "cross_entropy")


def aff_wild2(fold: int, seed: int) -> Task:
    """Valence and arousal, also step by step. The official test labels are not public: the validation set tests, a fifth of the training
    videos, drawn by seed, chooses."""
    _only_fold("aff-wild2", fold)
    videos = affwild2.load()
    names = np.random.default_rng([seed, 2]).permutation(sorted(video.name for video in videos if video.split == "train"))
    chooses = set(names[: max(len(names) // 5, 1)])
    train = affwild2.windows([video for video in videos if video.split == "train" and video.name not in chooses])
    valid = affwild2.windows([video for video in videos if video.name in chooses])
    test = affwild2.windows([video for video in videos if video.split == "valid"])
    return Task(
        "aff-wild2", train, valid, test, lambda said, true: metrics.affect(said.values, true.values), "ccc", rising=True, timed=True,
        disturb=absent_at_random(), settings={"strides": (1, 8, 8)}, loss={"values": "ccc"},
    )  # fmt: skip


def mosi_by_utterance(name: str, text: str) -> Builder:
    """Utterances of MOSI in the light of those around them, negative or not; validation videos are drawn by seed."""

    def made(fold: int, seed: int) -> Task:
        _only_fold(name, fold)
        parts = mosi_utterance.load(text)
        train, valid = mosi_utterance.split(parts["train"], seed)

        def disturb(chosen: Examples, draw: np.random.Generator) -> Window:
            return some_absent(mosi_utterance.mixed(chosen, train, draw), ABSENT, draw)

        def measure(said: Answers, true: Examples) -> dict[str, float]:
            return by_class(said, true) | {"mae": float(np.abs(said.values - true.values).mean() * mosi_utterance.SPREAD)}

        return Task(
            name, train, mosi_utterance.rendered(valid, train, seed), parts["test"], measure, "cross_entropy", disturb=disturb,
            marks=mosi_utterance.PLACE,
            settings={"kernels": (1, 1, 1), "dropout": 0.3, "dropout_in": 0.2}, loss={"affect": 0.5},
        )  # fmt: skip

    return made


def ravdess(name: str, faces: str, calibrated: bool = False) -> Builder:
    """RAVDESS's eight emotions from sound and action units; `fold` says whose clips test, no actor is on two sides. With `calibrated` two
    neutral clips of each actor, who are then not judged, tell what is neutral for them."""

    def made(fold: int, seed: int) -> Task:
        actors = ravdess_faces.six_folds(fold) if faces == "vectors" else ravdess_faces.five_actors(fold, seed)
        everything = ravdess_faces.calibrated(ravdess_faces.load(faces)) if calibrated else ravdess_faces.load(faces)
        train, valid, test = (everything.take(np.isin(everything.group, part)) for part in actors)
        spread = [deviation(sequence) for sequence in train.window]

        def disturb(chosen: Examples, draw: np.random.Generator) -> Window:
            return some_absent(other_people(chosen.window, spread, draw), ABSENT, draw)

        return Task(name, train, valid, test, by_class, "cross_entropy", disturb=disturb, timed=True, settings={"kernels": (1, 3, 3)})

    return made


def ravdess_fine(fold: int, seed: int) -> Task:
    """As "ravdess-24", from the live voice rows, which every model reads through the live voice front end; training voices are moved as in
    the live training."""
    everything = ravdess_faces.fine()
    train, valid, test = (everything.take(np.isin(everything.group, part)) for part in ravdess_faces.six_folds(fold))
    spread = [np.zeros(sequence.x.shape[2], np.float32) for sequence in train.window[:2]] + [deviation(train.window.face)]

    def disturb(chosen: Examples, draw: np.random.Generator) -> Window:
        window = other_people(chosen.window, spread, draw)
        noise = torch.Generator().manual_seed(int(draw.integers(2**31)))
        voice = augment(torch.from_numpy(window.voice.x), torch.from_numpy(window.voice.mask), noise).numpy()
        return some_absent(window._replace(voice=window.voice._replace(x=voice)), ABSENT, draw)

    return Task(
        "ravdess-24-fine", train, valid, test, by_class, "cross_entropy", disturb=disturb, timed=True,
        settings={"front": "speech", "kernels": (1, 1, 1), "strides": (1, 8, 1)}, loss={"smooth": 0.1},
    )  # fmt: skip


def ravdess_encoded_voices(fold: int, seed: int) -> Task:
    """As "ravdess-24", the voices heard by a speech recogniser's encoder; each training window takes one of its clip's renderings."""
    everything, renderings = ravdess_encoded.encoded()
    parts = [np.isin(everything.group, part) for part in ravdess_faces.six_folds(fold)]
    train, valid, test = (everything.take(part) for part in parts)
    voices = (everything.window.voice, *renderings)
    heard = [np.stack([array[parts[0]] for array in arrays]) for arrays in zip(*voices, strict=True)]
    place = {name: k for k, name in enumerate(train.id)}
    spread = [deviation(sequence) for sequence in train.window]
    spread[1] /= 4  # the renderings move voices already

    def disturb(chosen: Examples, draw: np.random.Generator) -> Window:
        rows = np.array([place[name] for name in chosen.id])
        which = draw.integers(0, len(voices), len(rows))
        voice = Sequence(*(array[which, rows] for array in heard))
        return some_absent(other_people(chosen.window._replace(voice=voice), spread, draw), ABSENT, draw)

    return Task(
        "ravdess-24-encoded", train, valid, test, by_class, "cross_entropy", disturb=disturb, timed=True,
        settings={"kernels": (1, 1, 1)}, loss={"smooth": 0.1},
    )  # fmt: skip


def other_people(window: Window, spread: list[Floats], draw: np.random.Generator, shift: float = 0.4, noise: float = 0.2) -> Window:
    """The windows as other people and microphones might give them: all rows of a window shifted together, and each a little, in
    deviations (D,) of the columns."""
    parts = []
    for sequence, column in zip(window, spread, strict=True):
        b, t, d = sequence.x.shape
        moved = shift * draw.standard_normal((b, 1, d), np.float32) + noise * draw.standard_normal((b, t, d), np.float32)
        parts.append(sequence._replace(x=sequence.x + moved * column * sequence.mask[..., None]))
    return Window(*parts)


def by_class(said: Answers, true: Examples) -> dict[str, float]:
    """Classification figures and cross-entropy over the windows whose class is known."""
    known = true.class_weight > 0
    p, soft = said.probabilities[known], true.classes[known]
    return metrics.classification(p, true.label[known]) | {"cross_entropy": metrics.cross_entropy(p, soft)}


def absent_at_random(share: float = ABSENT) -> Disturb:
    def disturb(chosen: Examples, draw: np.random.Generator) -> Window:
        return some_absent(chosen.window, share, draw)

    return disturb


def _only_fold(name: str, fold: int) -> None:
    if fold:
        raise ValueError(f"{name} has one official split, so --fold is 0, not {fold}")


TASKS: dict[str, Builder] = {
    "mosi-utterance": mosi_by_utterance("mosi-utterance", "corpus"),
    "mosi-utterance-words": mosi_by_utterance("mosi-utterance-words", "words"),
    "mosi-utterance-sentences": mosi_by_utterance("mosi-utterance-sentences", "sentences"),
    "ravdess-av": ravdess("ravdess-av", "frames"),
    "ravdess-24": ravdess("ravdess-24", "vectors"),
    "ravdess-24-fine": ravdess_fine,
    "ravdess-24-encoded": ravdess_encoded_voices,
    "ravdess-24-neutral": ravdess("ravdess-24-neutral", "vectors", calibrated=True),
    "mosi": standard(mosi.load, "mosi"),
    "mosei": standard(mosei.load, "mosei"),
    "iemocap": iemocap_four,
    "aff-wild2": aff_wild2,
}
