"""A MulT-style crossmodal transformer (Tsai et al., ACL 2019; code yaohungt/Multimodal-Transformer): a reference to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, PlainAux, shares
from models.layers import last_row, mean_over_time
from models.losses import PlainLoss, TaskLoss
from models.transformer import TransformerEncoder


@dataclass(frozen=True)
class MulTConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {**FusionConfig.OPTIONS, "pool": ("last", "mean")}

    d: int = 30
    kernels: tuple[int, int, int] = (1, 1, 1)
    front_bias: bool = False
    heads: int = 5
    memory_heads: int = 5
    layers: int = 5
    """Of each of the six crossmodal and three memory encoders."""
    ffn: int = 4
    causal: bool = True
    attention_dropout: float = 0.1
    dropout_embed: float = 0.25
    """Of what enters the encoders."""
    dropout_out: float = 0.0
    pool: str = "last"

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (300, 74, 35), **changes: Any) -> MulTConfig:
        """The public defaults for unaligned MOSEI."""
        return replace(cls(dims=dims, rows=(50, 500, 500), classes=0, affect=1, bounded=False, dropout_in=0.25), **changes)

    @classmethod
    def live(cls, **changes: Any) -> MulTConfig:
        """On the live features, with their front ends."""
        live = cls(
            d=40, heads=4, memory_heads=8, layers=2, ffn=2, causal=False, time="seconds", pool="mean", front="patches", front_bias=True,
            kernels=(3, 3, 3), strides=(1, 8, 8), evidence=True, dropout_in=0.1, dropout_embed=0.0,
        )
        return replace(live, **changes)


class MulT(FusionModel):
    """Each modality asks the two others, then itself. weights: each modality's share of the size of what enters the head."""

    def __init__(self, config: MulTConfig | None = None) -> None:
        c = config or MulTConfig()
        super().__init__(c)
        outputs, pair, wide = c.classes + c.affect, 2 * c.d, 2 * N_MODALITIES * c.d
        self.fronts = Fronts(c)
        self.pairs = [(m, n) for m in range(N_MODALITIES) for n in range(N_MODALITIES) if m != n]
        inner = (c.layers, c.ffn, c.dropout, c.attention_dropout, c.dropout_embed, c.causal)
        self.cross = nn.ModuleList(TransformerEncoder(c.d, c.heads, *inner) for _ in self.pairs)
        self.memory = nn.ModuleList(TransformerEncoder(pair, c.memory_heads, *inner) for _ in range(N_MODALITIES))
        self.inner, self.outer, self.head = nn.Linear(wide, wide), nn.Linear(wide, wide), nn.Linear(wide, outputs)
        self.drop = nn.Dropout(c.dropout_out)
        self.evidence = Evidence((pair, pair, pair), outputs) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, PlainAux]:
        """As `forward`, with what `MulTLoss` needs."""
        c: MulTConfig = self.config
        streams, present = self.fronts(*sequences)
        codes = self.codes(streams, c.d)
        asked = {
            (m, n): encode(streams[m].z, streams[m].mask, codes[m], streams[n].z, streams[n].mask, codes[n])
            for (m, n), encode in zip(self.pairs, self.cross, strict=True)
        }
        hs = []
        for m, (one, code, remember) in enumerate(zip(streams, self.codes(streams, 2 * c.d), self.memory, strict=True)):
            h = remember(torch.cat([asked[m, n] for n in range(N_MODALITIES) if n != m], -1), one.mask, code)
            hs.append(last_row(h, one.mask) if c.pool == "last" else mean_over_time(h, one.mask))
        joined = torch.cat(hs, -1)
        answer = self.head(joined + self.outer(self.drop(functional.relu(self.inner(joined)))))
        weights = shares(hs, present)
        output, own = self.conclude(answer, hs, weights, streams, present)
        return output, PlainAux(present, own)


@dataclass(frozen=True)
class MulTLoss(PlainLoss):
    """L_task: absolute error of the sentiment, or cross-entropy."""

    task: TaskLoss = field(default_factory=lambda: TaskLoss(values="l1"))
