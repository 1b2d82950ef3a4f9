"""Layers of one shape side by side, each with weights and a slice of its own: one operation where there would be M.

A live window is one sample of a few dozen rows, for which a fusion model has hundreds of operations, and each costs something by being
there: it is looked up and called, its code and weights are fetched, most of all right after another program. M slices, B windows,
T rows, d features: (M, B, T, d). Several layers take one window, B = 1: of more the rows are many enough, and layer by layer is
faster. A single layer takes any number, with or without the first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Layers = Sequence[Any]
"""Modules of one kind and shape."""


def stacked(layers: Layers, name: str) -> Tensor:
    """The weights of that name of all layers, (M, ...)."""
    return torch.stack([getattr(layer, name) for layer in layers])


def padded(sequences: Sequence[Tensor]) -> Tensor:
    """Sequences (B, T_m, ...), the shorter ones with zeros behind: (M, B, T, ...)."""
    rows, parts = max(one.shape[1] for one in sequences), []
    for one in sequences:
        parts += [one, one.new_zeros(len(one), rows - one.shape[1], *one.shape[2:])]
    return torch.cat(parts, 1).reshape(len(one), len(sequences), rows, *one.shape[2:]).transpose(0, 1)


def linear(layers: Layers, x: Tensor, norms: Layers | None = None) -> Tensor:
    """`nn.Linear`s, of what `nn.LayerNorm`s make of x, if there are any: x (M, B, T, in) or (M, B, in) -> the same with their outputs.
    One slice may serve all layers."""
    if len(layers) == 1:
        return cast(Tensor, layers[0](x if norms is None else norms[0](x)))
    weight = stacked(layers, "weight").transpose(1, 2)
    bias = None if layers[0].bias is None else stacked(layers, "bias").unsqueeze(1)
    if norms is not None:  # A norm's own weights become part of the layer's: constants of a compiled program.
        shift = stacked(norms, "bias").unsqueeze(1) @ weight
        bias = shift if bias is None else bias + shift
        weight, x = stacked(norms, "weight").unsqueeze(2) * weight, plain(norms, x)
    if x.dim() == 4:
        weight, bias = weight.unsqueeze(1), None if bias is None else bias.unsqueeze(1)
    return x @ weight if bias is None else x @ weight + bias


def norm(layers: Layers, x: Tensor) -> Tensor:
    """`nn.LayerNorm`s: x (M, B, T, d) -> the same. One slice may serve all layers."""
    if len(layers) == 1:
        return cast(Tensor, layers[0](x))
    return plain(layers, x) * stacked(layers, "weight")[:, None, None] + stacked(layers, "bias")[:, None, None]


def plain(layers: Layers, x: Tensor) -> Tensor:
    """What `nn.LayerNorm`s have in common: x less its mean, over its deviation."""
    first = cast(nn.LayerNorm, layers[0])
    return functional.layer_norm(x, first.normalized_shape, None, None, first.eps)


def perceptron(layers: Layers, x: Tensor) -> Tensor:
    """`nn.Sequential`s of linear layers and of such as have no weights; x (M, B, d)."""
    for steps in zip(*(cast(nn.Sequential, layer) for layer in layers), strict=True):
        x = linear(steps, x) if isinstance(steps[0], nn.Linear) else steps[0](x)
    return x


def depthwise(layers: Layers, x: Tensor) -> Tensor:
    """Depthwise `nn.Conv1d`s over time that keep its length: x (M, B, T, d) -> the same; (B, T, d) of a single layer."""
    if len(layers) == 1:
        return cast(Tensor, layers[0](x.transpose(1, 2)).transpose(1, 2))
    weight, bias = stacked(layers, "weight").flatten(0, 1), stacked(layers, "bias").flatten()
    channels = x.squeeze(1).transpose(1, 2)
    y = functional.conv1d(channels.flatten(0, 1).unsqueeze(0), weight, bias, padding=layers[0].padding, groups=len(weight))
    return y.reshape(channels.shape).transpose(1, 2).unsqueeze(1)
