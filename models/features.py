"""Feature sets: the contract between what runs live and what was trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FeatureSet:
    """A named, versioned kind of feature row.

    `recipe` holds everything that decides the numbers in a row: parameters, column names and the sha256 of the weights
    involved. Two feature sets whose `hash` is equal give equal rows for equal input, up to floating-point kernels.
    """

    name: str
    version: int
    dim: int
    rate_hz: float
    """Nominal rows a second; 0 where rows come as they are spoken."""
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the sha256 over the canonical JSON of all fields."""
        body = {"name": self.name, "version": self.version, "dim": self.dim, "rate_hz": self.rate_hz, "recipe": self.recipe}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class FeatureMismatch(ValueError):
    """Weights met features they were not trained on."""

    def __init__(self, what: str, trained: str, given: str) -> None:
        super().__init__(
            f"{what}: these weights were trained on features {trained}, but the features here are {given}. "
            "Use weights trained on these features, or train again with `affect train`."
        )
