"""CMU-MOSI, 2,199 opinions of 93 videos with sentiment -3 to 3 (Zadeh et al. 2016, arXiv 1606.06259): the public pickles."""

from __future__ import annotations

from models.datasets import unaligned
from models.datasets.examples import Examples

FILES = ("mosi/mosi_data_noalign.pkl", "mosi/unaligned_50.pkl")


def load() -> dict[str, Examples]:
    """The official splits by name, from whichever of `FILES` is there; values are (N, 1) sentiment."""
    return unaligned.load(*FILES)
