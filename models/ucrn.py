"""UCRN: unimodal and crossmodal refinement network (Guo et al., EMNLP 2021, pages 9143 to 9153; code Redaimao/UCRN).

The paper's body is not public; the structure follows its abstract and the author's code. URM: iterative unimodal refinement; SQIL:
self-quality improvement layer; L_M: Jensen-Shannon term between the modalities' refined features; CRM: crossmodal refinement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, shares
from models.layers import BLOCKED, any_row, last_row, veil
from models.losses import Targets, TaskLoss, jensen_shannon, total
from models.transformer import TransformerEncoder


@dataclass(frozen=True)
class UCRNConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "urm": ("code", "figure"), "steps": ("rows", "attention", "last"),
    }

    d: int = 30
    kernels: tuple[int, int, int] = (1, 1, 1)
    front_bias: bool = False
    heads: int = 3
    crm_heads: int = 3
    urm: str = "code"
    """A refinement step as the public code has it (a pre-norm transformer layer), or as the figure draws it: heads and residual are
    added before FC1; then normalisation, FC2, non-linearity, FC3, residual."""
    urm_layers: int = 5
    """Iterations of the unimodal refinement."""
    crm_layers: int = 5
    ffn: int = 4
    causal: bool = True
    """Rows see earlier rows only, as in the public code."""
    time: str = "none"
    steps: str = "rows"
    """How T rows become `temporal` refined steps: "rows" weighs rows by their number (Conv1d over the time axis), "attention" by what
    they hold and when, "last" takes the last row alone, once."""
    temporal: int = 5
    """Refined steps a modality. The public default 1 leaves the crossmodal attention nothing to attend to."""
    squeeze: int = 0
    """Width of SQIL's bottleneck; 0 means max(4, d // 16). The public code's d // 16 is 1."""
    attention_dropout: float = 0.1
    """Of text and of the CRM; voice and face have none."""
    dropout_embed: float = 0.25
    """Of what enters the transformers."""
    dropout_out: float = 0.5

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (300, 74, 35), **changes: Any) -> UCRNConfig:
        """The public code's size."""
        code = cls(dims=dims, rows=(50, 500, 500), classes=0, affect=1, bounded=False, temporal=1, squeeze=1, dropout_in=0.25)
        return replace(code, **changes)

    @classmethod
    def live(cls, **changes: Any) -> UCRNConfig:
        """What the engine runs: fewer layers, seconds for positions, steps by attention."""
        live = cls(
            d=40, heads=5, crm_heads=5, urm_layers=2, crm_layers=2, ffn=2, causal=False, time="seconds", steps="attention", temporal=4,
            front="patches", kernels=(3, 3, 3), strides=(1, 8, 8), evidence=True, dropout_in=0.1, dropout_embed=0.0, dropout_out=0.2,
        )
        return replace(live, **changes)


class SelfQuality(nn.Module):
    """SQIL: features weighed by a gate that sees their mean over time (squeeze and excite); (B, K, d) -> the same."""

    def __init__(self, d: int, squeeze: int) -> None:
        super().__init__()
        inner = squeeze or max(4, d // 16)
        self.squeeze, self.excite = nn.Linear(d, inner, bias=False), nn.Linear(inner, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean(1)))))
        return gate.unsqueeze(1) * x


