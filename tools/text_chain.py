#!/usr/bin/env python3
"""What it costs to hear a text instead of reading it: `tools/text_chain.py [--count 300] [--model mea] [--json FILE]`.

Sentences of GoEmotions' test part are spoken by flite, heard by pocketsphinx as the transcriber runs it, and read by the model: as
written; as heard, the words at one pace; and as heard, the words where they were spoken (the last 4 s, as live).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from clip_check import word_errors
from rich.progress import track

from models import metrics
from models.datasets import DataMissing
from models.datasets.texts import texts
from models.engine import Engine, load
from models.live.alone import WORD_S
from models.perception.words import WordPerception
from models.window import Window, empty
from stream.capture.agreement import RATE, Heard
from stream.capture.recognisers import PocketSphinx

HOP = RATE // 10
END_S = 0.1
"""From the last word's end to the window's."""


def speak(text: str) -> np.ndarray:
    """flite's voice saying it: 16 kHz int16, with a moment of silence at both ends. Raises RuntimeError where ffmpeg lacks flite."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"flite=textfile={file.name}:voice=rms", "-ar", str(RATE), "-ac", "1",
                   "-f", "s16le", "-"]
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ffmpeg could not speak; does it carry flite (ffmpeg -filters | grep flite)? It said: {done.stderr.decode()}")
    pcm = np.frombuffer(done.stdout, np.int16)
    noise = np.random.default_rng(len(pcm)).normal(0, 6, RATE).astype(np.int16)
    return np.concatenate([noise[: RATE // 4], pcm, noise[: RATE // 2]])


def hear(recogniser: PocketSphinx, pcm: np.ndarray) -> list[Heard]:
    """The recogniser's words, the sound fed as it comes live."""
    recogniser.begin()
    for first in range(0, len(pcm), HOP):
        recogniser.feed(pcm[first:first + HOP])
    return recogniser.finish()


def paced(words: list[str]) -> list[tuple[str, float, float]]:
    """(word, begin, end) at one pace, from 0 s, so that 24 words fit a window."""
    return [(word, k * WORD_S, (k + 1) * WORD_S) for k, word in enumerate(words)]


def windows(engine: Engine, perception: WordPerception, told: list[list[tuple[str, float, float]]]) -> Window:
    """A window for each list of timed words, ending just after the last."""
    window = empty(engine.spec, engine.dims, len(told))
    for k, words in enumerate(told):
        end = (words[-1][2] if words else 0.0) + END_S
        inside = [n for n, (_, _, finish) in enumerate(words) if finish > end - engine.spec.seconds][-engine.spec.text:]
        for row, n in enumerate(inside):
            word, begin, finish = words[n]
            window.text.x[k, row] = perception.row(word, begin, finish, words[n - 1][2] if n else None, 1.0)
            window.text.t[k, row], window.text.mask[k, row] = finish - end, 1
    return window


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--model", default="mea")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        everything = texts(meld_weight=0)
    except DataMissing as missing:
        raise SystemExit(f"text_chain: {missing}") from None
    rows = everything.rows("test", "goemotions")
    chosen = np.random.default_rng(0).permutation(rows)[:asked.count]
    said = [[everything.vocabulary[word] for word in everything.words[k]] for k in chosen]
    label = everything.label7[chosen]
    recogniser = PocketSphinx()
    heard = [hear(recogniser, speak(" ".join(words))) for words in track(said, "speaking and hearing")]
    engine, perception = load(asked.model), WordPerception()
    shares = np.bincount(everything.label7[everything.rows("train", "goemotions")], minlength=7).astype(np.float64)
    conditions = {
        "as written": [paced(words) for words in said],
        "as heard": [paced([word.text for word in words]) for words in heard],
        "as heard, spoken times": [[(w.text, w.begin / RATE, w.end / RATE) for w in words] for words in heard],
    }
    wrong = sum(word_errors(" ".join(a), " ".join(word.text for word in b)) for a, b in zip(said, heard, strict=True))
    out: dict[str, Any] = {
        "model": asked.model, "sentences": len(said),
        "word_error_rate": wrong / sum(map(len, said)),
    }
    for name, told in conditions.items():
        logits, _, _, present = engine.logits(windows(engine, perception, told))
        found = metrics.classification(engine.calibration.with_prior(shares)(logits, present), label)
        found |= {"balanced_accuracy_equal_prior": metrics.classification(
            engine.calibration.with_prior(np.ones(7))(logits, present), label)["balanced_accuracy"]}
        out[name] = {key: round(value, 4) for key, value in found.items()}
    print(json.dumps(out, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
