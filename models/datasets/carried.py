"""Networks that others trained and published inside Python packages: where they lie. Research only; the live engine needs none of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from models.datasets import DataMissing


def carried(package: str, relative: str) -> Path:
    """The file or folder `relative` inside the installed package, which is not imported. Raises DataMissing with the cure."""
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / relative).exists():
            return Path(place) / relative
    raise DataMissing(f"the package {package} with its {relative} is not installed. Install it: pip install 'affect[pretrained]'")
