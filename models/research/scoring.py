"""`affect evaluate`: figures of trained weights on held-out data, and what disturbances cost them. Test data is for the end, once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.research import runs
from models.research.robustness import draw_curves, robustness
from models.research.task import Task
from models.research.tasks import build
from models.research.training import answer


@dataclass(frozen=True)
class Evaluation:
    """What `affect evaluate` can be told."""

    folder: Path | None = None
    """A run folder made by `affect train`. Without it the live weights are evaluated, which takes minutes."""
    split: str = "test"
    """"test" or "valid"."""
    robustness: bool = False
    """Also: modalities missing, noise, lost rows, a late stream; curves as JSON and a picture in the run folder."""
    figure: str = ""
    """The figure of the curves; by default the first of accuracy, acc2_non0 and ccc that the corpus has."""
    model: str = "mea"
    """Live weights, a shipped name or a path, where no folder is given."""

    def run(self, task: Task | None = None) -> dict[str, Any]:
        """The figures, which the run folder keeps as test.json or valid.json. Raises RunError, DataMissing, ValueError."""
        if self.split not in ("test", "valid"):
            raise ValueError(f"no split {self.split!r}; there are test and valid")
        if self.folder is None:
            if self.robustness:
                raise ValueError("--robustness needs a run folder: --folder RUN, made by `affect train`")
            from models.live.evaluation import evaluate

            return evaluate(self.model, self.split)
        torch.set_num_threads(1)
        recipe = runs.read_config(self.folder)
        name, model = runs.load(self.folder)
        task = task or build(recipe["data"], recipe["fold"], recipe["seed"])
        examples = getattr(task, self.split)
        figures: dict[str, Any] = task.measure(answer(model, examples.window), examples)
        out = {"model": name, "data": task.name, "fold": recipe["fold"], "seed": recipe["seed"], "windows": len(examples), **figures}
        (self.folder / f"{self.split}.json").write_text(json.dumps(out, indent=1))
        if self.robustness:
            chosen = self.figure or next((key for key in ("accuracy", "acc2_non0", "ccc") if key in figures), "")
            if chosen not in figures:
                raise ValueError(f"no figure {chosen!r}; {task.name} has {', '.join(figures)}")
            curves = robustness(model, task, self.split, chosen)
            (self.folder / f"robustness-{self.split}.json").write_text(json.dumps(curves, indent=1))
            draw_curves(self.folder / f"robustness-{self.split}.png", {name: curves})
            out["robustness"] = curves
        return out
