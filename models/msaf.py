"""MSAF: multimodal split attention fusion (Su, Hu, Li and Cao, arXiv 2012.07175; code anita-hu/MSAF).

`SplitAttention` is the paper's module for any number of modalities with channels of any width; `MSAF` puts it between the stages of one
encoder a modality. Section 3.1 of the paper: split (channel blocks), join (one descriptor of all), highlight (attention over blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, PlainAux
from models.layers import BLOCKED, AttentionPool, ConvEncoder, any_row, last_row, mean_over_time, segment_of, veil


@dataclass(frozen=True)
class MSAFConfig(FusionConfig):
    """Sizes and options. A tuple has one entry a modality, in the order text, voice, face."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "norm": ("batch", "layer"), "temporal": ("lstm", "conv"), "segment": ("rows", "seconds"),
        "pool": ("mean", "last", "attention"), "combine": ("concat", "sum"), "rescale": ("none", "present", "all"),
    }

    widths: tuple[int, int, int] = (128, 64, 32)
    """Channels of each encoder (the MOSEI network: BERT text, COVAREP, Facet)."""
    block: int = 16
    """C: channels of a block; half of the narrowest modality in every published network. Need not divide a modality's channels."""
    reduction: int = 2
    """r: the join works with C / r channels."""
    block_dropout: float = 0.2
    dropout_twice: bool = False
    """Training as the public code does it: the block dropout mask is applied to the output a second time."""
    lowest: float = 0.0
    """lambda: the least attention a block gets."""
    rescale: str = "none"
    """Attention of 1 / blocks shrinks features ("none", the paper). Ours: "present" multiplies it by the number of blocks there, so that
    features keep their size whatever is absent; "all" by the number of all blocks, the lowest attention too, so that few look large."""
    norm: str = "batch"
    """Of the join. "layer" works with one window too and needs no running statistics."""
    segments: int = 5
    """q: the time axis is split into this many pieces, each with an attention of its own."""
    segment: str = "rows"
    """"rows" cuts the rows into equal pieces (the paper); "seconds" cuts time, which is what unaligned streams share."""
    seconds: float = 4.0
    """Length of the window, for `segment="seconds"`."""
    stages: int = 2
    """Encoder stages of each modality."""
    insertions: tuple[int, ...] = (1,)
    """After which stages attention stands (1 is after the first)."""
    temporal: str = "lstm"
    pool: str = "last"
    combine: str = "concat"
    """"concat": one head over all modalities (MOSEI); "sum": one head a modality, answers added (RAVDESS, NTU)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= after <= self.stages for after in self.insertions):
            raise ValueError(f"MSAFConfig.insertions = {self.insertions} must lie between 1 and stages = {self.stages}")
        if self.block < self.reduction:
            raise ValueError(f"MSAFConfig.reduction = {self.reduction} leaves nothing of block = {self.block}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MSAFConfig:
        """As any configuration's; in older weights `rescale` is no or yes."""
        older = {False: "none", True: "all"}
        return super().from_dict({**values, "rescale": older.get(values.get("rescale", "none"), values.get("rescale", "none"))})

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (768, 74, 35), **changes: Any) -> MSAFConfig:
        """The published MOSEI network."""
        return replace(cls(dims=dims, rows=(50, 50, 50), front="none", classes=0, affect=1, bounded=False, dropout=0.0), **changes)

    @classmethod
    def live(cls, **changes: Any) -> MSAFConfig:
        """What the engine runs: convolutions, attention after every stage, time cut in seconds."""
        live = cls(
            widths=(40, 40, 40), block=20, front="patches", strides=(1, 8, 8), norm="layer", lowest=0.2, rescale="all", segments=4,
            segment="seconds", stages=3, insertions=(1, 2), temporal="conv", pool="attention", time="seconds", evidence=True,
            dropout_in=0.1,
        )
        return replace(live, **changes)


