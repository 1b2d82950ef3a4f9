"""A trained fusion model, ready to read windows: PyTorch eager, one thread.

Eager PyTorch loses about a fifth of its time to page faults unless the process was started with `MALLOC_MMAP_THRESHOLD_` and
`MALLOC_TRIM_THRESHOLD_` raised (to 268435456, say); OMP_NUM_THREADS=1 keeps it off the other workers' cores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from models import weights
from models.calibration import Calibration
from models.emotions import MODALITIES, STREAM_OF
from models.features import FeatureMismatch
from models.fusion import FusionModel
from models.registry import MODELS
from models.window import Window, WindowSpec

FORMAT = "affect-fusion-1"


class Reading(NamedTuple):
    """What the engine says of B windows, numpy float32.

    probabilities (B, 7) in the order of `EMOTIONS`, calibrated, under the stated prior (the prior itself where nothing is present);
    affect (B, 2) valence and arousal in [-1, 1]; weights (B, 3) in the order of `MODALITIES`, summing to 1 over what is present.
    """

    probabilities: np.ndarray
    affect: np.ndarray
    weights: np.ndarray


class Engine:
    """Windows in, readings out. Each window goes through by itself, so that a result never depends on what it was batched with."""

    backend = "eager"

    def __init__(
        self, name: str, model: torch.nn.Module, dims: tuple[int, ...], spec: WindowSpec, features: Mapping[str, str],
        calibration: Calibration,
    ) -> None:
        """`features` maps stream names to the hashes of the feature sets the model was trained on."""
        torch.set_num_threads(1)
        self.name, self.spec, self.features, self.calibration = name, spec, dict(features), calibration
        self.dims = dict(zip(MODALITIES, dims, strict=True))
        self._model = model.eval().requires_grad_(False)

    def check(self, features: Mapping[str, str]) -> None:
        """Raises FeatureMismatch when one of these live feature hashes (by stream) is not the one the weights were trained on."""
        for stream, given in features.items():
            trained = self.features.get(stream, "none")
            if given != trained:
                raise FeatureMismatch(f"{self.name}, {stream}", trained, given)

    def logits(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Uncalibrated logits (B, 7), affect (B, 2), weights (B, 3) and presence (B, 3). Raises ValueError for wrong shapes."""
        arrays = self._arrays(window)
        outputs = []
        with torch.inference_mode():
            for k in range(len(arrays[0])):
                outputs.append([part.numpy() for part in self._model(*(torch.from_numpy(a[k:k + 1]) for a in arrays))])
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


def load(name: str | os.PathLike[str] = "mea", features: Mapping[str, str] | None = None) -> Engine:
    """The engine from weights `name`: a shipped name or a path to a .safetensors file.

    `features` are the hashes of the live feature sets by stream, checked when given. Raises `weights.WeightsError` where the file is
    missing, damaged or not a fusion model, FeatureMismatch where features differ.
    """
    arrays, metadata = weights.load(name)
    if metadata.get("format") != FORMAT or metadata.get("model") not in MODELS:
        raise weights.WeightsError(
            f"{weights.path(name)} holds no fusion model of this version (format {metadata.get('format')!r}, "
            f"model {metadata.get('model')!r}). Give weights made by `affect train`."
        )
    model = MODELS[metadata["model"]].build(json.loads(metadata["config"]))
    state = {key.removeprefix("model."): torch.from_numpy(value.copy()) for key, value in arrays.items() if key.startswith("model.")}
    try:
        model.load_state_dict(state)
        calibration = Calibration(*(arrays[f"calibration.{part}"] for part in ("temperature", "cap", "prior")))
    except (RuntimeError, KeyError) as error:
        raise weights.WeightsError(f"{weights.path(name)} does not fit {metadata['model']} as configured in it: {error}") from error
    spec = WindowSpec(**json.loads(metadata["spec"]))
    engine = Engine(metadata["model"], model, model.config.dims, spec, json.loads(metadata["features"]), calibration)
    engine.check(features or {})
    return engine


def save(
    path: Path, name: str, model: FusionModel, spec: WindowSpec, features: Mapping[str, str], calibration: Calibration,
    extra: Mapping[str, Any],
) -> None:
    """Writes what `load` reads. `extra` (seed, figures, anything JSON) goes into the metadata as `training`."""
    arrays = {f"model.{key}": value.detach().cpu().contiguous().numpy() for key, value in model.state_dict().items()}
    arrays |= {f"calibration.{part}": getattr(calibration, part) for part in ("temperature", "cap", "prior")}
    metadata = {
        "format": FORMAT, "model": name, "config": json.dumps(model.config.to_dict()), "spec": json.dumps(spec.to_dict()),
        "features": json.dumps(dict(features)), "training": json.dumps(dict(extra)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file(arrays, unfinished, metadata)
    unfinished.replace(path)  # A run that dies half-way leaves no half file.
