"""What is UCRN's own: the public code's size, refinement, its divergence."""

from __future__ import annotations

import math

import pytest
import torch
from fusing import model, windows

from models.transformer import TransformerEncoder
from models.ucrn import UCRN, SelfQuality, UCRNConfig, divergence


@pytest.mark.parametrize(("dims", "rows", "size"), [((300, 74, 35), (50, 500, 500), 690_031), ((300, 5, 20), (50, 375, 500), 687_386)])
def test_size_of_the_public_code(dims: tuple[int, int, int], rows: tuple[int, int, int], size: int) -> None:
    assert sum(p.numel() for p in UCRN(UCRNConfig.paper(dims, rows=rows)).parameters()) == size


def test_divergence_is_bounded_and_zero_for_equals() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    wild = torch.randn(4, 3, 2, 30) * 50
    for k in range(4):
        assert 0 <= divergence(wild[k:k + 1], present[k:k + 1]).item() <= math.log(2) + 1e-6
    assert divergence(wild[:1], present[:1]).item() > 0.5
    assert divergence(wild[2:], present[2:]).item() == 0  # One modality is no pair.
    assert divergence(wild[:, :1].expand(-1, 3, -1, -1), present).item() == pytest.approx(0, abs=1e-6)


def test_the_public_form_is_unbounded() -> None:
    """On unit normals it is d sqrt(e) / 2 on average, 24.7 for 30 features, and it grows without end with their scale."""
    torch.manual_seed(0)
    normal, present = torch.randn(20_000, 3, 1, 30), torch.ones(20_000, 3)
    assert divergence(normal, present, "code").item() == pytest.approx(15 * math.exp(0.5), rel=0.03)
    assert divergence(3 * normal[:64], present[:64], "code").item() > 1000


def test_self_quality_weighs_features_down() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 16)
    ratio = SelfQuality(16, 0)(x) / x
    assert ratio.min() > 0 and ratio.max() < 1
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4)  # One gate a feature, the same for all steps.


@pytest.mark.parametrize("residual_first", [False, True])
def test_causal_rows_see_no_later_ones(residual_first: bool) -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, 2, 2, causal=True, residual_first=residual_first).eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6)
    later = x.clone()
    later[:, 4:] = torch.randn(2, 2, 8)
    a, b = (encoder(one, mask, torch.zeros_like(x)) for one in (x, later))
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.allclose(a[:, 4:], b[:, 4:])


def test_crossmodal_refinement_attends_between_steps() -> None:
    """With one step a modality (the public default) attention has nothing to choose from: its queries learn nothing."""

    def gradient(temporal: int) -> float:
        net = model("ucrn", "paper", temporal=temporal)
        net(*windows()).logits.square().sum().backward()
        return float(net.crm.layers[0].query.weight.grad.abs().max())  # type: ignore[union-attr, index]

    assert gradient(1) < 1e-3 * gradient(5)


def test_subset_models_are_narrower() -> None:
    whole, pair = (model("ucrn", "paper", use=use) for use in ((0, 1, 2), (0, 2)))
    assert pair.head.in_features * 3 == whole.head.in_features * 2  # type: ignore[union-attr, operator]
    assert (pair(*windows()).weights[:, 1] == 0).all()
