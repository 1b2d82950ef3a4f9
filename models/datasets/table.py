"""Tables of the corpora: CSV files, gzipped or not, read as rows of strings."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence

from models.datasets import corpus

SPLITS = {"train": "train", "dev": "valid", "val": "valid", "valid": "valid", "test": "test"}
"""The corpora's names for their official splits, and ours."""


class TableError(ValueError):
    """A table is not in the layout it should have."""


def read(relative: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of the table `relative` in the data folder. Raises DataMissing, or TableError when `columns` are not all there."""
    path = corpus(relative)
    opening = gzip.open if path.suffix == ".gz" else open
    with opening(path, "rt", encoding="utf-8", newline="") as file:
        try:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise TableError(f"{path} lacks the columns {', '.join(sorted(missing))}: it is not the file its name says.")
            for number, row in enumerate(reader, 2):
                if any(row[name] is None for name in columns):
                    raise TableError(f"{path}, record {number}: too few fields. The file is cut off or damaged.")
                yield row
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise TableError(f"{path} cannot be read: {error}. Fetch the file again.") from error


def split(name: str) -> str:
    """Our name of an official split. Raises TableError for an unknown one."""
    try:
        return SPLITS[name]
    except KeyError:
        raise TableError(f"unknown split {name!r}; known: {', '.join(SPLITS)}.") from None
