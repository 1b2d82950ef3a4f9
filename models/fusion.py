"""What every fusion model is: text, voice and face sequences of a window in; emotions, valence and arousal, modality weights out.

Plain tensors, static shapes, no branch that depends on data: one `torch.export` serves every backend. A fully masked modality is legal,
and neither padding nor batch mates change a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.facefront import FaceFront
from models.encoders.voice import VoiceFront
from models.encoders.wordfront import WordFront
from models.layers import Front, Patches, Rows, any_row, no_code, position_code, time_code
from models.window import Window

N_MODALITIES = 3
Config = TypeVar("Config", bound="FusionConfig")


class Output(NamedTuple):
    """logits (B, classes); affect (B, values), in [-1, 1] where `bounded`; weights (B, 3) how much text, voice and face counted, summing
    to 1 over the modalities present, 0 where none is."""

    logits: Tensor
    affect: Tensor
    weights: Tensor


class Encoded(NamedTuple):
    """One modality behind its front end: z (B, N, d) tokens, t (B, N) their times, mask (B, N), and what the front end reads by itself
    (B, up to classes + values) or None."""

    z: Tensor
    t: Tensor
    mask: Tensor
    reading: Tensor | None


@dataclass(frozen=True)
class FusionConfig:
    """What the configurations of all fusion models share. A tuple has one entry a modality, in the order text, voice, face."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "front": ("conv", "patches", "speech", "none"), "time": ("none", "position", "seconds"),
    }
    """Allowed values of the fields that are choices."""

    dims: tuple[int, int, int] = (67, 44, 39)
    """Columns of the feature rows."""
    rows: tuple[int, int, int] = (24, 200, 120)
    """Window capacity."""
    use: tuple[int, ...] = (0, 1, 2)
    """Which modalities are looked at at all: subset models and unimodal baselines leave some out."""
    d: int = 40
    classes: int = 7
    affect: int = 2
    """How many values are told beside the classes: valence and arousal, or a corpus's sentiment."""
    bounded: bool = True
    """Whether values lie in [-1, 1]."""
    front: str = "conv"
    """"conv": a Conv1d a modality; "patches": strided patches for face, level-normalised convolutions for voice, phrases for text;
    "speech": as "conv", but the voice, which then is the live rows, as in "patches"; "none": rows as they are."""
    front_bias: bool = True
    """Whether the Conv1d of `front="conv"` adds a bias (MulT's and UCRN's code does not)."""
    kernels: tuple[int, int, int] = (3, 3, 3)
    strides: tuple[int, int, int] = (1, 1, 1)
    time: str = "position"
    """What tells a model where a row stands: "none", "position" (row numbers, as most papers) or "seconds" (the rows' own times, which
    irregular streams need)."""
    dropout: float = 0.1
    dropout_in: float = 0.0
    """Of the text's features."""
    evidence: bool = False
    """Adds to the answer a linear reading of each modality's representation and what its front end reads by itself, weighted by the
    modality's weight: independent evidence then adds up as it should when a subset of the modalities is there, and the weights are
    weights in fact. Ours, in no paper."""

    def __post_init__(self) -> None:
        for name, allowed in self.OPTIONS.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{type(self).__name__}.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if not self.use or tuple(sorted(set(self.use) & {0, 1, 2})) != tuple(self.use):
            raise ValueError(f"{type(self).__name__}.use is {self.use}; it must name some of 0 (text), 1 (voice), 2 (face), in this order")

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`, from JSON too."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens a modality behind the front ends."""
        return tuple(-(-n // s) for n, s in zip(self.rows, self.strides, strict=True))


class Fronts(nn.ModuleList):
    """The front ends of text, voice and face."""

    def __init__(self, c: FusionConfig, widths: tuple[int, int, int] | None = None) -> None:
        widths = widths or (c.d, c.d, c.d)
        if c.front == "patches":
            super().__init__([
                WordFront(widths[0], reads=c.evidence), VoiceFront(widths[1], stride=c.strides[1], reads=c.evidence),
                FaceFront(c.dims[2], widths[2], c.kernels[2], c.strides[2], reads=c.evidence),
            ])
        elif c.front == "none":
            if any(c.dims[m] != widths[m] for m in c.use):
                raise ValueError(f'front="none" passes rows on as they are: dims = {c.dims} must be the model\'s widths {widths}')
            super().__init__(Rows(dim) for dim in c.dims)
        else:
            fronts: list[Front] = [Patches(c.dims[m], widths[m], c.kernels[m], c.strides[m], c.front_bias) for m in range(N_MODALITIES)]
            if c.front == "speech":
                reads = c.evidence and c.classes > 0
                fronts[1] = VoiceFront(widths[1], dropout=c.dropout, stride=c.strides[1], reads=reads, classes=c.classes)
            super().__init__(fronts)
        self.dropout_in, self.use = c.dropout_in, c.use

    def fit(self, window: Window) -> None:
        """Takes mean and deviation of each modality's rows from training windows; a modality that has none there keeps what it has."""
        for front, sequence in zip(self, window, strict=True):
            if sequence.mask.any():
                cast(Front, front).fit(torch.from_numpy(sequence.x), torch.from_numpy(sequence.mask))

    def forward(self, *sequences: Tensor) -> tuple[list[Encoded], Tensor]:
        """x (B, T, D), t (B, T) seconds relative to the window's end, mask (B, T) of each modality -> tokens, presence (B, 3)."""
        out = []
        for m, front in enumerate(self):
            x, t, mask = sequences[3 * m: 3 * m + 3]
            mask = mask if m in self.use else torch.zeros_like(mask)
            out.append(Encoded(*front(functional.dropout(x, self.dropout_in, self.training) if m == 0 else x, t, mask)))
        return out, torch.stack([any_row(one.mask) for one in out], 1)


class Evidence(nn.ModuleList):
    """Each modality's own reading: a linear one of its representation, and that of its front end."""

    def __init__(self, widths: tuple[int, int, int], outputs: int) -> None:
        super().__init__(nn.Linear(width, outputs) for width in widths)

    def forward(self, hs: Sequence[Tensor], streams: Sequence[Encoded]) -> Tensor:
        """One h (B, width) a modality -> (B, 3, outputs)."""
        own = []
        for m, layer in enumerate(self):
            said, reading = layer(hs[m]), streams[m].reading
            own.append(said if reading is None else said + functional.pad(reading, (0, said.shape[1] - reading.shape[1])))
        return torch.stack(own, 1)


def together(own: Tensor, weights: Tensor, present: Tensor, classes: int) -> Tensor:
    """Readings own (B, 3, outputs) of the modalities -> what they say together (B, outputs).

    Evidence adds up: logits are summed, each times its weight and the number of modalities present. Values are averaged.
    """
    logits = (own[..., :classes] * (weights * present.sum(1, keepdim=True)).unsqueeze(-1)).sum(1)
    return torch.cat([logits, (own[..., classes:] * weights.unsqueeze(-1)).sum(1)], -1)


def shares(hs: Sequence[Tensor], present: Tensor) -> Tensor:
    """Each modality's share (B, 3) of the size (root mean square) of hs, one (B, width) each; present (B, 3)."""
    size = torch.stack([h.square().mean(1) for h in hs], 1).clamp_min(1e-4).sqrt() * present
    return size / size.sum(1, keepdim=True).clamp_min(1e-4)


class PlainAux(NamedTuple):
    """What the loss needs of a model without terms of its own: present (B, 3); evidence (B, 3, classes) each modality's own logits,
    zeros without `evidence`."""

    present: Tensor
    evidence: Tensor


class FusionModel(nn.Module):
    """The base of the fusion models: `forward` answers, `study` answers and tells what the model's loss needs besides."""

    fronts: Fronts
    evidence: Evidence | None

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config: Any = config

    def forward(
        self, text_x: Tensor, text_t: Tensor, text_mask: Tensor, voice_x: Tensor, voice_t: Tensor, voice_mask: Tensor,
        face_x: Tensor, face_t: Tensor, face_mask: Tensor,
    ) -> Output:
        """x (B, T, D), t (B, T) seconds relative to the window's end, mask (B, T) for each modality."""
        return self.study(text_x, text_t, text_mask, voice_x, voice_t, voice_mask, face_x, face_t, face_mask)[0]

    def study(self, *sequences: Tensor) -> tuple[Output, Any]:
        """As `forward`, with what the loss needs."""
        raise NotImplementedError

    def progress(self, share: float) -> None:
        """What changes in the course of a training is told here how much of it is done, 0 to 1; most models change nothing."""

    def codes(self, streams: Sequence[Encoded], d: int) -> list[Tensor]:
        """The code (B, N, d) of each modality's token times, as the configuration's `time` says."""
        return [self.code(one.t, d) for one in streams]

    def code(self, t: Tensor, d: int) -> Tensor:
        """The same of some times t (..., N): (..., N, d)."""
        return {"none": no_code, "position": position_code, "seconds": time_code}[self.config.time](t, d)

    def conclude(
        self, answer: Tensor, hs: Sequence[Tensor], weights: Tensor, streams: Sequence[Encoded], present: Tensor,
    ) -> tuple[Output, Tensor]:
        """answer (B, classes + affect) and, with `evidence`, the modalities' own readings of hs, one (B, width) each, weighted by
        weights (B, 3) -> the output and the own logits (B, 3, classes)."""
        c: FusionConfig = self.config
        own = torch.zeros_like(answer).unsqueeze(1).expand(-1, N_MODALITIES, -1)
        if self.evidence is not None:
            own = self.evidence(hs, streams)
            answer = answer + together(own, weights, present, c.classes)
        return self.output(answer, weights), own[..., :c.classes]

    def output(self, answer: Tensor, weights: Tensor) -> Output:
        """answer (B, classes + affect) -> logits, values, weights."""
        c: FusionConfig = self.config
        values = answer[:, c.classes:]
        return Output(answer[:, :c.classes], torch.tanh(values) if c.bounded else values, weights)
