"""Late fusion: each modality decides by itself, the decisions are weighed. The plainest reference to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, PlainAux, together
from models.layers import BLOCKED, BiLSTM, ConvEncoder, mean_over_time, veil


@dataclass(frozen=True)
class LateConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "temporal": ("bilstm", "conv"), "weigh": ("equal", "learned"),
    }

    temporal: str = "bilstm"
    weigh: str = "learned"
    """"equal": the mean of the decisions; "learned": a softmax over scores of each modality's own summary."""

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (300, 74, 35), **changes: Any) -> LateConfig:
        """On research corpora: one bidirectional LSTM a modality."""
        return replace(cls(dims=dims, rows=(50, 500, 500), classes=0, affect=1, bounded=False), **changes)

    @classmethod
    def live(cls, **changes: Any) -> LateConfig:
        """On the live features, with their front ends."""
        live = cls(temporal="conv", time="seconds", front="patches", strides=(1, 8, 8), evidence=True, dropout_in=0.1)
        return replace(live, **changes)


class Late(FusionModel):
    """One temporal encoder and one decision a modality; logits add up times weights and number, values are averaged."""

    def __init__(self, config: LateConfig | None = None) -> None:
        c = config or LateConfig()
        super().__init__(c)
        self.fronts = Fronts(c)
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.drop = nn.Dropout(c.dropout)
        self.decide = Evidence((c.d, c.d, c.d), c.classes + c.affect)
        self.score = nn.ModuleList(nn.Linear(c.d, 1) for _ in range(N_MODALITIES)) if c.weigh == "learned" else None

    def study(self, *sequences: Tensor) -> tuple[Output, PlainAux]:
        """As `forward`, with what the loss needs."""
        c: LateConfig = self.config
        streams, present = self.fronts(*sequences)
        hs = []
        for one, code, encode in zip(streams, self.codes(streams, c.d), self.temporal, strict=True):
            hs.append(mean_over_time(encode(veil(one.z + code, one.mask), one.mask), one.mask))
        weights = present / present.sum(1, keepdim=True).clamp_min(1)
        if self.score is not None:
            scores = torch.cat([layer(h) for layer, h in zip(self.score, hs, strict=True)], 1)
            weights = (scores + (1 - present) * BLOCKED).softmax(1) * present
        own = self.decide([self.drop(h) for h in hs], streams)
        return self.output(together(own, weights, present, c.classes), weights), PlainAux(present, own[..., :c.classes])
