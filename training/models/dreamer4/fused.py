"""
Norms, rotations and gates on the CPU, with as few passes over memory as eager operations allow.

PyTorch has one kernel for a root mean square norm on a GPU, but on a CPU it is put together from
seven operations, and its gradient from more; splitting and rolling heads copies them once more
each way.  Here the gradients are written down, so nothing between is kept, and heads are never
copied.  Values equal those of the plain operations up to rounding.

Without gradients it pays from some ten thousand numbers on; below, calls cost more than memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NORM_EPS = 1e-6
FEW = 1 << 15  # numbers, below which calls cost more than passes over memory

Three = tuple[Tensor, Tensor, Tensor]


def fits(x: Tensor, other: Tensor) -> bool:
    """Return whether these operations take over: one wide type, on the CPU, enough to do."""
    if not torch.is_grad_enabled() and x.numel() < FEW:
        return False
    wide = x.dtype == torch.float32 or x.dtype == torch.float64
    return wide and x.dtype == other.dtype and x.device.type == 'cpu'


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Divide x (..., width) by its root mean square and scale it by ``weight`` (width,)."""
    if not fits(x, weight):
        return F.rms_norm(x, weight.shape, weight, NORM_EPS)
    if torch.is_grad_enabled():
        normed: Tensor = _RmsNorm.apply(x, weight)
        return normed
    return _normalise(x)[0].mul_(weight)


def gate(x: Tensor) -> Tensor:
    """Return silu of the first half of x (..., 2 hidden) times the second half."""
    if torch.is_grad_enabled() and fits(x, x):
        gated: Tensor = _Gate.apply(x)
        return gated
    first, second = x.chunk(2, dim=-1)
    return F.silu(first) * second if torch.is_grad_enabled() else F.silu(first).mul_(second)


def heads(qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> Three:
    """
    Norm, scale and rotate queries and keys.

    :param qkv: (B, T, S, heads + 2 key_heads, 64), values last.
    :param scale: (heads + key_heads, 64).
    :param cos: broadcasts to the heads, as does ``sin``, the signed sines.
    :returns: query, key and value.
    """
    if torch.is_grad_enabled():
        made: Three = _Heads.apply(qkv, scale, cos, sin, key_heads)
        return made
    return _split(_turn(_normalise(_qk(qkv, key_heads))[0].mul_(scale), cos, sin), qkv, key_heads)


def _normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x over its root mean square, and what it was multiplied by (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    factor = norm.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
    return x * factor, factor


def _denormalise(
    grad: Tensor, weight: Tensor, normed: Tensor, factor: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    Return the gradients for x and, not yet summed up, for ``weight``.

    :param grad: for ``normed * weight``; it is spent.
    :param normed: x over its root mean square.
    """
    to_weight = grad * normed
    along = (to_weight * weight).mean(dim=-1, keepdim=True)
    grad.mul_(weight).addcmul_(normed, along, value=-1)
    return torch.mul(grad, factor, out=out), to_weight


def _qk(qkv: Tensor, key_heads: int) -> Tensor:
    return qkv.narrow(-2, 0, qkv.shape[-2] - key_heads)


def _split(turned: Tensor, qkv: Tensor, key_heads: int) -> Three:
    count = turned.shape[-2]
    query, key = turned.split((count - key_heads, key_heads), dim=-2)
    return query, key, qkv.narrow(-2, count, key_heads)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate; each half of a head takes its share of the other one in place."""
    half = x.shape[-1] // 2
    turned = torch.mul(x, cos, out=out)
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half])
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned


def _own(x: Tensor) -> Tensor:
    """Return a dense copy: silu and its gradient take three times as long on rows with gaps."""
    return x.clone(memory_format=torch.contiguous_format)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        normed, factor = _normalise(x)
        ctx.save_for_backward(x, factor, weight)
        return normed.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, factor, weight = ctx.saved_tensors
        to_x, to_weight = _denormalise(grads[0].clone(), weight, x * factor, factor)
        return to_x, to_weight.flatten(0, -2).sum(0)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        first, second = x.chunk(2, dim=-1)
        return F.silu(_own(first), inplace=True).mul_(second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        first, second = x.chunk(2, dim=-1)
        made, first = torch.empty_like(x), _own(first)
        to_first, to_second = made.chunk(2, dim=-1)
        torch.mul(F.silu(first), grads[0], out=to_second)
        to_first.copy_(torch.ops.aten.silu_backward(grads[0] * second, first))
        return made


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor, key_heads: int
    ) -> Three:
        normed, factor = _normalise(_qk(qkv, key_heads))
        ctx.save_for_backward(qkv, factor, scale, cos, sin)
        ctx.key_heads = key_heads
        return _split(_turn(normed.mul_(scale), cos, sin), qkv, key_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        qkv, factor, scale, cos, sin = ctx.saved_tensors
        made = torch.empty_like(qkv)
        grad = _qk(made, ctx.key_heads)
        back = torch.empty_like(grad)
        # The transpose of a rotation is the rotation back.
        parts = back.split((grads[0].shape[-2], ctx.key_heads), dim=-2)
        for part, given in zip(parts, grads):
            _turn(given, cos, sin.neg(), out=part)
        normed = _qk(qkv, ctx.key_heads) * factor
        _, to_scale = _denormalise(back, scale, normed, factor, out=grad)
        made.narrow(-2, grad.shape[-2], ctx.key_heads).copy_(grads[2])
        return made, to_scale.flatten(0, -3).sum(0), None, None, None
