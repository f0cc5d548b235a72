"""
Building blocks of the DIAMOND denoiser: modulated residual blocks, attention, resampling.

The structure follows Alonso et al., "Diffusion for World Modeling" (arXiv 2405.12399).  One thing
is arranged differently for speed: the scale and shift of every adaptive group norm come from one
matrix product over all blocks (``UNet.modulation``), so a block receives them ready made instead
of holding a linear layer of its own.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

GROUP_SIZE = 32
NORM_EPS = 1e-5
HEAD_SIZE = 8


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)


def group_count(channels: int) -> int:
    """Return the norm's groups: one per 32 channels, fewer where that does not divide."""
    most = max(1, channels // GROUP_SIZE)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with learned scale and shift."""
    return nn.GroupNorm(group_count(channels), channels, eps=NORM_EPS)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise ``x`` (B, C, H, W), apply ``scale`` and ``shift`` (B, C, 1, 1), then SiLU."""
    x = F.group_norm(x, group_count(x.shape[1]), eps=NORM_EPS)
    return F.silu(torch.addcmul(shift, x, scale))


class FourierFeatures(nn.Module):
    """Fixed random frequencies, a buffer: one number per row (B,) -> (B, width)."""

    weight: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer('weight', torch.randn(1, width // 2))

    def forward(self, value: Tensor) -> Tensor:
        # Elementwise and not a matrix product: autocast would round the angle to bfloat16.
        angle = 2 * math.pi * value[:, None] * self.weight
        return torch.cat((angle.cos(), angle.sin()), dim=-1)


class SelfAttention(nn.Module):
    """
    Self-attention over all pixels of a feature map, heads of eight channels.

    It is added to the normalised input, not to the input, because the original's is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_SIZE)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.out = nn.Conv2d(channels, channels, kernel_size=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = self.norm(x)
        qkv = self.qkv(x).flatten(2).view(b, 3, self.heads, c // self.heads, h * w)
        query, key, value = qkv.transpose(3, 4).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(2, 3).reshape(b, c, h, w))


class ResBlock(nn.Module):
    """Two modulated 3x3 convolutions beside a residual path; the second starts at zero weight."""

    def __init__(self, inputs: int, outputs: int, attention: bool = False) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        same = inputs == outputs
        self.project = None if same else nn.Conv2d(inputs, outputs, kernel_size=1)
        self.conv1 = conv3x3(inputs, outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.attention = SelfAttention(outputs) if attention else None
        nn.init.zeros_(self.conv2.weight)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Widths of scale1, shift1, scale2, shift2, in the order ``forward`` takes them."""
        return self.inputs, self.inputs, self.outputs, self.outputs

    def forward(
        self, x: Tensor, scale1: Tensor, shift1: Tensor, scale2: Tensor, shift2: Tensor
    ) -> Tensor:
        residual = x if self.project is None else self.project(x)
        x = self.conv1(modulate(x, scale1, shift1))
        x = self.conv2(modulate(x, scale2, shift2)) + residual
        return x if self.attention is None else self.attention(x)


class Downsample(nn.Module):
    """Halve height and width with a strided convolution that starts orthogonal."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width by repetition, then smooth with a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode='nearest'))
