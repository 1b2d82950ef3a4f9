"""The voice front end of the live models: rows of the `voice` stream -> tokens at a quarter of their rate or less, and emotions.

The level is taken out inside the model: the mean log-mel level over the window's voiced rows is subtracted, so that the gain of a
microphone changes nothing while louder and softer words within the window stay so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import AttentionPool, Front, mean_over_time, patch, shut, time_code, veil
from models.perception.voice import BANDS, ENERGY, PITCH, SPEECH, VOICING

COLUMNS = BANDS + 5


class VoiceReader(nn.Module):
    """Voice tokens (B, N, d) -> seven emotions (B, classes); pooled by attention and mean."""

    def __init__(self, d: int = 40, classes: int = 7) -> None:
        super().__init__()
        self.pool = AttentionPool(d)
        self.head = nn.Sequential(nn.LayerNorm(2 * d), nn.Dropout(0.3), nn.Linear(2 * d, classes))

    def read(self, z: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        z = functional.gelu(z)
        logits: Tensor = self.head(torch.cat([self.pool(z, time_code(t, z.shape[-1]), mask), mean_over_time(z, mask)], -1))
        return logits


class VoiceFront(Front):
    """Level normalisation, two strided convolutions and residual dilated ones; (B, T, 44) -> (B, ceil(T / stride), d).

    `stride` is 4 or a multiple of it; what is over 4 is averaged at the end. With `reads` also the emotions of the
    voice alone, by which it is trained before a fusion model takes it over.
    """

    def __init__(
        self, d: int = 40, width: int = 96, dropout: float = 0.1, stride: int = 4, reads: bool = True, classes: int = 7,
    ) -> None:
        super().__init__(COLUMNS)
        if stride % 4 or stride < 4:
            raise ValueError(f"the voice front end's stride is {stride}; it must be a multiple of 4")
        self.stride = stride
        self.first = nn.Conv1d(COLUMNS, width, 5, stride=2, padding=2)
        self.second = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=gap, dilation=gap) for gap in (1, 2, 4))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width, d)
        self.reader = VoiceReader(d, classes) if reads else None

    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Takes mean and deviation from voice rows x (B, T, 44), mask (B, T), their level taken out."""
        super().fit(level_free(x, mask), mask)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (B, T, 44), t and mask (B, T) -> tokens (B, N, d), their times and mask (B, N), and what the voice alone says (B, 7)."""
        missing = -mask.shape[1] % self.stride
        if missing:
            x, t, mask = functional.pad(x, (0, 0, 0, missing)), functional.pad(t, (0, missing)), functional.pad(mask, (0, missing))
        half, quarter = (functional.max_pool1d(mask.unsqueeze(1), n).squeeze(1) for n in (2, 4))
        z = veil(self.standardise(level_free(x, mask)), mask).transpose(1, 2)
        z = veil(functional.gelu(self.first(z)).transpose(1, 2), half).transpose(1, 2)
        z = veil(self.drop(self.norms[0](self.second(z).transpose(1, 2))), quarter)
        for norm, block in zip(list(self.norms)[1:], self.blocks, strict=True):
            inner = veil(functional.gelu(norm(z)), quarter)
            z = z + veil(self.drop(block(inner.transpose(1, 2)).transpose(1, 2)), quarter)
        _, tokens_t, tokens_mask, _ = patch(x, t, mask, self.stride)
        if self.stride > 4:
            groups = quarter.reshape(len(quarter), -1, self.stride // 4)
            z = z.reshape(*groups.shape, -1).sum(2) / groups.sum(-1, keepdim=True).clamp_min(1)
        tokens = veil(self.out(z), tokens_mask)
        said = self.reader.read(tokens, tokens_t, tokens_mask) if self.reader is not None else None
        return tokens, tokens_t, tokens_mask, said


def level_free(x: Tensor, mask: Tensor) -> Tensor:
    """Voice rows (B, T, 44) without their level, (B, T, 45), not zero behind the mask: bands and energy relative to the mean over voiced
    rows (over all rows where none is voiced), pitch as it is and relative to the window's mean pitch, voicing, activity."""
    x = shut(x, mask)
    active = mask * (x[..., SPEECH] > 0.5).to(x.dtype)
    voiced = mask * (x[..., PITCH] > 0).to(x.dtype)
    over = torch.where(active.sum(1, keepdim=True) > 0, active, mask)
    bands, energy, pitch = x[..., :BANDS], x[..., ENERGY:PITCH], x[..., PITCH]
    level = mean_over_time(bands, over).mean(-1)[:, None, None]
    mean_energy = mean_over_time(energy, over).unsqueeze(1)
    mean_pitch = (pitch * voiced).sum(1, keepdim=True) / voiced.sum(1, keepdim=True).clamp_min(1)
    relative = (pitch - mean_pitch) * voiced
    return torch.cat([bands - level, energy - mean_energy, pitch.unsqueeze(-1), relative.unsqueeze(-1), x[..., VOICING:]], -1)


def augment(x: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Voice rows (B, T, 44) as other speakers and channels might give them: pitch and formants moved, the spectrum tilted and
    coloured, bands and stretches blotted out (SpecAugment; Park et al. 2019, Interspeech)."""
    batch, rows, _ = x.shape
    x = x.clone()

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    x[..., PITCH] = torch.where(x[..., PITCH] > 0, x[..., PITCH] + draw(-0.25, 0.25, batch, 1), x[..., PITCH])
    bands = x[..., :BANDS]
    place = torch.arange(BANDS) * torch.exp(draw(-0.08, 0.08, batch, 1)) + draw(-1, 1, batch, 1)
    place = place.clamp(0, BANDS - 1)
    low = place.floor().long().clamp_max(BANDS - 2)
    share = (place - low).unsqueeze(1)
    index = low.unsqueeze(1).expand(-1, rows, -1)
    bands = bands.gather(2, index) * (1 - share) + bands.gather(2, index + 1) * share
    axis = torch.linspace(-1, 1, BANDS)
    colour = functional.interpolate(torch.randn(batch, 1, 6, generator=generator) * 0.5, size=BANDS, mode="linear", align_corners=True)
    bands = bands + (draw(-1, 1, batch, 1) * axis).unsqueeze(1) + colour
    middle = mean_over_time(bands, mask).unsqueeze(1)
    spot, width = draw(0, BANDS, batch, 2, 1), draw(0, 6, batch, 2, 1)
    blot = ((torch.arange(BANDS) >= spot) & (torch.arange(BANDS) < spot + width)).any(1).unsqueeze(1)
    start, length = draw(0, rows, batch, 2, 1), draw(0, 15, batch, 2, 1)
    gap = ((torch.arange(rows) >= start) & (torch.arange(rows) < start + length)).any(1).unsqueeze(2)
    x[..., :BANDS] = torch.where(blot | gap, middle.expand_as(bands), bands)
    return shut(x, mask)
