"""MEA keeps the contract of the fusion models, with every option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.losses import Targets, TaskLoss
from models.mea import MEA, MEAConfig, MEALoss

ROWS = (6, 21, 13)
DIMS = (67, 44, 39)
SMALL = {"rows": ROWS, "dims": DIMS, "d": 16, "d_h": 12, "heads": 4}
LIVE, PAPER = replace(MEAConfig.live(), **SMALL), replace(MEAConfig.paper(), **SMALL)  # type: ignore[arg-type]


def windows(batch: int = 5, seed: int = 0, rows: tuple[int, ...] = ROWS) -> list[Tensor]:
    """Random windows; row 0 has everything, row 1 no face, row 2 voice alone, row 3 nothing, the rest everything, all of ragged lengths."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for m, (n, dim) in enumerate(zip(rows, DIMS, strict=True)):
        length = torch.randint(n // 2, n + 1, (batch, 1), generator=draw)
        mask = (torch.arange(n) < length).float()
        for row, absent in ((1, (2,)), (2, (0, 2)), (3, (0, 1, 2))):
            if row < batch and m in absent:
                mask[row] = 0
        x = torch.randn(batch, n, dim, generator=draw) * mask.unsqueeze(-1)
        t = (torch.rand(batch, n, generator=draw) * -4).sort(1).values * mask
        out += [x, t, mask]
    return out


def model(config: MEAConfig, seed: int = 0) -> MEA:
    torch.manual_seed(seed)
    return MEA(config).eval()


@pytest.mark.parametrize("config", [LIVE, PAPER], ids=["live", "paper"])
def test_contract(config: MEAConfig) -> None:
    inputs = windows()
    out = model(config)(*inputs)
    assert [tuple(part.shape) for part in out] == [(5, 7), (5, 2), (5, 3)]
    assert all(part.isfinite().all() for part in out)
    assert out.affect.abs().max() <= 1 and out.weights.min() >= 0
    assert torch.allclose(out.weights.sum(1), torch.tensor([1.0, 1, 1, 0, 1]), atol=1e-5)
    assert out.weights[1, 2] == 0 and out.weights[2].tolist() == [0, 1, 0]


@pytest.mark.parametrize("config", [LIVE, PAPER], ids=["live", "paper"])
def test_what_stands_behind_the_mask_never_counts(config: MEAConfig) -> None:
    mea, clean = model(config), windows()
    dirty = []
    for m in range(3):
        x, t, mask = (part.clone() for part in clean[3 * m: 3 * m + 3])
        x[mask == 0] = float("nan")
        t[mask == 0] = 17.0
        dirty += [x, t, mask]
    for a, b in zip(mea(*clean), mea(*dirty), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("config", [LIVE, PAPER], ids=["live", "paper"])
def test_padding_and_batch_mates_never_count(config: MEAConfig) -> None:
    mea, inputs = model(config), windows()
    whole = mea(*inputs)
    for k in range(5):
        for a, b in zip(whole, mea(*(part[k:k + 1] for part in inputs)), strict=True):
            assert torch.allclose(a[k:k + 1], b, atol=1e-5)
    padded = []
    for m in range(3):
        x, t, mask = inputs[3 * m: 3 * m + 3]
        padded += [torch.nn.functional.pad(x, (0, 0, 0, 7)), torch.nn.functional.pad(t, (0, 7)), torch.nn.functional.pad(mask, (0, 7))]
    for a, b in zip(whole, mea(*padded), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


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


def test_fits_sixteen_windows() -> None:
    torch.manual_seed(0)
    mea = MEA(replace(LIVE, dropout=0.0, dropout_in=0.0))
    inputs = windows(16, seed=3)
    label = torch.arange(16) % 7
    label[3] = 0
    optimiser = torch.optim.Adam(mea.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(mea(*inputs).logits, label).backward()
        optimiser.step()
    assert (mea(*inputs).logits.argmax(1) == label).float().mean() > 0.9


@pytest.mark.parametrize("config", [LIVE, PAPER], ids=["live", "paper"])
def test_export_with_static_shapes(config: MEAConfig) -> None:
    mea, inputs = model(config), tuple(windows())
    exported = torch.export.export(mea, inputs, strict=False).module()
    other = windows(seed=9)
    for a, b in zip(mea(*other), exported(*other), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
