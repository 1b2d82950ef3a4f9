"""Losses of the fusion models. n windows, M modalities, C classes; each is a mean over what is present and 0 where nothing is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.mea import Aux, Output


@dataclass(frozen=True)
class Targets:
    """classes (n, C) soft labels; class_weight (n,), 0 where the class is unknown; affect (n, 2) valence and arousal in [-1, 1];
    affect_weight (n,)."""

    classes: Tensor
    class_weight: Tensor
    affect: Tensor
    affect_weight: Tensor


@dataclass(frozen=True)
class MEALoss:
    """Weights of MEA's loss, eq. 20: L = L_task + alpha L_dis + beta (L_agn + L_exc), and of what live training adds."""

    alpha: float = 2e-2
    beta: float = 3e-2
    affect: float = 1.0
    """Weight of the squared error of valence and arousal in L_task."""
    evidence: float = 0.0
    """Weight of the cross-entropy of each present modality's own reading (`MEAConfig.evidence`)."""
    normalise_hsic: bool = False
    """HSIC over L2-normalised h: bounded, where the paper's grows with the scale of h."""

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        importance = importance_weights(aux.importance)
        parts = {
            "class": soft_cross_entropy(output.logits, targets.classes, targets.class_weight),
            "affect": self.affect * squared_error(output.affect, targets.affect, targets.affect_weight),
            "dis": self.alpha * disentangling(aux, self.normalise_hsic),
            "agn": self.beta * modality_cross_entropy(aux.discriminated_agnostic, aux.present, importance),
            "exc": self.beta * modality_cross_entropy(aux.discriminated_exclusive, aux.present, torch.ones_like(aux.present)),
            # D_i works on detached h^a, so this trains the discriminator alone and needs no weight.
            "importance": modality_cross_entropy(aux.importance, aux.present, torch.ones_like(aux.present)),
        }
        if self.evidence:
            own = [soft_cross_entropy(aux.evidence[:, m], targets.classes, targets.class_weight * aux.present[:, m]) for m in range(3)]
            parts["evidence"] = self.evidence * torch.stack(own).sum()
        return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits (n, C) against soft labels (n, C), weighted (n,)."""
    each = -(target * functional.log_softmax(logits, -1)).sum(-1)
    return (each * weight).sum() / weight.sum().clamp_min(1e-6)


def squared_error(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of (n, k), weighted (n,)."""
    return ((value - target).square().mean(-1) * weight).sum() / weight.sum().clamp_min(1e-6)


def concordance_loss(value: Tensor, target: Tensor) -> Tensor:
    """1 - CCC of two (n,) vectors (Lin 1989): 0 for perfect agreement, 1 for none, 2 for perfect disagreement."""
    covariance = ((value - value.mean()) * (target - target.mean())).mean()
    spread = value.var(unbiased=False) + target.var(unbiased=False) + (value.mean() - target.mean()).square()
    return 1 - 2 * covariance / spread.clamp_min(1e-8)


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Hilbert-Schmidt independence criterion with inner-product kernels (MEA, eq. 13), (n-1)^-2 Tr(U K_x U K_y), of x (n, p), y (n, q).

    0 for fewer than two rows.
    """
    n = x.shape[0]
    if n < 2:
        return x.new_zeros(())
    # Tr(U xx' U yy') = |x_c' y_c|^2 with centred columns: no n x n matrix is needed.
    return ((x - x.mean(0)).T @ (y - y.mean(0))).square().sum() / (n - 1) ** 2


def disentangling(aux: Aux, normalise: bool = False) -> Tensor:
    """L_dis (eq. 14): mean over modalities of HSIC(h^e_m, h^a_m), over the windows in which the modality is present."""
    terms = []
    for m in range(aux.present.shape[1]):
        here = aux.present[:, m] > 0
        e, a = aux.exclusive[here, m], aux.agnostic[here, m]
        if normalise:
            e, a = functional.normalize(e, dim=-1), functional.normalize(a, dim=-1)
        terms.append(hsic(e, a))
    return torch.stack(terms).mean()


def importance_weights(logits: Tensor) -> Tensor:
    """omega^a_m = 1 - D_i(h^a_m)[m]: what gives its modality away less counts more. logits (n, M, M) -> (n, M), detached."""
    return 1 - logits.detach().softmax(-1).diagonal(dim1=1, dim2=2)


def modality_cross_entropy(logits: Tensor, present: Tensor, weight: Tensor) -> Tensor:
    """L_agn and L_exc (eq. 15 and 16): cross-entropy of naming modality m from logits (n, M, M)[:, m], weighted (n, M).

    Summed over the modalities and divided by n, as in the paper; absent modalities add nothing.
    """
    own = functional.log_softmax(logits, -1).diagonal(dim1=1, dim2=2)
    return -(own * weight * present).sum() / logits.shape[0]


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the distributions p, q (n, C), mean over n, in [0, ln 2]."""
    middle = (p + q) / 2

    def relative(a: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, middle)).sum(-1)

    return ((relative(p) + relative(q)) / 2).mean()
