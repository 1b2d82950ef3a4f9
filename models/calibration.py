"""From logits to probabilities that mean what they say: temperature and bias by what is present, a stated prior, a cap on certainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.emotions import EMOTIONS, MODALITIES

Floats = npt.NDArray[np.float32]
PATTERNS = 2 ** len(MODALITIES)
RIDGE = 2e-3
"""Weight of half the squared bias in nats: against biases learnt from the few validation items of a rare emotion."""
HOTTEST = 10.0
"""Temperatures lie between this and its inverse."""
CONVERSATION = {
    "neutral": 0.4715, "happy": 0.1745, "sad": 0.0684, "angry": 0.1110, "fearful": 0.0268, "disgusted": 0.0271, "surprised": 0.1206,
}
"""How often each emotion occurs in conversation: the shares of MELD's training part (Poria et al. 2019)."""


def stated_prior(neutral: float | None = None) -> Floats:
    """The prior `CONVERSATION` (7,); with `neutral` that share of neutral and the rest in proportion."""
    prior = np.array([CONVERSATION[emotion] for emotion in EMOTIONS], np.float64)
    if neutral is not None:
        is_neutral = np.array([emotion == "neutral" for emotion in EMOTIONS])
        prior = np.where(is_neutral, neutral, prior * (1 - neutral) / prior[~is_neutral].sum())
    shares: Floats = (prior / prior.sum()).astype(np.float32)
    return shares


def pattern(present: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number 0..7 of which modalities are there: text counts 1, voice 2, face 4. present (B, 3) -> (B,)."""
    number: npt.NDArray[np.int64] = (np.asarray(present) > 0) @ (1 << np.arange(len(MODALITIES)))
    return number


@dataclass(frozen=True)
class Calibration:
    """temperature (8,), bias (8, 7) and cap (8,) by presence pattern, prior (7,) of the emotions where the model is used.

    The model is trained on balanced classes, so the prior enters by logit adjustment: p ~ softmax(logits / temperature + bias + log prior).
    The cap is the most probability a single emotion may get; what is over it is spread over the others in proportion.
    """

    temperature: Floats
    bias: Floats
    cap: Floats
    prior: Floats

    @classmethod
    def none(cls) -> Calibration:
        """Plain softmax under the balanced prior."""
        ones, equal = np.ones(PATTERNS, np.float32), np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32)
        return cls(ones, np.zeros((PATTERNS, len(EMOTIONS)), np.float32), ones, equal)

    def with_prior(self, prior: npt.ArrayLike) -> Calibration:
        """The same for another prior (7,), which is normalised. Raises ValueError unless it is positive."""
        p = np.asarray(prior, np.float32)
        if p.shape != (len(EMOTIONS),) or not (p > 0).all():
            raise ValueError(f"a prior is {len(EMOTIONS)} positive shares in the order {', '.join(EMOTIONS)}; given {p.tolist()}")
        return replace(self, prior=p / p.sum())

    def __call__(self, logits: Floats, present: npt.ArrayLike) -> Floats:
        """logits (B, 7), present (B, 3) -> probabilities (B, 7). Where nothing is present this is the prior."""
        which = pattern(present)
        z = np.where(which[:, None] > 0, logits / self.temperature[which][:, None] + self.bias[which], 0) + np.log(self.prior)
        p = np.exp(z - z.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True)
        top, cap = p.max(1, keepdims=True), self.cap[which][:, None]
        is_top = np.arange(p.shape[1]) == p.argmax(1)[:, None]
        # The others' shares among themselves, from the logits: beside a very sure top they have vanished from p.
        others = np.where(is_top, -np.inf, z)
        rest = np.exp(others - others.max(1, keepdims=True))
        rest = rest / rest.sum(1, keepdims=True)
        capped: Floats = np.where(top > cap, np.where(is_top, cap, (1 - cap) * rest), p).astype(np.float32)
        return capped


class Labelled(NamedTuple):
    """What calibration is fitted on: logits (n, 7), soft labels (n, 7), present (n, 3), the prior (7,) that these labels come by."""

    logits: Floats
    target: Floats
    present: npt.NDArray[np.generic]
    prior: npt.NDArray[np.floating[Any]]


def fit_scaling(logits: Floats, target: Floats, offset: Floats, weight: Floats, steps: int = 30) -> tuple[float, Floats]:
    """Temperature and bias (7,) that minimise the cross-entropy of softmax(logits / T + bias + offset) against soft labels, all (n, 7).

    Rows count by weight (n,), the bias is held back by `RIDGE`; 1 and 0 for no rows. Bias-corrected temperature scaling (Alexandari,
    Kundaje and Shrikumar 2020, ICML), which stays calibrated under another prior where temperature alone does not. Newton's method.
    """
    classes = logits.shape[1]
    theta = np.concatenate([[1.0], np.zeros(classes)])  # 1 / T, bias
    if not len(logits):
        return 1.0, np.zeros(classes, np.float32)
    share = weight / weight.sum()
    # d(scaled logits) / d(theta): the logits beside the identity.
    slope = np.concatenate([logits[..., None], np.broadcast_to(np.eye(classes), (len(logits), classes, classes))], 2).astype(np.float64)
    held = np.diag([0.0] + [RIDGE] * classes)

    def cost(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = slope @ theta + offset
        z = z - z.max(1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return float(-(share * (target * log_p).sum(1)).sum() + theta @ held @ theta / 2), np.exp(log_p)

    now, p = cost(theta)
    for _ in range(steps):
        gradient = np.einsum("n,nci,nc->i", share, slope, p - target) + held @ theta
        mean = np.einsum("nci,nc->ni", slope, p)
        curvature = np.einsum("n,nci,ncj,nc->ij", share, slope, slope, p) - np.einsum("n,ni,nj->ij", share, mean, mean) + held
        move, length = np.linalg.solve(curvature + 1e-9 * np.eye(len(theta)), gradient), 1.0
        while length > 1e-6:
            tried = theta - length * move
            tried[0] = np.clip(tried[0], 1 / HOTTEST, HOTTEST)
            then, q = cost(tried)
            if then <= now:
                break
            length /= 2
        else:
            break
        done = now - then < 1e-10
        theta, now, p = tried, then, q
        if done:
            break
    return float(1 / theta[0]), theta[1:].astype(np.float32)


def fit(sets: Sequence[Labelled], prior: Floats, lone_cap: float) -> Calibration:
    """Calibration from sets of validation windows: for each presence pattern temperature and bias from all sets that have it, each set
    counting alike; certainty capped where one modality is there alone."""
    temperature, bias = np.ones(PATTERNS, np.float32), np.zeros((PATTERNS, len(EMOTIONS)), np.float32)
    for k in range(1, PATTERNS):
        parts = []
        for one in sets:
            rows = pattern(one.present) == k
            if rows.any():
                n = int(rows.sum())
                offset = np.broadcast_to(np.log(one.prior / one.prior.sum()), (n, len(EMOTIONS)))
                parts.append((one.logits[rows], one.target[rows], offset, np.full(n, 1 / n)))
        if parts:
            logits, target, offset, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
            temperature[k], bias[k] = fit_scaling(logits, target, offset, weight)
    lone = np.array([k in (1, 2, 4) for k in range(PATTERNS)])
    return Calibration(temperature, bias, np.where(lone, lone_cap, 1.0).astype(np.float32), prior)
