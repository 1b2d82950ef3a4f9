"""Every fusion model keeps the contract: masks, padding, batch mates, absence, export, learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fusing import config, model, windows

from models.fusion import FusionModel
from models.losses import Targets, TaskLoss
from models.registry import MODELS

KINDS = [(name, kind) for name in MODELS for kind in ("live", "paper")]
each = pytest.mark.parametrize(("name", "kind"), KINDS, ids=[f"{name}-{kind}" for name, kind in KINDS])


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


# A Conv1d over the time axis (UCRN's projection) is made for one number of rows.
@pytest.mark.parametrize(("name", "kind"), [k for k in KINDS if k != ("ucrn", "paper")])
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use", [(0,), (1, 2)], ids=["text", "voice-face"])
def test_what_is_not_in_use_never_counts(name: str, use: tuple[int, ...]) -> None:
    net, inputs = model(name, "live", use=use), windows()
    other = [part if k // 3 in use else changed for k, (part, changed) in enumerate(zip(inputs, windows(seed=7), strict=True))]
    for a, b in zip(net(*inputs), net(*other), strict=True):
        assert torch.equal(a, b)
    weights = net(*inputs).weights
    assert weights[0, list(use)].sum().item() == pytest.approx(1, abs=1e-5)


@each
def test_fits_sixteen_windows(name: str, kind: str) -> None:
    dropouts = [field for field, value in vars(config(name, kind)).items() if "dropout" in field and type(value) is float]
    net = model(name, kind, **dict.fromkeys(dropouts, 0.0))
    inputs = windows(16, seed=3)
    label = torch.arange(16) % 7
    label[3] = 0
    if (name, kind) == ("iaca", "paper"):  # Voice and face only: nothing tells windows 1 and 2 apart from others like them.
        label[2] = label[1] = 0
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    right = 0.0
    for _ in range(150):
        logits = net(*inputs).logits
        right = float((logits.argmax(1) == label).float().mean())
        if right > 0.9:
            break
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, label).backward()
        optimiser.step()
    assert right > 0.9


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name: str, precision: torch.dtype) -> None:
    """GPUs compute so: nothing overflows, whatever is absent."""
    net, inputs = model(name, "live"), windows(12)
    whole = net(*inputs)
    half = net.to(precision)(*(part.to(precision) for part in inputs))
    assert all(part.isfinite().all() for part in half)
    if name != "msaf":  # Its time segments have hard borders, which a rounded time may cross.
        distance = (whole.logits.softmax(1) - half.logits.float().softmax(1)).abs().max()
        assert distance < (0.01 if precision == torch.float16 else 0.05)


@pytest.mark.parametrize("name", MODELS)
def test_export_at_live_shapes(name: str) -> None:
    net = MODELS[name].build(MODELS[name].config.live()).eval()
    rows = net.config.rows
    exported = torch.export.export(net, tuple(windows(rows=rows)), strict=False).module()
    other = windows(seed=9, rows=rows)
    for a, b in zip(net(*other), exported(*other), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_live_models_are_small_and_take_over_trained_front_ends(name: str) -> None:
    net = MODELS[name].build(MODELS[name].config.live())
    assert sum(p.numel() for p in net.parameters()) <= 1_000_000
    first = MODELS["mea"].build(MODELS["mea"].config.live()).fronts.state_dict()
    net.fronts.load_state_dict(first)


OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("msaf", "paper", {"norm": "layer"}), ("msaf", "paper", {"dropout_twice": True}),
    ("msaf", "paper", {"lowest": 0.5, "rescale": "present"}),
    ("msaf", "paper", {"segment": "seconds"}), ("msaf", "paper", {"insertions": (1, 2)}), ("msaf", "paper", {"widths": (20, 9, 13)}),
    ("msaf", "live", {"combine": "sum"}), ("msaf", "live", {"pool": "mean"}), ("msaf", "live", {"insertions": (1,)}),
    ("ucrn", "paper", {"temporal": 5}), ("ucrn", "paper", {"steps": "last"}), ("ucrn", "paper", {"time": "position", "causal": False}),
    ("ucrn", "paper", {"urm": "figure"}), ("ucrn", "paper", {"squeeze": 0}), ("ucrn", "live", {"evidence": False}),
    ("iaca", "live", {"gate_sees": "both"}), ("iaca", "live", {"join": "sum"}), ("iaca", "live", {"joint_branch": True}),
    ("iaca", "live", {"attend": "correlation", "scaled": False}), ("iaca", "live", {"cross": "joint"}),
    ("iaca", "paper", {"use": (0, 1, 2), "pool": "last"}), ("iaca", "paper", {"cross": "joint", "anneal": True}),
    ("mult", "live", {"causal": True, "pool": "last"}), ("late", "live", {"weigh": "equal"}),
    *((name, "live", {"front": "speech"}) for name in MODELS), *((name, kind, {}) for name, kind in KINDS),
]


def idle(net: FusionModel) -> list[str]:
    """Parameters that a training step does not reach."""
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(("name", "kind", "options"), OPTIONS, ids=[f"{n}-{k}-{','.join(o)}" for n, k, o in OPTIONS])
def test_every_option_trains_a_step(name: str, kind: str, options: dict[str, Any]) -> None:
    net = model(name, kind, **options).train()
    net.progress(0.1)
    output, aux = net.study(*windows())
    targets = Targets(torch.full((5, 7), 1 / 7), torch.ones(5), torch.rand(5, 2), torch.ones(5))
    loss, parts = MODELS[name].loss(task=TaskLoss(evidence=0.5 if net.config.evidence else 0))(output, aux, targets)
    loss.backward()
    assert loss.isfinite() and parts["class"] > 0
    # The encoders of a modality that is not in use are idle, and nothing else.
    assert not [one for one in idle(net) if "0" not in one.split(".") or 0 in net.config.use], idle(net)


def test_models_ask_for_front_ends_of_their_width() -> None:
    for name in set(MODELS) - {"msaf"}:  # MSAF's first stage is recurrent and takes rows of any width.
        with pytest.raises(ValueError, match="widths"):
            model(name, "paper", front="none")


def test_configurations_go_through_json_and_bad_options_are_named() -> None:
    for name, kind in KINDS:
        made = config(name, kind)
        assert MODELS[name].config.from_dict({k: list(v) if isinstance(v, tuple) else v for k, v in made.to_dict().items()}) == made
        with pytest.raises(ValueError, match="front"):
            config(name, kind, front="sideways")
