"""The fusion models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.fusion import FusionConfig, FusionModel
from models.iaca import IACA, IACAConfig, IACALoss
from models.late import Late, LateConfig
from models.losses import PlainLoss
from models.mea import MEA, MEAConfig, MEALoss
from models.msaf import MSAF, MSAFConfig
from models.mult import MulT, MulTConfig, MulTLoss
from models.ucrn import UCRN, UCRNConfig, UCRNLoss


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
    "msaf": Entry(MSAF, MSAFConfig, PlainLoss, "Su et al. 2020, arXiv 2012.07175"),
    "ucrn": Entry(UCRN, UCRNConfig, UCRNLoss, "Guo et al. 2021, EMNLP"),
    "iaca": Entry(IACA, IACAConfig, IACALoss, "Praveen and Alam 2024, arXiv 2405.12853"),
    "mult": Entry(MulT, MulTConfig, MulTLoss, "a reference, after Tsai et al. 2019, ACL"),
    "late": Entry(Late, LateConfig, PlainLoss, "a reference"),
}