class Steps(nn.Module):
    """Rows (B, T, d) -> refined steps (B, K, d)."""

    def __init__(self, c: UCRNConfig, rows: int) -> None:
        super().__init__()
        self.c = c
        if c.steps == "rows":
            self.weights: nn.Module = nn.Linear(rows, c.temporal, bias=False)
        elif c.steps == "attention":
            self.weights = nn.Linear(2 * c.d, c.temporal)

    def forward(self, x: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        """x and the code of its rows' times (B, T, d), mask (B, T)."""
        if self.c.steps == "last":
            return last_row(x, mask).unsqueeze(1)
        if self.c.steps == "rows":
            out: Tensor = self.weights(veil(x, mask).transpose(1, 2)).transpose(1, 2)
            return out
        scores = self.weights(torch.cat([x, code], -1)) + ((1 - mask) * BLOCKED).unsqueeze(-1)
        attended: Tensor = (scores.softmax(1).transpose(1, 2) @ x) * any_row(mask)[:, None, None]
        return attended


class Aux(NamedTuple):
    """present (B, 3); evidence (B, 3, classes), zeros without `evidence`; refined x^U before SQIL, (B, 3, K, d)."""

    present: Tensor
    evidence: Tensor
    refined: Tensor


class UCRN(FusionModel):
    """URM and SQIL a modality, CRM over all. An absent modality's steps are zeros, so one model serves every subset; with `use` the CRM is
    as narrow as that of the public code's subset models.

    weights: each modality's share of the size of what enters the CRM.
    """

    def __init__(self, config: UCRNConfig | None = None) -> None:
        c = config or UCRNConfig()
        super().__init__(c)
        outputs, wide = c.classes + c.affect, len(c.use) * c.d
        self.fronts = Fronts(c)
        self.urm = nn.ModuleList(
            TransformerEncoder(
                c.d, c.heads, c.urm_layers, c.ffn, c.dropout, c.attention_dropout if m == 0 else 0.0, c.dropout_embed, c.causal,
                residual_first=c.urm == "figure",
            ) for m in range(N_MODALITIES)
        )
        self.steps = nn.ModuleList(Steps(c, rows) for rows in c.tokens)
        self.sqil = nn.ModuleList(SelfQuality(c.d, c.squeeze) for _ in range(N_MODALITIES))
        self.crm = TransformerEncoder(wide, c.crm_heads, c.crm_layers, c.ffn, c.dropout, c.attention_dropout, c.dropout_embed, c.causal)
        self.inner, self.outer, self.head = nn.Linear(wide, wide), nn.Linear(wide, wide), nn.Linear(wide, outputs)
        self.drop = nn.Dropout(c.dropout_out)
        self.evidence = Evidence((c.d,) * 3, outputs) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `UCRNLoss` needs."""
        c: UCRNConfig = self.config
        streams, present = self.fronts(*sequences)
        refined = []
        for one, code, urm, steps in zip(streams, self.codes(streams, c.d), self.urm, self.steps, strict=True):
            refined.append(steps(urm(one.z, one.mask, code), code, one.mask) * any_row(one.mask)[:, None, None])
        better = [sqil(x) for sqil, x in zip(self.sqil, refined, strict=True)]
        joined = torch.cat([better[m] for m in c.use], -1)
        h = self.crm(joined, torch.ones_like(joined[..., 0]), torch.zeros_like(joined))[:, -1]
        h = h + self.outer(self.drop(functional.relu(self.inner(h))))
        weights = shares([x.flatten(1) for x in better], present)
        output, own = self.conclude(self.head(h), [x.mean(1) for x in better], weights, streams, present)
        return output, Aux(present, own, torch.stack(refined, 1))


@dataclass(frozen=True)
class UCRNLoss:
    """L = L_task + weight * L_M; L_M the mean Jensen-Shannon divergence over pairs of modalities that are both present."""

    weight: float = 1.0
    divergence: str = "js"
    """"js": Jensen-Shannon of softmaxed features, within [0, ln 2]; "code": the public trimodal form on raw values, which is unbounded
    and no divergence at all, for comparison."""
    task: TaskLoss = field(default_factory=lambda: TaskLoss(values="l1"))

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name."""
        parts = self.task.parts(output, aux.evidence, aux.present, targets)
        return total({**parts, "divergence": self.weight * divergence(aux.refined, aux.present, self.divergence)})


def divergence(refined: Tensor, present: Tensor, kind: str = "js") -> Tensor:
    """L_M of x^U (n, M, K, d), present (n, M): mean over the pairs present, and over the K steps, of the divergence of the two features'
    distributions; 0 where there is no pair."""
    terms, count = [], []
    for a in range(refined.shape[1]):
        for b in range(a):
            both = present[:, a] * present[:, b]
            if kind == "code":  # kl_div of raw values, taken for logarithms on both sides
                x, y = refined[:, a], refined[:, b]
                middle = (x + y) / 2
                each = ((x.exp() * (x - middle)).sum(-1) + (y.exp() * (y - middle)).sum(-1)) / 2
            else:
                each = jensen_shannon(refined[:, a].log_softmax(-1), refined[:, b].log_softmax(-1))
            terms.append((each.mean(1) * both).sum())
            count.append(both.sum())
    return torch.stack(terms).sum() / torch.stack(count).sum().clamp_min(1)
