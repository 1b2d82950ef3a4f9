"""The trained weights that ship with the project: one safetensors file and one model card (`.md`) each."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
from safetensors import safe_open


class WeightsError(Exception):
    """Weights are missing, damaged, or of another kind than asked for."""


def path(name: str | os.PathLike[str]) -> Path:
    """The file of weights `name`: a shipped name such as "mea", or a path to a `.safetensors` file.

    Raises WeightsError when there is no such file.
    """
    given = Path(name)
    found = given if given.suffix == ".safetensors" else Path(__file__).with_name(f"{name}.safetensors")
    if not found.is_file():
        shipped = sorted(p.stem for p in Path(__file__).parent.glob("*.safetensors"))
        raise WeightsError(
            f"no weights at {found}; shipped here: {', '.join(shipped) or 'none'}. Give one of these names or a .safetensors path.")
    return found


def load(name: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of weights `name`, as numpy (no torch). Raises WeightsError when missing or damaged."""
    found = path(name)
    try:
        with safe_open(found, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:
        raise WeightsError(
            f"{found} cannot be read as safetensors: {error}. Fetch the file again or train it with `affect train`.") from error


@functools.cache
def _digest(file: str, stamp: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def sha256(name: str | os.PathLike[str]) -> str:
    """sha256 of the file of weights `name`, in hexadecimal."""
    found = path(name)
    return _digest(str(found), found.stat().st_mtime_ns)
