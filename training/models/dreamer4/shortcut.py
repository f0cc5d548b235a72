"""
Shortcut forcing: learn to denoise latents in steps of every size, each frame at its own level.

Diffusion forcing (arXiv 2407.01392) gives every frame its own signal level; shortcut models
(arXiv 2410.12557) let one large step match two half steps; DreamerV4 (arXiv 2509.24527) states
both for networks that predict the clean latents z1:

* flow, at the finest step d_min:   w |f - z1|^2
* bootstrap, at a larger step d:    w |(f - z) - (1 - tau) v|^2, where v is the mean velocity of
  two steps of d / 2 without gradient.  This is (1 - tau)^2 |(f - z) / (1 - tau) - v|^2 without
  its division by what may be 1 / levels.

``w = 0.9 tau + 0.1`` lets noisy frames count less.  All of it is float32 outside autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..together import own_rows

# (noisy latents (B, T, N, D), level index (B, T), step index (B, T)) -> clean latents
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ShortcutConfig:
    """
    How micro-batches are mixed.

    Every ``bootstrap_every``-th micro-batch is a bootstrap one, from update ``bootstrap_from`` on.
    A batch is long with probability ``long_share``, and always in the last ``long_end`` of the
    updates.  ``clip`` > 0 bounds the teacher's velocities.
    """

    ramp: tuple[float, float] = (0.9, 0.1)
    bootstrap_every: int = 4
    bootstrap_from: int = 5000
    clip: float = 0.0
    short: int = 32
    long: int = 128
    long_share: float = 0.15
    long_end: float = 0.1


class Plan(NamedTuple):
    """What a micro-batch is: its number of frames, and whether it is a bootstrap one."""

    frames: int
    bootstrap: bool


def plan(config: ShortcutConfig, seed: int, update: int, updates: int, micro: int = 0) -> Plan:
    """
    Decide what a micro-batch is, alike on all processes: a draw of (seed, update) and no message.

    :param micro: running number of the micro-batch, over all updates.
    """
    draw = np.random.default_rng((seed, update)).random()
    long = draw < config.long_share or update >= (1 - config.long_end) * updates
    turn = micro % config.bootstrap_every == config.bootstrap_every - 1
    bootstrap = turn and update >= config.bootstrap_from
    return Plan(config.long if long else config.short, bootstrap)


class Levels(NamedTuple):
    """Index of the signal level and of the step size of every frame, (B, T) int64."""

    level: Tensor
    step: Tensor


def draw_levels(
    shape: tuple[int, int],
    levels: int,
    bootstrap: bool,
    device: torch.device | str = 'cpu',
    generator: torch.Generator | None = None,
) -> Levels:
    """
    Draw the levels of a batch.

    Flow: the finest step, and any level.  Bootstrap: any coarser step d, and a level that is a
    multiple of d.
    """

    def draw() -> Tensor:
        def rand(rows: int) -> Tensor:
            own = (rows, shape[1])
            return torch.rand(own, device=device, generator=generator, dtype=torch.float64)

        return own_rows(rand, shape[0], generator is not None)

    finest = levels.bit_length() - 1
    if not bootstrap:
        step = torch.full(shape, finest, device=device)
        return Levels((draw() * levels).long(), step)
    step = (draw() * finest).long()
    count = 2**step  # levels 0, d, ... 1 - d
    return Levels((draw() * count).long() * (levels // count), step)


def signal(level: Tensor, levels: int, like: Tensor) -> Tensor:
    """Return tau (B, T, 1, 1) of level indices (B, T) in the type of ``like``."""
    return (level.to(like.dtype) / levels)[..., None, None]


def mix(noise: Tensor, clean: Tensor, tau: Tensor | float) -> Tensor:
    """Return (1 - tau) noise + tau clean."""
    return noise + (clean - noise) * tau


def flow_error(denoise: Denoise, clean: Tensor, noise: Tensor, at: Levels, levels: int) -> Tensor:
    """Return the unweighted flow error (B, T)."""
    tau = signal(at.level, levels, clean)
    estimate = denoise(mix(noise, clean, tau), *at).to(clean.dtype)
    return (estimate - clean).square().mean(dim=(-1, -2))


def bootstrap_error(
    denoise: Denoise,
    clean: Tensor,
    noise: Tensor,
    at: Levels,
    levels: int,
    teacher: Denoise | None = None,
    clip: float = 0.0,
) -> Tensor:
    """
    Return the unweighted bootstrap error (B, T), scaled by (1 - tau)^2 as the paper has it.

    All frames take their half steps together: they see each other half-way, as they will.

    :param teacher: makes the two half steps; the network itself when left out.
    """
    tau = signal(at.level, levels, clean)
    noisy = mix(noise, clean, tau)
    velocity = teach(teacher or denoise, noisy, at, levels, clip)
    estimate = denoise(noisy, *at).to(clean.dtype)
    return ((estimate - noisy) - (1 - tau) * velocity).square().mean(dim=(-1, -2))


@torch.no_grad()
def teach(denoise: Denoise, noisy: Tensor, at: Levels, levels: int, clip: float = 0.0) -> Tensor:
    """Return the mean velocity (B, T, N, D) of two steps of half the size."""
    half = Levels(at.level, at.step + 1)
    jump = levels // 2**half.step  # in level indices
    tau, size = signal(at.level, levels, noisy), signal(jump, levels, noisy)
    first = (denoise(noisy, *half).to(noisy.dtype) - noisy) / (1 - tau)
    first = first.clamp(-clip, clip) if clip else first
    midway = noisy + first * size
    estimate = denoise(midway, at.level + jump, half.step).to(noisy.dtype)
    second = (estimate - midway) / (1 - tau - size)
    second = second.clamp(-clip, clip) if clip else second
    return (first + second) / 2


def weigh(error: Tensor, level: Tensor, levels: int, ramp: tuple[float, float]) -> Tensor:
    """Weigh errors (B, T) by their signal level; returns (B, T)."""
    return error * (ramp[0] * level.to(error.dtype) / levels + ramp[1])


def by_level(error: Tensor, level: Tensor, levels: int, buckets: int = 4) -> dict[str, float]:
    """Return the mean error per range of signal levels, for the log; empty ranges are left out."""
    bucket, figures = level * buckets // levels, {}
    for index in range(buckets):
        chosen = error.detach()[bucket == index]
        if len(chosen):
            figures[f'error_tau_{index / buckets:.2f}'] = float(chosen.mean())
    return figures
