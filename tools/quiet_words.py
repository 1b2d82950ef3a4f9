#!/usr/bin/env python3
"""How often the words stay neutral where an emotion is shown: `tools/quiet_words.py [--json FILE]`.

MELD's utterances (validation part) were labelled by people who saw and heard them, GoEmotions' comments by people who only read them. The
same text head reads both. With q the share of a MELD emotion's utterances whose words are as neutral ones are,

    read as neutral in MELD = q x MELD's neutral ones read as neutral + (1 - q) x that emotion read as neutral in GoEmotions.

The mean of q over MELD's shares is what `Composition.quiet` has for text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from models.calibration import CONVERSATION
from models.datasets import DataMissing
from models.datasets.texts import Texts, texts
from models.emotions import EMOTIONS
from models.encoders.text import TextHead, load_head
from models.perception.words import WordPerception
from models.window import WindowSpec

SPLIT = "valid"
NEUTRAL = EMOTIONS.index("neutral")


def read_as_neutral(everything: Texts, corpus: str, head: TextHead, vectors: np.ndarray) -> list[float]:
    """Share of each emotion's texts (7) that the head reads as neutral, from their first 24 words."""
    rows, spec = everything.rows(SPLIT, corpus), WindowSpec()
    rows = np.array([k for k in rows if len(everything.words[k])])
    tops = []
    for first in range(0, len(rows), 512):
        said = [everything.words[k][:spec.text] for k in rows[first:first + 512]]
        x, mask = np.zeros((len(said), spec.text, vectors.shape[1]), np.float32), np.zeros((len(said), spec.text), np.float32)
        for k, words in enumerate(said):
            x[k, :len(words)], mask[k, :len(words)] = vectors[words], 1
        with torch.inference_mode():
            tops.append(head(torch.from_numpy(x), torch.from_numpy(mask))[0].argmax(1).numpy())
    neutral, label = np.concatenate(tops) == NEUTRAL, everything.label7[rows]
    return [float(neutral[label == k].mean()) for k in range(len(EMOTIONS))]


def quiet(written: list[float], shown: list[float]) -> dict[str, float]:
    """q by emotion, within 0..1, from the shares read as neutral in GoEmotions (written) and MELD (shown)."""
    return {
        emotion: float(np.clip((shown[k] - written[k]) / (shown[NEUTRAL] - written[k]), 0, 1))
        for k, emotion in enumerate(EMOTIONS) if k != NEUTRAL
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        everything = texts(meld_weight=1)
    except DataMissing as missing:
        raise SystemExit(f"quiet_words: {missing}") from None
    head, vectors = load_head(), WordPerception().rows(everything.vocabulary)
    written, shown = (read_as_neutral(everything, corpus, head, vectors) for corpus in ("goemotions", "meld"))
    found = quiet(written, shown)
    mean = float(np.average(list(found.values()), weights=[CONVERSATION[emotion] for emotion in found]))
    out = {
        "split": SPLIT, "read as neutral": {"goemotions": dict(zip(EMOTIONS, written, strict=True)),
                                            "meld": dict(zip(EMOTIONS, shown, strict=True))}, "quiet": found, "mean": mean,
    }
    print(json.dumps(out, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
