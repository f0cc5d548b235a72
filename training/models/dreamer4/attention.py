"""
What every layer is made of: rotary positions, attention with shared keys, the gated MLP.

Shapes: a token is (B, T, S, width), its heads are (B, T, S, heads, 64).  Queries, keys and values
come from one matrix product, and so do the MLP's gate and its input: fewer launches, and the
activations are read once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from . import fused
from .config import HEAD_SIZE, TrunkConfig
from .fused import NORM_EPS

ROPE_BASE = 10_000.0


class Heads(NamedTuple):
    """Query (B, T, S, heads, 64), key and value (B, T, S, key-value heads, 64), rotated."""

    query: Tensor
    key: Tensor
    value: Tensor


class Turn(NamedTuple):
    """Cosines and signed sines (..., 1, 64) that rotate the heads of a position."""

    cos: Tensor
    sin: Tensor


def turn_of(position: Tensor, exact: bool = False) -> Turn:
    """
    Return the rotation of integer positions (...).

    Angles are computed here in float64 and from the absolute position, so no table ends; they
    lie on halves of a head instead of on interleaved pairs, a permutation of the weights.

    :param exact: keep float64 (for tests); float32 otherwise.
    """
    half = HEAD_SIZE // 2
    exponent = torch.arange(half, device=position.device, dtype=torch.float64) / half
    angle = position.double().unsqueeze(-1) * ROPE_BASE**-exponent
    cos, sin = angle.cos(), angle.sin()
    turn = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    dtype = torch.float64 if exact else torch.float32
    return Turn(*(part.to(dtype).unsqueeze(-2) for part in turn))


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Rotate heads (..., heads, 64); bfloat16 is rotated in float32."""
    wide = x.to(turn.cos.dtype)
    return torch.addcmul(wide * turn.cos, wide.roll(HEAD_SIZE // 2, -1), turn.sin).to(x.dtype)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    soft_cap: float = 0.0,
) -> Tensor:
    """
    Mix values; (N, heads, L, 64) with (N, key-value heads, M, 64).

    :param mask: added to the logits, broadcast over the heads.
    :param causal: query i sees keys up to i (only without ``mask`` and with L = M).
    """
    share = query.shape[1] // key.shape[1]
    if soft_cap:
        key, value = (x.repeat_interleave(share, dim=1) for x in (key, value))
        return _attend_capped(query, key, value, mask, causal, soft_cap)
    length = query.shape[2]
    if mask is not None and share == length == 1 and fused.fits(query, key):
        return fused.one_query(query, key, value, mask)
    if mask is None or share == 1:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=share > 1
        )
    # Fused kernels share keys or take a mask, not both: heads that share become further queries.
    mask = mask if mask.shape[-2] == 1 else mask.repeat(*[1] * (mask.ndim - 2), share, 1)
    query = query.unflatten(1, (-1, share)).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.unflatten(2, (share, length)).flatten(1, 2)


def _attend_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, soft_cap: float
) -> Tensor:
    logits = query @ key.transpose(-1, -2) * HEAD_SIZE**-0.5
    logits = soft_cap * (logits / soft_cap).tanh()
    if causal:
        mask = window_mask(logits.shape[-1], logits.shape[-1], logits.device, logits.dtype)
    return (logits if mask is None else logits + mask).softmax(dim=-1) @ value


def window_mask(
    frames: int, window: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (T, T): 0 where 0 <= query - key < window, minus infinity elsewhere."""
    time = torch.arange(frames, device=device)
    gap = time[:, None] - time
    return hide((gap >= 0) & (gap < window), dtype)


def hide(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn what is seen (bool) into what is added to logits."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)


class Norm(nn.RMSNorm):
    """The norm of tokens (..., width)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Divide tokens by their root mean square, and scale them."""
        return fused.rms_norm(x, self.weight)


class LayerWeights(nn.Module):
    """One layer for one stream of tokens: norms, attention, gated MLP; no biases."""

    def __init__(self, config: TrunkConfig, ends: bool = False) -> None:
        """
        Build one layer.

        :param ends: its tokens are only seen by others here, and nobody reads what they would
            become: what makes that is not built (and would be parameters without a gradient).
        """
        super().__init__()
        width, hidden = config.width, config.mlp_width
        self.heads, self.key_heads = config.heads, config.key_heads
        self.norm_attention = Norm(width)
        self.qkv = nn.Linear(width, (self.heads + 2 * self.key_heads) * HEAD_SIZE, bias=False)
        scaled = self.heads + self.key_heads
        self.scale = nn.Parameter(torch.ones(scaled, HEAD_SIZE)) if config.qk_norm else None
        self.folded = False
        if not ends:
            self.out = nn.Linear(self.heads * HEAD_SIZE, width, bias=False)
            self.norm_mlp = Norm(width)
            self.up = nn.Linear(width, 2 * hidden, bias=False)
            self.down = nn.Linear(hidden, width, bias=False)

    def project(self, x: Tensor, turn: Turn) -> Heads:
        """Return the heads of tokens (B, T, S, width) at the positions ``turn`` stands for."""
        qkv = fused.normed_linear(x, self._scale(self.norm_attention), self.qkv.weight)
        qkv = qkv.unflatten(-1, (-1, HEAD_SIZE))
        if self.scale is not None and fused.pays(qkv):
            return Heads(*fused.heads(qkv, self.scale, turn.cos, turn.sin, self.key_heads))
        qk, value = qkv.split((self.heads + self.key_heads, self.key_heads), dim=-2)
        if self.scale is not None:
            qk = F.rms_norm(qk, (HEAD_SIZE,), eps=NORM_EPS) * self.scale
        query, key = rotate(qk, turn).to(value.dtype).split((self.heads, self.key_heads), dim=-2)
        return Heads(query, key, value)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what attention gathered (B, T, S, heads, 64), then the MLP."""
        x = fused.plus_linear(x, mixed.flatten(-2), self.out.weight)
        inner = fused.normed_gate(x, self._scale(self.norm_mlp), self.up.weight)
        return fused.plus_linear(x, inner, self.down.weight)

    def _scale(self, norm: Norm) -> Tensor | None:
        return None if self.folded else norm.weight

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the norms' scales into the weights behind them, for inference."""
        pairs = [(self.norm_attention, self.qkv)]
        if hasattr(self, 'up'):
            pairs.append((self.norm_mlp, self.up))
        for norm, linear in pairs:
            linear.weight.mul_(norm.weight)
            norm.weight.fill_(1)  # so what is stored is the same model
        self.folded = True
