"""How fast a model follows somebody who changes, and how steady it is while nobody does: composed turns of held-out material.

A turn is seen as a session would see it: windows ten times a second, each with what had come by its end. The validation counterpart of
`tools/bench_latency`'s face events, with many turns between all emotions instead of one clip's few.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from models.engine import Engine
from models.live.composed import DIMS, Composer, Turn
from models.live.material import Floats, Material
from models.window import Sequence, Window, WindowSpec, empty

HOP_S = 0.1
BEFORE_S, AFTER_S = 1.0, 1.5
"""How long before and after the turn windows end."""
HALF_S = 0.25
"""From the turn to the instant the played face passes half its way, in the mean (`FacePlay.act`)."""
LATE_S = (0.25, 0.03, 0.05)
"""When words (guessed), voice rows and frames are there after they have ended."""


def measure(engine: Engine, material: Material, subset: tuple[int, ...], turns: int = 300, seed: int = 0) -> dict[str, Any]:
    """Of `turns` turns with the modalities of `subset`: ms from half the face's way to the first window whose top is the new emotion
    (median; null where more than half never come), the share of turns that show it within 0.3 and 0.45 s and at all, how many were told
    apart from what was read before, and the changes of the top a second before the turn."""
    draw, spec = np.random.default_rng((seed, 8)), engine.spec
    longer = 1 + (BEFORE_S + AFTER_S) / spec.seconds
    capacities = {name: int(spec.capacity(name) * longer) for name in ("text", "voice", "face")}
    composer = Composer(material, replace(spec, seconds=spec.seconds * longer, **capacities))
    late, flips, seconds = [], 0, 0.0
    for _ in range(turns):
        window, turn = composer.turn(draw, subset, AFTER_S)
        ends = -AFTER_S - BEFORE_S + draw.uniform(0, HOP_S) + HOP_S * np.arange(round((BEFORE_S + AFTER_S) / HOP_S))
        tops = engine(seen(window, spec, ends)).probabilities.argmax(1)
        calm = tops[ends < turn.begin]
        flips += int((np.diff(calm) != 0).sum())
        seconds += HOP_S * max(len(calm) - 1, 0)
        if len(calm) and calm[-1] != turn.after:
            late.append(_shown(tops, ends, turn))
    ordered = np.sort(late)
    median = float(ordered[(len(ordered) - 1) // 2])
    return {
        "turns": len(late), "p50_ms": round(1000 * median) if np.isfinite(median) else None,
        **{f"within_{ms}_ms": float((ordered <= ms / 1000).mean()) for ms in (300, 450)},
        "shown": float(np.isfinite(ordered).mean()), "flips_per_second": flips / seconds,
    }


def _shown(tops: np.ndarray, ends: Floats, turn: Turn) -> float:
    """Seconds from half the face's way to the first window that shows the turn; infinite where none does."""
    found = ends[(ends >= turn.begin) & (tops == turn.after)]
    return float(found[0] - turn.begin - HALF_S) if len(found) else float("inf")


def seen(window: Window, spec: WindowSpec, ends: Floats) -> Window:
    """The windows of `spec` that end at `ends` (n,), seconds before the end of the one long `window`."""
    out = empty(spec, DIMS, len(ends))
    for modality, late, long, short in zip(Window._fields, LATE_S, window, out, strict=True):
        for k, end in enumerate(ends):
            there = (long.mask[0] > 0) & (long.t[0] <= end - late) & (long.t[0] > end - spec.seconds)
            rows = np.flatnonzero(there)[-spec.capacity(modality):]
            _fill(short, k, long.x[0, rows], long.t[0, rows] - end)
    return out


def _fill(sequence: Sequence, k: int, x: Floats, t: Floats) -> None:
    sequence.x[k, :len(t)], sequence.t[k, :len(t)], sequence.mask[k, :len(t)] = x, t, 1
