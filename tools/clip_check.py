"""What others make of the sample clip: is the face followed, are the words heard, does a face network agree with the drawing?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

_SKIP = 0.3
"""Seconds left out at both ends of a segment when it is judged."""


def truth(folder: Path) -> dict[str, Any]:
    """The clip's true times (sample.json)."""
    loaded: dict[str, Any] = json.loads((folder / "sample.json").read_text())
    return loaded


def pictures(path: Path) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """(seconds, RGB picture) of every video frame."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield float(frame.time or 0), frame.to_ndarray(format="rgb24")


def sound(path: Path) -> tuple[float, npt.NDArray[np.int16]]:
    """Seconds at which the sound starts, and the samples at 16 kHz mono."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    blocks: list[npt.NDArray[np.int16]] = []
    start: float | None = None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            start = float(frame.time or 0) if start is None else start
            blocks += [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
        blocks += [part.to_ndarray().reshape(-1) for part in resampler.resample(None)]
    return start or 0.0, np.concatenate(blocks)


def word_errors(said: str, heard: str) -> int:
    """Least number of words to insert, delete or replace to turn one into the other."""
    reference, guess = said.split(), heard.split()
    row = list(range(len(guess) + 1))
    for i, word in enumerate(reference, 1):
        above, row[0] = row[:], i
        for j, other in enumerate(guess, 1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other))
    return row[-1]


def hear(folder: Path) -> list[tuple[str, str]]:
    """(said, heard) of every sentence: pocketsphinx on the decoded sound, in blocks of 100 ms, cut midway between the sentences."""
    from pocketsphinx import Decoder

    sentences = truth(folder)["sentences"]
    start, samples = sound(folder / "sample.mp4")
    middles = [(a["end"] + b["begin"]) / 2 for a, b in pairwise(sentences)]
    cuts = [start, *middles, start + len(samples) / 16000]
    decoder = Decoder(loglevel="FATAL")
    pairs = []
    for sentence, begin, end in zip(sentences, cuts[:-1], cuts[1:], strict=True):
        piece = samples[round((begin - start) * 16000):round((end - start) * 16000)].tobytes()
        decoder.start_utt()
        for at in range(0, len(piece), 3200):
            decoder.process_raw(piece[at:at + 3200])
        decoder.end_utt()
        found = decoder.hyp()
        pairs.append((sentence["text"], found.hypstr if found else ""))
    return pairs


def heard(folder: Path) -> str:
    """The word error rate as one line, with what was misheard."""
    pairs = hear(folder)
    errors, words = sum(word_errors(a, b) for a, b in pairs), sum(len(a.split()) for a, _ in pairs)
    wrong = "".join(f"\n  {a!r} was heard as {b!r}" for a, b in pairs if a != b)
    return f"words: WER {errors / words:.3f} ({errors} of {words}, pocketsphinx){wrong}"


def agreement(folder: Path, weights: str) -> str:
    """How a face network reads each segment: the mean of its posteriors from 0.3 s after the onset to 0.3 s before the end."""
    from models.emotions import EMOTIONS
    from models.perception.face import FaceEncoder, FaceTracker

    encoder, tracker = FaceEncoder(weights=weights), FaceTracker()
    times, posteriors, followed, frames = [], [], 0, 0
    for t, picture in pictures(folder / "sample.mp4"):
        frames += 1
        face = tracker(picture, round(t * 1e9))
        if face is not None:
            followed += 1
            times.append(t)
            posteriors.append(np.exp(encoder(face.crop[None])[0, -len(EMOTIONS):]))
    tracker.close()
    at, shares = np.array(times), np.array(posteriors)
    lines, agreed = [f"face followed in {followed} of {frames} frames"], 0
    segments = truth(folder)["segments"]
    for segment in segments:
        inside = (at >= segment["onset"] + _SKIP) & (at <= segment["end"] - _SKIP)
        mean = shares[inside].mean(0)
        top = EMOTIONS[int(mean.argmax())]
        agreed += top == segment["emotion"]
        each = np.mean(shares[inside].argmax(1) == EMOTIONS.index(segment["emotion"]))
        ranked = ", ".join(f"{EMOTIONS[k]} {mean[k]:.2f}" for k in np.argsort(-mean)[:3])
        verdict = "agrees" if top == segment["emotion"] else "DIFFERS"
        lines.append(f"{verdict:8}{segment['emotion']:10} {ranked}; frames that agree {each:.2f}")
    return "\n".join([*lines, f"{agreed} of {len(segments)} segments agree"])
