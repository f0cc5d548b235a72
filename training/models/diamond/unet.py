"""
The network F of the DIAMOND denoiser: a UNet on frames, conditioned on noise level and actions.

Structure and parameter counts are the original's (Alonso et al., arXiv 2405.12399): the DMO
paper's Table 4 (depths 4) gives 7.26 M parameters; depths 2, the original's default, 4.41 M, which
is what the DMO paper's text says.  Actions are continuous: a linear embedding per step, in time
order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .blocks import conv3x3, Downsample, FourierFeatures, group_norm, ResBlock, Upsample


@dataclass(frozen=True)
class NetworkConfig:
    """
    Size of the network.

    ``patch`` > 1 turns patch x patch pixels into channels: the cost falls with patch squared.
    ``noisy_context`` adds an input for the context's noise level (conditioning augmentation).
    """

    action_size: int = 2
    context: int = 4
    channels: tuple[int, ...] = (64, 64, 64, 64)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)
    mid_attention: bool = True
    cond_size: int = 256
    patch: int = 1
    noisy_context: bool = False

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.depths) == len(self.attention):
            raise ValueError(
                f'channels, depths and attention describe the same levels but have '
                f'{len(self.channels)}, {len(self.depths)} and {len(self.attention)} entries; '
                'give each one entry per level'
            )
        if self.cond_size % self.context or self.cond_size % 2:
            raise ValueError(
                f'cond_size {self.cond_size} must be even and divisible by context '
                f'{self.context}: the action embeddings of its steps lie side by side in it'
            )


class ResStack(nn.Module):
    """A row of residual blocks; ``skips``, if given, join the input of each in turn."""

    def __init__(self, inputs: list[int], outputs: list[int], attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(i, o, attention) for i, o in zip(inputs, outputs))

    def forward(
        self, x: Tensor, modulation: list[Tensor], skips: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Take four entries off the front of ``modulation`` per block; return all outputs."""
        outputs = []
        for index, block in enumerate(self.blocks):
            if skips is not None:
                x = torch.cat((x, skips[index]), dim=1)
            x = block(x, *modulation[:4])
            del modulation[:4]
            outputs.append(x)
        return outputs


class UNet(nn.Module):
    """Down, middle and up path with skips; the condition vector modulates every block."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        channels, down, up = config.channels, [], []
        for level, (width, depth) in enumerate(zip(channels, config.depths)):
            before, attention = channels[max(0, level - 1)], config.attention[level]
            down.append(ResStack([before] + [width] * (depth - 1), [width] * depth, attention))
            up.append(
                ResStack(
                    [2 * width] * depth + [before + width], [width] * depth + [before], attention
                )
            )
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(reversed(up))
        self.middle = ResStack([channels[-1]] * 2, [channels[-1]] * 2, config.mid_attention)
        self.shrink = nn.ModuleList([nn.Identity(), *map(Downsample, channels[:-1])])
        self.grow = nn.ModuleList([nn.Identity(), *map(Upsample, reversed(channels[:-1]))])
        self.widths = [width for block in self.res_blocks() for width in block.widths]
        self.modulation = nn.Linear(config.cond_size, sum(self.widths))

    def res_blocks(self) -> list[ResBlock]:
        """Return the blocks in the order of execution, which is that of ``modulation``'s rows."""
        return [
            module
            for stack in (*self.down, self.middle, *self.up)
            for module in stack.modules()
            if isinstance(module, ResBlock)
        ]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map features (B, C, H, W) under ``condition`` (B, cond_size) to the same shape."""
        height, width = x.shape[-2:]
        unit = 2 ** (len(self.down) - 1)
        x = F.pad(x, (0, -width % unit, 0, -height % unit))
        modulation, skips = self._modulation(condition), []
        for stack, shrink in zip(self.down, self.shrink):
            x = shrink(x)
            outputs = stack(x, modulation)
            skips.append([x, *outputs])
            x = outputs[-1]
        x = self.middle(x, modulation)[-1]
        for stack, grow in zip(self.up, self.grow):
            x = stack(grow(x), modulation, skips.pop()[::-1])[-1]
        return x[..., :height, :width]

    def _modulation(self, condition: Tensor) -> list[Tensor]:
        """Compute scales and shifts of all blocks at once; scales get their one here."""
        parts = list(self.modulation(condition)[:, :, None, None].split(self.widths, dim=1))
        parts[0::2] = [scale + 1 for scale in parts[0::2]]
        return parts


class DiamondNetwork(nn.Module):
    """F(noisy next frame, noise level, context frames, actions) -> output of a frame's shape."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        pixels, cond = 3 * config.patch**2, config.cond_size
        self.noise_embedding = FourierFeatures(cond)
        self.context_noise_embedding = FourierFeatures(cond) if config.noisy_context else None
        self.action_embedding = nn.Linear(config.action_size, cond // config.context)
        self.condition = nn.Sequential(nn.Linear(cond, cond), nn.SiLU(), nn.Linear(cond, cond))
        self.conv_in = conv3x3((config.context + 1) * pixels, config.channels[0])
        self.unet = UNet(config)
        self.norm_out = group_norm(config.channels[0])
        self.conv_out = conv3x3(config.channels[0], pixels)
        nn.init.zeros_(self.conv_out.weight)

    def to_bfloat16(self) -> DiamondNetwork:
        """Convert the weights for inference; the noise frequencies keep their precision."""
        self.bfloat16()
        for module in self.modules():
            if isinstance(module, FourierFeatures):
                module.float()
        return self

    def forward(
        self,
        noisy: Tensor,
        c_noise: Tensor,
        context: Tensor,
        action: Tensor,
        c_noise_context: Tensor | None = None,
    ) -> Tensor:
        """
        Evaluate F.

        :param noisy: scaled noisy frame (B, 3, H, W).
        :param c_noise: the coefficient of the noise level (B,).
        :param context: scaled context frames, oldest first (B, context * 3, H, W).
        :param action: the actions in force after each context frame (B, context, A).
        :param c_noise_context: the same for the context's noise, if the network has that input.
        """
        dtype, patch = self.conv_in.weight.dtype, self.config.patch
        embedding = self.noise_embedding(c_noise)
        if self.context_noise_embedding is not None and c_noise_context is not None:
            embedding = embedding + self.context_noise_embedding(c_noise_context)
        embedding = embedding.to(dtype) + self.action_embedding(action.to(dtype)).flatten(1)
        x = torch.cat((context, noisy), dim=1).to(dtype)
        x = self.conv_in(F.pixel_unshuffle(x, patch) if patch > 1 else x)
        x = self.unet(x, self.condition(embedding))
        x = self.conv_out(F.silu(self.norm_out(x)))
        return F.pixel_shuffle(x, patch) if patch > 1 else x


def parameter_count(module: nn.Module) -> int:
    """Return how many trainable numbers ``module`` has."""
    return sum(parameter.numel() for parameter in module.parameters())
