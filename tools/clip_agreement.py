#!/usr/bin/env python3
"""How a report of a run on the sample clip agrees with what the clip shows: `tools/clip_agreement.py out.json`.

A final counts from 1 s after a segment's onset to the segment's end; it agrees when its top emotion is the segment's. The sets of
modalities present are told apart. For one modality alone, run with `--microphone none` (face) or `--camera none` (voice and words).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

TRUTH = Path(__file__).parents[1] / "stream/assets/sample.json"
SETTLING = 1.0
"""Seconds after an onset before windows count."""


def main(report: Path) -> int:
    segments = json.loads(TRUTH.read_text())["segments"]
    finals = [line for line in json.loads(report.read_text())["timeline"] if line["final"]]
    right = total = 0
    for segment in segments:
        inside = [line["top"] for line in finals if segment["onset"] + SETTLING <= line["t"] <= segment["end"]]
        agreeing = inside.count(segment["emotion"])
        right, total = right + agreeing, total + len(inside)
        print(f"{segment['emotion']:10} {agreeing:3} of {len(inside):3}   read as {dict(Counter(map(str, inside)).most_common(3))}")
    if not total:
        print("no final of this report lies in the sample clip", file=sys.stderr)
        return 2
    print(f"{'all':10} {right:3} of {total:3}   {right / total:.1%}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
