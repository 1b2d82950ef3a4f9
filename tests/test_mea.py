"""What is MEA's own: its options, its published size, attention softmaxed twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fusing import DIMS, ROWS, windows

from models.losses import Targets, TaskLoss
from models.mea import MEA, MEAConfig, MEALoss

SMALL = {"rows": ROWS, "dims": DIMS, "d": 16, "d_h": 12, "heads": 4}
LIVE, PAPER = replace(MEAConfig.live(), **SMALL), replace(MEAConfig.paper(), **SMALL)  # type: ignore[arg-type]


def model(config: MEAConfig, seed: int = 0) -> MEA:
    torch.manual_seed(seed)
    return MEA(config).eval()


def test_time_counts() -> None:
    mea, inputs = model(LIVE), windows()
    moved = list(inputs)
    for m in range(3):
        moved[3 * m + 1] = (inputs[3 * m + 1] * 0.5) * inputs[3 * m + 2]
    assert not torch.allclose(mea(*inputs).logits[:3], mea(*moved).logits[:3], atol=1e-4)


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
    {"evidence": True}, {"heads": 8, "psa_layers": 1, "hca_layers": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(f"{k}={v}" for k, v in o.items()) for o in OPTIONS])
def test_every_option_trains_a_step(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    mea = MEA(replace(PAPER, **options)).train()  # type: ignore[arg-type]
    output, aux = mea.study(*windows())
    targets = Targets(torch.full((5, 7), 1 / 7), torch.ones(5), torch.zeros(5, 2), torch.ones(5))
    loss, _ = MEALoss(task=TaskLoss(evidence=0.5 if mea.config.evidence else 0))(output, aux, targets)
    loss.backward()
    assert loss.isfinite()
    idle = [name for name, p in mea.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="psa_mix"):
        MEAConfig(psa_mix="sometimes")
    with pytest.raises(ValueError, match="multiple of heads"):
        MEAConfig(heads=7)
    assert MEAConfig.from_dict(MEAConfig.live().to_dict()) == MEAConfig.live()


def test_literal_mixing_is_almost_uniform() -> None:
    """Why eq. 2 as printed is not the default: attention after two softmaxes hardly prefers anything."""

    def preference(mix: str) -> float:
        layer = model(replace(PAPER, psa_mix=mix, d=40, heads=8)).psa[1][0]  # type: ignore[index]
        layer.ffn = torch.nn.Identity()
        with torch.no_grad():
            layer.qkv.weight *= 4
            torch.manual_seed(0)
            z = torch.randn(1, 50, 40)
            residual = layer.norm(z)
            values = layer.qkv(residual).chunk(3, -1)[2]
            answer = layer(z, torch.ones(1, 50), torch.randn(1, 8, 50, 50))[0] - residual
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
    mea = MEA(MEAConfig.paper(dims, heads=k, classes=1, affect=0))
    counted = sum(p.numel() for name, p in mea.named_parameters() if not name.startswith("wal."))
    assert counted == expected
    assert 0.7e6 < counted < 0.85e6


