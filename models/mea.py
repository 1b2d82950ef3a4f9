"""MEA: modality-exclusive and -agnostic representations of asynchronous text, voice and face.

Yang et al., "Asynchronous Multimodal Video Sequence Fusion via Learning Modality-Exclusive and -Agnostic Representations",
IEEE TCSVT 2024, arXiv 2407.04955. Equation numbers are the paper's. Where the paper is silent or contradicts itself the choice is
an option of `MEAConfig`; `MEAConfig.paper()` is the published size, `MEAConfig.live()` what the engine runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output
from models.layers import (
    BLOCKED,
    AttentionPool,
    BiLSTM,
    ConvEncoder,
    DecoupledGraph,
    FeedForward,
    any_row,
    key_bias,
    last_row,
    mean_over_time,
    merge_heads,
    reverse_gradient,
    split_heads,
    veil,
)
from models.losses import Targets, TaskLoss, disentangling, importance_weights, modality_cross_entropy, total


@dataclass(frozen=True)
class MEAConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "psa_mix": ("literal", "logits", "convex"), "wal": ("mean", "lowrank"), "wal_scale": ("sum", "count"),
        "pool": ("mean", "last", "attention"), "temporal": ("bilstm", "conv"),
    }

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
    ffn: int = 4
    reversal: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
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


class MEA(FusionModel):
    """Text, voice and face sequences of a window -> emotion logits, valence and arousal, modality weights (psi of the last WAL)."""

    def __init__(self, config: MEAConfig | None = None) -> None:
        c = config or MEAConfig()
        super().__init__(c)
        outputs = c.classes + c.affect
        self.fronts = Fronts(c)
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.psa = nn.ModuleList(
            nn.ModuleList(PredictiveSelfAttention(c, first=i == 0) for _ in range(N_MODALITIES)) for i in range(c.psa_layers)
        )
        self.wal = nn.ModuleList(WeightedAttention(c, c.tokens) for _ in range(c.psa_layers))
        self.hca = nn.ModuleList(HierarchicalCrossModal(c) for _ in range(c.hca_layers))
        self.pools = nn.ModuleList(AttentionPool(c.d) for _ in range(2 * N_MODALITIES)) if c.pool == "attention" else None
        self.exclusive = nn.ModuleList(_perceptron(c.d, c.d_h, c.d_h) for _ in range(N_MODALITIES))
        self.agnostic = _perceptron(c.d, c.d_h, c.d_h)
        self.graph_exclusive, self.graph_agnostic = DecoupledGraph(c.d_h, c.self_loops), DecoupledGraph(c.d_h, c.self_loops)
        self.head = nn.Sequential(nn.Linear(2 * c.d_h, c.d_h), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.d_h, outputs))
        self.evidence = Evidence((c.d_h,) * 3, outputs) if c.evidence else None
        self.discriminate_modality = _perceptron(c.d_h, c.d_h, N_MODALITIES)
        self.discriminate_importance = nn.Linear(c.d_h, N_MODALITIES, bias=False)

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `MEALoss` needs."""
        c: MEAConfig = self.config
        streams, present = self.fronts(*sequences)
        codes = self.codes(streams, c.d)
        masks = [one.mask for one in streams]
        zs = [encode(veil(one.z + code, one.mask), one.mask) for encode, one, code in zip(self.temporal, streams, codes, strict=True)]

        exclusive, psi = self._exclusive(zs, masks, present)
        agnostic = zs
        for layer in self.hca:
            agnostic = layer(agnostic, masks)
        h_e = torch.stack([self.exclusive[m](self._pool(m, exclusive[m], codes[m], masks[m])) for m in range(N_MODALITIES)], 1)
        h_a = self.agnostic(torch.stack([self._pool(N_MODALITIES + m, agnostic[m], codes[m], masks[m]) for m in range(N_MODALITIES)], 1))

        answer = self.head(torch.cat([self.graph_exclusive(h_e, present), self.graph_agnostic(h_a, present)], -1))
        output, own = self.conclude(answer, h_e.unbind(1), psi, streams, present)
        aux = Aux(
            present, h_e, h_a, self.discriminate_modality(h_e), self.discriminate_modality(reverse_gradient(h_a, c.reversal)),
            self.discriminate_importance(h_a.detach()), own,
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


@dataclass(frozen=True)
class MEALoss:
    """Weights of MEA's loss, eq. 20: L = L_task + alpha L_dis + beta (L_agn + L_exc)."""

    alpha: float = 2e-2
    beta: float = 3e-2
    normalise_hsic: bool = False
    """HSIC over L2-normalised h: bounded, where the paper's grows with the scale of h."""
    task: TaskLoss = field(default_factory=TaskLoss)

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        everyone = torch.ones_like(aux.present)
        return total({
            **self.task.parts(output, aux.evidence, aux.present, targets),
            "dis": self.alpha * disentangling(aux.exclusive, aux.agnostic, aux.present, self.normalise_hsic),
            "agn": self.beta * modality_cross_entropy(aux.discriminated_agnostic, aux.present, importance_weights(aux.importance)),
            "exc": self.beta * modality_cross_entropy(aux.discriminated_exclusive, aux.present, everyone),
            # D_i works on detached h^a, so this trains the discriminator alone and needs no weight.
            "importance": modality_cross_entropy(aux.importance, aux.present, everyone),
        })
