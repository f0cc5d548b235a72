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


def pays(x: Tensor) -> bool:
    """Return whether these operations pay for x: on the CPU, with enough to do."""
    return x.device.type == 'cpu' and (torch.is_grad_enabled() or x.numel() >= FEW)


def fits(x: Tensor, other: Tensor) -> bool:
    """Return whether operations on two tensors of one wide type take over."""
    wide = x.dtype == torch.float32 or x.dtype == torch.float64
    return wide and x.dtype == other.dtype and pays(x)


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Divide x (..., width) by its root mean square and multiply it by ``scale`` (width,)."""
    if not fits(x, scale):
        return F.rms_norm(x, scale.shape, scale, NORM_EPS)
    return _divide(x) * scale


def normed_linear(x: Tensor, scale: Tensor | None, weight: Tensor) -> Tensor:
    """
    Return the product of ``weight`` (out, width) and the norm of tokens x (..., width).

    The norm's ``scale`` (width,) goes into the weights: they are fewer numbers than the tokens of
    a batch.  None means that it lies in them already, see ``LayerWeights.fold``.
    """
    return F.linear(*_normed(x, scale, weight))


def normed_gate(x: Tensor, scale: Tensor | None, weight: Tensor) -> Tensor:
    """Return silu(a) b, where a and b are the halves of what ``normed_linear`` would return."""
    normed, weight = _normed(x, scale, weight)
    if pays(x):
        # Two products, for silu and its gradient take twice as long on rows with gaps.
        first, second = (F.linear(normed, half) for half in weight.chunk(2))
        if not torch.is_grad_enabled():
            return F.silu(first, inplace=True).mul_(second)
        gated: Tensor = _Gate.apply(first, second)
        return gated
    first, second = F.linear(normed, weight).chunk(2, dim=-1)
    return F.silu(first) * second


def plus_linear(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Return x (..., out) plus the product of ``weight`` (out, width) and y (..., width)."""
    mixed = torch.is_autocast_enabled(x.device.type) or not x.dtype == y.dtype == weight.dtype
    if mixed or torch.is_grad_enabled():
        return x + F.linear(y, weight)
    rows = x.flatten(0, -2), y.flatten(0, -2)
    return torch.addmm(*rows, weight.t()).view(x.shape)  # the product adds while it writes


def heads(qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> Three:
    """
    Norm, scale and rotate queries and keys.

    :param qkv: (B, T, S, heads + 2 key_heads, 64), values last; bfloat16 is worked on as float32.
    :param scale: (heads + key_heads, 64).
    :param cos: float32 or float64, broadcasts to the heads; as does ``sin``, the signed sines.
    :returns: query, key and value.
    """
    if torch.is_grad_enabled():
        made: Three = _Heads.apply(qkv, scale, cos, sin, key_heads)
        return made
    wide = _qk(qkv, key_heads).to(cos.dtype)
    turned, _ = _norm_and_turn(wide, scale.to(cos.dtype), cos, sin)
    return _split(turned.to(qkv.dtype), qkv, key_heads)


def one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """
    Attend with one query a head: (N, heads, 1, 64), keys and values (N, heads, M, 64).

    Two batched products take half (M = 96) to four fifths (M = 32) of the time of PyTorch's fused
    attention, which is made for blocks of queries.
    """
    logits = torch.matmul(key, query.transpose(-1, -2)).transpose(-1, -2)
    weights = logits.mul_(query.shape[-1] ** -0.5).add_(mask).softmax(dim=-1)
    return torch.matmul(weights, value)


def _factor(x: Tensor) -> Tensor:
    """Return one over the root mean square of x (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().mul_(1 / x.shape[-1]).add_(NORM_EPS).rsqrt_()


def _normed(x: Tensor, scale: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return normed tokens and the weights to multiply them by; one of them is scaled."""
    if not fits(x, weight):
        return F.rms_norm(x, x.shape[-1:], scale, NORM_EPS), weight
    return _divide(x), weight if scale is None else weight * scale


def _divide(x: Tensor) -> Tensor:
    """Divide x by its root mean square."""
    if torch.is_grad_enabled():
        divided: Tensor = _Divide.apply(x)
        return divided
    return x * _factor(x)


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


def _norm_and_turn(qk: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return heads normed, scaled and rotated, and one over their root mean square (..., 1)."""
    # Scale and rotation together are one small table; the norm commutes with both.
    factor, half = _factor(qk), scale.shape[-1] // 2
    return _turn(qk, cos * scale, sin * scale.roll(half, -1)).mul_(factor), factor


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        factor = _factor(x)
        ctx.save_for_backward(x, factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # With n = x f:  f (g - n mean(g n)), put in terms of x.
        (grad,), (x, factor) = grads, ctx.saved_tensors
        along = (grad * x).mean(dim=-1, keepdim=True).mul_(factor.pow(3))
        return (grad * factor).addcmul_(x, along, value=-1)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return F.silu(first).mul_(second)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        first, second = ctx.saved_tensors
        to_first = torch.ops.aten.silu_backward(grads[0] * second, first)
        return to_first, F.silu(first).mul_(grads[0])


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor, key_heads: int
    ) -> Three:
        wide = _qk(qkv, key_heads).to(cos.dtype)
        turned, factor = _norm_and_turn(wide, scale, cos, sin)
        ctx.save_for_backward(qkv, factor, scale, cos, sin)
        ctx.key_heads = key_heads
        return _split(turned.to(qkv.dtype), qkv, key_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        qkv, factor, scale, cos, sin = ctx.saved_tensors
        made = torch.empty_like(qkv)
        qk, grad = _qk(qkv, ctx.key_heads).to(cos.dtype), _qk(made, ctx.key_heads)
        back = torch.empty_like(qk)
        # The transpose of a rotation is the rotation back.
        parts = back.split((grads[0].shape[-2], ctx.key_heads), dim=-2)
        for part, given in zip(parts, grads):
            _turn(given.to(cos.dtype), cos, sin.neg(), out=part)
        with_normed = (back * qk).mul_(factor)
        to_scale = with_normed.flatten(0, -3).sum(0)
        along = with_normed.mul_(scale).mean(dim=-1, keepdim=True).mul_(factor).mul_(factor)
        back.mul_(scale).mul_(factor)
        torch.addcmul(back, qk, along, value=-1, out=grad)
        made.narrow(-2, grad.shape[-2], ctx.key_heads).copy_(grads[2])
        return made, to_scale, None, None, None
