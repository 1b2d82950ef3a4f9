"""Public corpora, one file each, and where they and the caches made from them live."""

from __future__ import annotations

import os
from pathlib import Path


class DataMissing(FileNotFoundError):
    """A corpus is not where it was looked for."""


def data_root() -> Path:
    """The folder that holds the corpora (`text/`, `ravdess_speech16k/`, `ferplus48.npz` …).

    It is `data/` inside the folder that the environment variable AFFECT_DATA names, else inside `shared/` beside the project's own
    folder. Raises DataMissing, with the cure, when there is none.
    """
    given = os.environ.get("AFFECT_DATA")
    home = Path(given).expanduser() if given else Path(__file__).resolve().parents[2].parent / "shared"
    if not (home / "data").is_dir():
        where = "as AFFECT_DATA says" if given else "beside the project; AFFECT_DATA is not set"
        raise DataMissing(f"no data in {home / 'data'} ({where}). Set AFFECT_DATA to the folder that contains data/.")
    return home / "data"


def corpus(relative: str) -> Path:
    """The file or folder `relative` inside `data_root()`. Raises DataMissing when it is not there."""
    found = data_root() / relative
    if not found.exists():
        raise DataMissing(f"{found} is missing: this corpus is not in the data folder. Add it, or leave the corpus out of the training.")
    return found


def cache_root() -> Path:
    """Where computed features are kept: AFFECT_CACHE, else `~/.cache/affect`. Made when missing; may be deleted at any time."""
    root = Path(os.environ.get("AFFECT_CACHE") or Path.home() / ".cache" / "affect").expanduser()
    root.mkdir(parents=True, exist_ok=True)
    return root
