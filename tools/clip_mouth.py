"""Draw a mouth from parameters: width, corners, opening, lips, teeth, lit like the skin around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

_LIP_UPPER, _LIP_LOWER = np.array([176, 108, 102], np.float32), np.array([204, 132, 126], np.float32)
_LINE, _DARK, _TONGUE, _TEETH = (np.array(c, np.float32) for c in ([96, 46, 42], [46, 20, 20], [126, 62, 62], [244, 232, 214]))
_SOFT = 0.55
"""Half-width of a drawn edge in face units: the portrait's own sharpness."""


@dataclass(frozen=True)
class Mouth:
    """All lengths in face units.

    width: half the distance between the corners; height: y of the lip line; corners: rise of the corners above the middle;
    opening: greatest gap between the lips; upper_share: part of the gap that lies above the lip line; upper, lower: lip
    thickness; teeth: length of the upper teeth seen; lower_teeth: the same below; bow: depth of the cupid's bow, 0 to 1;
    square: 0 an oval gap, 1 a box.
    """

    width: float = 16.0
    height: float = 43.5
    corners: float = 0.0
    opening: float = 0.0
    upper_share: float = 0.3
    upper: float = 2.9
    lower: float = 4.0
    teeth: float = 0.0
    lower_teeth: float = 0.0
    bow: float = 1.0
    square: float = 0.0


def draw(skin: Array, light: Array, x: Array, y: Array, mouth: Mouth) -> Array:
    """Paint `mouth` on `skin` (h, w, 3), whose pixels lie at face units x, y (h, w) under `light` (h, w)."""
    u = x / mouth.width
    arch = np.clip(1 - u * u, 0, 1)
    inside = np.clip((1.0 - np.abs(u)) * mouth.width / (2 * _SOFT) + 0.5, 0, 1)
    line = mouth.height - mouth.corners * (np.abs(np.clip(u, -1.2, 1.2)) ** 2 - 0.35)
    gap = mouth.opening * arch ** (0.62 - 0.32 * mouth.square)
    top_in, bottom_in = line - mouth.upper_share * gap, line + (1 - mouth.upper_share) * gap
    peaks = 1 - mouth.bow * (0.22 * np.exp(-((u / 0.11) ** 2)) + 0.16 * np.abs(u))
    top = top_in - mouth.upper * arch**0.6 * peaks
    bottom = bottom_in + mouth.lower * arch**0.62

    out: Array = skin * (1 - _shadows(x, y, u, arch, mouth, bottom))[..., None]
    # The lips: the upper one lies in its own shade, the lower one catches the light from the upper left.
    lips = _between(y, top, bottom, 1.5) * inside
    above = _between(y, top - 9, (top_in + bottom_in) / 2, 0.6)[..., None]
    colour = _LIP_UPPER * above + _LIP_LOWER * (1 - above)
    depth = (y - bottom_in) / max(mouth.lower, 0.5)
    shine = 0.16 * np.exp(-(((x + 3) / 6.0) ** 2) - ((depth - 0.42) / 0.28) ** 2)
    edge = 1 - 0.14 * np.exp(-(((y - bottom) / 0.9) ** 2)) - 0.10 * np.exp(-(((y - top_in) / 0.8) ** 2))
    crease = 1 + 0.025 * np.sin(2.7 * x + 0.6 * np.sin(y))
    shaded = (colour * (edge * crease * light)[..., None]) * (1 - shine[..., None]) + 245 * shine[..., None]
    out = _over(out, shaded, 0.86 * lips)
    # The gap between them.
    hole = _between(y, top_in, bottom_in, 1.0) * inside * np.clip(gap / 1.2, 0, 1)
    out = _over(out, _cavity(x, y, u, arch, light, mouth, top_in, bottom_in), hole)
    # The line where they meet, and the small shade in the corners.
    meet = np.exp(-(((y - line) / 0.62) ** 2)) * inside * np.clip(1 - gap / 1.6, 0, 1) * (0.55 + 0.3 * np.abs(u))
    corner = 0.5 * np.exp(-(((np.abs(x) - mouth.width + 0.3) / 1.3) ** 2) - ((y - line) / 0.95) ** 2)
    out = _over(out, np.broadcast_to(_LINE, out.shape) * light[..., None], np.clip(meet + corner, 0, 0.85))
    return np.asarray(out, np.float32)


def _cavity(x: Array, y: Array, u: Array, arch: Array, light: Array, mouth: Mouth, top_in: Array, bottom_in: Array) -> Array:
    span = np.maximum(bottom_in - top_in, 0.3)
    tongue = np.clip((y - top_in) / span - 0.55, 0, 0.45)[..., None] * 1.5 * arch[..., None] * min(1.0, mouth.opening / 8)
    colour: Array = _DARK * (1 - tongue) + _TONGUE * tongue
    side = 0.55 + 0.45 * np.clip(1.25 * arch, 0, 1)
    groove = 1 - 0.10 * np.exp(-((((np.abs(x) + 0.1) % 4.2 - 0.1) / 0.35) ** 2))
    enamel = _TEETH * (side * groove * (0.5 + 0.5 * light))[..., None]
    if mouth.teeth > 0.05:
        ends = top_in + mouth.teeth * (0.35 + 0.65 * arch)
        shade = 1 - 0.28 * np.exp(-np.maximum(y - top_in, 0) / 0.9)
        colour = _over(colour, enamel * shade[..., None], _between(y, top_in - 3, ends, 0.9) * min(1.0, mouth.teeth))
    if mouth.lower_teeth > 0.05:
        starts = bottom_in - mouth.lower_teeth * (0.35 + 0.65 * arch)
        colour = _over(colour, 0.9 * enamel, _between(y, starts, bottom_in + 3, 0.9) * min(1.0, mouth.lower_teeth))
    return np.asarray(colour, np.float32)


def _shadows(x: Array, y: Array, u: Array, arch: Array, mouth: Mouth, bottom: Array) -> Array:
    """Part of the skin's light that the mouth takes away (H, W): below the lower lip, beside the corners, in the philtrum."""
    below = 0.13 * np.exp(-(((y - bottom - 2.2) / 2.0) ** 2)) * np.clip(arch, 0, 1) ** 0.7
    side = 0.08 * np.exp(-(((np.abs(x) - mouth.width - 1.5) / 2.6) ** 2) - ((y - mouth.height + 0.6 * mouth.corners) / 3.2) ** 2)
    lip = mouth.height - mouth.upper_share * mouth.opening - mouth.upper
    philtrum = 0.05 * np.exp(-((x / 1.5) ** 2)) * _between(y, np.float32(35), np.asarray(lip, np.float32), 4.0)
    return np.asarray(below + side + philtrum, np.float32)


def _between(y: Array, low: Array | np.float32, high: Array | np.float32, softness: float) -> Array:
    """1 where low < y < high, with soft edges."""
    width = 2 * _SOFT * softness
    return np.asarray(np.clip((y - low) / width + 0.5, 0, 1) * np.clip((high - y) / width + 0.5, 0, 1), np.float32)


def _over(under: Array, colour: Array, alpha: Array) -> Array:
    return np.asarray(under * (1 - alpha[..., None]) + colour * alpha[..., None], np.float32)
