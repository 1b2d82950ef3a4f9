"""Every fusion model keeps the contract: masks, padding, batch mates, absence, export, learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fusing import config, model, windows
from torch import Tensor

from models.losses import Targets, TaskLoss
from models.registry import MODELS

KINDS = [(name, kind) for name in MODELS for kind in ("live", "paper")]
each = pytest.mark.parametrize(("name", "kind"), KINDS, ids=[f"{name}-{kind}" for name, kind in KINDS])


def taking_part(name: str, kind: str) -> Tensor:
    return torch.tensor([0.0, 1, 1] if (name, kind) == ("iaca", "paper") else [1.0, 1, 1])


@each
def test_contract(name: str, kind: str) -> None:
    out = model(name, kind)(*windows())
    assert [tuple(part.shape) for part in out] == [(5, 7), (5, 2), (5, 3)]
    assert all(part.isfinite().all() for part in out)
    assert out.affect.abs().max() <= 1 and out.weights.min() >= 0
    assert torch.allclose(out.weights.sum(1), torch.tensor([1.0, 1, 1, 0, 1]), atol=1e-5)
    assert out.weights[1, 2] == 0 and out.weights[2].tolist() == pytest.approx([0, 1, 0])


@each
def test_what_stands_behind_the_mask_never_counts(name: str, kind: str) -> None:
    net, clean = model(name, kind), windows()
    dirty = []
    for m in range(3):
        x, t, mask = (part.clone() for part in clean[3 * m: 3 * m + 3])
        x[mask == 0] = float("nan")
        t[mask == 0] = 17.0
        dirty += [x, t, mask]
    for a, b in zip(net(*clean), net(*dirty), strict=True):
        assert torch.equal(a, b)


@each
def test_batch_mates_never_count(name: str, kind: str) -> None:
    net, inputs = model(name, kind), windows()
    whole = net(*inputs)
    for k in range(5):
        for a, b in zip(whole, net(*(part[k:k + 1] for part in inputs)), strict=True):
            assert torch.allclose(a[k:k + 1], b, atol=1e-5)


# A Conv1d over the time axis (UCRN's projection), pieces of equal numbers of rows (MSAF, IACA) are made for one number of rows.
@pytest.mark.parametrize(("name", "kind"), [k for k in KINDS if k not in (("ucrn", "paper"), ("msaf", "paper"), ("iaca", "paper"))])
def test_padding_never_counts(name: str, kind: str) -> None:
    net, inputs = model(name, kind), windows()
    padded = []
    for m in range(3):
        x, t, mask = inputs[3 * m: 3 * m + 3]
        padded += [torch.nn.functional.pad(x, (0, 0, 0, 8)), torch.nn.functional.pad(t, (0, 8)), torch.nn.functional.pad(mask, (0, 8))]
    for a, b in zip(net(*inputs), net(*padded), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_time_counts(name: str) -> None:
    net, inputs = model(name, "live"), windows()
    moved = list(inputs)
    for m in range(3):
        moved[3 * m + 1] = (inputs[3 * m + 1] * 0.5) * inputs[3 * m + 2]
    assert not torch.allclose(net(*inputs).logits[:3], net(*moved).logits[:3], atol=1e-5)


@each
def test_fits_sixteen_windows(name: str, kind: str) -> None:
    net = model(name, kind, dropout=0.0, dropout_in=0.0)
    inputs = windows(16, seed=3)
    label = torch.arange(16) % 7
    label[3] = 0
    if (name, kind) == ("iaca", "paper"):
        label[2] = label[1] = 0
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(120):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(*inputs).logits, label).backward()
        optimiser.step()
    assert (net(*inputs).logits.argmax(1) == label).float().mean() > 0.9


@each
def test_export_with_static_shapes(name: str, kind: str) -> None:
    net = model(name, kind)
    exported = torch.export.export(net, tuple(windows()), strict=False).module()
    other = windows(seed=9)
    for a, b in zip(net(*other), exported(*other), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("msaf", "paper", {"norm": "layer"}), ("msaf", "paper", {"dropout_twice": True}), ("msaf", "paper", {"lowest": 0.5, "rescale": True}),
    ("msaf", "paper", {"segment": "seconds"}), ("msaf", "paper", {"insertions": (1, 2)}), ("msaf", "live", {"combine": "sum"}),
    ("msaf", "live", {"pool": "mean"}), ("msaf", "live", {"insertions": (1,)}), ("ucrn", "paper", {"temporal": 5}),
    ("ucrn", "paper", {"steps": "last"}), ("ucrn", "paper", {"time": "position", "causal": False}), ("ucrn", "live", {"evidence": False}),
    ("iaca", "live", {"gate_sees": "both"}), ("iaca", "live", {"join": "sum"}),
    ("iaca", "paper", {"use": (0, 1, 2), "pool": "last"}),
    ("mult", "live", {"causal": True, "pool": "last"}), ("late", "live", {"weigh": "equal"}), *((name, kind, {}) for name, kind in KINDS),
]


@pytest.mark.parametrize(("name", "kind", "options"), OPTIONS, ids=[f"{n}-{k}-{','.join(o)}" for n, k, o in OPTIONS])
def test_every_option_trains_a_step(name: str, kind: str, options: dict[str, Any]) -> None:
    net = model(name, kind, **options).train()
    output, aux = net.study(*windows())
    targets = Targets(torch.full((5, 7), 1 / 7), torch.ones(5), torch.rand(5, 2), torch.ones(5))
    loss, parts = MODELS[name].loss(task=TaskLoss(evidence=0.5 if net.config.evidence else 0))(output, aux, targets)
    loss.backward()
    assert loss.isfinite() and parts["class"] > 0
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [n for n in idle if (name, kind) != ("iaca", "paper") or n.split(".")[1] != "0"], idle


def test_configurations_go_through_json_and_bad_options_are_named() -> None:
    for name, kind in KINDS:
        made = config(name, kind)
        assert MODELS[name].config.from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in made.to_dict().items()}) == made
        with pytest.raises(ValueError, match="front"):
            config(name, kind, front="sideways")
