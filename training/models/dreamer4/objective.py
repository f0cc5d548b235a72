"""
What an update of the dynamics minimises: one micro-batch of shortcut forcing, and the reward.

The kinds of loss differ in size, so each is divided by a running RMS of its own.  As one module it
can be wrapped whole for distributed training: a bootstrap batch runs the network three times in
one forward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn, Tensor

from .dynamics import Dynamics
from .losses import RunningRms
from .reward import RewardHead
from .shortcut import (
    bootstrap_error,
    by_level,
    draw_levels,
    flow_error,
    Levels,
    mix,
    ShortcutConfig,
    signal,
    weigh,
)
from ..together import mean_of_rows, own_rows


class Batch(NamedTuple):
    """
    Clips of play: see :class:`latents.LatentSegment`.

    ``reward`` (B, T) float is what the head learns, None while there is no head to train;
    ``uniform`` (B,) bool tells the rows that the dynamics learns from.
    """

    latent: Tensor
    action: Tensor
    known: Tensor
    reward: Tensor | None = None
    uniform: Tensor | None = None


class Objective(nn.Module):
    """
    The losses of the dynamics, and of the reward head once there is one.

    Without a head the agent token has no gradient, so it is frozen here.  With ``freeze_base``
    only agent token and head learn, and they learn from context: clean latents at the signal at
    which rewards are read in a rollout.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        config: ShortcutConfig,
        head: RewardHead | None = None,
        freeze_base: bool = False,
    ) -> None:
        super().__init__()
        if freeze_base and head is None:
            raise ValueError('a frozen dynamics without a reward head leaves nothing to train')
        self.dynamics, self.config, self.head = dynamics, config, head
        self.freeze_base = freeze_base
        dynamics.requires_grad_(not freeze_base)
        dynamics.agent.requires_grad_(head is not None)
        kinds = ('flow', 'bootstrap', 'reward')
        self.scale = nn.ModuleDict({kind: RunningRms() for kind in kinds})

    def forward(
        self,
        batch: Batch,
        bootstrap: bool,
        teacher: Dynamics | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """
        Return the loss () to minimise, and figures for the log.

        :param bootstrap: from :func:`shortcut.plan`, the same on all processes.
        :param teacher: an averaged copy for the half steps; the network itself when left out.
        :param generator: in the same state on all processes (each draws for the global batch and
            keeps what belongs to its rows); torch's own when left out.
        """
        total, figures = batch.latent.new_zeros(()), dict[str, float]()
        agent: Tensor | None
        if self.freeze_base:
            agent = self.as_context(batch, generator)
        else:
            error, at, agent = self._denoise(batch, bootstrap, teacher, generator)
            kind = 'bootstrap' if bootstrap else 'flow'
            levels = self.dynamics.config.levels
            weighed = weigh(error, at.level, levels, self.config.ramp)
            total, figures = self._scaled(kind, _mean(weighed, batch.uniform))
            parts = by_level(error, at.level, levels)
            figures.update({f'{kind}_{name}': value for name, value in parts.items()})
        if self.head is not None and agent is not None and batch.reward is not None:
            loss, more = self._scaled('reward', self.head.loss(agent.float(), batch.reward))
            total, figures = total + loss, {**figures, **more}
        return total, figures

    def _scaled(self, kind: str, loss: Tensor) -> tuple[Tensor, dict[str, float]]:
        return self.scale[kind](loss), {kind: float(loss.detach())}

    def _denoise(
        self,
        batch: Batch,
        bootstrap: bool,
        teacher: Dynamics | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Levels, Tensor | None]:
        """Return unweighted errors (B, T), their levels, and the agent's output."""
        latent, levels = batch.latent.float(), self.dynamics.config.levels
        shape = latent.shape[0], latent.shape[1]
        at = draw_levels(shape, levels, bootstrap, latent.device, generator)
        noise = _noise(latent, generator)
        agents: list[Tensor] = []

        def denoise(noisy: Tensor, level: Tensor, step: Tensor) -> Tensor:
            wanted = self.head is not None and torch.is_grad_enabled()
            estimate = self.dynamics(noisy, batch.action, level, step, batch.known, agent=wanted)
            if estimate.agent is not None:
                agents.append(estimate.agent)
            return estimate.latent

        def teach(noisy: Tensor, level: Tensor, step: Tensor) -> Tensor:
            assert teacher is not None
            return teacher(noisy, batch.action, level, step, batch.known).latent

        if bootstrap:
            error = bootstrap_error(
                denoise, latent, noise, at, levels, teach if teacher else None, self.config.clip
            )
        else:
            error = flow_error(denoise, latent, noise, at, levels)
        return error, at, agents[0] if agents else None

    def as_context(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """
        Return the agent's output (B, T, width) as a rollout reads it, at the signal of context.

        ``head.calibrate(head.raw(...), reward)`` wants it of held-out play, without gradient.
        """
        return as_context(self.dynamics, batch.latent, batch.action, batch.known, generator)


def as_context(
    dynamics: Dynamics,
    latent: Tensor,
    action: Tensor,
    known: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the agent's output (B, T, width) of clips as a rollout reads it."""
    size, latent = dynamics.config, latent.float()
    level = torch.full(latent.shape[:2], size.context_level, device=latent.device)
    step = torch.full_like(level, size.step_sizes - 1)
    blurred = mix(_noise(latent, generator), latent, signal(level, size.levels, latent))
    estimate = dynamics(blurred, action, level, step, known, agent=True)
    assert estimate.agent is not None
    return estimate.agent


def _noise(latent: Tensor, generator: torch.Generator | None) -> Tensor:
    def draw(rows: int) -> Tensor:
        return latent.new_empty(rows, *latent.shape[1:]).normal_(generator=generator)

    return own_rows(draw, len(latent), generator is not None)


def _mean(error: Tensor, rows: Tensor | None) -> Tensor:
    """Return the mean over the rows that count, of all processes; zero where none does."""
    if rows is None:
        return error.mean()
    return mean_of_rows(error, rows)
