"""
Draw the next frame: Euler or Heun steps along a noise schedule (Karras et al., algorithm 2).

Departures of DIAMOND that matter: the first noise has unit variance instead of sigma_max (less
drift), and every denoised frame is quantised.  The last level is zero, so the result is the last
estimate itself and lies exactly on the 256 levels of a camera image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
import math

import torch
from torch import Tensor

from .denoiser import Denoiser


@dataclass(frozen=True)
class SamplerConfig:
    """``steps`` denoisings per frame; ``order`` 1 is Euler, 2 is Heun; churn > 0 adds noise."""

    steps: int = 3
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    order: int = 1
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0
    initial_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.order not in (1, 2):
            raise ValueError(
                f'a sampler has steps >= 1 and order 1 (Euler) or 2 (Heun), '
                f'not {self.steps} and {self.order}'
            )


def schedule(config: SamplerConfig) -> list[float]:
    """Return the noise levels from sigma_max to sigma_min, then zero."""
    high, low = (level ** (1 / config.rho) for level in (config.sigma_max, config.sigma_min))
    span = max(1, config.steps - 1)
    return [*((high + k / span * (low - high)) ** config.rho for k in range(config.steps)), 0.0]


def sample(
    denoiser: Denoiser,
    context: Tensor,
    action: Tensor,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
    initial: Tensor | None = None,
) -> Tensor:
    """
    Sample the next frame.

    :param context: (B, n, 3, H, W) in the denoiser's space.
    :param action: (B, n, A) normalised; the last one leads to the new frame.
    :param initial: unit noise to start from (B, 3, H, W); drawn from ``generator`` if left out.
    :returns: (B, 3, H, W) on the grid of the 256 levels.
    """

    def estimate(noisy: Tensor, level: float) -> Tensor:
        levels = noisy.new_full((len(noisy),), level)
        return denoiser.denoise(noisy, levels, stacked, action, context_sigma)

    stacked, context_sigma = _context_noise(denoiser, context.flatten(1, 2), generator)
    if initial is None:
        initial = torch.empty_like(stacked[:, :3]).normal_(generator=generator)
    x = denoised = initial * config.initial_noise
    for level, following in pairwise(schedule(config)):
        x, sigma = _churn(x, level, config, generator)
        denoised = estimate(x, sigma)
        if following == 0:
            break
        slope = (x - denoised) / sigma
        ahead = x + slope * (following - sigma)
        if config.order == 2:
            second = (ahead - estimate(ahead, following)) / following
            ahead = x + (slope + second) / 2 * (following - sigma)
        x = ahead
    return denoised


def _context_noise(
    denoiser: Denoiser, context: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    """Give a denoiser that was trained on noised contexts a little of it, once per frame."""
    if not denoiser.config.network.noisy_context:
        return context, None
    sigma = denoiser.config.context_sigma_sampling
    noise = torch.empty_like(context).normal_(generator=generator)
    return context + sigma * noise, context.new_full((len(context),), sigma)


def _churn(
    x: Tensor, sigma: float, config: SamplerConfig, generator: torch.Generator | None
) -> tuple[Tensor, float]:
    """Raise the noise level a little before a step; the step denoises at the raised level."""
    if config.churn <= 0 or not config.churn_min <= sigma <= config.churn_max:
        return x, sigma
    raised = sigma * (1 + min(config.churn / config.steps, math.sqrt(2) - 1))
    noise = torch.empty_like(x).normal_(generator=generator)
    return x + config.churn_noise * math.sqrt(raised**2 - sigma**2) * noise, raised


@torch.no_grad()
def roll(
    denoiser: Denoiser,
    frames: Tensor,
    action: Tensor,
    horizon: int,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """
    Continue a context on the model's own frames.

    :param frames: uint8 context (B, n, H, W, 3).
    :param action: (B, n - 1 + horizon or more, A) normalised; entry t in force after frame t.
    :returns: uint8 frames (B, horizon, H, W, 3).
    """
    n, context, generated = frames.shape[1], denoiser.encode(frames), []
    for t in range(horizon):
        following = sample(denoiser, context, action[:, t : t + n], config, generator)
        generated.append(following)
        context = torch.cat((context[:, 1:], following[:, None]), dim=1)
    return denoiser.decode(torch.stack(generated, dim=1))
