"""A trained fusion model, ready to read windows: `load(...)`, then `engine(window)`. How it computes is `models.runtime`'s matter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from models.emotions import MODALITIES, STREAM_OF
from models.runtime import build, choice
from models.runtime.build import BuildError
from models.runtime.choice import BackendError, Choice
from models.runtime.trained import Trained, read, save
from models.window import Window

__all__ = ["BackendError", "BuildError", "Engine", "Reading", "cold", "compile", "failed", "load", "save"]


class Reading(NamedTuple):
    """What the engine says of B windows, numpy float32.

    probabilities (B, 7) in the order of `EMOTIONS`, calibrated, under the stated prior (the prior itself where nothing is present);
    affect (B, 2) valence and arousal in [-1, 1]; weights (B, 3) in the order of `MODALITIES`, summing to 1 over what is present.
    """

    probabilities: np.ndarray
    affect: np.ndarray
    weights: np.ndarray


class Engine:
    """Windows in, readings out. With a program for one window each goes through by itself: a result never depends on its company."""

    def __init__(self, trained: Trained, choice: Choice) -> None:
        self.name, self.spec, self.features, self.calibration = trained.model, trained.spec, dict(trained.features), trained.calibration
        self.dims, self.check = trained.dims, trained.check
        self.program, self.backend, self.why, self.facts = choice

    @property
    def told(self) -> str:
        """The backend, and where it was not asked for the reason why it is this one."""
        return f"{self.backend} (auto: {self.why})" if self.why else self.backend

    def logits(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Uncalibrated logits (B, 7), affect (B, 2), weights (B, 3) and presence (B, 3). Raises ValueError for wrong shapes."""
        arrays, size = self._arrays(window), self.program.batch
        outputs = []
        for first in range(0, len(arrays[0]), size):
            some = [array[first:first + size] for array in arrays]
            short = size - len(some[0])
            if short:
                some = [np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)]) for part in some]
            outputs.append([part[:size - short].copy() for part in self.program(some)])
        if outputs:
            logits, affect, psi = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        else:
            logits, affect, psi = (np.zeros((0, n), np.float32) for n in (7, 2, 3))
        present = np.stack([s.mask.max(1) > 0 for s in window], 1)
        return logits, affect, psi, present

    def __call__(self, window: Window) -> Reading:
        """A batch of windows (see `models.window`) -> what they show. Raises ValueError for wrong shapes."""
        logits, affect, psi, present = self.logits(window)
        return Reading(self.calibration(logits, present), affect * present.any(1, keepdims=True), psi)

    def _arrays(self, window: Window) -> list[np.ndarray]:
        batch, arrays = len(window.text.x), []
        for modality, sequence in zip(MODALITIES, window, strict=True):
            rows = self.spec.capacity(modality)
            wanted = {"x": (batch, rows, self.dims[modality]), "t": (batch, rows), "mask": (batch, rows)}
            for part, shape in wanted.items():
                array = np.ascontiguousarray(getattr(sequence, part), np.float32)
                if array.shape != shape:
                    raise ValueError(f"{STREAM_OF[modality]}.{part} is {array.shape}; {self.name} was trained on windows with {shape}")
                arrays.append(array)
        return arrays


def load(
    name: str | os.PathLike[str] = "mea", features: Mapping[str, str] | None = None, backend: str = "auto", batch: int = 1,
    precision: str = "fp16",
) -> Engine:
    """The engine from weights `name`: a shipped name or a path to a .safetensors file.

    `features` are the hashes of the live feature sets by stream, checked when given. `backend` is one of `choice.BACKENDS`, `batch` how
    many windows its program takes at once, `precision` TensorRT's. Raises `weights.WeightsError` where the file is missing, damaged or
    not a fusion model, FeatureMismatch where features differ, `choice.BackendError` where a named backend cannot run.
    """
    trained = read(name)
    trained.check(features or {})
    return Engine(trained, choice.choose(trained, backend, batch, precision))


def cold(name: str | os.PathLike[str] = "mea", backend: str = "auto", batch: int = 1, precision: str = "fp16") -> bool:
    """Whether `load` would have to compile first; it does not where that has failed before. Raises as `load`."""
    trained, chosen = read(name), choice.compiled(backend)
    wanted = trained, chosen, batch, precision
    return bool(chosen) and build.cached(*wanted) is None and not build.failed(*wanted)


def failed(name: str | os.PathLike[str] = "mea", backend: str = "auto", batch: int = 1, precision: str = "fp16") -> str:
    """Why the backend that `load` would try first could not be compiled; empty where it was, or nobody tried. Raises as `load`."""
    trained, chosen = read(name), choice.compiled(backend)
    return build.failed(trained, chosen, batch, precision) if chosen else ""


def compile(
    name: str | os.PathLike[str] = "mea", backend: str = "auto", batch: int = 1, precision: str = "fp16"
) -> tuple[str, dict[str, Any]]:
    """Compiles anew (about 20 s), whatever came of it before, for later calls of `load`: the backend, and what its build found.

    Raises as `load`, and BuildError.
    """
    trained, chosen = read(name), choice.compiled(backend)
    if not chosen:
        raise BackendError("there is nothing to compile for the eager backend")
    entry = build.build(trained, chosen, batch, precision)
    return chosen, {**entry.facts, "bytes": len(entry.data)}
