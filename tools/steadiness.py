#!/usr/bin/env python3
"""How steady a run was: `tools/steadiness.py out.json` prints flips and changes as JSON.

`out.json` is what `affect run --json` writes. On a recording of somebody who shows no emotion every change to another emotion than
neutral is a false one. `raw` counts the top emotions of the provisional results as they come, `changes` what the client's debounced
change events (`stream.changes`, defaults) make of them.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_agreement import timeline

from stream.changes import Debouncer
from stream.protocol import SECOND


def steadiness(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the provisional ones of a report's results; rates by the time that has a reading."""
    results = [line for line in lines if not line["final"]]
    read = [line for line in results if line["top"] is not None]
    if len(read) < 2:
        return {"results": len(results), "with_a_reading": len(read)}
    step = (results[-1]["t"] - results[0]["t"]) / (len(results) - 1)
    seconds = len(read) * step
    tops = [line["top"] for line in read]
    debouncer = Debouncer()
    events = [debouncer.update(round(line["t"] * SECOND), line["top"], line["probabilities"]) for line in results]
    emotional = [event for event in events if event and event.emotion not in (None, "neutral")]
    return {
        "results": len(results), "with_a_reading": len(read), "seconds": round(seconds, 1),
        "raw": {
            "non_neutral_share": round(sum(top != "neutral" for top in tops) / len(tops), 3),
            "flips_per_second": round(sum(a != b for a, b in itertools.pairwise(tops)) / seconds, 2),
            "tops": {top: tops.count(top) for top in sorted(set(tops), key=tops.count, reverse=True)},
        },
        "changes": {
            "non_neutral": len(emotional), "non_neutral_per_minute": round(len(emotional) * 60 / seconds, 1),
            "emotions": [event.emotion for event in emotional],
        },
    }


if __name__ == "__main__":
    print(json.dumps(steadiness(timeline(__doc__)), indent=1))
