"""IACA: inconsistency-aware cross-attention (Praveen and Alam, arXiv 2405.12853) with its trimodal form.

The paper's stage 2, sizes and scores are not public; what is here follows its abstract, summaries and the sibling DCA (arXiv 2403.19554).
Cross-attention hurts where modalities do not complement each other, so two stages of gates choose: stage 1 between a modality's
self-attended and cross-attended features, stage 2 between the modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.fusion import N_MODALITIES, Evidence, Fronts, FusionConfig, FusionModel, Output, together
from models.layers import BLOCKED, AttentionPool, BiLSTM, ConvEncoder, last_row, mean_over_time, position_code, time_code, veil
from models.losses import Targets, TaskLoss, concordance_loss, total
from models.transformer import TransformerLayer


@dataclass(frozen=True)
class IACAConfig(FusionConfig):
    """Sizes and options."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **FusionConfig.OPTIONS, "gate_sees": ("cross", "both"), "join": ("concat", "sum"), "temporal": ("bilstm", "conv"),
        "time": ("position", "seconds"), "pool": ("mean", "last", "attention"),
    }

    modalities: tuple[int, ...] = (0, 1, 2)
    """Which of text, voice and face take part; the paper's form is (1, 2)."""
    steps: int = 16
    """L: common time steps. The method needs streams of one length; rows are averaged into L equal pieces of the window."""
    seconds: float = 4.0
    """Length of the window."""
    heads: int = 4
    ffn: int = 2
    gate_sees: str = "cross"
    """What the stage 1 gate looks at: "cross" the cross-attended features (DCA's code), "both" the self-attended ones too."""
    temperature: float = 0.1
    """T_1 of stage 1; near 0 gates are hard."""
    temperature_modalities: float = 1.0
    """T_2 of stage 2."""
    join: str = "concat"
    """Stage 2's gated features side by side or summed."""
    temporal: str = "bilstm"
    time: str = "position"
    pool: str = "mean"

    @classmethod
    def paper(cls, dims: tuple[int, int, int] = (768, 512, 512), **changes: Any) -> IACAConfig:
        """Audio and vision at the sibling's size: 16 clips of 512 features."""
        return replace(cls(dims=dims, rows=(16, 16, 16), d=512, heads=8, modalities=(1, 2), classes=0, dropout=0.1), **changes)

    @classmethod
    def live(cls, **changes: Any) -> IACAConfig:
        """What the engine runs: the trimodal form, a quarter of a second a step."""
        live = cls(
            d=48, heads=4, temporal="conv", time="seconds", pool="attention", temperature=0.5, front="patches", strides=(1, 8, 8),
            evidence=True, dropout_in=0.1,
        )
        return replace(live, **changes)


class CrossAttention(nn.Module):
    """Cross-attended features of m in the light of n (the group's vanilla form): Z = X_m W X_n', softmaxed over the steps of m that each
    step of n asks for; tanh(X_m + attended)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.correlate = nn.Linear(d, d, bias=False)
        self.scale = d ** -0.5

    def forward(self, x: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
        """x, other (B, L, d), masks (B, L). Steps without the other modality keep what they are."""
        z = other @ self.correlate(x).transpose(1, 2) * self.scale
        attended = (z + ((1 - mask) * BLOCKED).unsqueeze(1)).softmax(-1) @ x
        crossed: Tensor = torch.tanh(x + veil(attended, other_mask))
        return veil(crossed, mask)


class Aux(NamedTuple):
    """present (B, 3); evidence (B, 3, classes), zeros without `evidence`; steps (B, L, affect) values a step, steps_mask (B, L);
    gates (B, L, 3) of stage 2; attended (B, pairs, L) stage 1's share of the cross-attended features."""

    present: Tensor
    evidence: Tensor
    steps: Tensor
    steps_mask: Tensor
    gates: Tensor
    attended: Tensor


