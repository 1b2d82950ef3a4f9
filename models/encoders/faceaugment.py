"""What a webcam does to a face crop, as random changes of a training batch (torch)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Randomly changed copies of crops (B, 1, S, S) float32 in 0..1, each in its own way.

    Mirror, small affine move, coarser resolution, blur, gamma and uneven light, sensor noise, a hidden patch.
    """
    crops = _move(crops, generator)
    crops = _coarsen(crops, generator)
    crops = _blur(crops, generator)
    crops = _light(crops, generator)
    noise = torch.randn(crops.shape, generator=generator) * 0.04 * _uniform(crops, 0.0, 1.0, generator) ** 2
    return _hide((crops + noise).clamp(0, 1), generator)


def _uniform(crops: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number a crop, shaped to broadcast over it."""
    return low + (high - low) * torch.rand(len(crops), 1, 1, 1, generator=generator)


def _move(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of them; turn by up to 12 degrees, scale by up to 14 %, stretch by up to 6 %, shift by up to 2.5 pixels of 48."""
    flat = crops[:, :, 0, 0][:, :, None, None]
    angle = _uniform(flat, -1, 1, generator) * math.radians(12)
    scale = torch.exp(_uniform(flat, -0.13, 0.13, generator))
    stretch = torch.exp(_uniform(flat, -0.06, 0.06, generator))
    mirror = 1.0 - 2.0 * (torch.rand(flat.shape, generator=generator) < 0.5).float()
    shift = 2 * 2.5 / 48
    rows = [
        [mirror * scale * stretch * angle.cos(), -scale * angle.sin(), _uniform(flat, -shift, shift, generator)],
        [mirror * scale * angle.sin(), scale / stretch * angle.cos(), _uniform(flat, -shift, shift, generator)],
    ]
    theta = torch.stack([torch.cat([value.reshape(-1, 1) for value in row], 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(crops.shape), align_corners=False)
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coarsen(crops: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the crops at 16 to 40 pixels a side, as a far face has them."""
    side = int(torch.randint(16, 41, (1,), generator=generator))
    small = F.interpolate(crops, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    coarse = F.interpolate(small, size=crops.shape[2:], mode="bicubic", align_corners=False)
    return torch.where(_uniform(crops, 0, 1, generator) < 0.25, coarse, crops)


def _blur(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur, sigma up to 1.2 pixels, on half of the crops."""
    sigma = _uniform(crops, 0.0, 1.2, generator).clamp_min(1e-2)
    sigma = torch.where(_uniform(crops, 0, 1, generator) < 0.5, sigma, torch.full_like(sigma, 1e-2)).reshape(-1, 1)
    taps = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    count = len(crops)
    flat = F.pad(crops, (3, 3, 3, 3), mode="replicate").reshape(1, count, crops.shape[2] + 6, crops.shape[3] + 6)
    flat = F.conv2d(flat, kernel.reshape(count, 1, 1, 7), groups=count)
    flat = F.conv2d(flat, kernel.reshape(count, 1, 7, 1), groups=count)
    return flat.reshape(crops.shape)


def _light(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma 0.6 to 1.7, contrast and brightness (which clip), and a linear fall-off of light across the face."""
    crops = crops.clamp(1e-4, 1) ** torch.exp(_uniform(crops, -0.5, 0.5, generator))
    ramp = torch.linspace(-1, 1, crops.shape[-1])
    across = _uniform(crops, -0.35, 0.35, generator) * ramp.reshape(1, 1, 1, -1)
    along = _uniform(crops, -0.2, 0.2, generator) * ramp.reshape(1, 1, -1, 1)
    contrast = torch.exp(_uniform(crops, -0.4, 0.4, generator))
    crops = (crops * (1 + across + along) - 0.5) * contrast + 0.5
    return (crops + _uniform(crops, -0.15, 0.15, generator)).clamp(0, 1)


def _hide(crops: Tensor, generator: torch.Generator) -> Tensor:
    """A flat patch of 6 to 18 pixels a side somewhere on 30 % of the crops (random erasing; Zhong et al. 2020, AAAI)."""
    side = crops.shape[-1]
    axis = torch.arange(side, dtype=torch.float32)
    height, width = _uniform(crops, 3, 9, generator), _uniform(crops, 3, 9, generator)
    y, x = _uniform(crops, 0, side, generator), _uniform(crops, 0, side, generator)
    inside = ((axis.reshape(1, 1, -1, 1) - y).abs() < height) & ((axis.reshape(1, 1, 1, -1) - x).abs() < width)
    chosen = _uniform(crops, 0, 1, generator) < 0.3
    return torch.where(inside & chosen, _uniform(crops, 0, 1, generator).expand_as(crops), crops)
