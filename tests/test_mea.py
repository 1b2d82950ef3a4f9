"""What is MEA's own: its options, its published size, attention softmaxed twice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fusing import DIMS, ROWS, windows

from models.exclusive import attend
from models.losses import Targets, TaskLoss
from models.mea import MEA, MEAConfig, MEALoss

SMALL = {"rows": ROWS, "dims": DIMS, "d": 16, "d_h": 12, "heads": 4}
LIVE, PAPER = replace(MEAConfig.live(), **SMALL), replace(MEAConfig.paper(), **SMALL)  # type: ignore[arg-type]


def model(config: MEAConfig, seed: int = 0) -> MEA:
    torch.manual_seed(seed)
    return MEA(config).eval()


def test_the_gain_of_the_microphone_does_not_count() -> None:
    mea, inputs = model(LIVE), windows()
    louder = list(inputs)
    louder[3] = inputs[3].clone()
    louder[3][..., :41] += 3.0
    for a, b in zip(mea(*inputs), mea(*louder), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


OPTIONS = [
    {"psa_mix": "literal"}, {"psa_mix": "logits"}, {"psa_mix": "convex"}, {"wal": "lowrank"}, {"wal_scale": "count"}, {"self_loops": True},
    {"pool": "last"}, {"pool": "attention"}, {"temporal": "conv"}, {"time": "seconds"}, {"front": "patches", "strides": (1, 4, 4)},
    {"evidence": True}, {"heads": 8, "psa_layers": 1, "hca_layers": 1}, {"psa_previous": "attention"}, {"scale": "model"}, {"wal": "none"},
    {"discriminator": "linear"}, {"normalise_discriminated": True}, {"reversal_ramp": True},
    {"graph": "concat"}, {"graph": "add"}, {"graph": "multiply"},
    {"without": ("exclusive",)}, {"without": ("agnostic",)}, {"without": ("mixed",)}, {"without": ("coarse",)}, {"without": ("fine",)},
    {"psa_layers": 0}, {"hca_layers": 0},
]
LOSSES = [{}, {"dis": "orthogonal"}, {"importance": "untrained"}, {"importance": "none"}, {"normalise_hsic": True}]


@pytest.mark.parametrize("options", [{}, {"psa_mix": "convex", "hca_layers": 2}, {"pool": "mean"}, {"pool": "last"}], ids=str)
def test_modalities_side_by_side_say_what_each_says_by_itself(options: dict[str, Any]) -> None:
    mea = model(replace(LIVE, rows=(10, 40, 64), strides=(1, 4, 8), **options))
    for config in (mea.config, MEAConfig.live()):
        assert config.groups(1) == ((0, 1, 2),) and config.groups(2) == ((0,), (1,), (2,))
    assert MEAConfig.paper().groups(1) == ((0,), (1,), (2,))
    with torch.no_grad():
        for parameter in mea.parameters():  # Norms begin with ones and zeros, which hide mistakes.
            parameter += 0.1 * torch.randn_like(parameter)
    inputs = windows(rows=(10, 40, 64))
    apart = mea(*inputs)
    together = [torch.cat(parts) for parts in zip(*(mea(*(part[k:k + 1] for part in inputs)) for k in range(5)), strict=True)]
    gradients = []
    for answers in (apart, together):
        mea.zero_grad()
        torch.stack([answer.square().sum() for answer in answers]).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad.clone() for name, p in mea.named_parameters() if p.grad is not None})
    for a, b in zip(apart, together, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, a in gradients[0].items():
        assert torch.allclose(a, gradients[1][name], atol=1e-4 * float(1 + a.abs().max())), name


def step(mea: MEA, loss: MEALoss) -> tuple[dict[str, float], list[str]]:
    """The parts of the loss after a backward pass, and the parameters that it did not reach."""
    mea.train().progress(0.5)
    targets = Targets(torch.full((5, 7), 1 / 7), torch.ones(5), torch.zeros(5, 2), torch.ones(5))
    whole, parts = loss(*mea.study(*windows()), targets)
    whole.backward()  # type: ignore[no-untyped-call]
    assert whole.isfinite()
    return parts, [name for name, p in mea.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(f"{k}={v}" for k, v in o.items()) for o in OPTIONS])
def test_every_option_trains_a_step(options: dict[str, object]) -> None:
    mea = model(replace(PAPER, **options))  # type: ignore[arg-type]
    _, idle = step(mea, MEALoss(task=TaskLoss(evidence=0.5 if mea.config.evidence else 0)))
    gone = mea.config.without[:1]
    assert not [name for name in idle if not gone or (gone[0] not in name and not name.startswith(("temporal", "discriminate")))]


@pytest.mark.parametrize("options", LOSSES, ids=[",".join(o.values()) if "dis" in o or "importance" in o else str(o) for o in LOSSES])
def test_every_form_of_the_loss_trains_a_step(options: dict[str, Any]) -> None:
    parts, idle = step(model(PAPER), MEALoss(**options))
    assert ("importance" in parts) == (options.get("importance", "trained") == "trained")
    assert idle == ([] if "importance" in parts else ["discriminate_importance.weight"])


def test_without_a_branch_its_losses_are_constant() -> None:
    parts, _ = step(model(replace(PAPER, without=("exclusive",))), MEALoss(beta=1.0))
    # Nobody can tell zeros apart: ln 3 for each of the 3 + 2 + 1 + 0 + 3 modalities of the five windows.
    assert parts["dis"] == 0 and parts["exc"] == pytest.approx(9 / 5 * math.log(3))


def test_the_reversal_grows_where_it_is_told_to() -> None:
    mea = model(replace(PAPER, reversal_ramp=True))
    mea.progress(0.0)
    assert mea.reversal == 0
    mea.progress(1.0)
    assert mea.reversal == pytest.approx(1.0, abs=1e-3)
    still = model(PAPER)
    still.progress(0.0)
    assert still.reversal == 1.0


def test_length_tells_discriminators_nothing_where_they_are_told_so() -> None:
    for bounded in (True, False):
        mea = model(replace(LIVE, normalise_discriminated=bounded))
        before = mea.study(*windows())[1]
        with torch.no_grad():
            for parameter in mea.agnostic[2].parameters():
                parameter *= 1000
        after = mea.study(*windows())[1]
        assert after.agnostic.norm() > 500 * before.agnostic.norm()
        for a, b in ((before.importance, after.importance), (before.discriminated_agnostic, after.discriminated_agnostic)):
            assert torch.allclose(a, b, atol=1e-4) == bounded


def test_table_1() -> None:
    assert MEAConfig.paper().heads == 8 and MEAConfig.paper(corpus="mosei").mu == 0.15
    assert MEAConfig.paper(corpus="iemocap").kernels == (3, 5, 3) and MEAConfig.paper(corpus="iemocap", heads=4).heads == 4
    assert (MEALoss.paper("mosei").alpha, MEALoss.paper("mosei").beta) == (3e-2, 5e-2)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="psa_mix"):
        MEAConfig(psa_mix="sometimes")
    with pytest.raises(ValueError, match="without names wings"):
        MEAConfig(without=("wings",))
    with pytest.raises(ValueError, match=r"MEALoss[.]dis is"):
        MEALoss(dis="at all")
    with pytest.raises(ValueError, match=r"TaskLoss[.]values"):
        TaskLoss(values="l3")
    with pytest.raises(ValueError, match="multiple of heads"):
        MEAConfig(heads=7)
    assert MEAConfig.from_dict(MEAConfig.live().to_dict()) == MEAConfig.live()


def test_literal_mixing_is_almost_uniform() -> None:
    """Why eq. 2 as printed is not the default: attention after two softmaxes hardly prefers anything."""

    def preference(mix: str) -> float:
        layer = model(replace(PAPER, psa_mix=mix, d=40, heads=8)).psa[1][0]  # type: ignore[index]
        with torch.no_grad():
            layer.qkv.weight *= 4
            for parameter in layer.ffn.outer.parameters():
                parameter.zero_()
            torch.manual_seed(0)
            z = torch.randn(1, 50, 40)
            residual = layer.norm(z)
            values = layer.qkv(residual).chunk(3, -1)[2]
            answer = attend([layer], z.unsqueeze(0), torch.ones(1, 1, 50), torch.randn(1, 8, 50, 50))[0][0] - residual
            return float((answer - values.mean(1, keepdim=True)).norm() / values.norm())

    assert preference("literal") < 0.3 * preference("logits")


def test_parameter_count_of_the_published_size() -> None:
    """MOSEI sizes without WAL: 0.78 M by hand with the FFN four times as wide; the parts counted here one by one."""
    d, h, k, dims = 40, 64, 10, (300, 74, 35)
    norm, ffn = 2 * d, 8 * d * d + 5 * d + 2 * d
    conv = sum(3 * dim * d + d for dim in dims)
    lstm = 3 * 2 * (4 * 20 * (d + 20) + 8 * 20)
    psa = 3 * (3 * (norm + 3 * d * d + ffn) + 2 * (9 * k * k + k))
    mru = 2 * norm + 3 * d * d + ffn
    encoders = 4 * (d * h + h + h * h + h)
    graphs = 2 * (h * h + 2 * h + 1)
    head = 2 * h * h + h + h + 1
    discriminators = (h * h + h + 3 * h + 3) + 3 * h
    expected = conv + lstm + psa + 2 * 12 * mru + encoders + graphs + head + discriminators
    mea = MEA(MEAConfig.paper(dims, "mosei", classes=1, affect=0))
    counted = sum(p.numel() for name, p in mea.named_parameters() if not name.startswith("wal."))
    assert counted == expected
    assert 0.7e6 < counted < 0.85e6


