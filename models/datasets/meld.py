"""MELD: utterances of a television comedy (Poria et al. 2019, ACL). The script text is the studio's: research use only."""

from __future__ import annotations

from dataclasses import dataclass

from models.datasets import table

FILE = "text/meld.csv.gz"


@dataclass(frozen=True)
class Utterance:
    """One utterance. `id` is unique; the dialogue numbers repeat between splits. The six main speakers are in every split."""

    id: str
    split: str
    speaker: str
    text: str
    label7: int


def load() -> list[Utterance]:
    """All utterances with the official split (`train`, `valid` = dev, `test`). The corpus's times are unreliable and left out."""
    return [
        Utterance(row["utterance_id"], table.split(row["split"]), row["speaker"], row["utterance"], int(row["label7"]))
        for row in table.read(FILE, ("utterance_id", "split", "speaker", "utterance", "label7"))
    ]
