"""The one training loop of every fusion model on every research corpus: `affect train --model M --data D`.

Goes on after kill -9 where the last finished epoch left it, with the same result: what is random depends on seed and epoch alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.progress import Progress
from torch import Tensor, nn

from models.fusion import FusionConfig, FusionModel
from models.losses import Targets, TaskLoss
from models.registry import MODELS, Entry
from models.research import runs
from models.research.task import Answers, Batch, Task
from models.research.tasks import build
from models.window import Window


class TrainingError(ValueError):
    """A training was asked for something that cannot be had."""


@dataclass(frozen=True)
class Training:
    """What `affect train` can be told for a fusion model on a research corpus."""

    model: str = "mea"
    """mea, msaf, ucrn, iaca, mult or late."""
    data: str = "mosi-utterance"
    """A corpus; `affect train --help` lists them."""
    fold: int = 0
    """Which of the corpus's folds is the test part, where it has folds."""
    seed: int = 0
    kind: str = "live"
    """The model's sizes to begin with: "live" (small, knows seconds) or "paper"."""
    set: tuple[str, ...] = ()
    """Changes to the model's configuration, as name=value: d=32 heads=4 use=[0,1]."""
    epochs: int = 30
    """At most."""
    batch: int = 32
    rate: float = 2e-3
    """Peak learning rate, AdamW, one cycle over all epochs."""
    decay: float = 0.01
    """Weight decay."""
    clip: float = 0.8
    """Largest norm of the gradient."""
    average: float = 0.98
    """Weights are averaged with this memory a step, and the average is judged and kept; 0 keeps them as they are."""
    patience: int = 10
    """Epochs without a better validation figure after which training ends."""
    evidence: float = 0.3
    """Weight of each modality's own reading in the loss, for models that have one."""
    out: Path | None = None
    """Run folder; by default runs/MODEL-DATA-FOLD-SEED. What is finished in it is not done again."""

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.model}-{self.data}-{self.fold}-{self.seed}"

    def run(self, task: Task | None = None, quiet: bool = False) -> dict[str, Any]:
        """Trains, or goes on with it, and writes the run folder; gives the validation figures of the weights kept.

        `task` replaces the corpus that `data` names. Raises TrainingError, DataMissing.
        """
        torch.set_num_threads(1)
        if self.model not in MODELS:
            raise TrainingError(f"no fusion model {self.model!r}; there are {', '.join(MODELS)}")
        recipe = {key: value for key, value in asdict(self).items() if key != "out"}
        runs.claim(self.folder, recipe)
        if (done := runs.summary(self.folder)) is not None:
            return done
        task = task or build(self.data, self.fold, self.seed)
        return _Run(self, task, quiet).go()


def configuration(entry: Entry, kind: str, task: Task, changes: tuple[str, ...] = ()) -> Any:
    """The model's configuration for a task: sizes of `kind`, then the corpus's settings and shape, then `changes` (name=value).

    Raises TrainingError.
    """
    known = {field for field in entry.config.__dataclass_fields__ if field != "OPTIONS"}
    wanted: dict[str, Any] = {"front": "conv", "strides": (1, 1, 1), "kernels": (3, 3, 3), **task.settings}
    asked = dict(_setting(change, known) for change in changes)
    try:
        sizes: FusionConfig = getattr(entry.config, kind)()
    except AttributeError:
        raise TrainingError(f"no kind {kind!r} of sizes; there are live and paper") from None
    values = {**sizes.to_dict(), **{key: value for key, value in wanted.items() if key in known}, **task.shape, **asked}
    try:
        return entry.config.from_dict(values)
    except (TypeError, ValueError) as error:
        raise TrainingError(str(error)) from error


def _setting(change: str, known: set[str]) -> tuple[str, Any]:
    name, equals, value = change.partition("=")
    if not equals or name not in known:
        raise TrainingError(f"{change!r} changes nothing of this model; write name=value, name one of {', '.join(sorted(known))}")
    try:
        plain = json.loads(value)
    except json.JSONDecodeError:
        plain = value
    return name, tuple(plain) if isinstance(plain, list) else plain


class _Learner(nn.Module):
    """A model and its loss in one forward, which is what accelerate spreads over devices."""

    def __init__(self, model: FusionModel, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: list[Tensor], targets: Targets) -> tuple[Tensor, dict[str, float]]:
        loss, parts = self.loss(*self.model.study(*inputs), targets)
        return loss, parts


