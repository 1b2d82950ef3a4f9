"""The still portrait behind the sample clip: set upright, its mouth and smile folds erased so that others can be drawn.

Source: scikit-image's `data.astronaut()`, NASA's portrait of Eileen Collins (public domain). Everything here and in the
other clip modules is measured in face units: one pixel of that portrait, the origin midway between her eyes, x to the
viewer's right, y down along the face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage import data
from skimage.restoration import inpaint_biharmonic

Array = npt.NDArray[np.floating[Any]]
Outlines = list[list[tuple[float, float]]]

SCALE = 4
"""Canvas pixels in one face unit."""
ORIGIN = (140.0, 97.0)
SIZE = (280.0, 210.0)
"""Where the origin lies on the canvas, and the canvas's width and height, in face units."""

_EYES = (225.5, 103.3)
_ROLL = np.deg2rad(3.0)
# Outlines in face units: the smile's two folds, and the mouth.
_FOLDS: Outlines = [[(-14.5, 17), (-19.5, 16.5), (-26, 24), (-32, 33), (-31, 41), (-25, 42), (-23.5, 37), (-20, 30), (-15.5, 25)],
          [(13.5, 15), (19, 16), (25, 24), (31, 33), (30.5, 41), (24.5, 41), (23, 36), (19.5, 29), (15, 23)]]
_MOUTH: list[tuple[float, float]] = [(-24.5, 35), (-19, 33.4), (-11, 33.2), (0, 34.2), (11, 33.4), (19, 32.6), (25, 32.5),
          (24, 39), (19, 47), (10, 54), (0, 56), (-10, 54), (-19, 47), (-24, 40)]
# Where raised cheeks are let down, and the nose within, which stays.
_CHEEKS: list[tuple[float, float]] = [(-37, 12), (-14, 9), (14, 9), (37, 12),
                                      (38, 34), (33, 50), (22, 58), (0, 60), (-22, 58), (-33, 50), (-38, 34)]
_NOSE: list[tuple[float, float]] = [(-7, 5), (7, 5), (13, 18), (14, 28), (9, 33), (0, 34), (-9, 32.5), (-14, 28), (-13, 18)]
_RELAX = 0.75
# Brow lines, inner end first. Hers are thin and pale: darkened and thickened, they can be read in a 48 x 48 crop.
BROWS = (((-11.5, -10.6), (-18, -12.0), (-26, -13.5), (-34, -11.4)), ((14.5, -11.0), (24, -12.1), (32, -13.1), (38, -10.2)))


@dataclass(frozen=True)
class Portrait:
    """Canvas-sized float32 RGB pictures, 0 to 255.

    plain (H, W, 3): no mouth, no smile folds; folded (H, W, 3): no mouth, the smile folds kept;
    light (H, W): the light falling on the skin, 1 at the mouth.
    """

    plain: Array
    folded: Array
    light: Array


def grid() -> tuple[Array, Array]:
    """x and y of every canvas pixel in face units, both (H, W)."""
    width, height = int(SIZE[0] * SCALE), int(SIZE[1] * SCALE)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    left, top = np.float32(ORIGIN[0]), np.float32(ORIGIN[1])
    return np.asarray(x / SCALE - left, np.float32), np.asarray(y / SCALE - top, np.float32)


def load(seed: int = 0) -> Portrait:
    """Make the erased portraits; `seed` draws the skin's grain."""
    upright = _upright(SCALE)
    noise = np.random.default_rng(seed)
    small = _upright(1)
    upright = _darken_brows(upright)
    plain, folded = _relax(_erase(upright, small, [_MOUTH, *_FOLDS], noise)), _erase(upright, small, [_MOUTH], noise)
    grey = cv2.GaussianBlur(plain.mean(2), (0, 0), 6 * SCALE)
    row, column = int((ORIGIN[1] + 44) * SCALE), int(ORIGIN[0] * SCALE)
    light = np.clip(grey / grey[row, column], 0.6, 1.15).astype(np.float32)
    return Portrait(plain, folded, light)


