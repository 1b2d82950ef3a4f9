"""GoEmotions: Reddit comments with 28 emotion labels, grouped to the seven (Demszky et al. 2020, ACL). CC BY 4.0."""

from __future__ import annotations

from dataclasses import dataclass

from models.datasets import table

FILE = "text/goemotions.csv.gz"


@dataclass(frozen=True)
class Comment:
    """One comment. `label7` is -1 where its labels fall into more than one of the seven classes; `labels` are the 28's names."""

    id: str
    split: str
    text: str
    labels: tuple[str, ...]
    label7: int


def load() -> list[Comment]:
    """All comments with the official split (`train`, `valid` = dev, `test`).

    A text that occurs in several splits is kept in the one furthest from training only (82 texts do), so that no evaluation text has
    been trained on. "Happy" here means any positive feeling: approval, gratitude and caring too.
    """
    rows = [
        Comment(row["id"], table.split(row["split"]), row["text"], tuple(row["labels"].split("|")), int(row["label7"]))
        for row in table.read(FILE, ("id", "split", "text", "labels", "label7"))
    ]
    held: set[str] = set()
    kept: list[Comment] = []
    for name in ("test", "valid", "train"):
        part = [row for row in rows if row.split == name and row.text not in held]
        held.update(row.text for row in part)
        kept += part
    return kept
