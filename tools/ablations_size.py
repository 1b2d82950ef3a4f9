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
LOOKS = dict(zip(SIZES, (("#e76f51", "o"), ("#2a9d8f", "^"), ("#457b9d", "v"), ("#8d6a9f", "s"), ("#6c757d", "D")), strict=True))
"""Colour and mark of each in the picture; they lie too close for names beside them."""
FIGURES = (("accuracy", "accuracy, %", 100), ("cross_entropy", "cross-entropy", 1))
COSTS = (("mflop", "MFLOP a window"), ("onnx_ms", "ms a window, ONNX Runtime, one thread (median)"))


class Point(NamedTuple):
    name: str
    cost: float
    mean: float
    spread: float
    """Standard deviation over seeds; 0 for one."""


def times(changes: Mapping[str, dict[str, Any]], backend: str = "onnx", rounds: int = 40, seed: int = 0) -> dict[str, float]:
    """Median ms of one window for untrained live MEAs by name of their `changes`; interleaved, each called again and again.

    Raises `choice.BackendError`."""
    torch.set_num_threads(1)
    cases = []
    for name, changed in changes.items():
        given = random_weights(f"mea {name}", "mea", MEAConfig.live(**changed))
        made, asked = choice.choose(given, backend).program, program.probe(given, 1)
        cases.append(Case(name, backend, 1, lambda run=made, given=asked: run(given)))
    found, _ = measure(cases, rounds, 0.025, random.Random(seed))
    return {case.model: round(timed.figures()["again_p50_ms"], 3) for case, timed in zip(cases, found, strict=True)}


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
    """Accuracy and cross-entropy against each cost that was measured. False where fewer than two sizes were trained."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    costs = [(cost, told) for cost, told in COSTS if len(points(kept, cost, "accuracy")) > 1]
    if not costs:
        return False
    fig, panels = plt.subplots(len(FIGURES), len(costs), figsize=(5.5 * len(costs), 7), layout="constrained", squeeze=False, sharey="row")
    for line, (figure, label, scale) in zip(panels, FIGURES, strict=True):
        for axes, (cost, _) in zip(line, costs, strict=True):
            drawn = points(kept, cost, figure, scale)
            axes.plot([p.cost for p in drawn], [p.mean for p in drawn], color="#ced4da", zorder=0)
            for point in drawn:
                colour, marker = LOOKS[point.name]
                axes.errorbar(
                    point.cost, point.mean, point.spread, marker=marker, markersize=8, linestyle="", color=colour, capsize=3,
                    label="what ships" if point.name == KNEE else point.name)
            axes.margins(x=0.25, y=0.2)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(label)
    for axes, (_, told) in zip(panels[-1], costs, strict=True):
        axes.set_xlabel(told)
    handles, labels = panels[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    fig.suptitle(f"live MEA, validation windows, {kept['steps']} steps (bars: standard deviation over seeds)", fontsize=10)
    fig.savefig(file, dpi=110)
    plt.close(fig)
    return True