def _upright(scale: int) -> Array:
    turn = np.array([[np.cos(_ROLL), -np.sin(_ROLL)], [np.sin(_ROLL), np.cos(_ROLL)]])
    matrix = np.zeros((2, 3))
    matrix[:, :2] = turn / scale
    matrix[:, 2] = np.array(_EYES) - turn @ np.array(ORIGIN)
    size = (int(SIZE[0] * scale), int(SIZE[1] * scale))
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(data.astronaut(), matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT), np.float32)


def _mask(outlines: Outlines, scale: int, feather: float) -> Array:
    mask = np.zeros((int(SIZE[1] * scale), int(SIZE[0] * scale)), np.float32)
    for outline in outlines:
        cv2.fillPoly(mask, [np.rint((np.array(outline) + ORIGIN) * scale).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), feather * scale) if feather else mask, np.float32)


def _erase(picture: Array, small: Array, outlines: Outlines, noise: np.random.Generator) -> Array:
    """Fill `outlines` with skin. Biharmonic, so that the light's slope as well as its level goes on across the edge."""
    hole = _mask(outlines, 1, 0) > 0
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    box = np.s_[rows[0] - 8:rows[-1] + 9, columns[0] - 8:columns[-1] + 9]
    filled = small.copy()
    filled[box] = inpaint_biharmonic(small[box] / 255, hole[box], channel_axis=-1) * 255
    height, width = picture.shape[:2]
    smooth = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
    # A canvas pixel's centre is its index, at both scales: undo the half-pixel shift of cv2.resize.
    half = (SCALE - 1) / 2
    smooth = cv2.warpAffine(smooth, np.array([[1, 0, -half], [0, 1, -half]], float), (width, height), borderMode=cv2.BORDER_REPLICATE)
    grain = cv2.resize(noise.normal(0, 2.2, (height // 3, width // 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    alpha = _mask(outlines, SCALE, 0.8)[..., None]
    return np.asarray(picture * (1 - alpha) + (smooth + grain[..., None]) * alpha, np.float32)


def _relax(picture: Array) -> Array:
    """Even out the broad light and shade of raised cheeks and of the upper lip, which say "smile" even without a mouth."""
    def broad(sigma: float) -> Array:
        # Weighted, so that nose, hair and backdrop do not bleed into the skin's mean.
        weight = cv2.GaussianBlur(skin, (0, 0), sigma * SCALE)[..., None]
        mean: Array = cv2.GaussianBlur(picture * skin[..., None], (0, 0), sigma * SCALE) / np.maximum(weight, 1e-3)
        return mean

    skin = np.clip(_mask([_CHEEKS], SCALE, 0) - _mask([_NOSE], SCALE, 0), 0, 1)
    share = np.clip(_mask([_CHEEKS], SCALE, 2.5) - _mask([_NOSE], SCALE, 1.2), 0, 1)[..., None]
    return np.asarray(picture - _RELAX * share * (broad(2.5) - broad(16)), np.float32)


def _darken_brows(picture: Array) -> Array:
    ink = np.zeros(picture.shape[:2], np.float32)
    for brow in BROWS:
        points = np.array(brow)
        along = np.linspace(0, 1, 40)
        curve = np.polynomial.Polynomial.fit(points[:, 0], points[:, 1], 3)
        xs = np.interp(along, np.linspace(0, 1, len(points)), points[:, 0])
        for x, a in zip(xs, along, strict=True):
            radius = 1.9 * (1 - 0.6 * a) * min(1.0, 0.6 + 4 * a)
            centre = (round((x + ORIGIN[0]) * SCALE * 16), round((curve(x) + ORIGIN[1]) * SCALE * 16))
            cv2.circle(ink, centre, round(radius * SCALE * 16), 1.0, -1, cv2.LINE_AA, 4)
    alpha = 0.72 * cv2.GaussianBlur(ink, (0, 0), 0.55 * SCALE)[..., None]
    return np.asarray(picture * (1 - alpha) + np.array([96, 62, 40], np.float32) * alpha, np.float32)
