"""The face of the sample clip: an expression and a head pose in, a 640 x 480 frame out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import clip_mouth
import clip_portrait
import cv2
import numpy as np
import numpy.typing as npt
from clip_mouth import Mouth
from clip_portrait import BROWS, ORIGIN, SCALE, SIZE
from scipy.interpolate import PchipInterpolator

Array = npt.NDArray[np.floating[Any]]

WIDTH, HEIGHT = 640, 480
_ZOOM = WIDTH / SIZE[0]
# Lids, inner and outer corner included: (x, upper lid y, lower lid y) in face units.
_LIDS = (
    ((-31.5, -0.6, -0.6), (-28, -3.2, 0.4), (-24, -4.9, 1.6), (-20, -5.1, 2.1), (-16, -3.9, 1.9), (-13, -1.4, 1.0), (-11, 0.6, 0.6)),
    ((12.5, 0.8, 0.8), (15, -1.8, 1.4), (19, -4.4, 2.2), (24, -5.1, 2.1), (28, -4.7, 1.6), (32, -3.0, 0.8), (35.5, -0.6, -0.6)),
)
_LID_REACH = 7.0
_FLUSH = np.array([0.75, 1.0, 1.1], np.float32)
"""Skin in shade turns redder: how much of a loss of light each channel takes."""
_LASH = np.array([74, 48, 36], np.float32)


@dataclass(frozen=True)
class Expression:
    """What the face does, after FACS (Ekman and Friesen, 1978); lengths in face units, shares 0 to 1.

    brow_inner, brow_outer: rise (AU1, AU2; negative lowers, AU4); brow_knit: inner ends drawn together (AU4); furrow: lines
    between the brows; shade: shadow under lowered brows; crease: folds from the nose's wings downwards
    (AU11); bags: shadows under the eyes; wide: eyes enlarged (AU5); lid_upper: rise (AU5; negative droops); lid_lower: rise (AU6, AU7);
    cheek: rise (AU6); fold: smile folds (AU12); wrinkle: nose wings up (AU9); jaw: drop of the chin (AU26); chin: boss
    pushed up (AU17); mouth: the lips; blink: lids shut (AU45).
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    brow_knit: float = 0.0
    furrow: float = 0.0
    shade: float = 0.0
    crease: float = 0.0
    bags: float = 0.0
    wide: float = 0.0
    lid_upper: float = 0.0
    lid_lower: float = 0.0
    cheek: float = 0.0
    fold: float = 0.0
    wrinkle: float = 0.0
    jaw: float = 0.0
    chin: float = 0.0
    blink: float = 0.0
    mouth: Mouth = field(default_factory=Mouth)


@dataclass(frozen=True)
class Pose:
    """Rigid head motion: x, y in face units, roll in radians, turn and nod in face units of the nose against the ears."""

    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    turn: float = 0.0
    nod: float = 0.0
    scale: float = 0.0


def blend(a: Expression, b: Expression, share: float) -> Expression:
    """Halfway faces: every parameter of `a` moved by `share` towards `b`."""
    def mix(p: float, q: float) -> float:
        return p + (q - p) * share

    mouth = Mouth(**{f.name: mix(getattr(a.mouth, f.name), getattr(b.mouth, f.name)) for f in fields(Mouth)})
    rest = {f.name: mix(getattr(a, f.name), getattr(b, f.name)) for f in fields(Expression) if f.name != "mouth"}
    return Expression(mouth=mouth, **rest)


def speak(face: Expression, loudness: float, spread: float, talking: float) -> Expression:
    """Add speech: `loudness` 0 to 1 opens the mouth, `spread` -1 to 1 rounds or widens it.

    `talking` 0 to 1 lets a mouth that the expression holds open close between the syllables.
    """
    opening = face.mouth.opening * (1 - 0.45 * talking * (1 - loudness)) + min(3.2, 20 / (1 + face.mouth.opening)) * loudness
    mouth = replace(face.mouth, opening=opening, width=face.mouth.width * (1 + 0.05 * spread * loudness),
                    teeth=max(face.mouth.teeth, 1.2 * loudness))
    return replace(face, mouth=mouth, jaw=face.jaw + 1.6 * loudness)


