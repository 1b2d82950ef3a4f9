#!/usr/bin/env python
"""All fusion models on the research corpora, compared: `tools/compare.py` makes `models/results.json` and `models/RESULTS.md`.

Every model gets the same few settings to choose from, by validation figures of seed 0; then it is trained with each seed (and fold) and
its test part is read once. Goes on where it was stopped: finished runs lie in the cache folder. `--only mosi-utterance` does one study,
`--write` makes the pages again from the results there are.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from models.datasets import DataMissing, cache_root
from models.registry import MODELS
from models.research import runs
from models.research.report import write
from models.research.robustness import cost_of_noise
from models.research.scoring import Evaluation
from models.research.task import Task, averaged
from models.research.tasks import build
from models.research.training import Training, answer

HERE = Path(__file__).resolve().parents[1] / "models"
RESULTS = HERE / "results.json"
ORDER = ("late", "mult", "iaca", "ucrn", "msaf", "mea")


@dataclass(frozen=True)
class Study:
    """One comparison. The settings of `grid` are the same for all models; `sizes` make them small enough for the corpus."""

    data: str
    figure: str
    """The figure in the table, as the corpus names it."""
    seeds: tuple[int, ...]
    folds: tuple[int, ...] = (0,)
    grid: tuple[dict[str, Any], ...] = ({},)
    plan: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    chosen_in: str = ""
    """The study whose choice among `grid` is taken over."""
    robust: bool = False
    version: int = 1
    """Goes up when what is trained has changed, so that older runs are not taken for new ones."""


SMALL = {
    "late": ("d=40",), "mult": ("d=24", "heads=4", "memory_heads=4", "layers=1"), "iaca": ("d=32", "heads=4", "steps=10"),
    "ucrn": ("d=32", "heads=4", "crm_heads=4", "urm_layers=1", "crm_layers=1"),
    "msaf": ("d=40", "widths=[40,40,40]", "block=10", "stages=2", "insertions=[1,2]", "rescale=present"),
    "mea": ("d=32", "d_h=32", "heads=4", "psa_layers=2", "hca_layers=1"),
}  # fmt: skip
SMALLER = {**SMALL, "mea": ("d=24", "d_h=24", "heads=4", "psa_layers=2", "hca_layers=1")}
RATES = tuple({"rate": rate, "set": ("dropout=0.3",)} for rate in (2e-3, 6e-3))
MOSI = {"epochs": 10, "batch": 64, "patience": 10}
RAVDESS = {"epochs": 12, "batch": 64, "patience": 12}
LONGER = {"epochs": 20, "batch": 64, "patience": 20}
LONGEST = {"epochs": 30, "batch": 64, "patience": 30}
FEWER = {"epochs": 8, "batch": 64, "patience": 8}
ONE = ({"rate": 6e-3, "set": ("dropout=0.3",)},)
STUDIES = {
    "mosi-utterance-words": Study(
        "mosi-utterance-words", "accuracy", (0, 1, 2, 3, 4), grid=RATES, plan=MOSI, sizes=SMALLER, version=4,
    ),
    "mosi-utterance": Study(
        "mosi-utterance", "accuracy", (0, 1, 2, 3, 4), grid=RATES, plan=MOSI, sizes=SMALLER, version=2,
        chosen_in="mosi-utterance-words", robust=True,
    ),
    "mosi-utterance-sentences": Study(
        "mosi-utterance-sentences", "accuracy", (0, 1, 2, 3, 4), grid=RATES, plan=MOSI, sizes=SMALLER, robust=True,
    ),
    "ravdess-24": Study("ravdess-24", "accuracy", (0, 1, 2), tuple(range(6)), grid=ONE, plan=RAVDESS, sizes=SMALL),
    "ravdess-24-fine": Study("ravdess-24-fine", "accuracy", (0, 1, 2), tuple(range(6)), grid=RATES, plan=LONGER, sizes=SMALL, version=2),
    "ravdess-24-encoded": Study("ravdess-24-encoded", "accuracy", (0, 1, 2), tuple(range(6)), grid=RATES, plan=LONGEST, sizes=SMALL),
    "ravdess-24-neutral": Study("ravdess-24-neutral", "accuracy", (0, 1, 2), tuple(range(6)), grid=ONE, plan=RAVDESS, sizes=SMALL),
    "ravdess-av": Study("ravdess-av", "accuracy", (0, 1, 2), tuple(range(5)), grid=ONE, plan=FEWER, sizes=SMALLER, robust=True, version=2),
}  # fmt: skip
Log = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What to compare."""

    only: tuple[str, ...] = ()
    """Studies; all where none is named."""
    models: tuple[str, ...] = ORDER
    robustness: bool = False
    """Instead, after the study: what disturbances cost the models of the first seed, and noise those of all seeds; of all folds."""
    write: bool = False
    """Only make the page again."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in () if options.write else options.only or tuple(STUDIES):
        try:
            if options.robustness:
                disturbed(name, options.models, results)
            else:
                study(name, options.models, results)
        except DataMissing as missing:
            print(f"{name} left out: {missing}", flush=True)
    write(results, HERE / "RESULTS.md")


def study(name: str, models: tuple[str, ...], results: dict[str, Any]) -> None:
    """One study; `results` and the pages are written after each run, so that a stop loses nothing."""
    plan = STUDIES[name]
    tasks: dict[tuple[int, int], Task] = {}

    def task(fold: int, seed: int) -> Task:
        if (fold, seed) not in tasks:
            tasks.clear()  # one at a time: corpora are large
            tasks[fold, seed] = build(plan.data, fold, seed)
        return tasks[fold, seed]

    entry = results.setdefault(name, {})
    if entry.get("version") != plan.version:
        entry.clear()
    entry.update(version=plan.version, data=plan.data, figure=plan.figure, seeds=list(plan.seeds), folds=list(plan.folds))
    for model in models:
        found = entry.setdefault("models", {}).setdefault(model, {"runs": []})
        found["chosen"] = choose(name, model, task, results)
        save(results)
    for fold in plan.folds:
        for seed in plan.seeds:
            for model in models:
                found = entry["models"][model]
                if any((run["fold"], run["seed"]) == (fold, seed) for run in found["runs"]):
                    continue
                trained = training(name, model, found["chosen"]["setting"], fold, seed)
                figures = trained.run(task(fold, seed), quiet=True)
                test = Evaluation(trained.folder).run(task(fold, seed))
                found["runs"].append({"fold": fold, "seed": seed, "valid": figures["valid"], "test": test, "seconds": figures["seconds"]})
                found["parameters"] = figures["parameters"]
                found.setdefault("latency_ms", latency(trained.folder, task(fold, seed)))
                save(results)
                print(f"{name} {model} fold {fold} seed {seed}: valid {figures['valid'][plan.figure]:.4f}", flush=True)
    if len(plan.seeds) > 1:
        for fold in plan.folds:
            for model in models:
                together(name, model, fold, task, results)


def together(name: str, model: str, fold: int, task: Callable[[int, int], Task], results: dict[str, Any]) -> None:
    """The test figure of a model's seeds together, their probabilities averaged; nothing where some are not trained or no longer kept."""
    plan, found = STUDIES[name], results[name]["models"][model]
    trained = [weights(name, model, fold, seed, results) for seed in plan.seeds]
    kept = found.setdefault("together", {})
    if str(fold) in kept or None in trained:
        return
    judged = task(fold, plan.seeds[0])
    said = [answer(runs.load(folder)[1], judged.test.window) for folder in trained if folder]
    kept[str(fold)] = judged.measure(averaged(said), judged.test)[plan.figure]
    save(results)


