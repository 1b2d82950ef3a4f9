"""The modality-exclusive branch of MEA: predictive self-attention and weighted attention.

As in `abreast`, M modalities go through it side by side or each by itself; B windows, T rows, d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import abreast
from models.abreast import Layers
from models.layers import BLOCKED, FeedForward, feed_forward, key_bias, mean_over_time, merge_heads, split_heads, veil


class PredictiveSelfAttention(nn.Module):
    """The weights of a PSA layer (eq. 2 to 4) for one modality: self-attention whose map is partly predicted from the previous layer's
    by a convolution. `scale` multiplies the logits; for `mix`, `previous` and `mu` see `MEAConfig`."""

    def __init__(
        self, d: int, heads: int, ffn: int, dropout: float, scale: float, mix: str, previous: str, mu: float, first: bool,
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.mix, self.previous, self.mu = heads, scale, mix, previous, mu
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.predict = None if first else nn.Conv2d(heads, heads, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.ffn = FeedForward(d, ffn, dropout)


def attend(layers: Layers, z: Tensor, mask: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
    """`PredictiveSelfAttention`s abreast: z (M, B, T, d), mask (M, B, T), the previous layer's map (M B, heads, T, T) or None
    -> new z and this layer's map."""
    one = layers[0]
    residual = abreast.norm([layer.norm for layer in layers], z)  # Not zero behind the mask; no other row hears of it.
    qkv = abreast.linear([layer.qkv for layer in layers], residual)
    q, k, v = (split_heads(x.flatten(0, 1), one.heads) for x in qkv.chunk(3, -1))
    logits = q @ k.transpose(-1, -2) * one.scale
    flat = mask.flatten(0, 1)
    bias = key_bias(flat)
    if previous is None or one.predict is None:
        attention = (logits + bias).softmax(-1)
    else:
        predicted = functional.gelu(_predict(layers, previous * (flat[:, None, :, None] * flat[:, None, None, :])))
        if one.mix == "literal":
            attention = (one.mu * predicted + (1 - one.mu) * (logits + bias).softmax(-1) + bias).softmax(-1)
        elif one.mix == "logits":
            logits = one.mu * predicted + (1 - one.mu) * logits
            attention = (logits + bias).softmax(-1)
        else:
            attention = (1 - one.mu) * (logits + bias).softmax(-1) + one.mu * (predicted + bias).softmax(-1)
    z = residual + one.drop(merge_heads(attention @ v).reshape(z.shape))
    return veil(feed_forward([layer.ffn for layer in layers], z), mask), logits if one.previous == "logits" else attention


def _predict(layers: Layers, maps: Tensor) -> Tensor:
    """Each modality's convolution over its own maps (M B, heads, T, T)."""
    if len(layers) == 1:
        return cast(Tensor, layers[0].predict(maps))
    convolutions = [layer.predict for layer in layers]
    weight, bias = abreast.stacked(convolutions, "weight").flatten(0, 1), abreast.stacked(convolutions, "bias").flatten()
    return functional.conv2d(maps.flatten(0, 1).unsqueeze(0), weight, bias, padding=1, groups=len(layers)).reshape(maps.shape)


class WeightedAttention(nn.Module):
    """WAL (eq. 5 and 6): one weight a modality from its own sequence, softmaxed over the modalities that are present.

    From the mean over time, or with `rank` from the flattened sequence of so many `tokens`; with `count` what is scaled is scaled by the
    number of modalities present besides.
    """

    def __init__(self, d: int, tokens: Sequence[int], rank: int | None, count: bool) -> None:
        super().__init__()
        self.flat, self.count = rank is not None, count
        sizes = [(d, d) if rank is None else (n * d, rank) for n in tokens]
        self.inner = nn.ModuleList(nn.Linear(size, width) for size, width in sizes)
        self.outer = nn.ModuleList(nn.Linear(width, 1, bias=False) for _, width in sizes)

    def forward(
        self, groups: Sequence[tuple[int, ...]], zs: Sequence[Tensor], masks: Sequence[Tensor], present: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        """zs (M, B, T, d), masks (M, B, T) of each group of modalities, present (B, 3) -> the sequences, scaled, and psi (B, 3)."""
        scores = []
        for who, z, mask in zip(groups, zs, masks, strict=True):
            rows = z.flatten(0, 1)
            summary = (rows.flatten(1) if self.flat else mean_over_time(rows, mask.flatten(0, 1))).reshape(*z.shape[:2], -1)
            inner, outer = ([layers[m] for m in who] for layers in (self.inner, self.outer))
            scores.append(abreast.linear(outer, torch.tanh(abreast.linear(inner, summary))).squeeze(-1))
        psi = (torch.cat(scores).transpose(0, 1) + (1 - present) * BLOCKED).softmax(1) * present
        scale = psi * present.sum(1, keepdim=True) if self.count else psi
        each = scale.transpose(0, 1)[:, :, None, None]
        return [z * each[who[0]:who[-1] + 1] for who, z in zip(groups, zs, strict=True)], psi
