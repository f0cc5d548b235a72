"""
The networks an RSSM is made of: what encodes a frame, what decodes one, and a layer of vectors.

The first DreamerV3 preprint's: 4x4 convolutions of stride 2, LayerNorm, SiLU (paper, Table 4).
"""

from __future__ import annotations

import math

from torch import nn, Tensor


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel's channels."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def dense(inputs: int, units: int) -> nn.Sequential:
    """Linear, LayerNorm, SiLU: the block every vector layer is made of."""
    return nn.Sequential(
        nn.Linear(inputs, units, bias=False), nn.LayerNorm(units, eps=1e-3), nn.SiLU()
    )


class Encoder(nn.Module):
    """Frames (B, H, W, 3) uint8 -> embeddings (B, E): stride-2 convolutions down to 4x4."""

    def __init__(self, size: int, multiplier: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(levels(size)):
            out = multiplier * 2**level
            layers += [nn.Conv2d(channels, out, 4, 2, 1, bias=False), ChannelNorm(out), nn.SiLU()]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.width = channels * 16

    def forward(self, frames: Tensor) -> Tensor:
        """Embed frames."""
        pixels = frames.permute(0, 3, 1, 2).to(next(self.parameters()).dtype) / 255.0 - 0.5
        return self.layers(pixels).flatten(1)


class Decoder(nn.Module):
    """Features (B, F) -> pixels (B, 3, H, W) in [-0.5, 0.5], the encoder mirrored."""

    def __init__(self, features: int, size: int, multiplier: int) -> None:
        super().__init__()
        top = levels(size) - 1
        self.channels = multiplier * 2**top
        self.start = nn.Linear(features, self.channels * 16)
        layers: list[nn.Module] = []
        channels = self.channels
        for level in reversed(range(top)):
            out = multiplier * 2**level
            layers += [
                nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False),
                ChannelNorm(out),
                nn.SiLU(),
            ]
            channels = out
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Decode features."""
        return self.layers(self.start(features).view(-1, self.channels, 4, 4))


def levels(size: int) -> int:
    """Return how many halvings lead from ``size`` to 4 pixels; ValueError for other sizes."""
    count = round(math.log2(size / 4)) if size > 0 else 0
    if count < 1 or 4 * 2**count != size:
        raise ValueError(f'the RSSM takes frames of 8, 16, 32, 64, 128, ... pixels, not {size}')
    return count