class _Run:
    def __init__(self, plan: Training, task: Task, quiet: bool) -> None:
        self.plan, self.task, self.quiet = plan, task, quiet
        entry = MODELS[plan.model]
        self.config = configuration(entry, plan.kind, task, plan.set)
        # Heads that a loss does not reach (an unused modality's) would make the spread processes wait for their gradients.
        self.accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
        torch.manual_seed(plan.seed)
        self.model = entry.build(self.config)
        self.model.fronts.fit(task.train.window)
        evidence = plan.evidence if self.config.evidence and self.config.classes else 0.0
        loss = entry.loss(task=TaskLoss(**{**_task_loss(entry), **task.loss, "evidence": evidence}))
        optimiser = torch.optim.AdamW(self.model.parameters(), plan.rate, weight_decay=plan.decay, fused=True)
        self.learner, self.optimiser = self.accelerator.prepare(_Learner(self.model, loss), optimiser)
        self.average = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        self.steps = plan.epochs * -(-len(task.train) // (plan.batch * self.accelerator.num_processes))
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}

    def go(self) -> dict[str, Any]:
        plan, main = self.plan, self.accelerator.is_main_process
        self._restore()
        with Progress(disable=self.quiet or not main) as bars:
            bar = bars.add_task(f"{plan.model} on {plan.data}", total=plan.epochs, completed=len(self.history))
            while len(self.history) < plan.epochs and not self._tired():
                self._epoch()
                if main:
                    self._keep()
                self.accelerator.wait_for_everyone()
                shown = self.history[-1]["valid"]
                bars.update(bar, advance=1, description=f"{plan.model} on {plan.data}: {self.task.select} {shown[self.task.select]:.4f}")
        chosen = self.history[self._best_epoch()]
        figures = {
            "model": plan.model, "data": plan.data, "fold": plan.fold, "seed": plan.seed, "epoch": chosen["epoch"],
            "parameters": sum(p.numel() for p in self.model.parameters()), "valid": chosen["valid"],
            "seconds": round(sum(entry["seconds"] for entry in self.history), 1),
        }  # fmt: skip
        if main:
            runs.finish(plan.folder, plan.model, self.config.to_dict(), self.best, self.history, figures, self.task.select)
        self.accelerator.wait_for_everyone()
        return figures

    def _epoch(self) -> None:
        plan, epoch, began = self.plan, len(self.history), time.monotonic()
        torch.manual_seed(plan.seed * 100_003 + epoch)  # dropout, so that an epoch is the same after a restart
        self.learner.train()
        parts: dict[str, list[float]] = {}
        for mine in self._share(epoch):
            for group in self.optimiser.param_groups:
                group["lr"] = plan.rate * one_cycle(self.step / max(self.steps, 1))
            self.model.progress(self.step / max(self.steps, 1))
            inputs, targets = _on(mine, self.accelerator.device)
            loss, named = self.learner(inputs, targets)
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.learner.parameters(), plan.clip)
            self.optimiser.step()
            self.step += 1
            self._average()
            for name, value in named.items():
                parts.setdefault(name, []).append(value)
        valid = self.task.measure(answer(self.model, self.task.valid.window, self.average), self.task.valid)
        means = {name: float(np.mean(values)) for name, values in parts.items()}
        self.history.append({"epoch": epoch + 1, "loss": means, "valid": valid, "seconds": round(time.monotonic() - began, 2)})
        if self._best_epoch() == epoch:
            self.best = {key: value.detach().cpu().clone() for key, value in self.average.items()}

    def _share(self, epoch: int) -> list[Batch]:
        """This process's batches; all have equally many, for they step together."""
        whole = list(self.task.batches(self.plan.seed, epoch, self.plan.batch))
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rounds = zip_longest(*(whole[k::world] for k in range(world)))
        return [each[rank] or whole[rank] for each in rounds]

    def _average(self) -> None:
        # A young average forgets faster, or it would carry the untrained weights for long.
        memory = min(self.plan.average, (self.step - 1) / (self.step + 9)) if self.plan.average else 0.0
        state = {key: value.detach().cpu() for key, value in self.model.state_dict().items()}
        weights = [key for key, value in state.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([self.average[key] for key in weights], [state[key] for key in weights], 1 - memory)
        for key in state.keys() - set(weights):  # counts
            self.average[key].copy_(state[key])

    def _score(self, entry: dict[str, Any]) -> float:
        value = float(entry["valid"][self.task.select])
        return (value if self.task.rising else -value) if np.isfinite(value) else -np.inf

    def _best_epoch(self) -> int:
        return int(np.argmax([self._score(entry) for entry in self.history]))

    def _tired(self) -> bool:
        return bool(self.history) and len(self.history) - 1 - self._best_epoch() >= self.plan.patience

    def _keep(self) -> None:
        runs.keep(self.plan.folder, self.history, {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average, "best": self.best,
            "step": self.step, "history": self.history,
        })  # fmt: skip

    def _restore(self) -> None:
        state = runs.kept(self.plan.folder)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average, self.best, self.step, self.history = (state[key] for key in ("average", "best", "step", "history"))


def _task_loss(entry: Entry) -> dict[str, Any]:
    return asdict(entry.loss().task)


def one_cycle(share: float, warm: float = 0.1) -> float:
    """The learning rate's share of its peak when `share` of the training is done: a linear rise, then half a cosine to zero."""
    return share / warm + 1e-3 if share < warm else 0.5 + 0.5 * float(np.cos(np.pi * (share - warm) / (1 - warm)))


def answer(model: FusionModel, window: Window, state: dict[str, Tensor] | None = None, chunk: int = 256) -> Answers:
    """What the model says of many windows, without gradients; with the weights `state` where they are given."""
    own = {key: value.clone() for key, value in model.state_dict().items()} if state else None
    if state:
        model.load_state_dict(state)
    model.eval()
    device = next(model.parameters()).device
    inputs = [torch.from_numpy(np.ascontiguousarray(part)) for sequence in window for part in sequence]
    with torch.inference_mode():
        parts = [model(*(x[k:k + chunk].to(device) for x in inputs)) for k in range(0, len(inputs[0]), chunk)]
    if own:
        model.load_state_dict(own)
    return Answers(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def _on(given: Batch, device: torch.device) -> Batch:
    moved: dict[str, Any] = {name: None if part is None else part.to(device) for name, part in vars(given.targets).items()}
    return Batch([part.to(device) for part in given.inputs], Targets(**moved))

