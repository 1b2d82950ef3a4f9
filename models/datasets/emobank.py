"""EmoBank: sentences with valence, arousal and dominance (Buechel & Hahn 2017, EACL). CC BY-SA 4.0."""

from __future__ import annotations

from dataclasses import dataclass

from models.datasets import table

FILE = "text/emobank.csv.gz"
SPREAD = 1.5
"""Ratings stay near the middle (1.2 to 4.6 of 1 to 5); stretched by this they fill -1..1 about as the other corpora's do."""


@dataclass(frozen=True)
class Sentence:
    """One sentence with the corpus's own ratings, 1 to 5, 3 = neutral (mean of the readers' and the writers' view)."""

    id: str
    split: str
    text: str
    valence: float
    arousal: float
    dominance: float

    @property
    def affect(self) -> tuple[float, float]:
        """Valence and arousal in [-1, 1]: (rating - 3) / 2, stretched by `SPREAD` and clipped."""
        return scaled(self.valence), scaled(self.arousal)


def scaled(rating: float) -> float:
    """A rating 1..5 as our affect scale -1..1."""
    return min(max((rating - 3) / 2 * SPREAD, -1.0), 1.0)


def load() -> list[Sentence]:
    """All sentences with the official split (`train`, `valid` = dev, `test`)."""
    return [
        Sentence(row["id"], table.split(row["split"]), row["text"], float(row["V"]), float(row["A"]), float(row["D"]))
        for row in table.read(FILE, ("id", "split", "text", "V", "A", "D"))
    ]
