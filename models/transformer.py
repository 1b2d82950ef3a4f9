"""Transformer encoders over masked sequences, as MulT and UCRN use them (pre-norm; yaohungt/Multimodal-Transformer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import BLOCKED, any_row, key_bias, merge_heads, split_heads, veil


class TransformerLayer(nn.Module):
    """x + attention(LN x), then x + FFN(LN x). With a source the keys and values are its rows, through the same LN.

    With `residual_first` the heads' answers are added to x before they are mixed, not after: out(x + heads), as UCRN's figure draws it.
    """

    def __init__(
        self, d: int, heads: int, ffn: int = 4, dropout: float = 0.1, attention_dropout: float = 0.0, residual_first: bool = False,
    ) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"a transformer of width {d} cannot have {heads} heads; the width must be a multiple of them")
        self.heads, self.attention_dropout, self.residual_first = heads, attention_dropout, residual_first
        self.norm, self.norm_ffn = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key_value, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.inner, self.outer = nn.Linear(d, ffn * d), nn.Linear(ffn * d, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor, causal: Tensor | None = None) -> Tensor:
        """x (B, T, d), mask (B, T), source (B, S, d), source_mask (B, S), causal (B, 1, T, S) to be added -> (B, T, d)."""
        q = split_heads(self.query(self.norm(x)), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.key_value(self.norm(source)).chunk(2, -1))
        bias = key_bias(source_mask).expand(-1, 1, x.shape[1], -1)
        bias = bias if causal is None else (bias + causal).clamp_min(BLOCKED)
        dropped = self.attention_dropout if self.training else 0.0
        asked = merge_heads(functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped))
        here = any_row(source_mask)[:, None, None]
        x = self.out(x + self.drop(asked * here)) if self.residual_first else x + self.drop(self.out(asked)) * here
        x = x + self.drop(self.outer(self.drop(functional.relu(self.inner(self.norm_ffn(x))))))
        return veil(x, mask)


class TransformerEncoder(nn.Module):
    """Layers of one kind and a final LN; self-attention, or attention to a source that stays as it is (MulT's crossmodal encoder)."""

    def __init__(
        self, d: int, heads: int, layers: int, ffn: int = 4, dropout: float = 0.1, attention_dropout: float = 0.0,
        embed_dropout: float = 0.0, causal: bool = False, residual_first: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(d, heads, ffn, dropout, attention_dropout, residual_first) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(embed_dropout)
        self.causal, self.scale = causal, d ** 0.5

    def forward(
        self, x: Tensor, mask: Tensor, code: Tensor, source: Tensor | None = None, source_mask: Tensor | None = None,
        source_code: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, d), mask and the code of its rows' places; the same of a source (B, S, d), if there is one -> (B, T, d)."""
        x = self.drop(x * self.scale + code)
        other, other_mask = x, mask
        if source is not None and source_mask is not None and source_code is not None:
            other, other_mask = self.drop(source * self.scale + source_code), source_mask
        ahead = future(mask, other_mask) if self.causal else None
        for layer in self.layers:
            x = layer(x, mask, x if source is None else other, other_mask, ahead)
        return veil(self.norm(x), mask)


def future(mask: Tensor, source_mask: Tensor) -> Tensor:
    """What to add to attention logits so that row i sees the source's rows up to i + the difference of the two lengths (the public
    code's mask; for self-attention: up to itself), lengths counted in front of the masks (B, T) and (B, S); (B, 1, T, S)."""
    rows = torch.arange(mask.shape[1], device=mask.device, dtype=mask.dtype)[None, :, None]
    columns = torch.arange(source_mask.shape[1], device=mask.device, dtype=mask.dtype)[None, None, :]
    gap = (mask.sum(1) - source_mask.sum(1)).abs()[:, None, None]
    return ((columns > rows + gap).to(mask.dtype) * BLOCKED).unsqueeze(1)