class IACA(FusionModel):
    """weights: stage 2's gates, averaged over the steps that hold anything."""

    def __init__(self, config: IACAConfig | None = None) -> None:
        c = config or IACAConfig()
        super().__init__(c)
        outputs = c.classes + c.affect
        self.fronts = Fronts(c)
        self.pairs = [(m, n) for m in c.modalities for n in c.modalities if m != n]
        self.temporal = nn.ModuleList(BiLSTM(c.d) if c.temporal == "bilstm" else ConvEncoder(c.d) for _ in range(N_MODALITIES))
        self.attend_self = nn.ModuleList(TransformerLayer(c.d, c.heads, c.ffn, c.dropout) for _ in range(N_MODALITIES))
        self.attend_cross = nn.ModuleList(CrossAttention(c.d) for _ in self.pairs)
        self.gate_pair = nn.ModuleList(nn.Linear(c.d * (1 + (c.gate_sees == "both")), 2, bias=False) for _ in self.pairs)
        self.gate = nn.Linear(c.d * len(c.modalities), len(c.modalities), bias=False)
        wide = c.d * (len(c.modalities) if c.join == "concat" else 1)
        self.joined: nn.Module = BiLSTM(wide) if c.temporal == "bilstm" else ConvEncoder(wide, layers=1)
        self.regress = nn.Sequential(nn.Linear(wide, c.d), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.d, c.affect))
        self.pool = AttentionPool(wide, c.d) if c.pool == "attention" else None
        self.head = nn.Sequential(nn.Linear(wide, c.d), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.d, c.classes + c.affect))
        self.evidence = Evidence((c.d, c.d, c.d), outputs) if c.evidence else None

    def study(self, *sequences: Tensor) -> tuple[Output, Aux]:
        """As `forward`, with what `IACALoss` needs."""
        c: IACAConfig = self.config
        streams, present = self.fronts(*sequences)
        taking_part = present.new_tensor([float(m in c.modalities) for m in range(N_MODALITIES)])
        present = present * taking_part
        xs, masks = [], []
        for one, encode in zip(streams, self.temporal, strict=True):
            code = time_code(one.t, c.d) if c.time == "seconds" else position_code(one.t, c.d)
            x, mask = into_steps(encode(veil(one.z + code, one.mask), one.mask), one.t, one.mask, c)
            xs.append(x)
            masks.append(mask)
        attended = [layer(x, mask, x, mask) for layer, x, mask in zip(self.attend_self, xs, masks, strict=True)]

        # Stage 1: self- or cross-attended, for each directed pair; a modality with no partner at a step keeps to itself.
        kept = [torch.zeros_like(x) for x in attended]
        partners = [torch.zeros_like(mask) for mask in masks]
        shares = []
        for (m, n), cross, gate in zip(self.pairs, self.attend_cross, self.gate_pair, strict=True):
            crossed = cross(attended[m], attended[n], masks[m], masks[n])
            g = (gate(torch.cat([attended[m], crossed], -1) if c.gate_sees == "both" else crossed) / c.temperature).softmax(-1)
            y = functional.relu(g[..., :1] * attended[m] + g[..., 1:] * crossed)
            kept[m] = kept[m] + veil(y, masks[n])
            partners[m] = partners[m] + masks[n]
            shares.append(g[..., 1] * masks[m] * masks[n])
        ys = [
            veil(y / count.clamp_min(1).unsqueeze(-1) + functional.relu(x) * (count == 0).to(x.dtype).unsqueeze(-1), mask)
            for y, count, x, mask in zip(kept, partners, attended, masks, strict=True)
        ]

        # Stage 2: between the modalities, step by step.
        here = torch.stack([masks[m] for m in c.modalities], -1)
        scores = self.gate(torch.cat([ys[m] for m in c.modalities], -1)) / c.temperature_modalities
        gates = (scores + (1 - here) * BLOCKED).softmax(-1) * here
        weighted = [gates[..., k:k + 1] * ys[m] for k, m in enumerate(c.modalities)]
        any_mask = here.amax(-1)
        y = self.joined(torch.cat(weighted, -1) if c.join == "concat" else torch.stack(weighted).sum(0), any_mask)
        values = self.regress(y)

        code = step_code(y, c)
        pooled = self.pool(y, code, any_mask) if self.pool is not None else (last_row if c.pool == "last" else mean_over_time)(y, any_mask)
        answer = self.head(pooled)
        every = gates.new_zeros(*gates.shape[:2], N_MODALITIES)
        every[..., list(c.modalities)] = gates
        weights = every.sum(1) / any_mask.sum(1, keepdim=True).clamp_min(1)
        own = torch.zeros_like(answer).unsqueeze(1).expand(-1, N_MODALITIES, -1)
        if self.evidence is not None:
            own = self.evidence([mean_over_time(x, mask) for x, mask in zip(ys, masks, strict=True)], streams)
            answer = answer + together(own, weights, present, c.classes)
        steps = torch.tanh(values) if c.bounded else values
        return self.output(answer, weights), Aux(present, own[..., :c.classes], steps, any_mask, every, torch.stack(shares, 1))


def into_steps(x: Tensor, t: Tensor, mask: Tensor, c: IACAConfig) -> tuple[Tensor, Tensor]:
    """Rows (B, T, d) averaged into L steps of equal time (or of equal numbers of rows): (B, L, d) and which steps hold rows (B, L)."""
    rows = torch.arange(t.shape[1], device=t.device, dtype=t.dtype).expand_as(t)
    place = (t / c.seconds + 1) * c.steps if c.time == "seconds" else rows * (c.steps / t.shape[1])
    step = place.floor().clamp(0, c.steps - 1).unsqueeze(-1)
    member = (step == torch.arange(c.steps, device=t.device, dtype=t.dtype)).to(x.dtype) * mask.unsqueeze(-1)
    count = member.sum(1)
    return (member.transpose(1, 2) @ x) / count.clamp_min(1).unsqueeze(-1), (count > 0).to(x.dtype)


def step_code(y: Tensor, c: IACAConfig) -> Tensor:
    """Codes (B, L, d) of the steps' own times."""
    middle = (torch.arange(c.steps, device=y.device, dtype=y.dtype) + 0.5) / c.steps * c.seconds - c.seconds
    return time_code(middle.unsqueeze(0), c.d).expand(y.shape[0], -1, -1)


@dataclass(frozen=True)
class IACALoss:
    """L_task, and 1 - CCC of each value over all steps in use where the corpus has a target a step (n, L, affect)."""

    steps: float = 1.0
    task: TaskLoss = field(default_factory=lambda: TaskLoss(values="ccc"))

    def __call__(
        self, output: Output, aux: Aux, targets: Targets, steps: Tensor | None = None, steps_weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and its parts by name; `steps_weight` (n, L) is 0 where the target is not known (Aff-Wild2's -5)."""
        parts = self.task.parts(output, aux.evidence, aux.present, targets)
        if steps is not None:
            used = (aux.steps_mask if steps_weight is None else aux.steps_mask * steps_weight) > 0
            each = [concordance_loss(aux.steps[..., k][used], steps[..., k][used]) for k in range(steps.shape[-1])]
        else:  # A target for the window alone: its last steps are to tell it.
            last = last_row(aux.steps, aux.steps_mask)
            known = targets.affect_weight > 0
            each = [concordance_loss(last[known, k], targets.affect[known, k]) for k in range(aux.steps.shape[-1])]
        return total({**parts, **({"steps": self.steps * torch.stack(each).sum()} if each else {})})
