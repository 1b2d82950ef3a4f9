"""Cross-attended features over common time steps, as the systems around IACA make them; B windows, L steps, d features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import BLOCKED, veil


def pairs(use: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Each modality in use with each other one: (m, (n,))."""
    return [(m, (n,)) for m in use for n in use if m != n]


class Correlated(nn.Module):
    """x + the steps of a source that each step of x correlates with: softmax(X W X' / sqrt(d)) X."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.correlate = nn.Linear(d, d, bias=False)
        self.scale = d ** -0.5

    def forward(self, x: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor) -> Tensor:
        """x (B, L, d), mask (B, L), source (B, S, d), source_mask (B, S) -> (B, L, d)."""
        z = x @ self.correlate(source).transpose(1, 2) * self.scale
        attended = (z + ((1 - source_mask) * BLOCKED).unsqueeze(1)).softmax(-1) @ source
        return veil(x + attended, mask)


class CrossAttention(nn.Module):
    """Cross-attended features of m in the light of n (the group's vanilla form): Z = X_m W X_n', softmaxed over the steps of m that each
    step of n asks for; tanh(X_m + attended)."""

    def __init__(self, d: int, scaled: bool = True) -> None:
        super().__init__()
        self.correlate = nn.Linear(d, d, bias=False)
        self.scale = d ** -0.5 if scaled else 1.0

    def forward(self, x: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
        """x, other (B, L, d), masks (B, L). Steps without the other modality keep what they are."""
        z = other @ self.correlate(x).transpose(1, 2) * self.scale
        attended = (z + ((1 - mask) * BLOCKED).unsqueeze(1)).softmax(-1) @ x
        return veil(torch.tanh(x + veil(attended, other_mask)), mask)


class JointAttention(nn.Module):
    """Recursive joint cross-attention (DCA's code): each modality in the light of all together, J = [X_1; ...; X_M].

    C = tanh(K J' / sqrt(M d)) with K a map of X over the time steps; H = ReLU(tanh(X W C)); X + dropout(ReLU(H W)). Layers have
    weights of their own.
    """

    def __init__(self, d: int, steps: int, use: tuple[int, ...], recursions: int, dropout: float) -> None:
        super().__init__()
        self.use, self.recursions = use, recursions
        wide = len(use) * d
        self.together = nn.ModuleList(nn.Linear(wide, wide) for _ in range(recursions))
        self.keys = nn.ModuleList(nn.Linear(steps, steps) for _ in range(recursions * len(use)))
        self.inner = nn.ModuleList(nn.Linear(d, d) for _ in range(recursions * len(use)))
        self.outer = nn.ModuleList(nn.Linear(wide, d) for _ in range(recursions * len(use)))
        self.drop = nn.Dropout(dropout)

    def forward(self, xs: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """xs (B, L, d), masks (B, L) of all modalities -> the same, those in use attended."""
        xs = list(xs)
        anything = torch.stack([masks[m] for m in self.use]).amax(0)
        for k in range(self.recursions):
            joint = torch.cat([xs[m] for m in self.use], -1)
            joint = veil(self.together[k](joint), anything)
            for i, m in enumerate(self.use, k * len(self.use)):
                keys = self.keys[i](xs[m].transpose(1, 2))
                correlation = torch.tanh(keys @ joint * joint.shape[-1] ** -0.5)
                h = functional.relu(torch.tanh(self.inner[i](xs[m]) @ correlation))
                xs[m] = veil(xs[m] + self.drop(functional.relu(self.outer[i](h))), masks[m])
        return xs
