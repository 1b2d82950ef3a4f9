"""Small windows and small models for tests of the fusion models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.fusion import FusionModel
from models.registry import MODELS

ROWS = (6, 21, 13)
DIMS = (67, 44, 39)
SMALL: dict[str, dict[str, Any]] = {
    "mea": {"d": 16, "d_h": 12, "heads": 4}, "msaf": {"d": 16, "widths": (16, 16, 8), "block": 8},
    "ucrn": {"d": 16, "heads": 4, "crm_heads": 4},
    "iaca": {"d": 16, "heads": 4, "steps": 5}, "mult": {"d": 16, "heads": 4, "memory_heads": 4}, "late": {"d": 16},
}
LAYERS = {"ucrn": {"urm_layers": 2, "crm_layers": 1}, "mult": {"layers": 2}}


def windows(batch: int = 5, seed: int = 0, rows: tuple[int, ...] = ROWS) -> list[Tensor]:
    """Random windows; row 0 has everything, row 1 no face, row 2 voice alone, row 3 nothing, the rest everything, all of ragged lengths."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for m, (n, dim) in enumerate(zip(rows, DIMS, strict=True)):
        length = torch.randint(n // 2, n + 1, (batch, 1), generator=draw)
        mask = (torch.arange(n) < length).float()
        for row, absent in ((1, (2,)), (2, (0, 2)), (3, (0, 1, 2))):
            if row < batch and m in absent:
                mask[row] = 0
        x = torch.randn(batch, n, dim, generator=draw) * mask.unsqueeze(-1)
        t = (torch.rand(batch, n, generator=draw) * -4).sort(1).values * mask
        out += [x, t, mask]
    return out


def config(name: str, kind: str, **changes: Any) -> Any:
    """A small configuration of the kind "live" or "paper", with seven classes and two bounded values."""
    made = getattr(MODELS[name].config, kind)()
    shape = {"rows": ROWS, "dims": DIMS, "classes": 7, "affect": 2, "bounded": True}
    return replace(made, **{**shape, **SMALL[name], **LAYERS.get(name, {}), **changes})


def model(name: str, kind: str, seed: int = 0, **changes: Any) -> FusionModel:
    torch.manual_seed(seed)
    return MODELS[name].build(config(name, kind, **changes)).eval()
