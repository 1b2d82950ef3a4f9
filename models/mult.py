"""A MulT-style crossmodal transformer (Tsai et al., ACL 2019; code yaohungt/Multimodal-Transformer): a reference to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, together
from models.layers import last_row, mean_over_time, position_code, time_code
from models.losses import Targets, TaskLoss, total
from models.transformer import TransformerEncoder


@dataclass(frozen=True)
class MulTConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "time": ("position", "seconds"), "pool": ("last", "mean"),
    }

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
    time: str = "position"
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
            kernels=(3, 3, 3), strides=(1, 8, 8), evidence=True, dropout_in=0.1,
        )
        return replace(live, **changes)


class Aux(NamedTuple):
    """present (B, 3); evidence (B, 3, classes), zeros without `evidence`."""

    present: Tensor
    evidence: Tensor


class MulT(FusionModel):
    """Each modality asks the two others, then itself. weights: each modality's share of the size of what enters the head."""

    def __init__(self, config: MulTConfig | None = None) -> None:
        c = config or MulTConfig()
        super().__init__(c)
        outputs, pair, wide = c.classes + c.affect, 2 * c.d, 2 * N_MODALITIES * c.d
        self.fronts = Fronts(c)
        self.pairs = [(m, n) for m in range(N_MODALITIES) for n in range(N_MODALITIES) if m != n]
        self.cross = nn.ModuleList(
            TransformerEncoder(c.d, c.heads, c.layers, c.dropout, c.attention_dropout, c.causal, ffn=c.ffn) for _ in self.pairs
        )
        self.memory = nn.ModuleList(
            TransformerEncoder(pair, c.memory_heads, c.layers, c.dropout, c.attention_dropout, c.causal, ffn=c.ffn)
            for _ in range(N_MODALITIES)
        )
        self.inner, self.outer, self.head = nn.Linear(wide, wide), nn.Linear(wide, wide), nn.Linear(wide, outputs)
        self.drop = nn.Dropout(c.dropout)
        self.evidence = Evidence((pair, pair, pair), outputs) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `MulTLoss` needs."""
        c: MulTConfig = self.config
        streams, present = self.fronts(*sequences)
        codes = [time_code(one.t, c.d) if c.time == "seconds" else position_code(one.t, c.d) for one in streams]
        asked = {
            (m, n): encode(streams[m].z, streams[m].mask, streams[n].z, streams[n].mask, codes[m], codes[n])
            for (m, n), encode in zip(self.pairs, self.cross, strict=True)
        }
        hs = []
        for m, remember in enumerate(self.memory):
            h = remember(torch.cat([asked[m, n] for n in range(N_MODALITIES) if n != m], -1), streams[m].mask)
            hs.append(last_row(h, streams[m].mask) if c.pool == "last" else mean_over_time(h, streams[m].mask))
        joined = torch.cat(hs, -1)
        answer = self.head(joined + self.outer(self.drop(functional.relu(self.inner(joined)))))
        size = torch.stack([h.square().mean(1) for h in hs], 1).clamp_min(1e-9).sqrt() * present
        weights = size / size.sum(1, keepdim=True).clamp_min(1e-9)
        own = torch.zeros_like(answer).unsqueeze(1).expand(-1, N_MODALITIES, -1)
        if self.evidence is not None:
            own = self.evidence(hs, streams)
            answer = answer + together(own, weights, present, c.classes)
        return self.output(answer, weights), Aux(present, own[..., :c.classes])


@dataclass(frozen=True)
class MulTLoss:
    """L_task: absolute error of the sentiment, or cross-entropy."""

    task: TaskLoss = field(default_factory=lambda: TaskLoss(values="l1"))

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        return total(self.task.parts(output, aux.evidence, aux.present, targets))
