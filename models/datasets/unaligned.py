"""The two public pickle layouts of CMU-MOSI, CMU-MOSEI and IEMOCAP: MulT's `*_data_noalign.pkl` and MMSA's `unaligned_50.pkl`.

Both are dicts by split of padded arrays `text`, `audio`, `vision` (N, T, D). MulT's (Tsai et al. 2019; code
yaohungt/Multimodal-Transformer) has `labels`: (N, 1, 1) sentiment, or (N, 4, 2) yes/no for IEMOCAP's four emotions, and `id`, which
IEMOCAP's lacks. MMSA's (thuiar/MMSA) has `regression_labels` (N,), `id` ("video$_$clip"), and lengths of audio and vision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.datasets import DataMissing, data_root, pickles
from models.datasets.examples import Examples, untimed
from models.datasets.table import SPLITS
from models.window import Window

STREAMS = ("text", "audio", "vision")
IEMOCAP = ("neutral", "happy", "sad", "angry")
"""Order of IEMOCAP's emotions in MulT's files."""


class LayoutError(ValueError):
    """A pickle holds something other than its layout says."""


def load(*places: str) -> dict[str, Examples]:
    """Splits "train", "valid" and "test" of the first file that is there of `places` in the data folder.

    Raises DataMissing, PickleRefused or LayoutError with the reason.
    """
    found = next((data_root() / place for place in places if (data_root() / place).is_file()), None)
    if found is None:
        raise DataMissing(f"{data_root()} has none of {', '.join(places)}. Put one of these public files there, or choose other data.")
    content = pickles.load(found)
    if not isinstance(content, dict):
        raise LayoutError(f"{found} holds {type(content).__name__}, not the splits train, valid and test.")
    splits = {SPLITS.get(str(name), ""): part for name, part in content.items()}
    missing = {"train", "valid", "test"} - set(splits)
    if missing:
        raise LayoutError(f"{found} lacks the splits {', '.join(sorted(missing))}.")
    try:
        return {name: examples(splits[name], name) for name in ("train", "valid", "test")}
    except LayoutError as error:
        raise LayoutError(f"{found}: {error}") from error


def examples(part: Any, name: str) -> Examples:
    """One split in either layout."""
    lacking = [key for key in STREAMS if not isinstance(part, dict) or key not in part]
    if lacking:
        raise LayoutError(f"split {name} lacks {', '.join(lacking)}.")
    arrays = [np.asarray(part[key]) for key in STREAMS]
    if any(x.ndim != 3 or len(x) != len(arrays[0]) for x in arrays):
        raise LayoutError(f"split {name} has shapes {', '.join(str(x.shape) for x in arrays)}; (N, T, D) each is needed.")
    text, audio, vision = (untimed(_cut(x, part.get(f"{key}_lengths"))) for key, x in zip(STREAMS, arrays, strict=True))
    window, n = Window(text, audio, vision), len(arrays[0])
    if "regression_labels" in part:
        return _sentiment(window, np.asarray(part["regression_labels"], np.float32), _ids(part.get("id"), n), name)
    if "labels" not in part:
        raise LayoutError(f"split {name} has neither labels (MulT) nor regression_labels (MMSA).")
    labels = np.asarray(part["labels"], np.float32)
    if labels.ndim == 3 and labels.shape[1:] == (len(IEMOCAP), 2):
        return _emotions(window, labels, _ids(part.get("id"), n))
    return _sentiment(window, labels, _ids(part.get("id"), n), name)


def _sentiment(window: Window, labels: Any, ids: Any, name: str) -> Examples:
    if labels.size != len(window.text.x):
        raise LayoutError(f"split {name} has labels {labels.shape} for {len(window.text.x)} rows.")
    return Examples.of_values(window, labels.reshape(-1, 1), _videos(ids), ids)


def _emotions(window: Window, labels: Any, ids: Any) -> Examples:
    """IEMOCAP: each emotion is a yes or no of its own, and several may be yes; MulT reports each. Soft classes share them evenly."""
    yes = (labels[..., 1] > labels[..., 0]).astype(np.float32)
    count = yes.sum(1)
    classes = yes / np.maximum(count, 1)[:, None]
    n = len(yes)
    none = np.zeros((n, 0), np.float32)
    return Examples(window, classes, (count > 0).astype(np.float32), none, np.zeros(n, np.float32), _videos(ids), ids)


def _ids(given: Any, n: int) -> Any:
    """An id a row; MulT's are (N, 3) of video, begin and end, bytes or text."""
    if given is None:
        return np.array([str(k) for k in range(n)])
    return np.array(["_".join(_text(part) for part in np.atleast_1d(np.asarray(one, object)).ravel()) for one in given])


def _text(part: Any) -> str:
    return part.decode("latin1") if isinstance(part, bytes) else str(part)


def _videos(ids: Any) -> Any:
    return np.array([one.partition("$_$")[0] if "$_$" in one else one.split("_")[0] if one.count("_") == 2 else one for one in ids])


def _cut(x: Any, lengths: Any) -> Any:
    """`x` with zeros from each row's length on; some files are padded with other values."""
    x = np.asarray(x, np.float32)
    if lengths is None or len(lengths) != len(x):
        return x
    beyond = np.arange(x.shape[1])[None] >= np.asarray(lengths, np.int64).reshape(-1, 1)
    return np.where(beyond[..., None], np.float32(0), x)


