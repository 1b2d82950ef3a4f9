"""The file of a trained fusion model, read without torch."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors.numpy import save_file

from models import weights
from models.calibration import Calibration
from models.emotions import MODALITIES
from models.features import FeatureMismatch
from models.window import WindowSpec

if TYPE_CHECKING:
    from models.fusion import FusionModel

FORMAT = "affect-fusion-2"
CALIBRATION = tuple(part.name for part in fields(Calibration))


class Program(Protocol):
    """A network ready to compute `batch` windows at a time."""

    batch: int

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The nine inputs (`Trained.shapes`) -> logits (B, 7), affect (B, 2), weights (B, 3). May overwrite what it gave before."""
        ...


@dataclass(frozen=True)
class Trained:
    """What a weights file says: the model's name in the registry, its configuration, what its windows hold, and its arrays."""

    source: Path
    model: str
    config: Mapping[str, Any]
    spec: WindowSpec
    features: Mapping[str, str]
    """Hashes of the feature sets it was trained on, by stream."""
    calibration: Calibration
    state: Mapping[str, np.ndarray]

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of configuration and arrays. Not of the file: the same weights saved again give other bytes."""
        whole = hashlib.sha256(json.dumps(dict(self.config), sort_keys=True).encode())
        for name, array in sorted(self.state.items()):
            whole.update(f"{name} {array.dtype} {array.shape}".encode())
            whole.update(np.ascontiguousarray(array).data)
        return whole.hexdigest()

    @property
    def dims(self) -> dict[str, int]:
        """Columns of the feature rows by modality."""
        return dict(zip(MODALITIES, self.config["dims"], strict=True))

    def check(self, features: Mapping[str, str]) -> None:
        """Raises FeatureMismatch when one of these live feature hashes (by stream) is not the one the weights were trained on."""
        for stream, given in features.items():
            trained = self.features.get(stream, "none")
            if given != trained:
                raise FeatureMismatch(f"{self.model}, {stream}", trained, given)

    def shapes(self, batch: int) -> list[tuple[int, ...]]:
        """Shapes of the nine inputs: x (B, T, D), t (B, T), mask (B, T) of text, voice and face."""
        shapes: list[tuple[int, ...]] = []
        for modality, dim in self.dims.items():
            rows = self.spec.capacity(modality)
            shapes += [(batch, rows, dim), (batch, rows), (batch, rows)]
        return shapes


def read(name: str | os.PathLike[str]) -> Trained:
    """Weights `name`, a shipped name or a path. Raises `weights.WeightsError` where the file is missing, damaged or no fusion model."""
    arrays, metadata = weights.load(name)
    source = weights.path(name)
    if metadata.get("format") != FORMAT:
        raise weights.WeightsError(
            f"{source} holds no fusion model of this version (format {metadata.get('format')!r}). Give weights made by `affect train`.")
    try:
        return Trained(
            source, metadata["model"], json.loads(metadata["config"]), WindowSpec(**json.loads(metadata["spec"])),
            json.loads(metadata["features"]), Calibration(**{part: arrays[f"calibration.{part}"] for part in CALIBRATION}),
            {key.removeprefix("model."): value for key, value in arrays.items() if key.startswith("model.")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise weights.WeightsError(f"{source} lacks a part of a fusion model: {error}. Train it again with `affect train`.") from error


def save(
    path: Path, name: str, model: FusionModel, spec: WindowSpec, features: Mapping[str, str], calibration: Calibration,
    extra: Mapping[str, Any],
) -> None:
    """Writes what `read` reads. `extra` (seed, figures, anything JSON) goes into the metadata as `training`."""
    arrays = {f"model.{key}": value.detach().cpu().contiguous().numpy() for key, value in model.state_dict().items()}
    arrays |= {f"calibration.{part}": getattr(calibration, part) for part in CALIBRATION}
    metadata = {
        "format": FORMAT, "model": name, "config": json.dumps(model.config.to_dict()), "spec": json.dumps(spec.to_dict()),
        "features": json.dumps(dict(features)), "training": json.dumps(dict(extra)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file(arrays, unfinished, metadata)
    unfinished.replace(path)  # A run that dies half-way leaves no half file.
