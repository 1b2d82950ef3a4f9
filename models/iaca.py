"""IACA: inconsistency-aware cross-attention (Praveen and Alam, arXiv 2405.12853) with its trimodal form.

The paper's stage 2, sizes and scores are not public; what is here follows its abstract, summaries and the sibling DCA (arXiv 2403.19554,
code praveena2j/Dynamic-CrossAttention). Cross-attention hurts where modalities do not complement each other, so two stages of gates
choose: stage 1 between a modality's self-attended and cross-attended features, stage 2 between the modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.crossattention import Correlated, CrossAttention, JointAttention, pairs
from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output
from models.layers import BLOCKED, AttentionPool, BiLSTM, ConvEncoder, last_row, mean_over_time, segment_of, time_code, veil
from models.losses import Targets, TaskLoss, concordance_error, total
from models.transformer import TransformerLayer


@dataclass(frozen=True)
class IACAConfig(FusionConfig):
    """Sizes and options. `use` says which modalities take part; the paper's form is (1, 2), voice and face."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "attend": ("transformer", "correlation"), "cross": ("vanilla", "joint"), "gate_sees": ("cross", "both"),
        "join": ("concat", "sum"), "temporal": ("bilstm", "conv"), "pool": ("mean", "last", "attention"),
    }

    steps: int = 16
    """L: common time steps. The method needs streams of one length; rows are averaged into L equal pieces of the window."""
    seconds: float = 4.0
    """Length of the window, for `time="seconds"`; otherwise a row's number says its step."""
    heads: int = 4
    ffn: int = 2
    attend: str = "transformer"
    """Self-attended features: of a transformer layer, or by the correlation of a modality's steps with themselves."""
    cross: str = "vanilla"
    """Cross-attended features: of each pair, by the group's vanilla form, or of each modality with the joint features (DCA's code), which
    wants every step filled."""
    recursions: int = 2
    """Of the joint form."""
    scaled: bool = True
    """Correlations over sqrt(d), as in any attention; the vanilla form is published without."""
    gate_sees: str = "cross"
    """What the stage 1 gate looks at: "cross" the cross-attended features (DCA's code), "both" the self-attended ones too."""
    temperature: float = 0.1
    """T_1 of stage 1; near 0 gates are hard."""
    anneal: bool = False
    """T_1 falls from 1 in the first half of training, for gates that saturate early."""
    temperature_modalities: float = 1.0
    """T_2 of stage 2."""
    joint_branch: bool = False
    """Stage 2 also gates a feature of all modalities together."""
    join: str = "concat"
    """Stage 2's gated features side by side or summed."""
    temporal: str = "bilstm"
    pool: str = "mean"
    """How the steps become the window's answer; every step's own values are read by the same layer."""

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (768, 512, 512), **changes: Any) -> IACAConfig:
        """Audio and vision at the sibling's size: 16 clips of 512 features."""
        return replace(cls(dims=dims, rows=(16, 16, 16), d=512, heads=8, use=(1, 2), classes=0, dropout=0.1), **changes)

    @classmethod
    def live(cls, **changes: Any) -> IACAConfig:
        """What the engine runs: the trimodal form, a quarter of a second a step."""
        live = cls(
            d=40, heads=5, temporal="conv", time="seconds", pool="attention", temperature=0.5, front="patches", strides=(1, 8, 8),
            evidence=True, dropout_in=0.1,
        )
        return replace(live, **changes)


class Aux(NamedTuple):
    """What `IACALoss` needs and reports. L steps, M the modalities in use, P the views of stage 1 (pairs, or one a modality)."""

    present: Tensor
    """(B, 3)"""
    evidence: Tensor
    """Each modality's own logits, (B, 3, classes); zeros without `evidence`."""
    steps: Tensor
    """Values of each step, (B, L, affect)"""
    steps_mask: Tensor
    """Which steps hold anything, (B, L)"""
    crossed: Tensor
    """Stage 1's share of the cross-attended features, (B, P, L); 0 where there is no partner."""
    crossed_mask: Tensor
    """Where there is one, (B, P, L)"""
    gates: Tensor
    """Stage 2's, (B, L, M), with the joint branch (B, L, M + 1)"""


