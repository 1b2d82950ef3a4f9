"""Losses of the fusion models. n windows, M modalities, C classes; each is a mean over what is present and 0 where nothing is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from models.fusion import Output, PlainAux


@dataclass(frozen=True)
class Targets:
    """classes (n, C) soft labels; class_weight (n,), 0 where the class is unknown; affect (n, 2) valence and arousal in [-1, 1];
    affect_weight (n,). Corpora labelled step by step (IACA) also give steps (n, L, k), the values at L steps of equal length through the
    window, and steps_weight (n, L), 0 where a step has no label."""

    classes: Tensor
    class_weight: Tensor
    affect: Tensor
    affect_weight: Tensor
    steps: Tensor | None = None
    steps_weight: Tensor | None = None


@dataclass(frozen=True)
class TaskLoss:
    """L_task: cross-entropy of soft classes, and what the values are told by: "mse", "l1" (sentiment) or "ccc" (1 - CCC a value)."""

    affect: float = 1.0
    """Weight of the values' error."""
    values: str = "mse"
    evidence: float = 0.0
    """Weight of the cross-entropy of each present modality's own reading (`FusionConfig.evidence`)."""
    smooth: float = 0.0
    """Share of the classes' targets that is spread over all of them evenly (label smoothing)."""
    groups: int = 1
    """Logits are this many softmaxes side by side: IEMOCAP's protocol has 8 logits for four emotions, each no or yes."""

    def __post_init__(self) -> None:
        if self.values not in VALUES:
            raise ValueError(f"TaskLoss.values is {self.values!r}; it must be one of {', '.join(VALUES)}")

    def parts(self, output: Output, own: Tensor, present: Tensor, targets: Targets) -> dict[str, Tensor]:
        """own (n, M, C) the modalities' own logits, present (n, M)."""
        out = {}
        classes = (1 - self.smooth) * targets.classes + self.smooth / max(targets.classes.shape[1] // self.groups, 1)
        if output.logits.shape[1]:
            out["class"] = soft_cross_entropy(output.logits, classes, targets.class_weight, self.groups)
        if output.affect.shape[1]:
            out["affect"] = self.affect * VALUES[self.values](output.affect, targets.affect, targets.affect_weight)
        if self.evidence and own.shape[-1]:
            known = targets.class_weight.unsqueeze(1) * present
            each = [soft_cross_entropy(own[:, m], classes, known[:, m], self.groups) for m in range(own.shape[1])]
            out["evidence"] = self.evidence * torch.stack(each).sum()
        return out


def total(parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The sum of a loss's parts, and the parts as numbers."""
    return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


@dataclass(frozen=True)
class PlainLoss:
    """L_task alone, for models without terms of their own (MSAF and the references)."""

    task: TaskLoss = field(default_factory=TaskLoss)

    def __call__(self, output: Output, aux: PlainAux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        return total(self.task.parts(output, aux.evidence, aux.present, targets))


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """Cross-entropy of logits (n, C) against soft labels (n, C), weighted (n,); with groups the mean over that many softmaxes."""
    logits = logits.reshape(len(logits), groups, -1)
    each = -(target.reshape(logits.shape) * functional.log_softmax(logits, -1)).sum(-1).mean(1)
    return (each * weight).sum() / weight.sum().clamp_min(1e-6)


def squared_error(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of (n, k), weighted (n,)."""
    return ((value - target).square().mean(-1) * weight).sum() / weight.sum().clamp_min(1e-6)


def absolute_error(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error of (n, k), weighted (n,)."""
    return ((value - target).abs().mean(-1) * weight).sum() / weight.sum().clamp_min(1e-6)


def concordance_error(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - CCC, summed over the k values of (n, k), over rows weighted (n,)."""
    return torch.stack([concordance_loss(value[:, k], target[:, k], weight) for k in range(value.shape[1])]).sum()


def concordance_loss(value: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - CCC of two (n,) vectors (Lin 1989), weighted (n,): 0 for perfect agreement, 1 for none, 2 for perfect disagreement."""
    weight = torch.ones_like(value) if weight is None else weight
    some = (weight.sum() > 0).to(value.dtype)
    weight = weight / weight.sum().clamp_min(1e-6)
    value, target = torch.where(weight > 0, value, 0.0), torch.where(weight > 0, target, 0.0)
    mean_value, mean_target = (weight * value).sum(), (weight * target).sum()
    covariance = (weight * (value - mean_value) * (target - mean_target)).sum()
    spread = (weight * ((value - mean_value).square() + (target - mean_target).square())).sum() + (mean_value - mean_target).square()
    return (1 - 2 * covariance / spread.clamp_min(1e-8)) * some


VALUES = {"mse": squared_error, "l1": absolute_error, "ccc": concordance_error}
"""What values can be told by."""


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Hilbert-Schmidt independence criterion with inner-product kernels (MEA, eq. 13), (n-1)^-2 Tr(U K_x U K_y), of x (n, p), y (n, q).

    0 for fewer than two rows.
    """
    n = x.shape[0]
    if n < 2:
        return x.new_zeros(())
    # Tr(U xx' U yy') = |x_c' y_c|^2 with centred columns: no n x n matrix is needed.
    return ((x - x.mean(0)).T @ (y - y.mean(0))).square().sum() / (n - 1) ** 2


def disentangling(exclusive: Tensor, agnostic: Tensor, present: Tensor, normalise: bool = False) -> Tensor:
    """L_dis (MEA, eq. 14) of h^e, h^a (n, M, d): mean over modalities of HSIC(h^e_m, h^a_m), over the windows that
    have the modality."""
    terms = []
    for m in range(present.shape[1]):
        here = present[:, m] > 0
        e, a = exclusive[here, m], agnostic[here, m]
        if normalise:
            e, a = functional.normalize(e, dim=-1), functional.normalize(a, dim=-1)
        terms.append(hsic(e, a))
    return torch.stack(terms).mean()


def orthogonality(exclusive: Tensor, agnostic: Tensor, present: Tensor) -> Tensor:
    """The squared cosine of h^e_m and h^a_m, (n, M, d), averaged over what is present."""
    cosine = functional.cosine_similarity(exclusive, agnostic, dim=-1)
    return (cosine.square() * present).sum() / present.sum().clamp_min(1)


def importance_weights(logits: Tensor) -> Tensor:
    """omega^a_m = 1 - D_i(h^a_m)[m]: what gives its modality away less counts more. logits (n, M, M) -> (n, M), detached."""
    return 1 - logits.detach().softmax(-1).diagonal(dim1=1, dim2=2)


def modality_cross_entropy(logits: Tensor, present: Tensor, weight: Tensor) -> Tensor:
    """L_agn and L_exc (eq. 15 and 16): cross-entropy of naming modality m from logits (n, M, M)[:, m], weighted (n, M).

    Summed over the modalities and divided by n, as in the paper; absent modalities add nothing.
    """
    own = functional.log_softmax(logits, -1).diagonal(dim1=1, dim2=2)
    return -(own * weight * present).sum() / logits.shape[0]


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (...), in [0, ln 2], of two distributions (..., C) given as finite logarithms: nothing underflows."""
    log_middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_middle)).sum(-1) + (log_q.exp() * (log_q - log_middle)).sum(-1)) / 2
