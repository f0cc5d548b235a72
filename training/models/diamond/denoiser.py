"""
The EDM denoiser of DIAMOND: preconditioning, training losses, one denoising of a frame.

Equations: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv 2206.00364), with two departures of DIAMOND (arXiv 2405.12399): offset noise is folded into
the level of every coefficient, and each denoised frame is clamped and put back on the 256 levels
of a camera image.  The original rounds down there, which darkens a rollout by half a level per
frame, so the default here is to round; ``rounding='floor'`` brings the original back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn, Tensor

from .unet import DiamondNetwork, NetworkConfig


@dataclass(frozen=True)
class DenoiserConfig:
    """
    Noise levels and loss of the denoiser; the defaults are DIAMOND's, except ``rounding``.

    ``changed_weight`` is the loss weight of pixels that differ from the last context frame by more
    than ``changed_threshold`` levels: small moving things are otherwise nearly free to get wrong.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    sigma_data: float = 0.5
    sigma_offset: float = 0.3
    noise_mean: float = -0.4
    noise_std: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0
    context_sigma_max: float = 1.0
    context_sigma_sampling: float = 5e-3
    changed_weight: float = 1.0
    changed_threshold: float = 8.0
    rounding: str = 'round'
    precision: str = 'auto'

    def __post_init__(self) -> None:
        if self.rounding not in ('round', 'floor'):
            raise ValueError(
                f"rounding is {self.rounding!r}; use 'round', or 'floor' for what "
                'the original does'
            )
        if self.precision not in ('auto', 'bf16', 'fp32'):
            raise ValueError(f"precision is {self.precision!r}; use 'auto', 'bf16' or 'fp32'")


class Coefficients(NamedTuple):
    """EDM's coefficients of a noise level: three of (B, 1, 1, 1) and the network's input (B,)."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    c_noise: Tensor


def bf16_is_native(device: torch.device) -> bool:
    """Tell whether ``device`` multiplies bfloat16 in hardware; elsewhere it costs time."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    probes = [getattr(torch.cpu, name, lambda: False) for name in names]
    return device.type == 'cpu' and any(probe() for probe in probes)


