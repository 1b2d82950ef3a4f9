"""What windows are composed of: faces, voices and texts of separate corpora as feature rows, made once and kept on disk."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from models.datasets import cache_root, data_root, emodb, ferplus, ravdess
from models.datasets.acoustics import Acoustics, noise
from models.datasets.speech import SAMPLE_RATE, Clip
from models.datasets.spoken import Hearing, Recogniser
from models.datasets.texts import texts
from models.emotions import EMOTIONS
from models.encoders.text import load_head
from models.perception.facenet import FaceEncoder
from models.perception.voice import HOP, VOICE, VoicePerception
from models.perception.words import WordPerception
from models.window import WindowSpec

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Crops = npt.NDArray[np.uint8]
Progress = Callable[[str, int, int], None]

RECIPE = 1
"""To be raised with every change of what is cached: kept rows must not outlive the code that made them."""

VARIANTS = 6
SPEAKING = (4, 5)
"""Variants of a face whose mouth is opened as in speech; variant 0 is the crop itself, the others move, blur and relight it."""
MOST_A_CLASS = 2500
CLIPS_A_TALK = 6


@dataclass(frozen=True)
class Faces:
    """rows (N, 6, 39) float16 of each still in its variants; label (N,); misread (N,) whether the network's own top differs."""

    rows: npt.NDArray[np.float16]
    label: Ints
    misread: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Talk:
    """A few clips of one speaker with pauses between, heard through one room and microphone.

    rows (n, 44); label (n,) of the clip being spoken, or of the last one in a pause; since (n,) seconds since that clip began.
    """

    rows: Floats
    label: Ints
    since: Floats


@dataclass(frozen=True)
class Texts:
    """words of each text as numbers of `vectors` (V, 64); label (N,), -1 where only valence and arousal are known; affect (N, 2), NaN
    where unknown; misread (N,) whether the text head's own top differs; `hear` damages a text as a recogniser would."""

    words: list[list[int]]
    label: Ints
    affect: Floats
    misread: npt.NDArray[np.bool_]
    vectors: Floats
    hear: Recogniser


@dataclass(frozen=True)
class Material:
    """One split of everything."""

    faces: Faces
    talks: list[Talk]
    texts: Texts

    @classmethod
    def of_voices(cls, talks: list[Talk]) -> Material:
        """Voices alone, for windows without faces and texts."""
        none, never = np.zeros(0, np.int64), np.zeros(0, np.bool_)
        faces = Faces(np.zeros((0, VARIANTS, 0), np.float16), none, never)
        hear = Recogniser([], {}, Hearing())
        return cls(faces, talks, Texts([], none, np.zeros((0, 2), np.float32), never, np.zeros((0, 0), np.float32), hear))


def load(split: str, face: str | Path = "face", words: str | Path = "words", copies: int = 1, progress: Progress | None = None) -> Material:
    """Material of the split "train", "valid" or "test": FER+ faces, RAVDESS and EmoDB voices, GoEmotions and EmoBank texts.

    `copies` renderings of the voices in different rooms; splits share no picture, speaker or text. Feature rows are cached in
    `cache_root()` under the hashes of their makers. Raises DataMissing or WeightsError with the cure.
    """
    return Material(load_faces(split, face, progress), load_talks(split, copies, progress), load_texts(split, words))


def load_faces(split: str, weights: str | Path = "face", progress: Progress | None = None) -> Faces:
    """FER+ stills with a majority label, at most `MOST_A_CLASS` a class when training, as variants through the face network."""
    encoder = FaceEncoder(weights)
    path = cache_root() / f"faces-{split}-{encoder.features.hash}-{RECIPE}.npz"
    if not path.is_file():
        stills = ferplus.load(data_root(), split, (lambda done, total: progress("crops", done, total)) if progress else None)
        draw = np.random.default_rng(zlib.crc32(split.encode()))
        most = MOST_A_CLASS if split == "train" else len(stills.label)
        picked = [draw.permutation(np.flatnonzero(stills.label == k))[:most] for k in range(len(EMOTIONS))]
        chosen = np.sort(np.concatenate(picked))
        rows = np.empty((len(chosen), VARIANTS, encoder.features.dim), np.float16)
        for n, k in enumerate(chosen):
            rows[n] = encoder(np.stack([variant(stills.crops[k], which, draw) for which in range(VARIANTS)]))
            if progress and n % 100 == 99:
                progress(f"faces, {split}", n + 1, len(chosen))
        _write(path, rows=rows, label=stills.label[chosen].astype(np.int64))
    with np.load(path, allow_pickle=False) as kept:
        rows, label = kept["rows"], kept["label"]
    return Faces(rows, label, rows[:, 0, -len(EMOTIONS):].argmax(1) != label)


