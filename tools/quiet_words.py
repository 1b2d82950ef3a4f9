#!/usr/bin/env python3
"""How often the words stay neutral where an emotion is shown: `tools/quiet_words.py > tools/results/quiet_words.json`.

MELD's utterances (validation part) were labelled by people who saw and heard them, GoEmotions' comments by people who only read them. The
same text head reads both. With q the share of a MELD emotion's utterances whose words are as neutral ones are,

    read as neutral in MELD = q x MELD's neutral ones read as neutral + (1 - q) x that emotion read as neutral in GoEmotions.

The mean of q over MELD's shares is what `Composition.quiet` has for text.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from models.calibration import CONVERSATION
from models.datasets import DataMissing
from models.datasets.texts import Texts, texts
from models.emotions import EMOTIONS
from models.live.material import tops
from models.perception.words import WordPerception

SPLIT = "valid"
NEUTRAL = EMOTIONS.index("neutral")


def read_as_neutral(everything: Texts, corpus: str, vectors: np.ndarray) -> list[float]:
    """Share of each emotion's texts (7) that the text head reads as neutral, from their first 24 words."""
    rows = np.array([k for k in everything.rows(SPLIT, corpus) if len(everything.words[k])])
    neutral = tops([everything.words[k] for k in rows], vectors) == NEUTRAL
    return [float(neutral[everything.label7[rows] == k].mean()) for k in range(len(EMOTIONS))]


def quiet(written: list[float], shown: list[float]) -> dict[str, float]:
    """q by emotion, within 0..1, from the shares read as neutral in GoEmotions (written) and MELD (shown)."""
    return {
        emotion: float(np.clip((shown[k] - written[k]) / (shown[NEUTRAL] - written[k]), 0, 1))
        for k, emotion in enumerate(EMOTIONS) if k != NEUTRAL
    }


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    try:
        everything = texts(meld_weight=1)
    except DataMissing as missing:
        raise SystemExit(f"quiet_words: {missing}") from None
    vectors = WordPerception().rows(everything.vocabulary)
    written, shown = (read_as_neutral(everything, corpus, vectors) for corpus in ("goemotions", "meld"))
    found = quiet(written, shown)
    mean = float(np.average(list(found.values()), weights=[CONVERSATION[emotion] for emotion in found]))
    read = {"goemotions": dict(zip(EMOTIONS, written, strict=True)), "meld": dict(zip(EMOTIONS, shown, strict=True))}
    print(json.dumps({"split": SPLIT, "read as neutral": read, "quiet": found, "mean": mean}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