class Denoiser(nn.Module):
    """
    Frames in and out are uint8 (..., H, W, 3), or float (..., 3, H, W) in the network's space.

    That space is [-1, 1], shifted and scaled so that the data has mean 0 and deviation sigma_data.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        config: DenoiserConfig,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        """
        Build an untrained denoiser.

        :param mean: mean of the frames per colour in [-1, 1]; zero leaves pixels as they are.
        :param std: their standard deviation per colour; one half leaves pixels as they are.
        """
        super().__init__()
        self.config = config
        self.network = DiamondNetwork(config.network)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        deviation = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer('scale', config.sigma_data / deviation.clamp(min=1 / 127.5))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def frozen(self) -> Denoiser:
        """Return a copy for inference, in bfloat16 where autocast would be used."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        if self._wants_bf16():
            twin.network.to_bfloat16()
        return twin

    def encode(self, frames: Tensor) -> Tensor:
        """Map uint8 frames (..., H, W, 3) to the network's space (..., 3, H, W)."""
        return self._from_levels(frames.movedim(-1, -3).to(torch.float32))

    def decode(self, x: Tensor) -> Tensor:
        """Map the network's space (..., 3, H, W) to uint8 frames; undoes ``encode`` exactly."""
        return self._to_levels(x).to(torch.uint8).movedim(-3, -1)

    def quantise(self, x: Tensor) -> Tensor:
        """Put x (..., 3, H, W) on the 256 levels of a camera image, staying in the space."""
        return self._from_levels(self._to_levels(x))

    def _from_levels(self, levels: Tensor) -> Tensor:
        return (levels / 127.5 - 1 - self.mean) * self.scale

    def _to_levels(self, x: Tensor) -> Tensor:
        levels = ((x / self.scale + self.mean).clamp(-1, 1) + 1) * 127.5
        # A frame that is on the grid already must not fall a level by float error.
        return levels.round() if self.config.rounding == 'round' else (levels + 1e-3).floor()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the preconditioning of noise levels (B,), offset noise folded in."""
        data = self.config.sigma_data
        sigma = (sigma**2 + self.config.sigma_offset**2).sqrt()
        c_in = (sigma**2 + data**2).rsqrt()
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sigma * c_skip.sqrt()
        c_in, c_out, c_skip = (c.view(-1, 1, 1, 1) for c in (c_in, c_out, c_skip))
        return Coefficients(c_in, c_out, c_skip, sigma.log() / 4)

    def training_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw log-normal noise levels (count,)."""
        draw = torch.randn(count, generator=generator, device=self.device)
        sigma = (draw * self.config.noise_std + self.config.noise_mean).exp()
        return sigma.clamp(self.config.sigma_min, self.config.sigma_max)

    def add_noise(
        self, x: Tensor, sigma: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Add pixel noise of level ``sigma`` (B,) and one offset per row and colour."""
        pixel = torch.empty_like(x).normal_(generator=generator)
        offset = x.new_empty(*x.shape[:2], 1, 1).normal_(generator=generator)
        return x + sigma.view(-1, 1, 1, 1) * pixel + self.config.sigma_offset * offset

    def evaluate(
        self,
        noisy: Tensor,
        c: Coefficients,
        context: Tensor,
        action: Tensor,
        context_sigma: Tensor | None = None,
    ) -> Tensor:
        """
        Return F; only this runs in bfloat16, everything around it stays float32.

        :param context: clean or noised context frames (B, context * 3, H, W).
        :param action: normalised actions (B, context, A).
        :param context_sigma: noise level of the context (B,), None for clean.
        """
        level = None
        if self.config.network.noisy_context:
            level = (
                torch.zeros_like(c.c_noise) if context_sigma is None else context_sigma.log() / 4
            )
        with self.autocast():
            output = self.network(
                noisy * c.c_in, c.c_noise, context / self.config.sigma_data, action, level
            )
        return output.float()

    def denoise(
        self,
        noisy: Tensor,
        sigma: Tensor,
        context: Tensor,
        action: Tensor,
        context_sigma: Tensor | None = None,
    ) -> Tensor:
        """Return the quantised estimate D of the clean frame (B, 3, H, W) at levels (B,)."""
        c = self.coefficients(sigma)
        output = self.evaluate(noisy, c, context, action, context_sigma)
        return self.quantise(c.c_skip * noisy + c.c_out * output)

    def autocast(self) -> AbstractContextManager[object]:
        """Return bfloat16 autocast where it pays or was asked for."""
        if self._wants_bf16() and self.network.conv_in.weight.dtype == torch.float32:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _wants_bf16(self) -> bool:
        wanted = self.config.precision
        return wanted == 'bf16' or (wanted == 'auto' and bf16_is_native(self.device))

    def frame_loss(
        self,
        context: Tensor,
        action: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Denoise one frame of every row (loss of EDM with weight 1 / c_out squared).

        :param context: (B, n, 3, H, W), real or generated; no gradient flows into it.
        :param action: (B, n, A), the last one leads to the target.
        :param target: the real next frame (B, 3, H, W).
        :param mask: True where the target is real (B,); other rows do not count.
        :returns: the loss (zero if no row counts) and the quantised estimate (B, 3, H, W).
        """
        stacked, context_sigma = self._augment(context.flatten(1, 2), generator)
        sigma = self.training_sigma(len(target), generator)
        noisy = self.add_noise(target, sigma, generator)
        c = self.coefficients(sigma)
        output = self.evaluate(noisy, c, stacked, action, context_sigma)
        error = (output - (target - c.c_skip * noisy) / c.c_out).square()
        loss = (error * self._weights(context, target)).mean(dim=(1, 2, 3))
        if mask is not None:
            loss = torch.where(mask, loss, 0.0) * (len(mask) / mask.sum().clamp(min=1))
        return loss.mean(), self.quantise((c.c_skip * noisy + c.c_out * output).detach())

    def segment_loss(
        self,
        frames: Tensor,
        action: Tensor,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """
        Mean loss over a segment; later contexts hold the denoiser's own estimates.

        :param frames: uint8 (B, n + 1 + R, H, W, 3), R the number of autoregressive steps.
        :param action: (B, n + R or more, A), entry t in force from frame t to t + 1.
        :param mask: True for real (not padded) frames (B, n + 1 + R).
        """
        n = self.config.network.context
        working, losses = list(self.encode(frames).unbind(1)), []
        for start in range(len(working) - n):
            context, target = torch.stack(working[start : start + n], dim=1), working[start + n]
            real = None if mask is None else mask[:, start + n]
            loss, estimate = self.frame_loss(
                context, action[:, start : start + n], target, real, generator
            )
            losses.append(loss)
            working[start + n] = estimate
        return torch.stack(losses).mean()

    def _augment(
        self, context: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Noise every row's context at a level of its own, which the network is told."""
        if not self.config.network.noisy_context:
            return context, None
        sigma = self.training_sigma(len(context), generator)
        sigma = sigma.clamp(max=self.config.context_sigma_max)
        noise = torch.empty_like(context).normal_(generator=generator)
        return context + sigma.view(-1, 1, 1, 1) * noise, sigma

    def _weights(self, context: Tensor, target: Tensor) -> Tensor:
        """Per-pixel weights (B, 1, H, W) of mean one over the batch."""
        if self.config.changed_weight == 1:
            return torch.ones_like(target[:, :1])
        change = ((target - context[:, -1]) / self.scale).abs().amax(dim=1, keepdim=True)
        changed = (change * 127.5 > self.config.changed_threshold).float()
        weight = 1 + (self.config.changed_weight - 1) * changed
        return weight / weight.mean()
