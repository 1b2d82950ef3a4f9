"""MEA: modality-exclusive and -agnostic representations of asynchronous text, voice and face.

Yang et al., "Asynchronous Multimodal Video Sequence Fusion via Learning Modality-Exclusive and -Agnostic Representations",
IEEE TCSVT 2024, arXiv 2407.04955. Equation numbers are the paper's. Where the paper is silent or contradicts itself the choice is
an option of `MEAConfig`; `MEAConfig.paper()` is the published size, `MEAConfig.live()` what the engine runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.voice import VoiceFront
from models.encoders.wordfront import WordFront
from models.layers import (
    BLOCKED,
    AttentionPool,
    BiLSTM,
    ConvEncoder,
    DecoupledGraph,
    FeedForward,
    Patches,
    any_row,
    key_bias,
    last_row,
    mean_over_time,
    merge_heads,
    position_code,
    reverse_gradient,
    split_heads,
    time_code,
    veil,
)

N_MODALITIES = 3


@dataclass(frozen=True)
class MEAConfig:
    """Sizes and options. A tuple has one entry a modality, in the order text, voice, face."""

    dims: tuple[int, int, int] = (67, 44, 39)
    rows: tuple[int, int, int] = (24, 200, 120)
    """Window capacity; decides weights only with `wal="lowrank"`."""
    d: int = 40
    d_h: int = 64
    heads: int = 8
    psa_layers: int = 3
    hca_layers: int = 2
    mu: float = 0.25
    """Weight of the predicted attention map in eq. 2."""
    psa_mix: str = "logits"
    """Eq. 2. "literal" softmaxes twice, which leaves attention almost uniform; "logits" mixes predicted and current logits and
    softmaxes once; "convex" mixes two softmaxed maps."""
    wal: str = "mean"
    """Eq. 5. The paper's (T d x T d) matrix cannot be built (hundreds of millions of weights); "mean" scores the masked mean over time,
    "lowrank" the flattened sequence through `wal_rank` units."""
    wal_rank: int = 8
    wal_scale: str = "sum"
    """Z_m is scaled by psi_m ("sum": psi sums to 1, the paper) or by psi_m times the number of modalities present ("count": so that a
    lone modality and one of three are of equal size)."""
    self_loops: bool = False
    """Whether a graph node is its own neighbour (eq. 18). A lone modality always is, having no other."""
    pool: str = "mean"
    """How a sequence becomes one vector before eq. 11 and 12, which the paper does not say: "mean", "last" or "attention"."""
    temporal: str = "bilstm"
    """"bilstm" (eq. 1) or "conv"."""
    time: str = "position"
    """"position" codes row numbers (the paper); "seconds" codes the rows' own times, which irregular streams need."""
    front: str = "conv"
    """"conv": a Conv1d a modality (the paper); "patches": strided patches for face, level-normalised convolutions for voice,
    phrases for text."""
    kernels: tuple[int, int, int] = (3, 3, 3)
    strides: tuple[int, int, int] = (1, 1, 1)
    ffn: int = 4
    dropout: float = 0.1
    dropout_in: float = 0.0
    reversal: float = 1.0
    evidence: bool = False
    """Adds to the logits a linear reading of each h^e_m and what its front end reads by itself, weighted by psi_m: independent evidence
    then adds up as it should when a subset of the modalities is there, and psi is a weight in fact. Ours, not the paper's."""
    classes: int = 7
    affect: int = 2

    def __post_init__(self) -> None:
        options = {
            "psa_mix": ("literal", "logits", "convex"), "wal": ("mean", "lowrank"), "wal_scale": ("sum", "count"),
            "pool": ("mean", "last", "attention"), "temporal": ("bilstm", "conv"), "time": ("position", "seconds"),
            "front": ("conv", "patches"),
        }
        for name, allowed in options.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"MEAConfig.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.d % self.heads:
            raise ValueError(f"MEAConfig.d = {self.d} must be a multiple of heads = {self.heads}")

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (300, 74, 35), **changes: Any) -> MEAConfig:
        """The published size and structure (Table I, MOSI values), with our resolutions where the paper cannot be followed."""
        return replace(cls(dims=dims, dropout_in=0.25), **changes)

    @classmethod
    def live(cls, **changes: Any) -> MEAConfig:
        """What the engine runs: seconds for positions, 24 + 25 + 15 tokens a window, convolutions for the recurrent layer."""
        live = cls(
            heads=4, temporal="conv", time="seconds", front="patches", strides=(1, 8, 8), ffn=2, self_loops=True, pool="attention",
            wal_scale="count", evidence=True, dropout_in=0.1,
        )
        return replace(live, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MEAConfig:
        """The inverse of `to_dict`, from JSON too."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Output(NamedTuple):
    """logits (B, classes); affect (B, 2) in [-1, 1]; weights (B, 3), summing to 1 over the modalities present, 0 where none is."""

    logits: Tensor
    affect: Tensor
    weights: Tensor


class Aux(NamedTuple):
    """What the losses of training need besides; the second axis is the modality."""

    present: Tensor
    """(B, 3)"""
    exclusive: Tensor
    """h^e, (B, 3, d_h)"""
    agnostic: Tensor
    """h^a, (B, 3, d_h)"""
    discriminated_exclusive: Tensor
    """Logits of D_m(h^e), (B, 3, 3)"""
    discriminated_agnostic: Tensor
    """Logits of D_m(h^a) behind the gradient reversal, (B, 3, 3)"""
    importance: Tensor
    """Logits of D_i on the detached h^a, (B, 3, 3)"""
    evidence: Tensor
    """Each modality's own logits, (B, 3, classes); zeros without `evidence`."""


class PredictiveSelfAttention(nn.Module):
    """One PSA layer (eq. 2 to 4): self-attention whose map is partly predicted from the previous layer's by a convolution."""

    def __init__(self, config: MEAConfig, first: bool) -> None:
        super().__init__()
        self.heads, self.mix, self.mu, self.scale = config.heads, config.psa_mix, config.mu, (config.d // config.heads) ** -0.5
        self.norm = nn.LayerNorm(config.d)
        self.qkv = nn.Linear(config.d, 3 * config.d, bias=False)
        self.predict = None if first else nn.Conv2d(config.heads, config.heads, 3, padding=1)
        self.drop = nn.Dropout(config.dropout)
        self.ffn = FeedForward(config.d, config.ffn, config.dropout)

    def forward(self, z: Tensor, mask: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, T, d), mask (B, T), previous layer's logits (B, K, T, T) or None -> new z and this layer's logits."""
        residual = veil(self.norm(z), mask)
        q, k, v = (split_heads(x, self.heads) for x in self.qkv(residual).chunk(3, -1))
        logits = q @ k.transpose(-1, -2) * self.scale
        bias = key_bias(mask)
        if self.predict is None or previous is None:
            attention = (logits + bias).softmax(-1)
        else:
            grid = mask[:, None, :, None] * mask[:, None, None, :]
            predicted = functional.gelu(self.predict(previous * grid))
            if self.mix == "literal":
                attention = (self.mu * predicted + (1 - self.mu) * (logits + bias).softmax(-1) + bias).softmax(-1)
            elif self.mix == "logits":
                logits = self.mu * predicted + (1 - self.mu) * logits
                attention = (logits + bias).softmax(-1)
            else:
                attention = (1 - self.mu) * (logits + bias).softmax(-1) + self.mu * (predicted + bias).softmax(-1)
        z = residual + self.drop(merge_heads(attention @ v))
        return veil(self.ffn(z), mask), logits


class WeightedAttention(nn.Module):
    """WAL (eq. 5 and 6): one weight a modality from its own sequence, softmaxed over the modalities that are present."""

    def __init__(self, config: MEAConfig, tokens: tuple[int, ...]) -> None:
        super().__init__()
        self.flat, self.count = config.wal == "lowrank", config.wal_scale == "count"
        sizes = [(n * config.d, config.wal_rank) if self.flat else (config.d, config.d) for n in tokens]
        self.inner = nn.ModuleList(nn.Linear(size, rank) for size, rank in sizes)
        self.outer = nn.ModuleList(nn.Linear(rank, 1, bias=False) for _, rank in sizes)

    def forward(self, zs: list[Tensor], masks: list[Tensor], present: Tensor) -> tuple[list[Tensor], Tensor]:
        """Three sequences -> the same, scaled, and psi (B, 3)."""
        scores = []
        for z, mask, inner, outer in zip(zs, masks, self.inner, self.outer, strict=True):
            summary = z.flatten(1) if self.flat else mean_over_time(z, mask)
            scores.append(outer(torch.tanh(inner(summary))))
        psi = (torch.cat(scores, 1) + (1 - present) * BLOCKED).softmax(1) * present
        scale = psi * present.sum(1, keepdim=True) if self.count else psi
        return [z * scale[:, m, None, None] for m, z in enumerate(zs)], psi


class MixedReference(nn.Module):
    """MRU(Z_s, Z_t) (eq. 7 to 9): the target asks, the source answers."""

    def __init__(self, config: MEAConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_target, self.norm_source = nn.LayerNorm(config.d), nn.LayerNorm(config.d)
        self.query = nn.Linear(config.d, config.d, bias=False)
        self.key_value = nn.Linear(config.d, 2 * config.d, bias=False)
        self.drop = nn.Dropout(config.dropout)
        self.ffn = FeedForward(config.d, config.ffn, config.dropout)

    def forward(self, source: Tensor, source_mask: Tensor, target: Tensor, target_mask: Tensor) -> Tensor:
        residual = self.norm_target(target)
        q = split_heads(self.query(residual), self.heads)
        k, v = (split_heads(x, self.heads) for x in self.key_value(self.norm_source(source)).chunk(2, -1))
        bias = key_bias(source_mask).expand(-1, 1, target.shape[1], -1)
        asked = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        asked = merge_heads(asked) * any_row(source_mask)[:, None, None]
        return veil(self.ffn(residual + self.drop(asked)), target_mask)


class HierarchicalCrossModal(nn.Module):
    """One HCA layer (eq. 10): for each target a mixed, a coarse and two fine units."""

    def __init__(self, config: MEAConfig) -> None:
        super().__init__()
        self.mixed = nn.ModuleList(MixedReference(config) for _ in range(N_MODALITIES))
        self.coarse = nn.ModuleList(MixedReference(config) for _ in range(N_MODALITIES))
        self.fine = nn.ModuleList(nn.ModuleList(MixedReference(config) for _ in range(2)) for _ in range(N_MODALITIES))

    def forward(self, zs: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        everything, every_mask = torch.cat(zs, 1), torch.cat(masks, 1)
        out = []
        for m, fine in enumerate(self.fine):
            a, b = (n for n in range(N_MODALITIES) if n != m)
            z = self.mixed[m](everything, every_mask, zs[m], masks[m])
            z = self.coarse[m](torch.cat([zs[a], zs[b]], 1), torch.cat([masks[a], masks[b]], 1), z, masks[m])
            assert isinstance(fine, nn.ModuleList)
            out.append(fine[0](zs[a], masks[a], z, masks[m]) + fine[1](zs[b], masks[b], z, masks[m]))
        return out


class MEA(nn.Module):
    """Text, voice and face sequences of a window -> emotion logits, valence and arousal, modality weights."""

    def __init__(self, config: MEAConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or MEAConfig()
        patches = c.front == "patches"
        tokens = tuple(-(-n // s) for n, s in zip(c.rows, c.strides, strict=True))
        self.fronts = nn.ModuleList(
            WordFront(c.d, reads=c.evidence) if patches and m == 0
            else VoiceFront(c.d, stride=c.strides[1], reads=c.evidence) if patches and m == 1
            else Patches(c.dims[m], c.d, c.kernels[m], c.strides[m])
            for m in range(N_MODALITIES)
        )
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.psa = nn.ModuleList(
            nn.ModuleList(PredictiveSelfAttention(c, first=i == 0) for _ in range(N_MODALITIES)) for i in range(c.psa_layers)
        )
        self.wal = nn.ModuleList(WeightedAttention(c, tokens) for _ in range(c.psa_layers))
        self.hca = nn.ModuleList(HierarchicalCrossModal(c) for _ in range(c.hca_layers))
        self.pools = nn.ModuleList(AttentionPool(c.d) for _ in range(2 * N_MODALITIES)) if c.pool == "attention" else None
        self.exclusive = nn.ModuleList(_perceptron(c.d, c.d_h, c.d_h) for _ in range(N_MODALITIES))
        self.agnostic = _perceptron(c.d, c.d_h, c.d_h)
        self.graph_exclusive, self.graph_agnostic = DecoupledGraph(c.d_h, c.self_loops), DecoupledGraph(c.d_h, c.self_loops)
        self.head = nn.Sequential(nn.Linear(2 * c.d_h, c.d_h), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.d_h, c.classes + c.affect))
        self.evidence = nn.ModuleList(nn.Linear(c.d_h, c.classes + c.affect) for _ in range(N_MODALITIES)) if c.evidence else None
        self.discriminate_modality = _perceptron(c.d_h, c.d_h, N_MODALITIES)
        self.discriminate_importance = nn.Linear(c.d_h, N_MODALITIES, bias=False)
        self.drop_in = nn.Dropout(c.dropout_in)

    def forward(
        self, text_x: Tensor, text_t: Tensor, text_mask: Tensor, voice_x: Tensor, voice_t: Tensor, voice_mask: Tensor,
        face_x: Tensor, face_t: Tensor, face_mask: Tensor,
    ) -> Output:
        """x (B, T, D), t (B, T) seconds relative to the window's end, mask (B, T) for each modality."""
        return self.study(text_x, text_t, text_mask, voice_x, voice_t, voice_mask, face_x, face_t, face_mask)[0]

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what the losses need."""
        c = self.config
        zs: list[Tensor] = []
        codes: list[Tensor] = []
        masks: list[Tensor] = []
        readings: list[Tensor | None] = []
        for m in range(N_MODALITIES):
            x, t, mask = sequences[3 * m: 3 * m + 3]
            x = self.drop_in(x) if m == 0 else x
            z, t, mask, reading = self.fronts[m](x, t, mask)
            readings.append(reading)
            code = time_code(t, c.d) if c.time == "seconds" else position_code(t, c.d)
            zs.append(self.temporal[m](veil(z + code, mask), mask))
            codes.append(code)
            masks.append(mask)
        present = torch.stack([any_row(mask) for mask in masks], 1)

        exclusive, psi = self._exclusive(zs, masks, present)
        agnostic = zs
        for layer in self.hca:
            agnostic = layer(agnostic, masks)
        h_e = torch.stack([self.exclusive[m](self._pool(m, exclusive[m], codes[m], masks[m])) for m in range(N_MODALITIES)], 1)
        h_a = self.agnostic(torch.stack([self._pool(N_MODALITIES + m, agnostic[m], codes[m], masks[m]) for m in range(N_MODALITIES)], 1))

        fused = torch.cat([self.graph_exclusive(h_e, present), self.graph_agnostic(h_a, present)], -1)
        answer = self.head(fused)
        own = torch.zeros_like(answer).unsqueeze(1).expand(-1, N_MODALITIES, -1)
        if self.evidence is not None:
            said = [layer(h_e[:, m]) for m, layer in enumerate(self.evidence)]
            own = torch.stack([a if b is None else a + functional.pad(b, (0, a.shape[1] - b.shape[1]))
                               for a, b in zip(said, readings, strict=True)], 1)
            logits = (own[..., :c.classes] * (psi * present.sum(1, keepdim=True)).unsqueeze(-1)).sum(1)
            # Evidence adds up; valence and arousal, being values and not evidence, are averaged.
            answer = answer + torch.cat([logits, (own[..., c.classes:] * psi.unsqueeze(-1)).sum(1)], -1)
        output = Output(answer[:, :c.classes], torch.tanh(answer[:, c.classes:]), psi)
        aux = Aux(
            present, h_e, h_a, self.discriminate_modality(h_e), self.discriminate_modality(reverse_gradient(h_a, c.reversal)),
            self.discriminate_importance(h_a.detach()), own[..., :c.classes],
        )
        return output, aux

    def _exclusive(self, zs: list[Tensor], masks: list[Tensor], present: Tensor) -> tuple[list[Tensor], Tensor]:
        """The first branch: PSA layers with the prediction chain, a WAL after each."""
        maps: list[Tensor | None] = [None] * N_MODALITIES
        psi = present / present.sum(1, keepdim=True).clamp_min(1)
        for layers, weigh in zip(self.psa, self.wal, strict=True):
            assert isinstance(layers, nn.ModuleList)
            steps = [layer(z, mask, before) for layer, z, mask, before in zip(layers, zs, masks, maps, strict=True)]
            zs, maps = [step[0] for step in steps], [step[1] for step in steps]
            zs, psi = weigh(zs, masks, present)
        return zs, psi

    def _pool(self, which: int, z: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        if self.pools is not None:
            pooled: Tensor = self.pools[which](z, code, mask)
            return pooled
        return last_row(z, mask) if self.config.pool == "last" else mean_over_time(z, mask)


def _perceptron(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_out))
