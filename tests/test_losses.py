"""Losses against their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from models.fusion import Output
from models.layers import reverse_gradient
from models.losses import (
    Targets,
    TaskLoss,
    concordance_loss,
    hsic,
    importance_weights,
    jensen_shannon,
    modality_cross_entropy,
    soft_cross_entropy,
    squared_error,
)
from models.mea import Aux, MEALoss


def test_hsic_equals_its_definition_and_vanishes_for_independence() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    u = torch.eye(40, dtype=torch.float64) - 1 / 40
    assert hsic(x, y).item() == pytest.approx((torch.trace(u @ (x @ x.T) @ u @ (y @ y.T)) / 39**2).item())
    many = torch.randn(20000, 4), torch.randn(20000, 4)
    assert hsic(*many).item() < 0.01 < 1 < hsic(many[0], many[0]).item()
    assert hsic(x[:1], y[:1]).item() == 0


def test_gradient_reversal_flips_and_scales() -> None:
    x = torch.ones(3, requires_grad=True)
    (reverse_gradient(x, 0.5) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-0.5, -1.0, -1.5]


def test_jensen_shannon_bounds() -> None:
    sure = torch.tensor([[200.0, 0.0]]).log_softmax(-1)
    assert jensen_shannon(sure, sure.flip(1)).item() == pytest.approx(math.log(2))
    torch.manual_seed(0)
    for scale in (0.1, 1, 10, 1000):
        logits = (torch.randn(2, 64, 30) * scale).requires_grad_()
        log_p, log_q = logits.log_softmax(-1)
        each = jensen_shannon(log_p, log_q)
        assert each.min() >= 0 and each.max() <= math.log(2) + 1e-6
        assert torch.allclose(each, jensen_shannon(log_q, log_p))
        assert jensen_shannon(log_p, log_p).abs().max() < 1e-6
        each.sum().backward()
        assert logits.grad is not None and logits.grad.isfinite().all()
    p, q = torch.tensor([0.2, 0.8]), torch.tensor([0.7, 0.3])
    middle = (p + q) / 2
    plain = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    assert jensen_shannon(p.log(), q.log()).item() == pytest.approx(plain.item())


def test_weighted_task_losses() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]]))
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert soft_cross_entropy(logits, target, torch.tensor([1.0, 0.0])).item() == pytest.approx(-math.log(0.75))
    assert squared_error(torch.tensor([[1.0, 0.0], [9.0, 9.0]]), torch.zeros(2, 2), torch.tensor([1.0, 0.0])).item() == pytest.approx(0.5)
    assert soft_cross_entropy(logits, target, torch.zeros(2)).item() == 0


def test_concordance() -> None:
    x = torch.randn(100)
    assert concordance_loss(x, x).item() == pytest.approx(0, abs=1e-5)
    assert concordance_loss(x - x.mean(), x.mean() - x).item() == pytest.approx(2, abs=1e-5)
    assert concordance_loss(x, x + 10).item() > 0.9


def test_concordance_over_known_rows_only() -> None:
    x, y = torch.randn(20), torch.randn(20)
    known = torch.tensor([1.0] * 12 + [0.0] * 8)
    spoilt = torch.where(known > 0, y, torch.tensor(-5.0))
    assert concordance_loss(x, spoilt, known).item() == pytest.approx(concordance_loss(x[:12], y[:12]).item(), abs=1e-5)
    assert concordance_loss(x, y, torch.zeros(20)).item() == 0


def test_cross_entropy_of_several_decisions() -> None:
    logits = torch.randn(4, 8)
    yes = torch.tensor([[1, 0, 0, 1, 1, 0, 1, 0]]).expand(4, -1).float()
    each = [torch.nn.functional.cross_entropy(logits[:, 2 * k: 2 * k + 2], yes[:, 2 * k: 2 * k + 2]) for k in range(4)]
    assert soft_cross_entropy(logits, yes, torch.ones(4), groups=4).item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-6)


def test_label_smoothing_spreads_the_target_over_all_classes() -> None:
    logits, own = torch.randn(3, 4), torch.zeros(3, 3, 4)
    everyone = torch.ones(3)
    sure = Targets(torch.eye(4)[:3], everyone, torch.zeros(3, 0), everyone)
    spread = replace(sure, classes=0.8 * sure.classes + 0.05)
    output = Output(logits, torch.zeros(3, 0), torch.zeros(3, 3))
    smooth = TaskLoss(smooth=0.2, evidence=1.0).parts(output, own, torch.ones(3, 3), sure)
    told = TaskLoss(evidence=1.0).parts(output, own, torch.ones(3, 3), spread)
    assert smooth["class"].item() == pytest.approx(told["class"].item(), abs=1e-6)
    assert smooth["class"].item() != TaskLoss().parts(output, own, torch.ones(3, 3), sure)["class"].item()


def test_modality_cross_entropy_counts_present_modalities_only() -> None:
    logits = torch.zeros(2, 3, 3)
    present = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert modality_cross_entropy(logits, present, torch.ones(2, 3)).item() == pytest.approx(2 * math.log(3) / 2)
    assert importance_weights(logits).tolist() == [[pytest.approx(2 / 3)] * 3] * 2


def test_importance_gradient_reaches_the_discriminator_only() -> None:
    torch.manual_seed(1)
    h_e, h_a = (torch.randn(6, 3, 4, requires_grad=True) for _ in range(2))
    w = torch.randn(4, 3, requires_grad=True)
    fixed = w.detach()
    aux = Aux(torch.ones(6, 3), h_e, h_a, h_e @ fixed, reverse_gradient(h_a) @ fixed, h_a.detach() @ w, torch.zeros(6, 3, 2))
    output = Output(torch.zeros(6, 2), torch.zeros(6, 2), torch.full((6, 3), 1 / 3))
    targets = Targets(torch.eye(2).repeat(3, 1), torch.ones(6), torch.zeros(6, 2), torch.ones(6))
    loss, parts = MEALoss(alpha=0)(output, aux, targets)
    loss.backward()
    assert w.grad is not None and w.grad.abs().sum() > 0
    assert set(parts) == {"class", "affect", "dis", "agn", "exc", "importance"}
    # The reversed adversary pushes h^a away from telling its modality: its own cross-entropy must rise along -grad.
    assert h_a.grad is not None
    before = modality_cross_entropy(h_a @ w, aux.present, torch.ones(6, 3))
    after = modality_cross_entropy((h_a - 0.1 * h_a.grad) @ w, aux.present, torch.ones(6, 3))
    assert after > before
