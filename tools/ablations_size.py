"""What the size of the live MEA buys: how long its variants of other sizes take, and the trade-off as a picture."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engines import Case, measure, random_weights

from models.mea import MEAConfig
from models.runtime import choice, program

KNEE = "whole"
"""What ships."""
SIZES = (KNEE, "strides 1, 4, 4", "strides 1, 16, 16", "one PSA and one HCA layer", "three PSA and two HCA layers")
FIGURES = (("accuracy", "accuracy, %", 100), ("cross_entropy", "cross-entropy", 1))
COSTS = (("mflop", "MFLOP a window"), ("onnx_ms", "ms a window, ONNX Runtime, one thread (median)"))


class Point(NamedTuple):
    name: str
    cost: float
    mean: float
    spread: float
    """Standard deviation over seeds; 0 for one."""


def times(changes: Mapping[str, dict[str, Any]], backend: str = "onnx", rounds: int = 40, seed: int = 0) -> dict[str, float]:
    """Median ms of one window for untrained live MEAs, by name of their `changes`; interleaved. Raises `choice.BackendError`."""
    torch.set_num_threads(1)
    cases = []
    for name, changed in changes.items():
        given = random_weights(f"mea {name}", "mea", MEAConfig.live(**changed))
        made, asked = choice.choose(given, backend).program, program.probe(given, 1)
        cases.append(Case(name, backend, 1, lambda run=made, given=asked: run(given)))
    found, _ = measure(cases, rounds, 0.025, random.Random(seed))
    return {case.model: round(timed.figures()["p50_ms"], 3) for case, timed in zip(cases, found, strict=True)}


def points(kept: dict[str, Any], cost: str, figure: str, scale: float = 1) -> list[Point]:
    """The rows of other sizes that were trained and have this cost, cheapest first."""
    found = []
    for name in SIZES:
        row = kept["rows"].get(name, {})
        if cost in row and row["seeds"]:
            values = [scale * run[figure] for run in row["seeds"].values()]
            found.append(Point(name, row[cost], statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return sorted(found, key=lambda point: point.cost)


def picture(kept: dict[str, Any], file: Path) -> bool:
    """Accuracy and cross-entropy against each cost that was measured, what ships ringed. False where fewer than two sizes were trained."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    costs = [(cost, told) for cost, told in COSTS if len(points(kept, cost, "accuracy")) > 1]
    if not costs:
        return False
    fig, panels = plt.subplots(len(FIGURES), len(costs), figsize=(5.5 * len(costs), 6.5), layout="constrained", squeeze=False, sharey="row")
    for line, (figure, label, scale) in zip(panels, FIGURES, strict=True):
        for axes, (cost, _) in zip(line, costs, strict=True):
            drawn = points(kept, cost, figure, scale)
            axes.errorbar(
                [p.cost for p in drawn], [p.mean for p in drawn], [p.spread for p in drawn], marker="o", color="#2a9d8f", ecolor="#8d99ae",
                capsize=3)
            for rank, point in enumerate(drawn):
                chosen = point.name == KNEE
                axes.annotate(
                    "what ships" if chosen else point.name, (point.cost, point.mean), xytext=(6, -14 if rank % 2 else 7),
                    textcoords="offset points", fontsize=8, weight="bold" if chosen else "normal")
                if chosen:
                    axes.plot(point.cost, point.mean, "o", markersize=14, fillstyle="none", color="#e76f51")
            axes.margins(x=0.25, y=0.2)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(label)
    for axes, (_, told) in zip(panels[-1], costs, strict=True):
        axes.set_xlabel(told)
    fig.suptitle(f"live MEA, validation windows, {kept['steps']} steps (bars: standard deviation over seeds)", fontsize=10)
    fig.savefig(file, dpi=110)
    plt.close(fig)
    return True
