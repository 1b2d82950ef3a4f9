"""The network of trained weights in PyTorch, and the one exported program that every compiled backend is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models import weights
from models.fusion import FusionModel
from models.registry import MODELS
from models.runtime.trained import Program, Trained

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = tuple(f"{modality}_{part}" for modality in ("text", "voice", "face") for part in ("x", "t", "mask"))
OUTPUTS = ("logits", "affect", "weights")


class Eager:
    """The network as PyTorch computes it, in one thread.

    About a fifth of its time goes into page faults unless the process was started with `MALLOC_MMAP_THRESHOLD_` and
    `MALLOC_TRIM_THRESHOLD_` raised (to 268435456, say).
    """

    def __init__(self, trained: Trained, batch: int = 1, precision: torch.dtype = torch.float32) -> None:
        torch.set_num_threads(1)
        self.batch = batch
        self._model = network(trained).to(precision)
        self._precision = precision

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [part.float().numpy() for part in self._model(*(torch.from_numpy(array).to(self._precision) for array in arrays))]


class Typed(nn.Module):
    """A model in some precision that takes and gives float32 whatever it is."""

    def __init__(self, model: FusionModel, precision: torch.dtype) -> None:
        super().__init__()
        self.model, self.precision = model.to(precision), precision

    def forward(
        self, text_x: Tensor, text_t: Tensor, text_mask: Tensor, voice_x: Tensor, voice_t: Tensor, voice_mask: Tensor,
        face_x: Tensor, face_t: Tensor, face_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (text_x, text_t, text_mask, voice_x, voice_t, voice_mask, face_x, face_t, face_mask)
        logits, affect, psi = self.model(*(part.to(self.precision) for part in given))
        return logits.float(), affect.float(), psi.float()


def network(trained: Trained) -> FusionModel:
    """The model with its weights, to be run. Raises `weights.WeightsError` where the two do not fit."""
    if trained.model not in MODELS:
        raise weights.WeightsError(f"{trained.source} holds a {trained.model!r}; this version knows {', '.join(MODELS)}.")
    try:
        model = MODELS[trained.model].build(trained.config)
        model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in trained.state.items()})
    except (RuntimeError, TypeError, ValueError) as error:
        raise weights.WeightsError(f"{trained.source} does not fit {trained.model} as configured in it: {error}") from error
    return model.eval().requires_grad_(False)


def export(trained: Trained, batch: int = 1, precision: str = "fp32", device: str = "cpu") -> torch.export.ExportedProgram:
    """The program of the network for `batch` windows; float32 in and out, `precision` inside."""
    model = Typed(network(trained), PRECISIONS[precision]).to(device)
    with torch.no_grad():
        return torch.export.export(model, tuple(torch.from_numpy(array).to(device) for array in probe(trained, batch)), strict=False)


def probe(trained: Trained, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Made-up windows to compare backends with: rows of unit variance around the training means, every combination of modalities."""
    draw = np.random.default_rng(seed)
    arrays = []
    for m, shape in enumerate(trained.shapes(batch)[::3]):
        rows = draw.integers(1, shape[1] + 1, batch)
        here = np.array([(7 - k % 8) >> m & 1 for k in range(batch)])  # Window 0 has all three, window 7 none.
        mask = (np.arange(shape[1]) < (rows * here)[:, None]).astype(np.float32)
        x = draw.normal(size=shape).astype(np.float32)
        t = np.sort(-trained.spec.seconds * draw.random(shape[:2]), 1).astype(np.float32)
        arrays += [x * mask[..., None], t * mask, mask]
    return arrays


def difference(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Largest difference of two answers, relative to the largest number of a window's output where that is over 1."""
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(a).max(1, keepdims=True))).max()) for a, b in zip(reference, other, strict=True))


class Compared(NamedTuple):
    """A program beside eager."""

    difference: float
    """Largest, of a probability or of what the program gives."""
    agreement: float
    """Share of windows whose most probable class is the same."""


def compare(trained: Trained, made: Program, least: int = 8, probabilities: bool = False) -> Compared:
    """A program beside eager over windows with every combination of modalities, `least` or one batch of them; in `probabilities` or in
    what it gives."""
    eager, size = Eager(trained), made.batch
    rounds = -(-least // size)
    windows, worst, agreeing = probe(trained, rounds * size), 0.0, 0
    for first in range(0, rounds * size, size):
        some = [array[first:first + size] for array in windows]
        alone = [eager([array[k:k + 1] for array in some]) for k in range(size)]
        answers = [np.concatenate(parts) for parts in zip(*alone, strict=True)], made(some)
        worst = max(worst, difference(*([_softmax(a[0]), *a[1:]] if probabilities else a for a in answers)))
        agreeing += int((answers[0][0].argmax(1) == answers[1][0].argmax(1)).sum())
    return Compared(worst, agreeing / (rounds * size))


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))