class Face:
    """The drawn portrait. Not thread-safe: one picture at a time."""

    def __init__(self, seed: int = 0) -> None:
        self.portrait = clip_portrait.load(seed)
        self.x, self.y = clip_portrait.grid()
        # Only this part of the canvas moves with an expression.
        self._box = np.s_[_row(-40):_row(100), _column(-62):_column(62)]
        column, row = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
        self._qx, self._qy = column / _ZOOM - np.float32(ORIGIN[0]), row / _ZOOM - np.float32(ORIGIN[1])
        # The head moves whole; the backdrop takes up the motion; shoulders stay.
        radius = np.hypot(self._qx / 80, (self._qy + 5) / 98)
        self._head = _smooth((1.42 - radius.astype(np.float32)) / 0.42) * _smooth((108 - self._qy) / 40)
        self._depth = np.exp(-((self._qx / 34) ** 2) - ((self._qy - 20) / 40) ** 2).astype(np.float32)

    def frame(self, face: Expression, pose: Pose) -> npt.NDArray[np.uint8]:
        """One RGB picture, (480, 640, 3)."""
        canvas = self.portrait.plain.copy()
        canvas[self._box] = self._draw(face)
        return self._pose(canvas, pose)

    def _draw(self, face: Expression) -> Array:
        box = self._box
        x, y = self.x[box], self.y[box]
        dx, dy = _muscles(face, x, y)
        sx: Array = x - dx
        sy: Array = y - dy
        lash: Array = np.zeros_like(x)
        for lids in _LIDS:
            sy, shut = _lids(face, lids, sx, sy)
            lash = np.maximum(lash, shut)
        column, row = (sx + ORIGIN[0]) * SCALE, (sy + ORIGIN[1]) * SCALE
        skin: Array = cv2.remap(self.portrait.plain, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        if face.fold > 0:
            folded = cv2.remap(self.portrait.folded, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            skin = skin + (folded - skin) * np.float32(min(face.fold, 1.0))
        skin = skin * (1 - lash[..., None]) + _LASH * lash[..., None]
        skin = skin * (1 - _lines(face, x, y)[..., None] * _FLUSH)
        light = self.portrait.light[box]
        return clip_mouth.draw(np.asarray(skin, np.float32), light, x, y, face.mouth)

    def _pose(self, canvas: Array, pose: Pose) -> npt.NDArray[np.uint8]:
        pivot = 92.0
        x, y, w = self._qx, self._qy, self._head
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        grow = 1 / (1 + pose.scale)
        back_x = grow * (cos * (x - pose.x) + sin * (y - pose.y - pivot)) - x
        back_y = grow * (-sin * (x - pose.x) + cos * (y - pose.y - pivot)) + pivot - y
        sx = x + w * back_x - self._depth * np.float32(pose.turn)
        sy = y + w * back_y - self._depth * np.float32(pose.nod)
        column, row = ((sx + ORIGIN[0]) * SCALE).astype(np.float32), ((sy + ORIGIN[1]) * SCALE).astype(np.float32)
        picture = cv2.remap(cv2.GaussianBlur(canvas, (0, 0), 0.6), column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


def _muscles(face: Expression, x: Array, y: Array) -> tuple[Array, Array]:
    """How far the skin at each point has been pulled, in face units."""
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    # The lids stay where they are, whether the brow leaves them or comes down on them.
    free = {True: _smooth((-7.0 - y) / 6.5), False: _smooth((-4.0 - y) / 4.5)}
    for side, brow in zip((-1, 1), BROWS, strict=True):
        inner, outer = brow[0], brow[2]
        inner_end, outer_end = _bump(x, y, inner[0] + 2 * side, inner[1], 8.5, 6.5), _bump(x, y, outer[0] + 2 * side, outer[1], 10, 6.5)
        dy -= face.brow_inner * inner_end * free[face.brow_inner > 0] + face.brow_outer * outer_end * free[face.brow_outer > 0]
        dx -= side * face.brow_knit * inner_end * free[False]
        eye = 0.12 * face.wide * _bump(x, y, (inner[0] + outer[0]) / 2 - 1.5 * side, -1, 13, 9)
        dx += eye * (x - (inner[0] + outer[0]) / 2 + 1.5 * side)
        dy += eye * (y + 1)
        dy -= face.cheek * _bump(x, y, 24 * side, 20, 11, 9)
        dy -= face.wrinkle * _bump(x, y, 9 * side, 22, 6, 8)
    # The chin hangs below a fixed upper jaw; the neck takes up the motion under it.
    fall = _smooth((y - 42) / 22) * _smooth((96 - y) / 20) * _smooth(np.asarray((54 - np.abs(x)) / 26, np.float32))
    dy += face.jaw * fall - face.chin * _bump(x, y, 0, 62, 10, 6)
    return dx, dy


def _lids(face: Expression, lids: tuple[tuple[float, float, float], ...], x: Array, y: Array) -> tuple[Array, Array]:
    """Where the picture's rows come from once the lids have moved, and the share of lash to paint (both H, W)."""
    table = np.array(lids)
    knots = np.linspace(table[0, 0], table[-1, 0], 60)
    upper, lower = (np.interp(x, knots, PchipInterpolator(table[:, 0], table[:, k])(knots)).astype(np.float32) for k in (1, 2))
    span = (lower - upper) / 7.2
    near = _smooth((x - table[0, 0] + 5) / 5) * _smooth((table[-1, 0] + 5 - x) / 5)
    rest_upper, rest_lower = upper - face.lid_upper * span, lower - face.lid_lower * span
    top = rest_upper + (rest_lower - rest_upper - 0.5 * span) * face.blink
    reach = np.float32(_LID_REACH)
    above = (upper - reach) + (y - (upper - reach)) * reach / np.maximum(top - upper + reach, 0.5)
    within = upper + (y - top) * (lower - upper) / np.maximum(rest_lower - top, 0.12)
    below = (lower + reach) - ((lower + reach) - y) * reach / np.maximum(lower + reach - rest_lower, 0.5)
    moved = np.select([y < upper - reach, y < top, y < rest_lower, y < lower + reach], [y, above, within, below], y)
    shut = float(np.clip((face.blink - 0.3) / 0.5, 0, 1))
    edge = np.exp(-(((y - top - 0.2) / 0.75) ** 2)) * np.clip(span * 1.6, 0, 1) * 0.75 * shut
    return (y + (moved - y) * near).astype(np.float32), np.asarray(edge * near, np.float32)


def _lines(face: Expression, x: Array, y: Array) -> Array:
    """Share of light lost in wrinkles."""
    lost = np.zeros_like(x)
    for middle in (-4.2, 5.6):
        lost += 0.22 * face.furrow * _bump(x + 0.16 * (y + 9), y, middle, -9.5, 1.3, 4.6)
    lost += 0.12 * face.furrow * _bump(x, y, 0.7, -6.5, 7, 3.4)
    for side in (-1, 1):
        lost += 0.10 * max(face.lid_lower, 0.0) / 2 * _bump(x, y, 22 * side, 6.2, 7, 1.1)
        lost += 0.30 * face.shade * _bump(x, y, 22 * side, -7, 13, 4)
        lost += 0.16 * face.bags * _bump(x, y - 0.012 * (x - 21 * side) ** 2, 21 * side, 6.5, 9, 2.2)
        # A fold: its outer lip is sharp, towards the mouth the shade runs out.
        along = (y - 21) / 24
        out = side * x - (14.5 + 9.5 * along)
        lost += 0.15 * face.crease * np.exp(-((out / np.where(out > 0, 1.5, 4.0)) ** 2)) * _smooth(along * 3) * _smooth((1 - along) * 2)
    lost += 0.14 * face.chin * _bump(x, y - 0.03 * x * x, 0, 56.5, 8, 1.6)
    return lost


def _bump(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float) -> Array:
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2).astype(np.float32)


def _smooth(share: Array) -> Array:
    share = np.clip(share, 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _row(y: float) -> int:
    return int((y + ORIGIN[1]) * SCALE)


def _column(x: float) -> int:
    return int((x + ORIGIN[0]) * SCALE)
