"""Transformer encoders over masked sequences, as MulT and UCRN use them (pre-norm; yaohungt/Multimodal-Transformer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import BLOCKED, any_row, key_bias, merge_heads, split_heads, veil


class TransformerLayer(nn.Module):
    """x + attention(LN x), then x + FFN(LN x). With a source the keys and values are its rows, through the same LN."""

    def __init__(self, d: int, heads: int, ffn: int = 4, dropout: float = 0.1, attention_dropout: float = 0.0) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"a transformer of width {d} cannot have {heads} heads; the width must be a multiple of them")
        self.heads, self.attention_dropout = heads, attention_dropout
        self.norm, self.norm_ffn = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key_value, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.inner, self.outer = nn.Linear(d, ffn * d), nn.Linear(ffn * d, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, source: Tensor, source_mask: Tensor, causal: Tensor | None = None) -> Tensor:
        """x (B, T, d), mask (B, T), source (B, S, d), source_mask (B, S), causal (T, S) to be added -> (B, T, d)."""
        q = split_heads(self.query(self.norm(x)), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.key_value(self.norm(source)).chunk(2, -1))
        bias = key_bias(source_mask).expand(-1, 1, x.shape[1], -1)
        bias = bias if causal is None else (bias + causal).clamp_min(BLOCKED)
        dropped = self.attention_dropout if self.training else 0.0
        asked = merge_heads(functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped))
        x = x + self.drop(self.out(asked)) * any_row(source_mask)[:, None, None]
        x = x + self.drop(self.outer(self.drop(functional.relu(self.inner(self.norm_ffn(x))))))
        return veil(x, mask)


class TransformerEncoder(nn.Module):
    """Layers of one kind and a final LN; self-attention, or attention to a source that stays as it is (MulT's crossmodal encoder)."""

    def __init__(
        self, d: int, heads: int, layers: int, dropout: float = 0.1, attention_dropout: float = 0.0, causal: bool = False,
        scale: bool = True, ffn: int = 4,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(d, heads, ffn, dropout, attention_dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.causal, self.scale = causal, d ** 0.5 if scale else 1.0

    def forward(
        self, x: Tensor, mask: Tensor, source: Tensor | None = None, source_mask: Tensor | None = None, code: Tensor | None = None,
        source_code: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, d), mask (B, T), source (B, S, d), source_mask (B, S); codes of their positions are added once. -> (B, T, d)."""
        x = x * self.scale if code is None else x * self.scale + code
        other = None
        if source is not None:
            other = source * self.scale if source_code is None else source * self.scale + source_code
        ahead = None
        if self.causal:
            rows, columns = x.shape[1], x.shape[1] if source is None else source.shape[1]
            # The public code's mask for two lengths: row i sees columns up to i + the difference.
            ahead = torch.triu(torch.full((rows, columns), BLOCKED, device=x.device, dtype=x.dtype), 1 + abs(columns - rows))
        for layer in self.layers:
            x = layer(x, mask, x if other is None else other, mask if source_mask is None else source_mask, ahead)
        return veil(self.norm(x), mask)
