"""One modality in the light of others: MEA's hierarchy of mixed references, and what the systems around IACA make of common time steps.

B windows, T or S rows, L common steps, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import BLOCKED, FeedForward, any_row, key_bias, merge_heads, split_heads, veil


class MixedReference(nn.Module):
    """MRU(Z_s, Z_t) (MEA, eq. 7 to 9): the target asks, the source answers."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.norm_target, self.norm_source = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)
        self.drop = nn.Dropout(dropout)
        self.ffn = FeedForward(d, ffn, dropout)

    def forward(self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor) -> Tensor:
        """source (B, S, d), target (B, T, d), their masks -> (B, T, d)."""
        residual = self.norm_target(target)
        q = split_heads(self.query(residual), self.heads)
        k, v = (split_heads(x, self.heads) for x in self.key_value(self.norm_source(source)).chunk(2, -1))
        bias = key_bias(source_mask).expand(-1, 1, target.shape[1], -1)
        asked = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        asked = merge_heads(asked) * any_row(source_mask)[:, None, None]
        return veil(self.ffn(residual + self.drop(asked)), target_mask)


class HierarchicalCrossModal(nn.Module):
    """One HCA layer (MEA, eq. 10): for each target a mixed, a coarse and two fine units, less those named in `without`."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, scale: float | None = None, without: tuple[str, ...] = ()) -> None:
        super().__init__()

        def unit() -> MixedReference:
            return MixedReference(d, heads, ffn, dropout, scale)

        self.mixed = nn.ModuleList(unit() for _ in range(3)) if "mixed" not in without else None
        self.coarse = nn.ModuleList(unit() for _ in range(3)) if "coarse" not in without else None
        self.fine = nn.ModuleList(nn.ModuleList(unit() for _ in range(2)) for _ in range(3)) if "fine" not in without else None

    def forward(self, zs: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """zs (B, T_m, d), masks (B, T_m) of the three modalities -> the same, each with what the others told it."""
        everything, every_mask = torch.cat(zs, 1), torch.cat(masks, 1)
        out = []
        for m, z in enumerate(zs):
            a, b = (n for n in range(3) if n != m)
            if self.mixed is not None:
                z = self.mixed[m](everything, every_mask, z, masks[m])
            if self.coarse is not None:
                z = self.coarse[m](torch.cat([zs[a], zs[b]], 1), torch.cat([masks[a], masks[b]], 1), z, masks[m])
            if self.fine is not None:
                fine = self.fine[m]
                assert isinstance(fine, nn.ModuleList)
                z = fine[0](zs[a], masks[a], z, masks[m]) + fine[1](zs[b], masks[b], z, masks[m])
            out.append(z)
        return out


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
