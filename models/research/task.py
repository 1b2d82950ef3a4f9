"""What training needs of a corpus, whatever the corpus is: its windows, the shape a model must have, the figures it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.datasets.examples import Examples, Floats
from models.losses import Targets
from models.window import Sequence, Window


class Answers(NamedTuple):
    """What a model says of N windows: logits (N, C), values (N, k), weights (N, 3)."""

    logits: Floats
    values: Floats
    weights: Floats

    @property
    def probabilities(self) -> Floats:
        """Softmax of the logits, (N, C)."""
        raised = np.exp(self.logits - self.logits.max(1, keepdims=True))
        shares: Floats = raised / raised.sum(1, keepdims=True)
        return shares


class Batch(NamedTuple):
    """inputs: the nine tensors of a window in the order of `FusionModel.forward`; targets as losses want them."""

    inputs: list[Tensor]
    targets: Targets


def averaged(said: Collection[Answers]) -> Answers:
    """What several models say of the same windows together: the mean of their probabilities, as logits, of their values and weights."""
    logits = np.log(np.maximum(np.mean([one.probabilities for one in said], axis=0), 1e-12))
    return Answers(logits, *(np.mean([one[k] for one in said], axis=0) for k in (1, 2)))


Measure = Callable[[Answers, Examples], dict[str, float]]
Disturb = Callable[[Examples, np.random.Generator], Window]


@dataclass(frozen=True)
class Task:
    """A corpus, split, with how its answers are judged. Nothing of `test` may decide anything."""

    name: str
    train: Examples
    valid: Examples
    test: Examples
    measure: Measure
    select: str
    """The validation figure that chooses the weights."""
    rising: bool = False
    """Whether more of it is better."""
    bounded: bool = True
    """Whether the values lie in [-1, 1]."""
    disturb: Disturb | None = None
    """Changes the windows of a training batch: noise, absent modalities."""
    timed: bool = False
    """Whether the rows' times are real seconds."""
    marks: int = 0
    """Last columns of every stream that are no measurements, but tell what a row is."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What every model is told on this corpus, where it has such a setting."""
    loss: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TaskLoss`."""

    @property
    def shape(self) -> dict[str, Any]:
        """What a model's configuration must say to fit."""
        one = self.train
        return {
            "dims": one.dims, "rows": one.rows, "classes": one.classes.shape[1], "affect": one.values.shape[1], "bounded": self.bounded,
        }  # fmt: skip

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Batch]:
        """One pass over the training windows, the same for the same seed and epoch."""
        draw = np.random.default_rng([seed, epoch])
        order = draw.permutation(len(self.train))
        for start in range(0, len(order), size):
            rows = order[start:start + size]
            if len(rows) > 1 or start == 0:  # one window alone is nothing to normalise over
                chosen = self.train.take(rows)
                yield batch(chosen, self.disturb(chosen, draw) if self.disturb else chosen.window)


def batch(examples: Examples, window: Window | None = None) -> Batch:
    """Examples as tensors, with another window in the place of theirs where one is given."""
    inputs = [torch.from_numpy(np.ascontiguousarray(part)) for sequence in window or examples.window for part in sequence]
    names = {"classes": "classes", "class_weight": "class_weight", "values": "affect", "values_weight": "affect_weight"}
    names |= {name: name for name in ("steps", "steps_weight") if getattr(examples, name) is not None}
    return Batch(inputs, Targets(**{theirs: torch.from_numpy(getattr(examples, ours)) for ours, theirs in names.items()}))


def deviation(sequence: Sequence, marks: int = 0) -> Floats:
    """Deviation (D,) of each column over the rows there are; 0 for the last `marks` columns."""
    rows = sequence.x[sequence.mask > 0]
    spread = rows.std(0) if len(rows) else np.zeros(sequence.x.shape[2], np.float32)
    if marks:
        spread[-marks:] = 0
    return spread.astype(np.float32)


def without(window: Window, absent: np.ndarray) -> Window:
    """`window` with modalities taken away: absent (N, 3) truth values."""
    return Window(*(sequence._replace(mask=sequence.mask * ~absent[:, m:m + 1]) for m, sequence in enumerate(window)))


def some_absent(window: Window, share: float, draw: np.random.Generator) -> Window:
    """`window` where each modality is absent with probability `share`, but never all that there are."""
    present = np.stack([sequence.mask.any(1) for sequence in window], 1)
    absent = (draw.random(present.shape) < share) & present
    absent &= (present & ~absent).any(1, keepdims=True)
    return without(window, absent)
