"""What a model loses when modalities are missing, noisy, full of holes or late: curves over one split of a task."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from models.datasets.examples import Floats
from models.emotions import MODALITIES
from models.fusion import FusionModel
from models.research.task import Task, deviation, without
from models.research.training import answer
from models.window import Sequence, Window

SIGMAS = (0.1, 0.3, 0.5, 1.0)
DROPS = tuple(round(0.1 * k, 1) for k in range(1, 10))
DELAYS_S = (0.5, 1.0, 1.5, 2.0)
DRAWS = 1
"""Random disturbances are drawn this often and their figures averaged."""


def robustness(model: FusionModel, task: Task, split: str, figure: str) -> dict[str, Any]:
    """Curves of `figure` (a name that `task.measure` gives) on "valid" or "test".

    whole: nothing disturbed. missing: by the modalities that are left. noise: by modality (and "all"), (sigma, figure), sigma in the
    deviations of the training rows' columns. drop: as noise, by the share of rows that are lost. delay: by modality, by seconds: of a
    stream so late, the newest rows have not come at the window's end; only for corpora whose times are real.
    """
    examples = getattr(task, split)
    window: Window = examples.window
    present = [m for m in range(len(MODALITIES)) if window[m].mask.any() and m in model.config.use]
    spread = [deviation(sequence, task.marks) for sequence in task.train.window]

    def read(changed: Window) -> float:
        return float(task.measure(answer(model, changed), examples)[figure])

    out: dict[str, Any] = {"figure": figure, "split": split, "whole": read(window), "missing": {}, "noise": {}, "drop": {}, "delay": {}}
    for count in range(1, len(present)):
        for left in itertools.combinations(present, count):
            absent = np.array([m not in left for m in range(len(MODALITIES))])
            out["missing"]["+".join(MODALITIES[m] for m in left)] = read(without(window, np.tile(absent, (len(examples), 1))))
    for name, which in _struck(model, window):
        out["noise"][name] = [(sigma, _mean(read(noisy(window, which, sigma, spread, draw)) for draw in _draws())) for sigma in SIGMAS]
        out["drop"][name] = [(share, _mean(read(holed(window, which, share, draw)) for draw in _draws())) for share in DROPS]
        if task.timed and len(which) == 1:
            out["delay"][name] = [(seconds, read(late(window, which[0], seconds))) for seconds in DELAYS_S]
    return out


def cost_of_noise(model: FusionModel, task: Task, split: str, sigma: float = 0.5, draws: int = 10) -> dict[str, dict[str, float]]:
    """What noise takes from every figure of `task.measure`, the mean of so many draws: by modality (and "all"), by figure, undisturbed
    minus disturbed. One curve of `robustness` draws once, which is too coarse to compare small losses."""
    examples = getattr(task, split)
    window: Window = examples.window
    spread = [deviation(sequence, task.marks) for sequence in task.train.window]
    whole = task.measure(answer(model, window), examples)
    out = {}
    for name, which in _struck(model, window):
        told = [
            task.measure(answer(model, noisy(window, which, sigma, spread, np.random.default_rng([6, k]))), examples) for k in range(draws)
        ]
        out[name] = {key: value - _mean(one[key] for one in told) for key, value in whole.items()}
    return out


def _struck(model: FusionModel, window: Window) -> list[tuple[str, tuple[int, ...]]]:
    """The modalities that are there and used, each alone, and all together."""
    present = [m for m in range(len(MODALITIES)) if window[m].mask.any() and m in model.config.use]
    return [(MODALITIES[m], (m,)) for m in present] + ([("all", tuple(present))] if len(present) > 1 else [])


def _mean(figures: Iterable[float]) -> float:
    return float(np.mean(list(figures)))


def _draws() -> list[np.random.Generator]:
    return [np.random.default_rng([5, k]) for k in range(DRAWS)]


def noisy(window: Window, which: tuple[int, ...], sigma: float, spread: list[Floats], draw: np.random.Generator) -> Window:
    """Gaussian noise on the modalities `which`, `sigma` times spread (D,) each."""
    parts = list(window)
    for m in which:
        s = parts[m]
        noise = draw.standard_normal(s.x.shape, np.float32) * spread[m] * np.float32(sigma)
        parts[m] = s._replace(x=s.x + noise * s.mask[..., None])
    return Window(*parts)


def holed(window: Window, which: tuple[int, ...], share: float, draw: np.random.Generator) -> Window:
    """Each row of the modalities `which` is lost with probability `share`; the others close up and keep their times."""
    parts = list(window)
    for m in which:
        parts[m] = _keep(parts[m], draw.random(parts[m].mask.shape) >= share)
    return Window(*parts)


def late(window: Window, which: int, seconds: float) -> Window:
    """Without the rows of modality `which` newer than `seconds` before the window's end."""
    parts = list(window)
    parts[which] = _keep(parts[which], parts[which].t <= -seconds)
    return Window(*parts)


def _keep(sequence: Sequence, kept: np.ndarray) -> Sequence:
    """The rows that are `kept` (N, T), moved to the front."""
    kept = kept & (sequence.mask > 0)
    order = np.argsort(~kept, axis=1, kind="stable")
    mask = np.take_along_axis(kept, order, 1).astype(np.float32)
    x = np.take_along_axis(sequence.x, order[..., None], 1) * mask[..., None]
    return Sequence(x, np.take_along_axis(sequence.t, order, 1) * mask, mask)


def draw_curves(path: Path, curves: dict[str, dict[str, Any]]) -> None:
    """A picture of the curves of one or several models, by name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    for name, curve in curves.items():
        lines = curve["missing"] | {"whole": curve["whole"]}
        panels[0].plot(list(lines), list(lines.values()), "o", label=name)
        for panel, kind in zip(panels[1:], ("noise", "drop", "delay"), strict=True):
            for stream, points in curve[kind].items():
                at = [(0.0, curve["whole"]), *points]
                panel.plot([x for x, _ in at], [y for _, y in at], label=f"{name} {stream}", linewidth=1)
    told = {"modalities left": panels[0], "noise (deviations)": panels[1], "rows lost (share)": panels[2], "delay (s)": panels[3]}
    for label, panel in told.items():
        panel.set(xlabel=label)
    panels[0].set(ylabel=next(iter(curves.values()))["figure"])
    panels[0].tick_params(axis="x", rotation=45)
    for panel in (panels[0], panels[1]):
        panel.legend(fontsize=5)
    figure.savefig(path, dpi=110)
