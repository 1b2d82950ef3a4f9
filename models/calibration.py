"""From logits to probabilities that mean what they say: temperature by what is present, a stated prior, a cap on certainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.emotions import EMOTIONS, MODALITIES

Floats = npt.NDArray[np.float32]
PATTERNS = 2 ** len(MODALITIES)
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
    """temperature (8,) and cap (8,) by presence pattern, prior (7,) of the emotions where the model is used.

    The model is trained on balanced classes, so the prior enters by logit adjustment: p ~ softmax(logits / temperature + log prior).
    The cap is the most probability a single emotion may get; what is over it is spread over the others in proportion.
    """

    temperature: Floats
    cap: Floats
    prior: Floats

    @classmethod
    def none(cls) -> Calibration:
        """Plain softmax under the balanced prior."""
        return cls(np.ones(PATTERNS, np.float32), np.ones(PATTERNS, np.float32), np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32))

    def with_prior(self, prior: npt.ArrayLike) -> Calibration:
        """The same for another prior (7,), which is normalised. Raises ValueError unless it is positive."""
        p = np.asarray(prior, np.float32)
        if p.shape != (len(EMOTIONS),) or not (p > 0).all():
            raise ValueError(f"a prior is {len(EMOTIONS)} positive shares in the order {', '.join(EMOTIONS)}; given {p.tolist()}")
        return Calibration(self.temperature, self.cap, p / p.sum())

    def __call__(self, logits: Floats, present: npt.ArrayLike) -> Floats:
        """logits (B, 7), present (B, 3) -> probabilities (B, 7). Where nothing is present this is the prior."""
        which = pattern(present)
        z = np.where(which[:, None] > 0, logits / self.temperature[which][:, None], 0) + np.log(self.prior)
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


def fit_temperature(logits: Floats, target: Floats) -> float:
    """The temperature that minimises the cross-entropy of softmax(logits / T) against soft labels; both (n, 7).

    Golden-section search on log T between 1/10 and 10; 1 for no rows.
    """
    if not len(logits):
        return 1.0

    def cost(log_t: float) -> float:
        z = logits / np.exp(log_t)
        z = z - z.max(1, keepdims=True)
        return float(-(target * (z - np.log(np.exp(z).sum(1, keepdims=True)))).sum(1).mean())

    low, high, golden = -np.log(10), np.log(10), (np.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return float(np.exp((low + high) / 2))


def fit(logits: Floats, target: Floats, present: npt.ArrayLike, prior: Floats, lone_cap: float) -> Calibration:
    """Calibration from validation windows: a temperature for each presence pattern, certainty capped where one modality is there alone."""
    which = pattern(present)
    temperature = np.array([fit_temperature(logits[which == k], target[which == k]) for k in range(PATTERNS)], np.float32)
    lone = np.array([k in (1, 2, 4) for k in range(PATTERNS)])
    return Calibration(temperature, np.where(lone, lone_cap, 1.0).astype(np.float32), prior)
