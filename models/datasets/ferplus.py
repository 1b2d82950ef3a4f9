"""FER+ : 35,710 web faces with ten votes each (Barsoum et al. 2016, ICMI), as aligned crops made by the live crop path."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.datasets import DataMissing, cache_root
from models.emotions import EMOTIONS
from models.perception import facegeometry
from models.perception.facemesh import FaceMesh

SPLITS = ("train", "valid", "test")
ENLARGED = 256
"""FER pictures (48 pixels) are enlarged to this side before Face Mesh looks at them."""
MARGINS = (128, 0)
"""Grey border, in pixels of the enlarged picture, of the first and second try: the detector expects a scene around a face.

Without a border it misses 7.7 % of the test pictures, mostly tight ones.
"""

_VOTE_OF = {
    "neutral": "neutral",
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "disgusted": "disgust",
    "surprised": "surprise",
}
_CACHE_VERSION = 3


@dataclass(frozen=True)
class FerPlus:
    """One split. crops (N, 48, 48) uint8; found (N,) bool, False where Face Mesh saw no face and the crop is the centred picture;
    label (N,) int8 by the authors' majority rule, -1 for none of the seven; votes (N, 7) float32 shares of the seven emotions after
    single votes were set to 0 (rows sum to 1, or 0 where nothing is left); other (N,) float32 share of contempt, unknown and "not a face".
    """

    crops: npt.NDArray[np.uint8]
    found: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int8]
    votes: npt.NDArray[np.float32]
    other: npt.NDArray[np.float32]


def load(data: Path, split: str, progress: Callable[[int, int], None] | None = None) -> FerPlus:
    """The split "train", "valid" or "test" of FER+ under `data` (the folder that holds `ferplus48.npz`).

    Pictures of valid and test that repeat an earlier picture are dropped, and so are training pictures of which valid or test
    holds a copy. Crops are made once (some minutes) and cached; `progress(done, total)` is told meanwhile.
    Raises DataMissing where the set is missing, ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use {', '.join(SPLITS)}")
    source = Path(data) / "ferplus48.npz"
    if not source.is_file():
        raise DataMissing(f"{source} is missing: give the folder that holds it, or set AFFECT_DATA to the folder that contains data/.")
    with np.load(source, allow_pickle=False) as arrays:
        names = [str(name) for name in arrays["vote_names"]]
        part, label, votes, twin = arrays["split"], arrays["label7"], arrays["votes"], arrays["duplicate_of"]
        crops, found = _crops(source, arrays["images"], progress)
    rows = _rows(part, twin, SPLITS.index(split))
    counted = votes[rows].astype(np.float32)
    counted[counted <= 1] = 0
    seven = counted[:, [names.index(_VOTE_OF[emotion]) for emotion in EMOTIONS]]
    mass = seven.sum(1)
    total = counted.sum(1)
    return FerPlus(
        crops=crops[rows],
        found=found[rows],
        label=label[rows].astype(np.int8),
        votes=(seven / np.maximum(mass, 1)[:, None]).astype(np.float32),
        other=((total - mass) / np.maximum(total, 1)).astype(np.float32),
    )


def _rows(part: npt.NDArray[np.uint8], twin: npt.NDArray[np.int32], wanted: int) -> npt.NDArray[np.int64]:
    """Rows of one split with nothing in it that another split repeats."""
    first = np.where(twin >= 0, twin, np.arange(len(twin)))
    if wanted != 0:
        return np.flatnonzero((part == wanted) & (twin < 0))
    return np.flatnonzero((part == 0) & ~np.isin(first, first[part != 0]))


def _crops(
    source: Path, images: npt.NDArray[np.uint8], progress: Callable[[int, int], None] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Crops of all pictures and whether a face was found in each, from the cache where they are in it."""
    recipe = {
        "version": _CACHE_VERSION,
        "source": hashlib.sha256(source.read_bytes()).hexdigest(),
        "enlarged": ENLARGED,
        "margins": MARGINS,
        "crop": facegeometry.RECIPE,
    }
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    kept = cache_root() / f"ferplus-{key}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as arrays:
            return arrays["crops"], arrays["found"]
    crops = np.empty((len(images), facegeometry.CROP, facegeometry.CROP), np.uint8)
    found = np.zeros(len(images), np.bool_)
    mesh = FaceMesh(backend="solutions", still=True)
    try:
        for row, image in enumerate(images):
            crops[row], found[row] = still_crop(mesh, image)
            if progress is not None and row % 100 == 99:
                progress(row + 1, len(images))
    finally:
        mesh.close()
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(f".{os.getpid()}.tmp.npz")
    np.savez_compressed(unfinished, crops=crops, found=found)
    unfinished.replace(kept)  # A run that dies half-way leaves no half cache.
    return crops, found


def still_crop(mesh: FaceMesh, image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], bool]:
    """Aligned crop of a small grey face picture (H, W), and whether a face was found in it."""
    height, width = image.shape
    large = cv2.resize(image, (ENLARGED, ENLARGED), interpolation=cv2.INTER_CUBIC)
    for margin in MARGINS:
        scene = cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=[127])
        faces = mesh(np.asarray(cv2.cvtColor(scene, cv2.COLOR_GRAY2RGB), np.uint8))
        if not faces:
            continue
        # Landmarks go back to the picture's own pixels: only they come from the enlarged scene, the crop from the original.
        points = faces[0] - np.array([margin, margin, 0], np.float32)
        ratio = np.array([width / ENLARGED, height / ENLARGED, width / ENLARGED], np.float32)
        half = np.array([0.5, 0.5, 0.0], np.float32)
        with contextlib.suppress(ValueError):
            return facegeometry.crop(image, facegeometry.alignment((points + half) * ratio - half)), True
    return facegeometry.crop(image, facegeometry.centred(height, width)), False
