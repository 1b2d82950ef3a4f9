"""Figures against independent implementations: scikit-learn, scipy, and what the protocols' own words say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchmetrics")
sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")

from models import metrics  # noqa: E402


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    truth = np.round(draw.uniform(-3, 3, 400) * 5) / 5
    truth[:40] = 0
    return (truth * 0.6 + draw.normal(0, 1.2, 400)).astype(np.float32), truth.astype(np.float32)


def test_sentiment_by_both_protocols(scores: tuple[np.ndarray, np.ndarray]) -> None:
    value, truth = scores
    out = metrics.sentiment(value, truth)
    assert out["mae"] == pytest.approx(sklearn.mean_absolute_error(truth, value), rel=1e-5)
    assert out["pearson"] == pytest.approx(stats.pearsonr(value, truth).statistic, abs=1e-5)
    assert out["acc2_has0"] == pytest.approx(sklearn.accuracy_score(truth >= 0, value >= 0))
    assert out["f1_has0"] == pytest.approx(sklearn.f1_score(truth >= 0, value >= 0, average="weighted"))
    kept = np.flatnonzero(truth)
    assert out["acc2_non0"] == pytest.approx(sklearn.accuracy_score(truth[kept] > 0, value[kept] > 0))
    assert out["f1_non0"] == pytest.approx(sklearn.f1_score(truth[kept] > 0, value[kept] > 0, average="weighted"))
    # MulT's code hands over prediction and truth the other way round.
    assert out["f1_non0_mult"] == pytest.approx(sklearn.f1_score(value[kept] > 0, truth[kept] > 0, average="weighted"))
    assert out["f1_non0_mult"] != pytest.approx(out["f1_non0"], abs=1e-6)


def test_seven_and_five_steps_round_half_to_even() -> None:
    truth, value = np.array([0.5, 1.5, 2.6, -2.8, 3.0]), np.array([0.4, 2.2, 9.0, -2.2, 2.4])
    out = metrics.sentiment(value, truth)
    assert out["acc7"] == pytest.approx(3 / 5)  # 0.5 is 0, 1.5 is 2, 2.6 is 3
    assert out["acc5"] == pytest.approx(5 / 5)


def test_what_cannot_be_told_is_zero_and_never_nan() -> None:
    out = metrics.sentiment(np.zeros(4), np.zeros(4))
    assert all(np.isfinite(list(out.values()))) and out["pearson"] == 0 and out["acc2_non0"] == 0 and out["acc7"] == 1
    assert metrics.affect(np.ones((3, 2)), np.random.default_rng(0).normal(size=(3, 2)))["ccc"] == 0


def test_classes_against_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    p = draw.dirichlet(np.ones(5), 300).astype(np.float32)
    label = np.where(draw.random(300) < 0.5, p.argmax(1), draw.integers(0, 5, 300))
    out = metrics.classification(p, label)
    assert out["accuracy"] == pytest.approx(sklearn.accuracy_score(label, p.argmax(1)))
    assert out["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(label, p.argmax(1)))
    assert out["macro_f1"] == pytest.approx(sklearn.f1_score(label, p.argmax(1), average="macro"), abs=1e-6)
    top, right = p.max(1), p.argmax(1) == label
    bins = np.minimum((top * 15).astype(int), 14)
    expected = sum(abs(top[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    assert out["calibration_error"] == pytest.approx(expected, abs=1e-5)
    assert metrics.soft_calibration_error(p, np.eye(5)[label]) == pytest.approx(expected, abs=1e-5)
    assert metrics.cross_entropy(p, np.eye(5)[label]) == pytest.approx(sklearn.log_loss(label, p, labels=range(5)), rel=1e-4)


def test_few_items_look_miscalibrated_even_when_they_are_not() -> None:
    p = np.random.default_rng(3).dirichlet(np.ones(4), 5000).astype(np.float32)
    noise = [metrics.calibration_noise(p[:count], 50) for count in (50, 500, 5000)]
    assert noise[0] > 2 * noise[1] > 4 * noise[2] > 0 and noise[2] < 0.02
    assert metrics.calibration_noise(np.tile(np.array([[1, 0, 0]], np.float32), (30, 1)), 5) == 0


def test_concordance_by_its_definition() -> None:
    draw = np.random.default_rng(2)
    truth = draw.normal(size=(200, 2))
    value = truth * 0.5 + draw.normal(0, 0.4, (200, 2)) + [0.3, 0.0]
    out = metrics.affect(value, truth)
    for k, name in enumerate(("valence", "arousal")):
        x, y = value[:, k], truth[:, k]
        lin = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert out[f"{name}_ccc"] == pytest.approx(lin, abs=2e-3)
        assert out[f"{name}_pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-5)
    assert out["ccc"] == pytest.approx((out["valence_ccc"] + out["arousal_ccc"]) / 2)


def test_each_emotion_by_itself() -> None:
    p = np.array([[0.9, 0.6], [0.2, 0.7], [0.6, 0.1], [0.4, 0.4]])
    truth = np.array([[1, 0], [0, 1], [0, 0], [1, 0]])
    out = metrics.emotions_each(p, truth, ("neutral", "happy"))
    assert out["neutral_accuracy"] == 0.5 and out["happy_accuracy"] == 0.75
    assert out["happy_f1"] == pytest.approx(sklearn.f1_score(truth[:, 1], p[:, 1] > 0.5, average="weighted"))
