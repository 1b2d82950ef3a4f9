"""The references: MulT's published size and late fusion's arithmetic."""

from __future__ import annotations

import pytest
import torch
from fusing import model, windows

from models.mult import MulT, MulTConfig
from models.transformer import future

MOSEI, MOSI = (300, 74, 35), (300, 5, 20)


@pytest.mark.parametrize(("dims", "layers", "size"), [(MOSEI, 5, 1_073_731), (MOSI, 5, 1_071_211), (MOSEI, 4, 874_651)])
def test_size_of_the_public_code(dims: tuple[int, int, int], layers: int, size: int) -> None:
    assert sum(p.numel() for p in MulT(MulTConfig.paper(dims, layers=layers)).parameters()) == size


def test_what_a_row_may_see() -> None:
    """The public code's mask of two lengths: row i sees the source up to i + the difference."""
    allowed = future(torch.ones(1, 3), torch.ones(1, 5))[0, 0] == 0
    assert allowed.tolist() == [[True] * 3 + [False] * 2, [True] * 4 + [False], [True] * 5]
    padded = future(torch.tensor([[1.0, 1, 1, 0, 0]]), torch.tensor([[1.0, 1, 1, 1, 1, 0]]))[0, 0] == 0
    assert padded[:3, :5].tolist() == allowed.tolist()


def test_late_fusion_adds_evidence_and_averages_values() -> None:
    net, inputs = model("late", "live", weigh="equal"), windows()
    output, aux = net.study(*inputs)
    assert torch.allclose(output.logits[0], aux.evidence[0].sum(0), atol=1e-5)  # All three are there, a third of the weight each.
    assert torch.allclose(output.logits[2], aux.evidence[2, 1], atol=1e-5)  # The voice alone.
    assert torch.equal(output.weights[1], torch.tensor([0.5, 0.5, 0]))