def face_shares() -> Floats:
    """Shares (7,) of the emotions in FER+'s training part, for which the expression network's posteriors are calibrated."""
    votes = ferplus.load(data_root(), "train").votes.sum(0)
    shares: Floats = (votes / votes.sum()).astype(np.float32)
    return shares


def variant(crop: Crops, which: int, draw: np.random.Generator) -> Crops:
    """The crop (48, 48) as a neighbouring video frame might show it: 0 as it is, 1-3 moved and relit, 4-5 speaking as well."""
    if which == 0:
        return crop
    picture = open_mouth(crop, draw.uniform(1.5, 4.5)) if which in SPEAKING else crop
    centre = (crop.shape[1] / 2, crop.shape[0] / 2)
    move = cv2.getRotationMatrix2D(centre, draw.normal(0, 3), float(np.exp(draw.normal(0, 0.03))))
    move[:, 2] += draw.normal(0, 0.8, 2)
    moved = cv2.warpAffine(picture, move, crop.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    blurred = cv2.GaussianBlur(moved, (0, 0), draw.uniform(0.05, 0.9)).astype(np.float32)
    lit = (blurred - 128) * float(np.exp(draw.normal(0, 0.12))) + 128 + draw.normal(0, 10) + draw.normal(0, 2, crop.shape)
    out: Crops = np.clip(lit, 0, 255).astype(np.uint8)
    return out


def open_mouth(crop: Crops, pixels: float, line: float = 37.5, width: float = 7.5) -> Crops:
    """Drops the jaw of an aligned crop by `pixels` below the mouth's line and darkens the gap: talking, as seen in 48 pixels."""
    y, x = np.mgrid[:crop.shape[0], :crop.shape[1]].astype(np.float32)
    across = np.clip(1 - ((x - (crop.shape[1] - 1) / 2) / width) ** 2, 0, 1)
    gap = pixels * np.sqrt(across)
    fade = np.clip((crop.shape[0] - y) / (crop.shape[0] - line), 0, 1)
    source = np.where(y > line + gap, y - gap * fade, np.minimum(y, line)).astype(np.float32)
    opened = cv2.remap(crop, x, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    inside = cv2.GaussianBlur(((y > line) & (y < line + gap)).astype(np.float32), (0, 0), 0.7)
    out: Crops = (opened * (1 - inside) + 0.35 * float(crop.mean()) * inside).astype(np.uint8)
    return out


def load_talks(split: str, copies: int = 1, progress: Progress | None = None, corpus: str = "") -> list[Talk]:
    """RAVDESS and EmoDB voices of the split, or those of one corpus, each copy in other talks; the first copy of valid and test is not
    rendered at all."""
    clips = [clip for clip in [*ravdess.load(), *emodb.load()] if clip.split == split and corpus in ("", clip.corpus)]
    talks: list[Talk] = []
    for copy in range(copies):
        path = cache_root() / f"talks-{corpus}{split}-{copy}-{VOICE.hash}-{RECIPE}.npz"
        if not path.is_file():
            made = _make_talks(clips, np.random.default_rng([copy, zlib.crc32(split.encode())]), split == "train" or copy > 0, progress)
            ends = np.cumsum([len(talk.label) for talk in made])
            _write(path, ends=ends, **{name: np.concatenate([getattr(talk, name) for talk in made]) for name in ("rows", "label", "since")})
        with np.load(path, allow_pickle=False) as kept:
            parts = {name: kept[name] for name in ("rows", "label", "since", "ends")}
        begin = 0
        for end in parts["ends"]:
            talks.append(Talk(*(parts[name][begin:end] for name in ("rows", "label", "since"))))
            begin = int(end)
    return talks


def _make_talks(clips: Sequence[Clip], draw: np.random.Generator, rendered: bool, progress: Progress | None) -> list[Talk]:
    perception, render, talks, done = VoicePerception(), Acoustics(), [], 0
    for speaker in sorted({clip.speaker for clip in clips}):
        own = [clip for clip in clips if clip.speaker == speaker]
        order = list(draw.permutation(len(own)))
        while order:
            talk, order = [own[k] for k in order[:CLIPS_A_TALK]], order[CLIPS_A_TALK:]
            # Neighbours of one emotion half of the time: people stay in a mood longer than for a sentence.
            talk.sort(key=lambda clip: (clip.label7 if draw.random() < 0.5 else draw.integers(7), draw.random()))
            talks.append(_make_talk(talk, draw, render if rendered else None, perception))
            done += len(talk)
            if progress:
                progress("voices", done, len(clips))
    return talks


def _make_talk(clips: Sequence[Clip], draw: np.random.Generator, render: Acoustics | None, perception: VoicePerception) -> Talk:
    sound: list[Floats] = []
    marks: list[tuple[int, int]] = []
    at = 0
    for clip in clips:
        samples = int(SAMPLE_RATE * draw.choice([draw.uniform(0.1, 0.6), draw.uniform(0.6, 2.5)]))
        # The clips' own background is unlike digital silence, so pauses carry a little noise at a level of their own.
        pause = (10 ** draw.uniform(-4.5, -3) * noise(samples, draw.uniform(0, 1), draw)).astype(np.float32)
        sound += [pause, clip.pcm]
        marks.append((at + len(pause), clip.label7))
        at += len(pause) + len(clip.pcm)
    pcm = np.concatenate(sound)
    perception.reset()
    rows = perception.feed(render(pcm, draw) if render else pcm)
    ends = (np.arange(len(rows)) + 1) * (HOP / SAMPLE_RATE)
    begins = np.array([begin / SAMPLE_RATE for begin, _ in marks])
    which = np.maximum(np.searchsorted(begins, ends, side="right") - 1, 0)
    since = np.maximum(ends - begins[which], 0).astype(np.float32)
    return Talk(rows, np.array([label for _, label in marks], np.int64)[which], since)


def load_texts(split: str, weights: str | Path = "words") -> Texts:
    """GoEmotions comments with one of the seven and EmoBank sentences of the split, in a recogniser's spelling."""
    everything = texts(meld_weight=0)
    chosen = np.concatenate([everything.rows(split, corpus) for corpus in ("goemotions", "emobank")])
    vectors = WordPerception(weights).rows(everything.vocabulary)
    words = [everything.words[k] for k in chosen]
    label = everything.label7[chosen]
    affect = np.where(everything.rated[chosen, None] > 0, everything.affect[chosen], np.nan).astype(np.float32)
    trained = [[everything.vocabulary[w] for w in everything.words[k]] for k in np.flatnonzero(everything.split == "train")]
    hear = Recogniser(trained, {word: k for k, word in enumerate(everything.vocabulary)}, Hearing())
    return Texts(words, label, affect, tops(words, vectors, weights) != label, vectors, hear)


def tops(words: Sequence[Sequence[int]], vectors: Floats, weights: str | Path = "words") -> Ints:
    """What the text head that ships with the word vectors is most sure of (n,) for each text's first 24 words, numbers of `vectors`."""
    head, rows = load_head(weights), WindowSpec().text
    tops = []
    for begin in range(0, len(words), 512):
        part = [w[:rows] for w in words[begin:begin + 512]]
        x, mask = np.zeros((len(part), rows, vectors.shape[1]), np.float32), np.zeros((len(part), rows), np.float32)
        for k, w in enumerate(part):
            x[k, :len(w)], mask[k, :len(w)] = vectors[w], 1
        with torch.inference_mode():
            tops.append(head(torch.from_numpy(x), torch.from_numpy(mask))[0].argmax(1).numpy())
    return np.concatenate(tops)


def _write(path: Path, **arrays: npt.NDArray[np.generic]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp.npz")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    unfinished.replace(path)
