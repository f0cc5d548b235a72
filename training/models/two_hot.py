"""The two-hot head: a number as a distribution over bins in symlog space."""

from __future__ import annotations

import torch
from torch import nn, Tensor


def symlog(x: Tensor) -> Tensor:
    """Compress symmetrically: sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Undo :func:`symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Logits over ``bins`` bins in [-span, span] of symlog space; starts as zero everywhere."""

    bins: Tensor

    def __init__(self, inputs: int, bins: int, span: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, bins)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer('bins', torch.linspace(-span, span, bins))

    def forward(self, features: Tensor) -> Tensor:
        """Return the expected value (...,), exact in the number's own units."""
        return symexp((self.linear(features).softmax(dim=-1) * self.bins).sum(dim=-1))

    def target(self, value: Tensor) -> Tensor:
        """Return the two-hot distribution (..., bins) whose mean is symlog(value)."""
        low, high = float(self.bins[0]), float(self.bins[-1])
        # From the ends: the rounded difference of two bins would be off by the last bin.
        place = (symlog(value).clamp(low, high) - low) * ((len(self.bins) - 1) / (high - low))
        below = place.floor().long().clamp(max=len(self.bins) - 2)
        share = (place - below).unsqueeze(-1)
        hot = torch.zeros(*value.shape, len(self.bins), dtype=share.dtype, device=value.device)
        hot.scatter_(-1, below.unsqueeze(-1), 1.0 - share)
        return hot.scatter_(-1, below.unsqueeze(-1) + 1, share)

    def loss(self, features: Tensor, value: Tensor) -> Tensor:
        """Return the cross-entropy (...,) against the two-hot target of ``value``."""
        return -(self.target(value) * self.linear(features).log_softmax(dim=-1)).sum(dim=-1)
