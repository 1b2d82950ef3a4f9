"""MEA: modality-exclusive and -agnostic representations of asynchronous text, voice and face.

Yang et al., "Asynchronous Multimodal Video Sequence Fusion via Learning Modality-Exclusive and -Agnostic Representations",
IEEE TCSVT 2024, arXiv 2407.04955. Equation numbers are the paper's. Where the paper is silent or contradicts itself the choice is
an option of `MEAConfig`; `MEAConfig.paper()` is the published size, `MEAConfig.live()` what the engine runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import abreast
from models.crossattention import HierarchicalCrossModal
from models.exclusive import PredictiveSelfAttention, WeightedAttention, attend
from models.fusion import N_MODALITIES, Encoded, Evidence, Fronts, FusionConfig, FusionModel, Output
from models.layers import (
    AttentionPool,
    BiLSTM,
    ConvEncoder,
    DecoupledGraph,
    encode,
    last_row,
    mean_over_time,
    pool,
    reverse_gradient,
    veil,
)
from models.losses import Targets, TaskLoss, disentangling, importance_weights, modality_cross_entropy, orthogonality, total

TABLE_1: Mapping[str, Mapping[str, Any]] = {
    "mosi": {"heads": 8, "mu": 0.25, "alpha": 2e-2, "beta": 3e-2},
    "mosei": {"heads": 10, "mu": 0.15, "alpha": 3e-2, "beta": 5e-2},
    "iemocap": {"heads": 8, "mu": 0.2, "kernels": (3, 5, 3), "alpha": 1e-2, "beta": 2e-2},
}
"""What the paper found on the validation data of each corpus; d = 40, d_h = 64, three PSA and two HCA layers on all."""


@dataclass(frozen=True)
class MEAConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "psa_mix": ("literal", "logits", "convex"), "psa_previous": ("logits", "attention"),
        "scale": ("head", "model"), "wal": ("mean", "lowrank", "none"), "wal_scale": ("sum", "count"),
        "pool": ("mean", "last", "attention"), "temporal": ("bilstm", "conv"),
        "graph": ("graph", "concat", "add", "multiply"), "discriminator": ("mlp", "linear"),
    }
    PARTS: ClassVar[tuple[str, ...]] = ("exclusive", "agnostic", "mixed", "coarse", "fine")
    """What `without` can leave out."""

    d_h: int = 64
    heads: int = 8
    psa_layers: int = 3
    hca_layers: int = 2
    mu: float = 0.25
    """Weight of the predicted attention map in eq. 2."""
    psa_mix: str = "logits"
    """Eq. 2. "literal" softmaxes twice, which leaves attention almost uniform; "logits" mixes predicted and current logits and
    softmaxes once; "convex" mixes two softmaxed maps."""
    psa_previous: str = "logits"
    """A_pre, the previous layer's map: "logits" (the text's "logit maps") or the softmaxed "attention"."""
    scale: str = "head"
    """Attention logits over the root of a head's width or, as printed, of the "model"'s."""
    wal: str = "mean"
    """Eq. 5. The paper's (T d x T d) matrix cannot be built (hundreds of millions of weights); "mean" scores the masked mean over time,
    "lowrank" the flattened sequence through `wal_rank` units; "none" is the paper's ablation."""
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
    graph: str = "graph"
    """Eq. 17 to 19, or the paper's ablations: "concat", "add", "multiply"."""
    discriminator: str = "mlp"
    """D_m, whose structure the paper does not give."""
    reversal: float = 1.0
    reversal_ramp: bool = False
    """The reversal grows from 0 to `reversal` in training, as Ganin and Lempitsky's."""
    normalise_discriminated: bool = False
    """Discriminators see h at a length of the root of its width. As it is, the reversed gradient can win by making h^a longer, without end;
    a live training whose discriminators lost 11 nats, where chance loses 1.1, did not come back."""
    without: tuple[str, ...] = ()
    """The paper's other ablations. That of PSA is psa_layers = 0, of HCA hca_layers = 0, of the prediction chain mu = 0 and psa_mix
    "logits"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d % self.heads:
            raise ValueError(f"MEAConfig.d = {self.d} must be a multiple of heads = {self.heads}")
        if unknown := set(self.without) - set(self.PARTS):
            raise ValueError(f"MEAConfig.without names {', '.join(sorted(unknown))}; it may name {', '.join(self.PARTS)}")
        if {"exclusive", "agnostic"} <= set(self.without):
            raise ValueError("MEAConfig.without leaves neither exclusive nor agnostic representations")

    def groups(self, windows: int) -> tuple[tuple[int, ...], ...]:
        """Which modalities go through their layers side by side (`models.abreast`): of a single window all three, where padding them to one
        length adds less than a quarter to its rows; else each by itself."""
        alike = N_MODALITIES * max(self.tokens) < 1.25 * sum(self.tokens)
        together = windows == 1 and alike and self.temporal == "conv" and self.wal != "lowrank"
        return ((0, 1, 2),) if together else ((0,), (1,), (2,))

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (300, 74, 35), corpus: str = "mosi", **changes: Any) -> MEAConfig:
        """The published size and structure (Table I), with our resolutions where the paper cannot be followed."""
        chosen = {name: value for name, value in TABLE_1[corpus].items() if name not in ("alpha", "beta")}
        return replace(cls(dims=dims, dropout_in=0.25), **{**chosen, **changes})

    @classmethod
    def live(cls, **changes: Any) -> MEAConfig:
        """What the engine runs: seconds for positions, 24 + 25 + 15 tokens a window, convolutions for the recurrent layer, as many layers
        as the prediction chain needs (card: what more of them cost and give)."""
        live = cls(
            psa_layers=2, hca_layers=1, heads=4, temporal="conv", time="seconds", front="patches", strides=(1, 8, 8), ffn=2,
            self_loops=True, pool="attention", wal_scale="count", normalise_discriminated=True, evidence=True, dropout_in=0.1,
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


class MEA(FusionModel):
    """Text, voice and face sequences of a window -> emotion logits, valence and arousal, modality weights (psi of the last WAL)."""

    def __init__(self, config: MEAConfig | None = None) -> None:
        c = config or MEAConfig()
        super().__init__(c)
        outputs = c.classes + c.affect
        self.reversal = c.reversal
        self.fronts = Fronts(c)
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.branches = [branch for branch in ("exclusive", "agnostic") if branch not in c.without]
        psa_layers, hca_layers = c.psa_layers * ("exclusive" in self.branches), c.hca_layers * ("agnostic" in self.branches)
        scale = None if c.scale == "head" else c.d ** -0.5
        self.psa = nn.ModuleList(
            nn.ModuleList(
                PredictiveSelfAttention(
                    c.d, c.heads, c.ffn, c.dropout, scale or (c.d // c.heads) ** -0.5, c.psa_mix, c.psa_previous, c.mu, first=i == 0,
                ) for _ in range(N_MODALITIES)
            ) for i in range(psa_layers)
        )
        self.wal = nn.ModuleList(
            WeightedAttention(c.d, c.tokens, c.wal_rank if c.wal == "lowrank" else None, c.wal_scale == "count")
            for _ in range(psa_layers if c.wal != "none" else 0)
        )
        self.hca = nn.ModuleList(
            HierarchicalCrossModal(c.d, c.heads, c.ffn, c.dropout, scale, c.without) for _ in range(hca_layers)
        )
        self.pools = nn.ModuleList(AttentionPool(c.d) for _ in range(2 * N_MODALITIES)) if c.pool == "attention" else None
        self.exclusive = nn.ModuleList(_perceptron(c.d, c.d_h, c.d_h) for _ in range(N_MODALITIES))
        self.agnostic = _perceptron(c.d, c.d_h, c.d_h)
        if c.graph == "graph":
            self.graph_exclusive, self.graph_agnostic = DecoupledGraph(c.d_h, c.self_loops), DecoupledGraph(c.d_h, c.self_loops)
        wide = len(self.branches) * c.d_h * (N_MODALITIES if c.graph == "concat" else 1)
        self.head = nn.Sequential(nn.Linear(wide, c.d_h), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.d_h, outputs))
        self.evidence = Evidence((c.d_h,) * 3, outputs) if c.evidence else None
        self.discriminate_modality = (
            _perceptron(c.d_h, c.d_h, N_MODALITIES) if c.discriminator == "mlp" else nn.Linear(c.d_h, N_MODALITIES)
        )
        self.discriminate_importance = nn.Linear(c.d_h, N_MODALITIES, bias=False)

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `MEALoss` needs."""
        c: MEAConfig = self.config
        streams, present = self.fronts(*sequences)
        groups = c.groups(len(present))
        zs, masks, codes = zip(*(self._encoded([streams[m] for m in who], who) for who in groups), strict=True)

        exclusive, psi = self._exclusive(groups, zs, masks, present)
        agnostic = zs
        for layer in self.hca:
            agnostic = layer(groups, agnostic, masks)
        own, common = (
            [self._pooled(branch, *one) for one in zip(groups, sequences, codes, masks, strict=True)]
            for branch, sequences in enumerate((exclusive, agnostic))
        )
        h_e = torch.cat([abreast.perceptron([self.exclusive[m] for m in who], h) for who, h in zip(groups, own, strict=True)])
        h_e, h_a = h_e.transpose(0, 1), self.agnostic(torch.cat(common).transpose(0, 1))
        h_e, h_a = self._kept("exclusive", h_e), self._kept("agnostic", h_a)
        both = {"exclusive": h_e, "agnostic": h_a}
        fused = torch.cat([self._fuse(both[branch], present, branch) for branch in self.branches], -1)
        output, readings = self.conclude(self.head(fused), both[self.branches[0]].unbind(1), psi, streams, present)
        judged_e, judged_a = (functional.normalize(h, dim=-1) * c.d_h ** 0.5 if c.normalise_discriminated else h for h in (h_e, h_a))
        aux = Aux(
            present, h_e, h_a, self._kept("exclusive", self.discriminate_modality(judged_e)),
            self._kept("agnostic", self.discriminate_modality(reverse_gradient(judged_a, self.reversal))),
            self.discriminate_importance(judged_a.detach()), readings,
        )
        return output, aux

    def _kept(self, branch: str, x: Tensor) -> Tensor:
        """A branch that is left out takes no part in the losses either."""
        return x if branch in self.branches else torch.zeros_like(x)

    def progress(self, share: float) -> None:
        """The ramp of the gradient reversal, 2 / (1 + exp(-10 share)) - 1."""
        if self.config.reversal_ramp:
            self.reversal = self.config.reversal * (2 / (1 + math.exp(-10 * share)) - 1)

    def _fuse(self, h: Tensor, present: Tensor, branch: str) -> Tensor:
        """h (B, 3, d_h) of a branch -> (B, d_h), or (B, 3 d_h) side by side."""
        c: MEAConfig = self.config
        if c.graph == "graph":
            fused: Tensor = (self.graph_exclusive if branch == "exclusive" else self.graph_agnostic)(h, present)
            return fused
        h = veil(h, present)
        if c.graph == "multiply":
            return (h + 1 - present.unsqueeze(-1)).prod(1)
        return h.sum(1) if c.graph == "add" else h.flatten(1)

    def _encoded(self, streams: Sequence[Encoded], who: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The streams of a group, the shorter ones padded: encoded (M, B, T, d), mask (M, B, T), code of their times (M, B, T, d)."""
        z, t, mask = (abreast.padded(parts) for parts in zip(*(one[:3] for one in streams), strict=True))
        code, encoders = self.code(t, self.config.d), [self.temporal[m] for m in who]
        z = veil(z + code, mask)
        return encoders[0](z[0], mask[0]).unsqueeze(0) if len(who) == 1 else encode(encoders, z, mask), mask, code

    def _exclusive(
        self, groups: Sequence[tuple[int, ...]], zs: Sequence[Tensor], masks: Sequence[Tensor], present: Tensor,
    ) -> tuple[Sequence[Tensor], Tensor]:
        """The first branch: PSA layers with the prediction chain, a WAL after each."""
        maps: list[Tensor | None] = [None] * len(zs)
        psi = present / present.sum(1, keepdim=True).clamp_min(1)
        for k, layers in enumerate(self.psa):
            assert isinstance(layers, nn.ModuleList)
            steps = [
                attend([layers[m] for m in who], z, mask, before)
                for who, z, mask, before in zip(groups, zs, masks, maps, strict=True)
            ]
            zs, maps = [step[0] for step in steps], [step[1] for step in steps]
            if self.config.wal != "none":
                zs, psi = self.wal[k](groups, zs, masks, present)
        return zs, psi

    def _pooled(self, branch: int, who: Sequence[int], z: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        """A group's sequences z (M, B, T, d) in the first or second branch, code and mask of their rows -> one vector each, (M, B, d)."""
        if self.pools is not None:
            return pool([self.pools[branch * N_MODALITIES + m] for m in who], z, code, mask)
        gather = last_row if self.config.pool == "last" else mean_over_time
        return gather(z.flatten(0, 1), mask.flatten(0, 1)).reshape(*z.shape[:2], -1)


def _perceptron(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_out))


