"""Blocks that the fusion models share: masks, time codes, front ends, temporal encoders, attention, pooling, gradient reversal.

Shapes: B windows, T rows, D features, d model width. A mask is (B, T) float, 1 for a row and 0 for padding. Every block leaves
zeros behind the mask, divides by nothing that can be zero and never branches on data, so that a fully masked sequence is legal
and the whole model can be exported with static shapes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import abreast
from models.abreast import Layers

BLOCKED = -3e4
"""Added to the logit of a key behind the mask. Finite, twice over and in half precision too, so that a row without any key stays free
of NaN."""


def shut(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (B, T, ...) with zeros behind `mask` (B, T), whatever stood there, NaN and infinities included."""
    while mask.dim() < x.dim():
        mask = mask.unsqueeze(-1)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # TensorRT has no `where` in bfloat16; nothing else changes by it.
    return torch.where(mask > 0, wide, torch.zeros_like(wide)).to(x.dtype)


def veil(x: Tensor, mask: Tensor) -> Tensor:
    """`x` (B, T, d), finite, times `mask` (B, T): cheaper than `shut`, for what the model itself has computed."""
    return x * mask.unsqueeze(-1)


def sinusoids(position: Tensor, d: int, shortest: float, longest: float) -> Tensor:
    """Sine and cosine of `position` (..., T) at d/2 periods spaced geometrically from `shortest` to `longest`; (..., T, d)."""
    steps = torch.arange((d + 1) // 2, device=position.device, dtype=position.dtype) / max((d + 1) // 2 - 1, 1)
    frequency = 2 * math.pi / (shortest * (longest / shortest) ** steps)
    phase = position.unsqueeze(-1) * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1)[..., :d]


def time_code(t: Tensor, d: int) -> Tensor:
    """Code of irregular times `t` (..., T), seconds before the window's end: periods from 0.25 s to 16 s."""
    return sinusoids(t, d, 0.25, 16.0)


def position_code(t: Tensor, d: int) -> Tensor:
    """The usual code of row numbers 0, 1, 2, ... (periods 2 pi to 20000 pi); the times themselves are not looked at."""
    rows = torch.arange(t.shape[-1], device=t.device, dtype=t.dtype).expand_as(t)
    return sinusoids(rows, d, 2 * math.pi, 2 * math.pi * 1e4)


def no_code(t: Tensor, d: int) -> Tensor:
    """Zeros in the place of a code, for models that are told neither positions nor times."""
    return torch.zeros_like(t).unsqueeze(-1).expand(*t.shape, d)


def segment_of(t: Tensor, mask: Tensor, segments: int, seconds: float | None = None) -> Tensor:
    """The segment 0, 1, ..., segments - 1 that each row of t, mask (B, T) falls in, as floats (B, T).

    With `seconds` the window's time is cut into equal pieces; else the rows in front of the mask are, the last piece taking the
    remainder (so that padding moves nothing).
    """
    if seconds is not None:
        return ((t / seconds + 1) * segments).floor().clamp(0, segments - 1)
    rows = torch.arange(t.shape[1], device=t.device, dtype=t.dtype).expand_as(t)
    each = (mask.sum(1, keepdim=True) / segments).floor().clamp_min(1)
    return (rows / each).floor().clamp_max(segments - 1)


