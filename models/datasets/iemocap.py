"""IEMOCAP, acted dialogues with four emotions each yes or no (Busso et al. 2008): MulT's public pickle."""

from __future__ import annotations

from models.datasets import unaligned
from models.datasets.examples import Examples

FILES = ("iemocap/iemocap_data_noalign.pkl",)
EMOTIONS = unaligned.IEMOCAP


def load() -> dict[str, Examples]:
    """The splits by name; classes are (N, 4) in the order of `EMOTIONS`."""
    return unaligned.load(*FILES)