class SplitAttention(nn.Module):
    """One MSAF module: features (B, T_m, C_m) of any modalities -> attention over their channel blocks."""

    def __init__(
        self, channels: tuple[int, ...], block: int = 16, reduction: int = 2, norm: str = "batch", lowest: float = 0.0,
        rescale: str = "none",
    ) -> None:
        super().__init__()
        inner = block // reduction
        self.block, self.lowest, self.rescale = block, lowest, rescale
        self.blocks = tuple(-(-c // block) for c in channels)
        self.join = nn.Linear(block, inner)
        self.norm: nn.Module = nn.BatchNorm1d(inner) if norm == "batch" else nn.LayerNorm(inner)
        self.highlight = nn.ModuleList(nn.Linear(inner, block) for _ in range(sum(self.blocks)))

    def split(self, x: Tensor, m: int) -> Tensor:
        """x (B, T, C_m) -> (B, T, n_m, C). The public code pads the wrong axis where C does not divide C_m; this pads channels."""
        x = functional.pad(x, (0, self.blocks[m] * self.block - x.shape[-1]))
        return x.reshape(*x.shape[:2], self.blocks[m], self.block)

    def forward(self, blocks: list[Tensor], masks: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """blocks (B, T_m, n_m, C), masks (B, T_m) -> attention (B, n_m, C) a modality, lowest attention included, and its mass (B, M).

        Before lambda the attention sums to one over all blocks of the modalities present, channel by channel (times what
        `rescale` says).
        """
        descriptor = torch.stack([mean_over_time(x.sum(2), mask) for x, mask in zip(blocks, masks, strict=True)]).sum(0)
        z = functional.relu(self.norm(self.join(descriptor)))
        scores = torch.stack([layer(z) for layer in self.highlight], 1)
        here = torch.stack([any_row(mask) for mask in masks], 1)
        owner = torch.cat([here[:, m:m + 1].expand(-1, n) for m, n in enumerate(self.blocks)], 1).unsqueeze(-1)
        attention = (scores + (1 - owner) * BLOCKED).softmax(1) * owner
        parts = torch.split(attention, list(self.blocks), 1)
        mass = torch.stack([part.sum(1).mean(1) for part in parts], 1)
        scale = owner.sum(1, keepdim=True) if self.rescale == "present" else 1.0
        whole = float(sum(self.blocks)) if self.rescale == "all" else 1.0
        return [(self.lowest + (1 - self.lowest) * part * scale) * whole for part in parts], mass


class SegmentedAttention(nn.Module):
    """Split attention by time segments (section 3.2), each with weights of its own: features in, the same features weighted out."""

    def __init__(self, c: MSAFConfig) -> None:
        super().__init__()
        self.c = c
        self.segments = nn.ModuleList(
            SplitAttention(c.widths, c.block, c.reduction, c.norm, c.lowest, c.rescale) for _ in range(c.segments)
        )

    def forward(self, xs: list[Tensor], ts: list[Tensor], masks: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """xs (B, T_m, C_m), ts and masks (B, T_m) -> xs, and the attention's mass a modality (B, M), averaged over the segments in use."""
        c = self.c
        first = self.segments[0]
        assert isinstance(first, SplitAttention)
        blocks = [first.split(x, m) for m, x in enumerate(xs)]
        keeps = [self._keep(x) for x in blocks]
        blocks = [x * keep for x, keep in zip(blocks, keeps, strict=True)]
        places = [segment_of(t, mask, c.segments, c.seconds if c.segment == "seconds" else None) for t, mask in zip(ts, masks, strict=True)]
        gains = [torch.zeros_like(x) for x in blocks]
        masses, used = [], []
        for s, segment in enumerate(self.segments):
            members = [mask * (place == s) for place, mask in zip(places, masks, strict=True)]
            attention, mass = segment(blocks, members)
            gains = [g + member[:, :, None, None] * a.unsqueeze(1) for g, member, a in zip(gains, members, attention, strict=True)]
            masses.append(mass)
            used.append(torch.stack([any_row(member) for member in members], 1).amax(1))
        out = []
        for m, (x, gain, keep) in enumerate(zip(blocks, gains, keeps, strict=True)):
            weighted = x * gain * (keep if c.dropout_twice else 1.0)
            out.append(weighted.flatten(-2)[..., :xs[m].shape[-1]])
        use = torch.stack(used, 1).unsqueeze(-1)
        return out, (torch.stack(masses, 1) * use).sum(1) / use.sum(1).clamp_min(1)

    def _keep(self, x: Tensor) -> Tensor:
        """Block dropout: whole blocks (B, 1, n, 1) are zeroed in training, the others scaled up."""
        return functional.dropout(torch.ones_like(x[:, :1, :, :1]), self.c.block_dropout, self.training)


class MSAF(FusionModel):
    """Three encoders with split attention between their stages. weights: each modality's share of the attention, over all insertions."""

    def __init__(self, config: MSAFConfig | None = None) -> None:
        c = config or MSAFConfig()
        super().__init__(c)
        outputs = c.classes + c.affect
        entry = c.dims if c.front == "none" and c.temporal == "lstm" else c.widths
        self.fronts = Fronts(c, entry)
        self.attention = nn.ModuleDict({str(after): SegmentedAttention(c) for after in c.insertions})
        self.stages = nn.ModuleList(
            nn.ModuleList(_stage(c, entry[m] if k == 0 else width, width) for m, width in enumerate(c.widths)) for k in range(c.stages)
        )
        self.pools = nn.ModuleList(AttentionPool(width, c.d) for width in c.widths) if c.pool == "attention" else None
        self.drop = nn.Dropout(c.dropout)
        self.heads = nn.ModuleList(
            nn.Linear(width, outputs) for width in ([sum(c.widths)] if c.combine == "concat" else c.widths)
        )
        self.evidence = Evidence(c.widths, outputs) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, PlainAux]:
        """As `forward`, with what the loss needs."""
        c: MSAFConfig = self.config
        streams, present = self.fronts(*sequences)
        ts, masks = [one.t for one in streams], [one.mask for one in streams]
        codes = self.codes(streams, c.d)
        xs, masses = [one.z for one in streams], []
        for k, stage in enumerate(self.stages, 1):
            assert isinstance(stage, nn.ModuleList)
            xs = [encode(x, mask) for encode, x, mask in zip(stage, xs, masks, strict=True)]
            if k in c.insertions:
                xs, mass = self.attention[str(k)](xs, ts, masks)
                masses.append(mass)
        weights = torch.stack(masses, 1).mean(1) if masses else present / present.sum(1, keepdim=True).clamp_min(1)
        pooled = [self._pool(m, xs[m], codes[m], masks[m]) for m in range(N_MODALITIES)]
        if c.combine == "concat":
            answer = self.heads[0](self.drop(torch.cat(pooled, 1)))
        else:
            answer = torch.stack([head(self.drop(h)) * here for head, h, here in
                                  zip(self.heads, pooled, present.split(1, 1), strict=True)]).sum(0)
        output, own = self.conclude(answer, pooled, weights, streams, present)
        return output, PlainAux(present, own)

    def _pool(self, m: int, x: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        if self.pools is not None:
            pooled: Tensor = self.pools[m](x, code, mask)
            return pooled
        return last_row(x, mask) if self.config.pool == "last" else mean_over_time(x, mask)


class _Recurrent(nn.Module):
    """A forward LSTM layer; rows behind the mask stand after the last one and cannot reach it."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return veil(self.lstm(x)[0], mask)


def _stage(c: MSAFConfig, inputs: int, width: int) -> nn.Module:
    return _Recurrent(inputs, width) if c.temporal == "lstm" else ConvEncoder(width, layers=1)