class Standardise(nn.Module):
    """(x - mean) / std by column, fixed numbers taken from the training data by `fit`; the identity before that."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Takes mean and deviation of the rows of x (B, T, D) in front of the mask."""
        rows = x[mask > 0]
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp_min(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Front(nn.Module):
    """What a modality's rows pass first: called with x (B, T, D), t and mask (B, T), it gives tokens, their times and mask, and what
    the modality alone says where it reads by itself."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.standardise = Standardise(dim)

    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Takes mean and deviation from x (B, T, D), mask (B, T)."""
        self.standardise.fit(x, mask)


class Patches(Front):
    """Rows to tokens: a convolution over `stride` rows at a time. Tokens carry the mean time of their rows.

    With stride 1 this is the paper's Conv1d of width `kernel` with same padding. With a larger stride the patches do not
    overlap, and a patch with few rows is scaled up, so that a patch cut by the window's edge looks like a whole one.
    """

    def __init__(self, dim: int, d: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> None:
        super().__init__(dim)
        self.stride = stride
        if stride == 1:
            self.conv = nn.Conv1d(dim, d, kernel, padding=kernel // 2, bias=bias)
        else:
            self.conv = nn.Conv1d(dim, d, stride, stride=stride, bias=bias)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (B, T, D), t and mask (B, T) -> tokens (B, N, d), their times and mask (B, N), N = ceil(T / stride); no reading of its own."""
        return *self.embed(shut(x, mask), t, mask), None

    def embed(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of x that is finite behind the mask."""
        x = veil(self.standardise(x), mask)
        x, tokens_t, tokens_mask, share = patch(x, t, mask, self.stride)
        z = functional.conv1d(x.transpose(1, 2), self.conv.weight, None, self.conv.stride, self.conv.padding).transpose(1, 2)
        z = z / share.clamp_min(1e-3).unsqueeze(-1)
        return veil(z if self.conv.bias is None else z + self.conv.bias, tokens_mask), tokens_t, tokens_mask


class Rows(Front):
    """Rows as they are, standardised, for models that begin with a recurrent layer."""

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """x (B, T, D), t and mask (B, T) -> the same with zeros behind the mask."""
        return veil(self.standardise(shut(x, mask)), mask), shut(t, mask), mask, None


def patch(x: Tensor, t: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pads x (B, T, D) to whole patches; gives it with the patches' mean times, mask and share of rows present, each (B, N)."""
    pad = -x.shape[1] % stride
    if pad:
        x = functional.pad(x, (0, 0, 0, pad))
        t, mask = functional.pad(t, (0, pad)), functional.pad(mask, (0, pad))
    if stride == 1:
        return x, shut(t, mask), mask, mask
    m = mask.reshape(mask.shape[0], -1, stride)
    count = m.sum(-1)
    mean_t = shut(t, mask).reshape(m.shape).sum(-1) / count.clamp_min(1)
    return x, mean_t, (count > 0).to(x.dtype), count / stride


class BiLSTM(nn.Module):
    """Bidirectional LSTM over (B, T, d), d/2 units a direction. The backward pass starts at the last row, not at the padding."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.forward_lstm = nn.LSTM(d, d // 2, batch_first=True)
        self.backward_lstm = nn.LSTM(d, d - d // 2, batch_first=True)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        rows = torch.arange(z.shape[1], device=z.device).expand(z.shape[0], -1)
        last = (rows * (mask > 0)).amax(1, keepdim=True)
        # Row i of the reversed sequence is row last - i; what lies beyond the first row stays where it is, behind the mask.
        turn = torch.where(rows <= last, last - rows, rows).unsqueeze(-1)
        ahead = self.forward_lstm(z)[0]
        back = self.backward_lstm(z.gather(1, turn.expand_as(z)))[0]
        return veil(torch.cat([ahead, back.gather(1, turn.expand_as(back))], -1), mask)


class ConvEncoder(nn.Module):
    """Two residual depthwise-separable convolutions: the live stand-in for the BiLSTM (parallel over time, compiles well)."""

    def __init__(self, d: int, kernel: int = 5, layers: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))
        self.depth = nn.ModuleList(nn.Conv1d(d, d, kernel, padding=kernel // 2, groups=d) for _ in range(layers))
        self.point = nn.ModuleList(nn.Linear(d, d) for _ in range(layers))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        return encode([self], z, mask)


def encode(encoders: Layers, z: Tensor, mask: Tensor) -> Tensor:
    """`ConvEncoder`s abreast; z (M, B, T, d), mask (M, B, T)."""
    for k in range(len(encoders[0].norms)):
        norms, depth, point = ([getattr(one, part)[k] for one in encoders] for part in ("norms", "depth", "point"))
        z = z + abreast.linear(point, functional.gelu(abreast.depthwise(depth, veil(abreast.norm(norms, z), mask))))
    return veil(z, mask)


class FeedForward(nn.Module):
    """FFN(LN(z)) + z, two layers with GELU; (B, T, d) -> (B, T, d)."""

    def __init__(self, d: int, times: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.inner = nn.Linear(d, times * d)
        self.outer = nn.Linear(times * d, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        return feed_forward([self], z)


def feed_forward(layers: Layers, z: Tensor) -> Tensor:
    """`FeedForward`s abreast; z (M, B, T, d)."""
    inner = functional.gelu(abreast.linear([one.inner for one in layers], z, [one.norm for one in layers]))
    out: Tensor = z + layers[0].drop(abreast.linear([one.outer for one in layers], inner))
    return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, d) -> (B, heads, T, d / heads)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, d / heads) -> (B, T, d)."""
    return x.transpose(1, 2).flatten(-2)


def key_bias(mask: Tensor) -> Tensor:
    """What to add to attention logits so that keys behind `mask` (B, T) get no weight; (B, 1, 1, T)."""
    return ((1 - mask) * BLOCKED)[:, None, None, :]


def any_row(mask: Tensor) -> Tensor:
    """1 where the sequence has a row at all, else 0; mask (..., T) -> (...)."""
    return mask.amax(-1)


def mean_over_time(z: Tensor, mask: Tensor) -> Tensor:
    """Mean of the rows of z (B, T, d) in front of the mask; zeros where there is none; (B, d)."""
    return veil(z, mask).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def last_row(z: Tensor, mask: Tensor) -> Tensor:
    """The newest row of z (B, T, d) in front of the mask; zeros where there is none; (B, d)."""
    rows = torch.arange(z.shape[1], device=z.device)
    last = (rows * (mask > 0)).amax(1)
    picked = z.gather(1, last[:, None, None].expand(-1, 1, z.shape[2])).squeeze(1)
    newest: Tensor = picked * any_row(mask).unsqueeze(-1)
    return newest


class AttentionPool(nn.Module):
    """Rows to one vector by learned weights, which see the content and the time of each row; (B, T, d) -> (B, d)."""

    def __init__(self, d: int, code: int | None = None) -> None:
        super().__init__()
        self.score = nn.Linear(d + (code or d), 1)

    def forward(self, z: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        """z (B, T, d) and the code of its times (B, T, code), mask (B, T)."""
        return pool([self], z, code, mask)


def pool(pools: Layers, z: Tensor, code: Tensor, mask: Tensor) -> Tensor:
    """`AttentionPool`s abreast; z (M, B, T, d), the code of its times (M, B, T, code), mask (M, B, T) -> (M, B, d)."""
    logits = abreast.linear([one.score for one in pools], torch.cat([z, code], -1)).squeeze(-1) + (1 - mask) * BLOCKED
    pooled: Tensor = (logits.softmax(-1).unsqueeze(-2) @ z).squeeze(-2)
    return pooled * any_row(mask).unsqueeze(-1)


class DecoupledGraph(nn.Module):
    """DGF (MEA, eq. 17 to 19): a graph over the modalities present, each node gathering its neighbours; (B, M, d_h) -> (B, d_h).

    Without `self_loops` a node is not its own neighbour, unless it is the only one there.
    """

    def __init__(self, d_h: int, self_loops: bool) -> None:
        super().__init__()
        self.self_loops = self_loops
        self.embed = nn.Linear(d_h, d_h, bias=False)
        self.score = nn.Linear(2 * d_h, 1)

    def forward(self, h: Tensor, present: Tensor) -> Tensor:
        """h (B, M, d_h), present (B, M)."""
        e = self.embed(h)
        here, there = self.score.weight.chunk(2, 1)
        # Q applied to [e_i, e_j] for all pairs at once: its two halves act on i and on j.
        delta = functional.linear(e, here, self.score.bias) + functional.linear(e, there).transpose(1, 2)
        eye = torch.eye(h.shape[1], device=h.device, dtype=h.dtype)
        alone = (present.sum(1) < 2).to(h.dtype)[:, None, None]
        neighbour = present.unsqueeze(1) * (torch.ones_like(eye) if self.self_loops else 1 - eye + eye * alone)
        xi = (functional.gelu(delta) + (1 - neighbour) * BLOCKED).softmax(-1)
        gathered: Tensor = (torch.sigmoid(xi @ e) * present.unsqueeze(-1)).sum(1)
        return gathered


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """Gradient reversal layer (Ganin and Lempitsky 2015): the identity forward, minus `strength` times the gradient backward."""
    out: Tensor = _Reverse.apply(x, strength)  # type: ignore[no-untyped-call]
    return out
