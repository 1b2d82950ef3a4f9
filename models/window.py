"""The arrays of a window, as every fusion model takes them (see README, "Windows")."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.emotions import MODALITIES

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WindowSpec:
    """How much a window holds. Part of a model's contract: weights carry the spec they were trained with."""

    seconds: float = 4.0
    text: int = 24
    voice: int = 200
    face: int = 120

    def capacity(self, modality: str) -> int:
        """Most rows of `modality` ("text", "voice" or "face") in one window."""
        return int(getattr(self, modality))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Sequence(NamedTuple):
    """One modality of a batch of windows, right-aligned in no way: rows fill from index 0, the rest is padding.

    x (B, T, D) float32 features; t (B, T) float32 seconds relative to the window's end (so t <= 0, and 0 for padding);
    mask (B, T) float32, 1 for a row and 0 for padding. A fully masked modality is legal.
    """

    x: Array
    t: Array
    mask: Array


class Window(NamedTuple):
    """A batch of B windows: one `Sequence` a modality, in the order of `MODALITIES`."""

    text: Sequence
    voice: Sequence
    face: Sequence


def empty(spec: WindowSpec, dims: dict[str, int], batch: int = 1) -> Window:
    """All-padding windows to be filled in place; `dims` maps each modality to its feature dimension D."""
    parts = []
    for modality in MODALITIES:
        rows = spec.capacity(modality)
        parts.append(Sequence(
            np.zeros((batch, rows, dims[modality]), np.float32), np.zeros((batch, rows), np.float32), np.zeros((batch, rows), np.float32)
        ))
    return Window(*parts)
