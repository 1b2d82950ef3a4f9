"""The engine: weights saved and loaded, features checked, probabilities calibrated, nothing present, shapes refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models import engine, weights
from models.calibration import HOTTEST, RIDGE, Calibration, Labelled, fit, fit_scaling, pattern, stated_prior
from models.features import FeatureMismatch
from models.mea import MEA, MEAConfig
from models.window import Sequence, Window, WindowSpec

SPEC = WindowSpec(text=4, voice=12, face=8)
CONFIG = replace(MEAConfig.live(), rows=(4, 12, 8), d=16, d_h=12)
FEATURES = {"words": "w" * 16, "voice": "v" * 16, "face": "f" * 16}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    cap = np.where(np.isin(np.arange(8), (1, 2, 4)), 0.5, 1).astype(np.float32)
    bias = np.random.default_rng(0).normal(size=(8, 7)).astype(np.float32)
    calibration = Calibration(np.full(8, 2, np.float32), bias, cap, stated_prior())
    engine.save(path, "mea", MEA(CONFIG), SPEC, FEATURES, calibration, {"seed": 0})
    return path


def window(batch: int = 4, seed: int = 0) -> Window:
    """Row 0 has all, row 1 voice and face, row 2 face alone, row 3 nothing."""
    draw = np.random.default_rng(seed)
    parts = []
    for m, (rows, dim) in enumerate(zip((4, 12, 8), CONFIG.dims, strict=True)):
        mask = np.ones((batch, rows), np.float32)
        mask[1:, :] *= m > 0
        mask[2:, :] *= m > 1
        mask[3:, :] = 0
        x = draw.normal(size=(batch, rows, dim)).astype(np.float32) * mask[..., None]
        parts.append(Sequence(x, (np.sort(-4 * draw.random((batch, rows))) * mask).astype(np.float32), mask))
    return Window(*parts)


def test_reads_windows(saved: Path) -> None:
    read = engine.load(saved, backend="eager")
    assert (read.name, read.backend, read.spec, read.features) == ("mea", "eager", SPEC, FEATURES)
    out = read(window())
    assert [part.shape for part in out] == [(4, 7), (4, 2), (4, 3)]
    assert all(part.dtype == np.float32 and np.isfinite(part).all() for part in out)
    np.testing.assert_allclose(out.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(out.weights.sum(1), [1, 1, 1, 0], atol=1e-5)


def test_with_nothing_present_there_is_nothing_but_the_prior(saved: Path) -> None:
    out = engine.load(saved, backend="eager")(window())
    np.testing.assert_allclose(out.probabilities[3], stated_prior(), atol=1e-6)
    assert not out.affect[3].any() and not out.weights[3].any()


def test_a_lone_modality_is_never_too_sure(saved: Path) -> None:
    assert engine.load(saved, backend="eager")(window()).probabilities[2].max() <= 0.5 + 1e-6


def test_batch_mates_change_not_a_bit(saved: Path) -> None:
    read, batch = engine.load(saved, backend="eager"), window()
    whole = read(batch)
    for k in range(4):
        alone = read(Window(*(Sequence(*(part[k:k + 1] for part in s)) for s in batch)))
        for a, b in zip(whole, alone, strict=True):
            assert np.array_equal(a[k:k + 1], b)
    assert read(Window(*(Sequence(*(part[:0] for part in s)) for s in batch))).probabilities.shape == (0, 7)


def test_other_features_are_refused(saved: Path) -> None:
    engine.load(saved, FEATURES, "eager")
    with pytest.raises(FeatureMismatch, match=r"mea, face.*affect train"):
        engine.load(saved, {**FEATURES, "face": "0" * 16}, "eager")


def test_other_shapes_are_refused(saved: Path) -> None:
    batch = window()
    with pytest.raises(ValueError, match=r"voice.x is \(4, 12, 5\)"):
        engine.load(saved, backend="eager")(batch._replace(voice=batch.voice._replace(x=batch.voice.x[..., :5])))


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(weights.WeightsError, match="no fusion model"):
        engine.load(tmp_path / "other.safetensors")
    with pytest.raises(weights.WeightsError, match="no weights at"):
        engine.load("no-such-model")


def drawn(logits: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Labels that come as softmax(logits) says, one-hot."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return np.eye(7, dtype=np.float32)[[draw.choice(7, p=row / row.sum()) for row in p]]


def test_temperature_and_bias_are_found_again() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(6000, 7)).astype(np.float32) * 2
    bias = np.array([0.6, -0.3, 0, 0, 0, 0, -0.3], np.float32)
    prior = np.log(stated_prior()) + np.zeros_like(logits)
    temperature, found = fit_scaling(logits * 3, drawn(logits + bias + prior, draw), prior, np.ones(len(logits)))
    assert temperature == pytest.approx(3, rel=0.06)
    np.testing.assert_allclose(found - found.mean(), bias, atol=0.15)
    temperature, found = fit_scaling(logits[:0], logits[:0], logits[:0], logits[:0, 0])
    assert temperature == 1 and not found.any()


def test_scaling_finds_the_least_cost_even_where_one_emotion_is_never_seen() -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(300, 7)).astype(np.float32)
    never = np.array([0, 0, 0, 0, 0, 0, -99])
    target, none, equal = drawn(logits + never, draw), np.zeros((300, 7), np.float32), np.ones(300)

    def cost(temperature: float, bias: np.ndarray) -> float:
        z = logits / temperature + bias
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return float(-(target * log_p).sum(1).mean() + RIDGE / 2 * (bias ** 2).sum())

    temperature, bias = fit_scaling(logits, target, none, equal)
    assert 1 / HOTTEST <= temperature <= HOTTEST and np.isfinite(bias).all() and bias[6] < bias[:6].min()
    least = cost(temperature, bias)
    for _ in range(50):
        near = temperature * np.exp(draw.normal(0, 0.05)), bias + draw.normal(0, 0.05, 7)
        assert cost(*near) >= least - 1e-6
    assert fit_scaling(-logits, target, none, equal)[0] == pytest.approx(HOTTEST), "logits that mislead are not followed"


def test_calibration_by_presence_and_prior() -> None:
    assert pattern(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])).tolist() == [1, 2, 4, 7, 0]
    logits, present = np.zeros((2, 7), np.float32), np.array([[1, 1, 0], [0, 0, 1]])
    plain = Calibration.none()
    np.testing.assert_allclose(plain(logits, present), 1 / 7, rtol=1e-6)
    np.testing.assert_allclose(plain.with_prior(stated_prior())(logits, present), np.stack([stated_prior()] * 2), rtol=1e-5)
    with pytest.raises(ValueError, match="prior"):
        plain.with_prior([1.0, 0.0])
    sure = np.array([[50, 0, 0, 0, 0, 0, 0.0]] * 2, np.float32)
    fitted = fit([Labelled(sure, np.eye(7, dtype=np.float32)[[0, 0]], present, plain.prior)], plain.prior, lone_cap=0.9)
    p = fitted(sure, present)
    assert p[0, 0] > 0.99 and p[1, 0] == pytest.approx(0.9)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


@pytest.mark.skipif(not (Path(weights.__file__).with_name("mea.safetensors")).is_file(), reason="no shipped MEA weights")
def test_shipped_weights_fit_the_live_features() -> None:
    from models.perception.facenet import features
    from models.perception.voice import VOICE
    from models.perception.words import WORDS

    read = engine.load("mea", {"face": features("face").hash, "voice": VOICE.hash, "words": WORDS.hash}, "eager")
    assert read.spec == WindowSpec()


@pytest.mark.skipif(
    not (Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared")) / "data").is_dir(), reason="the corpora are not here"
)
def test_the_prior_is_that_of_conversations() -> None:
    from models.datasets import meld

    label = np.array([said.label7 for said in meld.load() if said.split == "train"])
    counts = np.bincount(label[label >= 0], minlength=7)
    np.testing.assert_allclose(stated_prior(), counts / counts.sum(), atol=2e-4)
    np.testing.assert_allclose(stated_prior(0.5)[1:] * 2, counts[1:] / counts[1:].sum(), atol=1e-3)
