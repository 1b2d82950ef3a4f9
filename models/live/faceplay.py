"""Face sequences played from stills: what a camera would see of a face whose state changes, in the space of the face rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.emotions import EMOTIONS
from models.live.material import SPEAKING, VARIANTS, Faces, Floats, Ints
from models.window import Sequence, WindowSpec

NEUTRAL = EMOTIONS.index("neutral")


class FacePlay:
    """Plays faces into windows. Every segment of the course is one still in its variants; segments blend in 0.2 to 0.7 s."""

    def __init__(self, faces: Faces, spec: WindowSpec) -> None:
        self.faces, self.spec = faces, spec
        self._pools = pools(faces.label, faces.misread)

    def act(
        self, draw: np.random.Generator, out: Sequence, begin: list[float], label: list[int], speaking: tuple[Floats, Floats], lag: float,
        misread: Floats | None = None,
    ) -> None:
        """Fills face rows: state `label[k]` from `begin[k]` on (seconds before the end), `speaking` at those times."""
        t = self._times(draw, lag)
        if not len(t):
            return
        talking = self._talking(draw, t, speaking)
        weights = self._weights(draw, t, talking)
        x = np.zeros((len(t), self.faces.rows.shape[2]), np.float32)
        for k, (start, emotion) in enumerate(zip(begin, label, strict=True)):
            rows = self._still(draw, emotion, misread)
            shown = weights @ rows
            if emotion != NEUTRAL:
                # An expression held is not an expression frozen: it relaxes toward neutral and comes back.
                strength = np.clip(draw.uniform(0.7, 1.0) + 0.15 * _curve(draw, t, 1.5), 0.5, 1)[:, None]
                shown = strength * shown + (1 - strength) * (weights @ self._still(draw, NEUTRAL, None))
            if k == 0:
                x = shown
                continue
            progress = np.clip((t - start - draw.uniform(-0.1, 0.15)) / draw.uniform(0.2, 0.7), 0, 1)
            ease = (progress * progress * (3 - 2 * progress))[:, None]
            x = (1 - ease) * x + ease * shown
        x += self._jitter(draw, t, talking, x.shape[1])
        logs = x[:, -7:] - x[:, -7:].max(1, keepdims=True)
        x[:, -7:] = logs - np.log(np.exp(logs).sum(1, keepdims=True))
        n = len(t)
        out.x[:n], out.t[:n], out.mask[:n] = x, t, 1

    def _still(self, draw: np.random.Generator, emotion: int, misread: Floats | None) -> Floats:
        """Rows (VARIANTS, D) of a face; half of the time somewhere between two faces of the emotion, since rare ones have few."""
        one, other = (self.faces.rows[pick(draw, self._pools[emotion], misread, emotion)].astype(np.float32) for _ in range(2))
        share = draw.uniform(0, 1) if draw.random() < 0.5 else 1.0
        rows: Floats = share * one + (1 - share) * other
        return rows

    def _times(self, draw: np.random.Generator, lag: float) -> Floats:
        """Frame times at 20 to 30 Hz with jitter; some frames dropped, sometimes a stretch without a face."""
        period = 1 / draw.uniform(20, 30)
        t = -lag - np.arange(int(self.spec.seconds / period)) * period + draw.normal(0, 0.002, int(self.spec.seconds / period))
        keep = (t > -self.spec.seconds) & (t <= 0) & (draw.random(len(t)) > draw.choice([0, 0.02, 0.1], p=[0.6, 0.3, 0.1]))
        kind = draw.random()
        if kind < 0.12:
            start = draw.uniform(-self.spec.seconds, 0)
            keep &= (t < start) | (t > start + draw.uniform(0.2, 1.5))
        elif kind < 0.22:
            keep &= t > -draw.uniform(0.3, self.spec.seconds)
        elif kind < 0.28:
            keep &= t < -draw.uniform(0.2, 1.2)
        times: Floats = np.sort(t[keep])[-self.spec.face:].astype(np.float32)
        return times

    def _talking(self, draw: np.random.Generator, t: Floats, speaking: tuple[Floats, Floats]) -> Floats:
        """How far the mouth is moved by speech at each frame, 0..1: syllables at 3 to 6 Hz while there is a voice."""
        times, spoken = speaking
        # Somebody may speak unheard.
        active = np.interp(t, times, spoken) if len(times) else (_curve(draw, t, 1.0) > 0) * float(draw.random() < 0.3)
        syllables = 0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(3, 6) * t + draw.uniform(0, 6.28) + _curve(draw, t, 0.4))
        out: Floats = (active * syllables).astype(np.float32)
        return out

    def _jitter(self, draw: np.random.Generator, t: Floats, talking: Floats, dim: int) -> Floats:
        """What a living face adds to every column (n, dim), forgotten within 0.15 s. The deviations are as in a real track: a calm public
        speaker's log-posteriors move by 0.6 to 3, the embedding by 0.4; a silent face is assumed to move a third as far."""
        silent, aloud = np.exp(draw.uniform(np.log(0.15), np.log(0.8))), draw.uniform(0.5, 3.5)
        columns = np.concatenate([np.full(dim - 7, 0.25), draw.uniform(0.4, 1.6, 7)])
        shaken = _curves(draw, t, 0.15, dim) + 0.3 * draw.standard_normal((len(t), dim))
        jitter: Floats = (shaken * columns * (silent + aloud * talking)[:, None]).astype(np.float32)
        return jitter

    def _weights(self, draw: np.random.Generator, t: Floats, talking: Floats) -> Floats:
        """Weights (n, VARIANTS) of a still's variants over time: a slow walk among them, to the speaking ones while talking."""
        logits = np.stack([1.5 * _curve(draw, t, 0.6) for _ in range(VARIANTS)], 1)
        logits[:, list(SPEAKING)] += 6 * talking[:, None] - 4
        logits[:, 1] += 4.0 * (np.abs(t - draw.uniform(-self.spec.seconds, 0)) < 0.07)  # A blink: some other variant for two frames.
        soft = np.exp(logits - logits.max(1, keepdims=True))
        weights: Floats = (soft / soft.sum(1, keepdims=True)).astype(np.float32)
        return weights


def pools(label: Ints, misread: npt.NDArray[np.bool_]) -> list[tuple[Ints, Ints]]:
    """For each emotion the items (numbers of `label`) that their network reads well and those it misreads."""
    return [(np.flatnonzero((label == k) & ~misread), np.flatnonzero((label == k) & misread)) for k in range(len(EMOTIONS))]


def pick(draw: np.random.Generator, pool: tuple[Ints, Ints], shares: Floats | None, label: int) -> int:
    """An item of an emotion: any, or a misread one with the odds `shares[label]`."""
    well, badly = pool
    odds = shares[label] if shares is not None else len(badly) / max(len(well) + len(badly), 1)
    items = badly if (draw.random() < odds and len(badly)) or not len(well) else well
    return int(items[draw.integers(len(items))])


def _curve(draw: np.random.Generator, t: Floats, knot_s: float) -> Floats:
    """A random curve at times t (n,): normal knots every `knot_s`, joined linearly."""
    return _curves(draw, t, knot_s, 1)[:, 0]


def _curves(draw: np.random.Generator, t: Floats, knot_s: float, count: int) -> Floats:
    """As many of them, (n, count)."""
    place = (t - float(t.min())) / knot_s
    knots = draw.standard_normal((int(place.max()) + 2, count))
    before = place.astype(int)
    share = (place - before)[:, None]
    curves: Floats = ((1 - share) * knots[before] + share * knots[before + 1]).astype(np.float32)
    return curves
