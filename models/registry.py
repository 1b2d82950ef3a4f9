"""The fusion models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.fusion import FusionConfig, FusionModel
from models.mea import MEA, MEAConfig, MEALoss


@dataclass(frozen=True)
class Entry:
    """A model, its configuration and its loss."""

    model: Callable[[Any], FusionModel]
    config: type[Any]
    loss: Callable[..., Any]
    paper: str

    def build(self, config: FusionConfig | Mapping[str, Any]) -> FusionModel:
        """The untrained model of a configuration, or of one as a plain dict."""
        return self.model(config if isinstance(config, FusionConfig) else self.config.from_dict(config))


MODELS = {
    "mea": Entry(MEA, MEAConfig, MEALoss, "Yang et al. 2024, IEEE TCSVT, arXiv 2407.04955"),
}
