"""What is IACA's own: two stages of gates, values a step with the CCC loss, the joint form of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fusing import config, model, windows
from torch import Tensor

from models.crossattention import CrossAttention, JointAttention
from models.iaca import IACAConfig, IACALoss, into_steps
from models.losses import Targets, TaskLoss


@pytest.mark.parametrize("options", [{}, {"joint_branch": True}, {"cross": "joint"}, {"use": (1, 2)}, {"gate_sees": "both"}])
def test_gates_sum_to_one(options: dict[str, Any]) -> None:
    _, aux = model("iaca", "live", **options).study(*windows())
    assert torch.allclose(aux.gates.sum(-1), aux.steps_mask, atol=1e-5)
    assert aux.crossed.min() >= 0 and aux.crossed.max() <= 1
    assert (aux.crossed[aux.crossed_mask == 0] == 0).all() and (aux.crossed[aux.crossed_mask > 0] > 0).all()
    assert aux.crossed_mask[2].max() == 0  # The voice alone has no partner.


def test_low_temperature_makes_gates_hard() -> None:
    def softness(temperature: float) -> float:
        _, aux = model("iaca", "live", temperature=temperature).study(*windows())
        share = aux.crossed[aux.crossed_mask > 0]
        return float((share * (1 - share)).mean())

    assert softness(0.01) < 0.5 * softness(1.0)


def test_gates_anneal_where_they_are_told_to() -> None:
    net = model("iaca", "paper", anneal=True)
    assert net.temperature == pytest.approx(0.1)
    for share, expected in ((0.0, 1.0), (0.25, 0.1 ** 0.5), (0.5, 0.1), (1.0, 0.1)):
        net.progress(share)
        assert net.temperature == pytest.approx(expected)


def steps(labels: Tensor, weight: Tensor | None = None) -> Targets:
    n = len(labels)
    return Targets(torch.zeros(n, 0), torch.zeros(n), torch.zeros(n, 2), torch.zeros(n), labels, weight)


def test_steps_are_told_by_concordance_and_unlabelled_ones_ignored() -> None:
    net = model("iaca", "paper", classes=0)
    output, aux = net.study(*windows())
    own = aux.steps.detach()
    loss, parts = IACALoss()(output, aux, steps(own))
    assert parts["steps"] == pytest.approx(0, abs=1e-4) and parts["affect"] == 0
    loss, parts = IACALoss()(output, aux, steps(-own + 0.5))
    assert parts["steps"] > 2
    known = torch.ones(own.shape[:2])
    known[:, ::2] = 0
    spoilt = torch.where(known.unsqueeze(-1) > 0, own, torch.tensor(-5.0))
    assert IACALoss()(output, aux, steps(spoilt, known))[1]["steps"] == pytest.approx(0, abs=1e-4)
    assert 0 <= parts["gate_cross"] <= 1
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(head[-1].weight.grad.abs().sum() > 0 for head in net.regress)
    with pytest.raises(ValueError, match=r"IACAConfig.steps"):
        IACALoss()(output, aux, steps(own[:, :2]))


def test_the_last_step_is_the_window_where_it_is_read_last() -> None:
    output, aux = model("iaca", "paper", pool="last").study(*windows())
    last = [int(mask.nonzero().max()) for mask in aux.steps_mask if mask.any()]
    some = aux.steps_mask.any(1)
    assert torch.allclose(output.affect[some], torch.stack([s[k] for s, k in zip(aux.steps[some], last, strict=True)]), atol=1e-6)


def test_learns_steps() -> None:
    torch.manual_seed(0)
    net = model("iaca", "paper", classes=0, dropout=0.0, dropout_in=0.0)
    inputs = windows(8, seed=2)
    labels = torch.rand(8, 5, 2) * 2 - 1
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    errors = []
    for _ in range(25):
        optimiser.zero_grad()
        loss, parts = IACALoss(task=TaskLoss(affect=0))(*net.study(*inputs), steps(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        errors.append(parts["steps"])
    assert errors[-1] < 0.7 * errors[0]


def test_rows_fall_into_steps() -> None:
    c = config("iaca", "paper", steps=4, time="position")
    x = torch.arange(8.0).reshape(1, 8, 1)
    mask = torch.tensor([[1.0] * 5 + [0.0] * 3])
    out, filled = into_steps(x, torch.zeros(1, 8), mask, c, 8)
    assert out.flatten().tolist() == [0.5, 2.5, 4.0, 0.0] and filled.tolist() == [[1, 1, 1, 0]]
    live = config("iaca", "live", steps=4)
    out, filled = into_steps(x[:, :3], torch.tensor([[-3.9, -3.5, -0.2]]), torch.ones(1, 3), live, 8)
    assert out.flatten().tolist() == [0.5, 0.0, 0.0, 2.0] and filled.tolist() == [[1, 0, 0, 1]]


def test_vanilla_attention_as_written() -> None:
    """X_m softmax(X_m' W X_n) by columns, one step of n after the other."""
    torch.manual_seed(0)
    cross = CrossAttention(4, scaled=False)
    a, b, mask = torch.randn(1, 5, 4), torch.randn(1, 5, 4), torch.ones(1, 5)
    z = a[0] @ cross.correlate.weight.T @ b[0].T
    expected = torch.tanh(a[0] + (a[0].T @ z.softmax(0)).T)
    assert torch.allclose(cross(a, b, mask, mask)[0], expected, atol=1e-6)


def test_joint_attention_as_in_the_public_code() -> None:
    torch.manual_seed(0)
    d, length = 4, 6
    joint = JointAttention(d, length, (1, 2), 1, 0.0)
    per = (length * length + length) + (d * d + d) + (2 * d * d + d)
    assert sum(p.numel() for p in joint.parameters()) == 2 * per + (4 * d * d + 2 * d)
    xs, masks = [torch.randn(1, length, d) for _ in range(3)], [torch.ones(1, length)] * 3
    out = joint(xs, masks)
    together = joint.together[0](torch.cat(xs[1:], -1))
    correlation = torch.tanh(joint.keys[1](xs[2].transpose(1, 2)) @ together / (2 * d) ** 0.5)
    h = torch.relu(torch.tanh(joint.inner[1](xs[2]) @ correlation))
    assert torch.allclose(out[2], xs[2] + torch.relu(joint.outer[1](h)), atol=1e-6)
    assert out[0] is xs[0]


def test_the_papers_form_has_voice_and_face() -> None:
    assert IACAConfig.paper().use == (1, 2)
    weights = model("iaca", "paper")(*windows()).weights
    assert (weights[:, 0] == 0).all()