def disturbed(name: str, models: tuple[str, ...], results: dict[str, Any]) -> None:
    """Of a study's finished runs, the robustness curves of the first seed and what noise costs all; written after each."""
    plan = STUDIES[name]
    if not plan.robust:
        return
    for fold in plan.folds:
        for seed in plan.seeds:
            task = build(plan.data, fold, seed)
            for model in models:
                found = results[name]["models"][model]
                folder = weights(name, model, fold, seed, results)
                if folder is None:
                    continue
                run = next(run for run in found["runs"] if (run["fold"], run["seed"]) == (fold, seed))
                if seed == plan.seeds[0] and fold >= len(found.setdefault("robustness", [])):
                    found["robustness"].append(Evaluation(folder, robustness=True, figure=plan.figure).run(task)["robustness"])
                if "noise" not in run:
                    costs = cost_of_noise(runs.load(folder)[1], task, "test")
                    run["noise"] = {struck: {key: cost[key] for key in (plan.figure, "cross_entropy")} for struck, cost in costs.items()}
                    save(results)
                    print(f"{name} {model} fold {fold} seed {seed}: disturbed", flush=True)


def weights(name: str, model: str, fold: int, seed: int, results: dict[str, Any]) -> Path | None:
    """The folder that holds the weights of a run in `results`; None where it is not trained, or another training lies there."""
    found = results[name]["models"][model]
    folder = training(name, model, found["chosen"]["setting"], fold, seed).folder
    there = runs.summary(folder)
    same = any((run["fold"], run["seed"]) == (fold, seed) and there and run["valid"] == there["valid"] for run in found["runs"])
    return folder if same and (folder / runs.WEIGHTS).is_file() else None