class IACA(FusionModel):
    """weights: stage 2's gates, averaged over the steps that hold anything (a joint branch's gate is shared by those there)."""

    def __init__(self, config: IACAConfig | None = None) -> None:
        c = config or IACAConfig()
        super().__init__(c)
        self.temperature = c.temperature
        self.fronts = Fronts(c)
        count = len(c.use)
        self.views = pairs(c.use) if c.cross == "vanilla" else [(m, tuple(n for n in c.use if n != m)) for m in c.use if count > 1]
        branches = count + c.joint_branch
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.attend_self = nn.ModuleList(
            TransformerLayer(c.d, c.heads, c.ffn, c.dropout) if c.attend == "transformer" else Correlated(c.d) for _ in range(N_MODALITIES)
        )
        self.attend_cross = (
            nn.ModuleList(CrossAttention(c.d, c.scaled) for _ in self.views) if c.cross == "vanilla"
            else JointAttention(c.d, c.steps, c.use, c.recursions, c.dropout)
        )
        self.gate_view = nn.ModuleList(nn.Linear(c.d * (1 + (c.gate_sees == "both")), 2, bias=False) for _ in self.views)
        self.gate = nn.Linear(c.d * count, branches, bias=False)
        self.joint = nn.Linear(c.d * count, c.d) if c.joint_branch else None
        wide = c.d * (branches if c.join == "concat" else 1)
        self.joined: nn.Module = BiLSTM(wide) if c.temporal == "bilstm" else ConvEncoder(wide, layers=1)
        self.pool = AttentionPool(wide, c.d) if c.pool == "attention" else None
        self.classify = _regressor(c, wide, c.classes) if c.classes else None
        self.regress = nn.ModuleList(_regressor(c, wide, 1) for _ in range(c.affect))
        self.evidence = Evidence((c.d, c.d, c.d), c.classes + c.affect) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `IACALoss` needs."""
        c: IACAConfig = self.config
        streams, present = self.fronts(*sequences)
        xs, masks = [], []
        for m, (one, code) in enumerate(zip(streams, self.codes(streams, c.d), strict=True)):
            x, mask = into_steps(self.temporal[m](veil(one.z + code, one.mask), one.mask), one.t, one.mask, c, c.tokens[m])
            xs.append(self.attend_self[m](x, mask, x, mask))
            masks.append(mask)
        ys, crossed, crossed_mask = self._stage_one(xs, masks)
        y, any_mask, gates = self._stage_two(ys, masks)

        pooled = self._pool(y, any_mask)
        answer = torch.cat([head(pooled) for head in (self.classify, *self.regress) if head is not None], -1)
        values = torch.cat([head(y) for head in self.regress], -1) if c.affect else y[..., :0]
        weights = self._weights(gates, masks, any_mask)
        output, own = self.conclude(answer, [mean_over_time(x, mask) for x, mask in zip(ys, masks, strict=True)], weights, streams, present)
        return output, Aux(present, own, torch.tanh(values) if c.bounded else values, any_mask, crossed, crossed_mask, gates)

    def progress(self, share: float) -> None:
        """T_1 on its way from 1 to where it stays, geometrically."""
        if self.config.anneal:
            self.temperature = self.config.temperature ** min(2 * share, 1)

    def _stage_one(self, xs: list[Tensor], masks: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Self- or cross-attended features by a gate for each view; a step of a modality without a partner there keeps to itself.

        Y = ReLU(G_0 S + G_1 C), G = softmax(C W / T_1); a modality in several pairs takes their mean.
        """
        c: IACAConfig = self.config
        if isinstance(self.attend_cross, JointAttention):
            joint = self.attend_cross(xs, masks)
            views = [joint[m] for m, _ in self.views]
        else:
            views = [cross(xs[m], xs[n], masks[m], masks[n]) for (m, (n,)), cross in zip(self.views, self.attend_cross, strict=True)]
        temperature = self.temperature if self.training else c.temperature
        kept, partners = [torch.zeros_like(x) for x in xs], [torch.zeros_like(mask) for mask in masks]
        shares, share_masks = [masks[0].new_zeros(len(masks[0]), 0, c.steps)], [masks[0].new_zeros(len(masks[0]), 0, c.steps)]
        for (m, others), gate, crossed in zip(self.views, self.gate_view, views, strict=True):
            there = torch.stack([masks[n] for n in others]).amax(0)
            g = (gate(torch.cat([xs[m], crossed], -1) if c.gate_sees == "both" else crossed) / temperature).softmax(-1)
            kept[m] = kept[m] + veil(functional.relu(g[..., :1] * xs[m] + g[..., 1:] * crossed), there)
            partners[m] = partners[m] + there
            share_masks.append((masks[m] * there).unsqueeze(1))
            shares.append(g[..., 1].unsqueeze(1) * share_masks[-1])
        ys = [
            veil(y / count.clamp_min(1).unsqueeze(-1) + veil(functional.relu(x), (count == 0).to(x.dtype)), mask)
            for y, count, x, mask in zip(kept, partners, xs, masks, strict=True)
        ]
        return ys, torch.cat(shares, 1), torch.cat(share_masks, 1)

    def _stage_two(self, ys: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Between the modalities, step by step: G = softmax([Y] W / T_2), Y = [G_m Y_m] or their sum; then over time."""
        c: IACAConfig = self.config
        branches, here = [ys[m] for m in c.use], [masks[m] for m in c.use]
        together = torch.cat(branches, -1)
        any_mask = torch.stack(here, -1).amax(-1)
        if self.joint is not None:
            branches, here = [*branches, functional.relu(self.joint(together))], [*here, any_mask]
        open_ = torch.stack(here, -1)
        gates = (self.gate(together) / c.temperature_modalities + (1 - open_) * BLOCKED).softmax(-1) * open_
        weighted = [gates[..., k:k + 1] * branch for k, branch in enumerate(branches)]
        y = self.joined(torch.cat(weighted, -1) if c.join == "concat" else torch.stack(weighted).sum(0), any_mask)
        return y, any_mask, gates

    def _weights(self, gates: Tensor, masks: list[Tensor], any_mask: Tensor) -> Tensor:
        """Stage 2's gates (B, L, branches) as one weight a modality (B, 3)."""
        c: IACAConfig = self.config
        here = torch.stack([masks[m] for m in c.use], -1)
        count = len(c.use)
        own = gates[..., :count]
        if self.joint is not None:
            own = own + gates[..., count:] * here / here.sum(-1, keepdim=True).clamp_min(1)
        mean = own.sum(1) / any_mask.sum(1, keepdim=True).clamp_min(1)
        absent = torch.zeros_like(mean[:, 0])
        return torch.stack([mean[:, c.use.index(m)] if m in c.use else absent for m in range(N_MODALITIES)], 1)

    def _pool(self, y: Tensor, mask: Tensor) -> Tensor:
        c: IACAConfig = self.config
        if self.pool is not None:
            middle = (torch.arange(c.steps, device=y.device, dtype=y.dtype) + 0.5) * (c.seconds / c.steps) - c.seconds
            pooled: Tensor = self.pool(y, time_code(middle.unsqueeze(0), c.d).expand(y.shape[0], -1, -1), mask)
            return pooled
        return last_row(y, mask) if c.pool == "last" else mean_over_time(y, mask)


def _regressor(c: IACAConfig, wide: int, outputs: int) -> nn.Sequential:
    """The sibling's head: 128 units where d is 512, ReLU, dropout."""
    hidden = max(c.d // 4, 32)
    return nn.Sequential(nn.Linear(wide, hidden), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(hidden, outputs))


def into_steps(x: Tensor, t: Tensor, mask: Tensor, c: IACAConfig, rows: int) -> tuple[Tensor, Tensor]:
    """Rows x (B, T, d) at t (B, T) averaged into L steps: of equal time, or, with `rows` for a whole window, of equal numbers of rows.

    Gives (B, L, d) and which steps hold rows (B, L).
    """
    if c.time == "seconds":
        step = segment_of(t, mask, c.steps, c.seconds)
    else:
        number = torch.arange(t.shape[1], device=t.device, dtype=t.dtype).expand_as(t)
        step = (number * (c.steps / rows)).floor().clamp_max(c.steps - 1)
    member = (step.unsqueeze(-1) == torch.arange(c.steps, device=t.device, dtype=t.dtype)).to(x.dtype) * mask.unsqueeze(-1)
    count = member.sum(1)
    return (member.transpose(1, 2) @ x) / count.clamp_min(1).unsqueeze(-1), (count > 0).to(x.dtype)


@dataclass(frozen=True)
class IACALoss:
    """L_task, where the window has a target, and 1 - CCC of each value over all labelled steps of the batch, where steps have."""

    steps: float = 1.0
    task: TaskLoss = field(default_factory=lambda: TaskLoss(values="ccc"))

    def __call__(self, output: Output, aux: Aux, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name, and the mean gates. Raises ValueError when the targets' steps are not the model's."""
        parts = self.task.parts(output, aux.evidence, aux.present, targets)
        if targets.steps is not None:
            if targets.steps.shape != aux.steps.shape:
                raise ValueError(f"targets of {tuple(targets.steps.shape)} steps do not fit the model's {tuple(aux.steps.shape)}: windows, "
                                 "IACAConfig.steps and IACAConfig.affect must agree")
            known = aux.steps_mask if targets.steps_weight is None else aux.steps_mask * targets.steps_weight
            parts["steps"] = self.steps * concordance_error(aux.steps.flatten(0, 1), targets.steps.flatten(0, 1), known.flatten())
        loss, said = total(parts)
        crossed = aux.crossed.detach().sum() / aux.crossed_mask.sum().clamp_min(1)
        return loss, {**said, "gate_cross": float(crossed)}