@dataclass(frozen=True)
class MEALoss:
    """Weights of MEA's loss, eq. 20: L = L_task + alpha L_dis + beta (L_agn + L_exc). alpha = 0 and beta = 0 are the paper's ablations."""

    alpha: float = 2e-2
    beta: float = 3e-2
    dis: str = "hsic"
    """L_dis: "hsic" (eq. 13), or "orthogonal", which the paper compares with."""
    normalise_hsic: bool = False
    """HSIC over L2-normalised h: bounded, where the paper's grows with the scale of h."""
    importance: str = "trained"
    """omega of eq. 15: of a D_i "trained" on detached h^a; "untrained", as eq. 20 has no loss of D_i; or "none", the paper's ablation."""
    task: TaskLoss = field(default_factory=TaskLoss)

    @classmethod
    def paper(cls, corpus: str = "mosi", **changes: Any) -> MEALoss:
        """The published weights (Table I); sentiment by squared error."""
        return cls(**{"alpha": TABLE_1[corpus]["alpha"], "beta": TABLE_1[corpus]["beta"], **changes})

    def __post_init__(self) -> None:
        for name, allowed in (("dis", ("hsic", "orthogonal")), ("importance", ("trained", "untrained", "none"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"MEALoss.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        everyone = torch.ones_like(aux.present)
        omega = everyone if self.importance == "none" else importance_weights(aux.importance)
        parts = {
            **self.task.parts(output, aux.evidence, aux.present, targets),
            "dis": self.alpha * (
                disentangling(aux.exclusive, aux.agnostic, aux.present, self.normalise_hsic) if self.dis == "hsic"
                else orthogonality(aux.exclusive, aux.agnostic, aux.present)
            ),
            "agn": self.beta * modality_cross_entropy(aux.discriminated_agnostic, aux.present, omega),
            "exc": self.beta * modality_cross_entropy(aux.discriminated_exclusive, aux.present, everyone),
        }
        if self.importance == "trained":  # On detached h^a: this trains the discriminator alone and needs no weight.
            parts["importance"] = modality_cross_entropy(aux.importance, aux.present, everyone)
        return total(parts)
