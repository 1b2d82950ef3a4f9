"""CMU-MOSEI, 22,856 sentences of 3,228 videos with sentiment -3 to 3 (Zadeh et al. 2018, ACL): the public pickles."""

from __future__ import annotations

from models.datasets import unaligned
from models.datasets.examples import Examples

FILES = ("mosei/mosei_senti_data_noalign.pkl", "mosei/unaligned_50.pkl")


def load() -> dict[str, Examples]:
    """The official splits by name, from whichever of `FILES` is there; values are (N, 1) sentiment."""
    return unaligned.load(*FILES)
