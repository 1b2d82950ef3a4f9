"""One modality in the light of others: MEA's hierarchy of mixed references, and what the systems around IACA make of common time steps.

B windows, T or S rows, L common steps, d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import abreast
from models.abreast import Layers
from models.layers import BLOCKED, FeedForward, any_row, feed_forward, key_bias, merge_heads, split_heads, veil


class MixedReference(nn.Module):
    """The weights of an MRU(Z_s, Z_t) (MEA, eq. 7 to 9): the target asks, the source answers."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.norm_target, self.norm_source = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)
        self.drop = nn.Dropout(dropout)
        self.ffn = FeedForward(d, ffn, dropout)


def refer(units: Layers, source: Tensor, source_mask: Tensor, target: Tensor) -> Tensor:
    """`MixedReference`s abreast: source (M or 1, B, S, d) and its mask, target (M, B, T, d) -> (M, B, T, d), no zeros behind
    the target's mask."""
    m, heads = len(units), units[0].heads
    residual = abreast.norm([unit.norm_target for unit in units], target)
    query = abreast.linear([unit.query for unit in units], residual)
    key_value = abreast.linear([unit.key_value for unit in units], source, [unit.norm_source for unit in units])
    q, k, v = (split_heads(x.flatten(0, 1), heads) for x in (query, *key_value.chunk(2, -1)))
    bias = key_bias(source_mask.expand(m, -1, -1).flatten(0, 1)).expand(-1, 1, target.shape[2], -1)
    asked = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=units[0].scale)
    asked = merge_heads(asked).reshape(target.shape) * any_row(source_mask)[..., None, None]
    return feed_forward([unit.ffn for unit in units], residual + units[0].drop(asked))


class HierarchicalCrossModal(nn.Module):
    """One HCA layer (MEA, eq. 10): for each target a mixed, a coarse and two fine units, less those named in `without`."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float, scale: float | None = None, without: tuple[str, ...] = ()) -> None:
        super().__init__()

        def unit() -> MixedReference:
            return MixedReference(d, heads, ffn, dropout, scale)

        self.mixed = nn.ModuleList(unit() for _ in range(3)) if "mixed" not in without else None
        self.coarse = nn.ModuleList(unit() for _ in range(3)) if "coarse" not in without else None
        self.fine = nn.ModuleList(nn.ModuleList(unit() for _ in range(2)) for _ in range(3)) if "fine" not in without else None

    def forward(self, groups: Sequence[tuple[int, ...]], zs: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """zs (M, B, T, d), masks (M, B, T) of each group of modalities, all three in one or each by itself -> the same, each with what the
        others told it."""
        everything = torch.cat([z.transpose(0, 1).flatten(1, 2) for z in zs], 1).unsqueeze(0)
        every_mask = torch.cat([mask.transpose(0, 1).flatten(1, 2) for mask in masks], 1).unsqueeze(0)
        out = []
        for who, z, mask, (a, b), (mask_a, mask_b) in zip(groups, zs, masks, others(zs), others(masks), strict=True):
            if self.mixed is not None:
                z = refer([self.mixed[m] for m in who], everything, every_mask, z)
            if self.coarse is not None:
                z = refer([self.coarse[m] for m in who], torch.cat([a, b], 2), torch.cat([mask_a, mask_b], 2), z)
            if self.fine is not None:
                first, second = ([cast(nn.ModuleList, self.fine[m])[k] for m in who] for k in (0, 1))
                if a.shape == b.shape:
                    told = refer(first + second, torch.cat([a, b]), torch.cat([mask_a, mask_b]), torch.cat([z, z]))
                    z = told.reshape(2, *z.shape).sum(0)
                else:
                    z = refer(first, a, mask_a, z) + refer(second, b, mask_b, z)
            out.append(veil(z, mask))
        return out


def others(xs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For each group of modalities its members' first and second other modality; xs (M, ...)."""
    if len(xs) == 1:
        text, voice, face = xs[0].chunk(3)
        return [(torch.cat([voice, text, text]), torch.cat([face, face, voice]))]
    return [(xs[1], xs[2]), (xs[0], xs[2]), (xs[0], xs[1])]


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
