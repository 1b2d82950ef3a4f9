#!/usr/bin/env python3
"""What voices of one corpus teach of another's: `tools/voice_carry.py [--json FILE]`.

The live models' voice front end learns from RAVDESS alone (acted English) and reads EmoDB (acted German), and the other way round: its
training speakers train, its validation speakers choose the step, and all clips of the other corpus are the test, once. Six classes,
those that both have; nobody in EmoDB is surprised.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rich.progress import Progress

from models import metrics
from models.datasets import DataMissing, emodb, ravdess
from models.datasets.voicerows import voice_rows
from models.emotions import EMOTIONS
from models.live import material
from models.live.alone import voices
from models.live.voice import VoiceTraining, voice_logits
from models.window import WindowSpec

SHARED = [k for k, emotion in enumerate(EMOTIONS) if emotion != "surprised"]


def carry(taught: str, read: ModuleType, plan: VoiceTraining) -> dict[str, Any]:
    """Trained on the corpus `taught`, tested on `read`: accuracy and balanced accuracy of six classes."""
    with Progress() as bars:
        task = bars.add_task("voices", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bars.update(task, description=f"{taught}: {what}", completed=done, total=total)

        talks = [material.load_talks(split, copies, tell, taught) for split, copies in (("train", plan.copies), ("valid", 1))]
        net, _ = plan.fit(*talks, lambda _: None, tell)
    clips = [clip for clip in read.load() if clip.label7 in SHARED]
    label = np.array([clip.label7 for clip in clips])
    said = np.array(SHARED)[voice_logits(net, voices(WindowSpec(), voice_rows(clips))).numpy()[:, SHARED].argmax(1)]
    return {
        "taught": taught, "read": clips[0].corpus, "clips": len(clips), "accuracy": float((said == label).mean()),
        "balanced_accuracy": metrics.balanced_accuracy(said, label),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of each training (default 2000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path, help="where the figures go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = [
            {"seed": seed, **carry(taught, read, VoiceTraining(seed=seed, steps=asked.steps))}
            for seed in asked.seeds
            for taught, read in (("ravdess", emodb), ("emodb", ravdess))
        ]
    except DataMissing as missing:
        raise SystemExit(f"voice_carry: {missing}") from None
    for row in found:
        print(f"{row['taught']} -> {row['read']}, seed {row['seed']}: {row['clips']} clips, accuracy {100 * row['accuracy']:.1f} %, "
              f"balanced {100 * row['balanced_accuracy']:.1f} %")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