def choose(name: str, model: str, task: Callable[[int, int], Task], results: dict[str, Any]) -> dict[str, Any]:
    """The setting of the grid with the best validation figure, and all of them."""
    plan = STUDIES[name]
    there = results[name]["models"][model].get("chosen")
    if there:  # also where another study chose, and has chosen otherwise since: the runs there are were made with it
        return dict(there)
    if plan.chosen_in:
        return dict(results[plan.chosen_in]["models"][model]["chosen"], taken_over_from=plan.chosen_in)
    fold, seed = plan.folds[0], plan.seeds[0]
    tried = []
    for setting in range(len(plan.grid)):
        figures = training(name, model, setting, fold, seed).run(task(fold, seed), quiet=True)
        tried.append(figures["valid"][task(fold, seed).select])
        print(f"{name} {model} setting {setting}: valid {task(fold, seed).select} {tried[-1]:.4f}, {figures['seconds']} s", flush=True)
    best = int(np.argmax(tried) if task(fold, seed).rising else np.argmin(tried))
    return {"setting": best, "is": plan.grid[best], "tried": tried, "by": task(fold, seed).select}


def training(name: str, model: str, setting: int, fold: int, seed: int) -> Training:
    plan = STUDIES[name]
    given = {**plan.plan, **plan.grid[setting]}
    changes = (*plan.sizes.get(model, ()), *given.pop("set", ()))
    folder = cache_root() / "compare" / f"{name}-{plan.version}" / f"{model}-{setting}-{fold}-{seed}"
    return Training(model=model, data=plan.data, fold=fold, seed=seed, out=folder, set=changes, **given)


def latency(folder: Path, task: Task, times: int = 30) -> float:
    """Median milliseconds for one window, eager, one thread, on this machine as busy as it is."""
    _, model = runs.load(folder)
    window = task.test.take(np.arange(1)).window
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        answer(model, window)
        spent.append((time.perf_counter() - began) * 1e3)
    return round(statistics.median(spent), 2)


def save(results: dict[str, Any]) -> None:
    unfinished = RESULTS.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=1))
    unfinished.replace(RESULTS)
    write(results, HERE / "RESULTS.md")


if __name__ == "__main__":
    assert set(ORDER) == set(MODELS)
    main(tyro.cli(Options))
