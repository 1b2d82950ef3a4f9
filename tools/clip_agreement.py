#!/usr/bin/env python3
"""How a report of a run on the sample clip agrees with what the clip shows: `tools/clip_agreement.py out.json`.

A final counts from 1 s after a segment's onset to the segment's end; it agrees when its top emotion is the segment's. The sets of
modalities present are told apart. For one modality alone, run with `--microphone none` (face) or `--camera none` (voice and words).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TRUTH = Path(__file__).parents[1] / "stream/assets/sample.json"
SETTLING = 1.0
"""Seconds after an onset before windows count."""


def timeline(description: str | None) -> list[dict[str, Any]]:
    """The results in the report that the command line names; ends the program where there is none."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what `--json` of `affect demo` or `affect run` wrote")
    file = parser.parse_args().report
    try:
        lines: list[dict[str, Any]] = json.loads(file.read_text())["timeline"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        parser.error(f"{file} is no report of a run ({reason}); `tools/demo --no-view --no-page --json {file}` makes one")
    return lines


def main() -> int:
    segments = json.loads(TRUTH.read_text())["segments"]
    finals = [line for line in timeline(__doc__) if line["final"]]
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
    sys.exit(main())
