"""What trained weights do on held-out data: `python -m models.live.evaluation mea` prints JSON. Test data is for the end, once.

Each real corpus alone (faces, voices, texts), composed windows of every subset beside the product of the model's own unimodal
posteriors, which composed windows make the ceiling, what deleting a modality or shuffling time changes, and how fast it follows a turn.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

from models import metrics
from models.calibration import Calibration, stated_prior
from models.datasets import data_root, ferplus
from models.engine import Engine, load
from models.live import material, reaction
from models.live.alone import corpora, texts
from models.live.composed import SUBSETS, Composer, Composition, Truth
from models.live.material import Floats, Ints, Material
from models.perception import voice
from models.perception.facenet import features as face_features
from models.perception.words import feature_set as word_features
from models.window import Sequence, Window

HEAVY = 0.6
"""Share of neutral in the neutral-heavy figures."""


def evaluate(
    name: str | os.PathLike[str] = "mea", split: str = "test", windows: int = 1000, face: str = "face", words: str = "words"
) -> dict[str, Any]:
    """All figures of weights `name` on a split; `windows` composed ones a subset. Raises DataMissing, WeightsError or, where the
    weights `face` and `words` do not belong to them, FeatureMismatch."""
    engine = load(name, {"face": face_features(face).hash, "voice": voice.VOICE.hash, "words": word_features(words).hash})
    stock = material.load(split, face, words)
    composer = Composer(stock, engine.spec)
    return {
        "split": split, **alone(engine, stock, split), "composed": composed(engine, composer, windows), **probes(engine, composer, windows),
        "reaction": {_name(subset): reaction.measure(engine, stock, subset) for subset in SUBSETS if subset[2]},
    }


def alone(engine: Engine, stock: Material, split: str) -> dict[str, Any]:
    """Each corpus by itself, 7 classes, under equal priors and under the class shares of its own training part."""
    out: dict[str, Any] = {}
    for corpus in corpora(engine.spec, stock, split):
        seen = scores(engine, corpus.window, corpus.label, corpus.shares)
        top = seen.pop("top")
        if corpus.name == "ferplus":
            found = _found(split)
            unfound_as_errors = float((found & (top == corpus.label)).mean())
            seen |= {"images": len(found), "found": float(found.mean()), "accuracy_unfound_as_errors": unfound_as_errors}
        out[corpus.name] = seen
    rated = np.flatnonzero(np.isfinite(stock.texts.affect[:, 0]))
    affect = engine.logits(texts(engine.spec, stock, rated))[1]
    out["emobank"] = {
        f"{what}_pearson": metrics.pearson(affect[:, k], stock.texts.affect[rated, k]) for k, what in enumerate(("valence", "arousal"))
    }
    return out


def scores(engine: Engine, window: Window, label: Ints, shares: Floats) -> dict[str, Any]:
    """Classification figures under equal priors, (`own_prior_`) under the shares of the corpus, `top` too, and (`root_prior_`) under the
    square roots of these, between the two: what macro-F1 asks for. The noise of calibration is that of the second."""
    logits, _, _, present = engine.logits(window)
    out: dict[str, Any] = {}
    for name, prior in (("", np.ones(7)), ("root_prior_", np.sqrt(shares)), ("own_prior_", shares)):
        p = engine.calibration.with_prior(prior)(logits, present)
        out |= {name + key: value for key, value in metrics.classification(p, label).items()}
    return {"items": len(label), **out, "calibration_noise": metrics.calibration_noise(p), "top": p.argmax(1)}


def composed(engine: Engine, composer: Composer, windows: int) -> dict[str, Any]:
    """Composed windows of each subset, equal priors: the model, and the product of its own calibrated unimodal posteriors; and windows with
    many neutral ones, read under that prior."""
    equal, prior = engine.calibration.with_prior(np.ones(7)), stated_prior(HEAVY)
    heavy = Composer(composer.material, composer.spec, Composition(shares=tuple(prior.tolist())))
    out: dict[str, Any] = {}
    for k, subset in enumerate(SUBSETS):
        window, truth = composer.batch(windows, (4, k), subset)
        known = truth.class_weight > 0
        p, product = _fused_and_product(engine, equal, window, subset)
        name = _name(subset)
        out[name] = {"model": _soft(p, truth, known), "product": _soft(product, truth, known)}
        agree = known & (truth.classes.max(1) > 0.99)
        split = known & ~agree
        if sum(subset) > 1:
            out[name] |= {"model_mixed": _soft(p, truth, split), "product_mixed": _soft(product, truth, split)}
        window, truth = heavy.batch(windows, (6, k), subset)
        known = truth.class_weight > 0
        shifted = engine.calibration.with_prior(prior)(*engine.logits(window)[::3])
        out[name]["neutral_heavy_calibration_error"] = metrics.soft_calibration_error(shifted[known], truth.classes[known])
    return out


def probes(engine: Engine, composer: Composer, windows: int) -> dict[str, Any]:
    """Windows with all three modalities: what changes when one is deleted, and when the rows are shuffled in time."""
    window, truth = composer.batch(windows, (5,), (1, 1, 1))
    equal = engine.calibration.with_prior(np.ones(7))

    def read(w: Window) -> Floats:
        logits, _, _, present = engine.logits(w)
        return equal(logits, present)

    whole, known = read(window), truth.class_weight > 0
    draw = np.random.default_rng(0)
    changed = {f"without {m}": window._replace(**{m: _blank(getattr(window, m))}) for m in Window._fields}
    changed["time shuffled"] = Window(*(_shuffled(s, draw) for s in window))
    out: dict[str, Any] = {"whole": _soft(whole, truth, known)}
    for what, other in changed.items():
        p = read(other)
        out[what] = {**_soft(p, truth, known), "top_changes": float((p.argmax(1) != whole.argmax(1)).mean()),
                     "total_variation": float(np.abs(p - whole).sum(1).mean() / 2)}
    weights = engine(window).weights
    out["mean_weights"] = dict(zip(("text", "voice", "face"), map(float, weights.mean(0)), strict=True))
    return {"probes": out}


def _fused_and_product(engine: Engine, equal: Calibration, window: Window, subset: tuple[int, ...]) -> tuple[Floats, Floats]:
    logits, _, _, present = engine.logits(window)
    product = np.zeros_like(logits)
    for m, modality in enumerate(Window._fields):
        if subset[m]:
            blank = {n: _blank(getattr(window, n)) for n in Window._fields if n != modality}
            single, _, _, here = engine.logits(window._replace(**blank))
            product += np.log(np.maximum(equal(single, here), 1e-6))
    product = np.exp(product - product.max(1, keepdims=True))
    return equal(logits, present), product / product.sum(1, keepdims=True)


def _name(subset: tuple[int, ...]) -> str:
    return "+".join(m for m, here in zip(Window._fields, subset, strict=True) if here)


def _soft(p: Floats, truth: Truth, rows: np.ndarray) -> dict[str, float]:
    if not rows.any():
        return {"windows": 0}
    p, soft = p[rows], truth.classes[rows]
    return {
        "windows": len(p), "accuracy": float((p.argmax(1) == soft.argmax(1)).mean()), "cross_entropy": metrics.cross_entropy(p, soft),
        "calibration_error": metrics.soft_calibration_error(p, soft),
    }


def _blank(sequence: Sequence) -> Sequence:
    return Sequence(*(np.zeros_like(part) for part in sequence))


def _shuffled(sequence: Sequence, draw: np.random.Generator) -> Sequence:
    x = sequence.x.copy()
    for k, mask in enumerate(sequence.mask):
        n = int(mask.sum())
        x[k, :n] = x[k, draw.permutation(n)]
    return sequence._replace(x=x)


def _found(split: str) -> np.ndarray:
    stills = ferplus.load(data_root(), split)
    return stills.found[stills.label >= 0]


if __name__ == "__main__":
    print(json.dumps(evaluate(sys.argv[1] if len(sys.argv) > 1 else "mea"), indent=1))
