"""
The dynamics: denoise the latents of every frame, given actions and the frames before.

A frame's tokens are its action, its noise level and step size, registers, and its noisy latents;
the network predicts the clean latents (not the velocity, which drifts over long rollouts).  Signal
level 1 is clean and 0 is noise, level index i stands for i / levels, step index j for 1 / 2^j.

The agent token may be added to every frame.  It sees the frame's tokens and its own past; nothing
sees it, so latents are the same, bit for bit, with and without it.

The action of a frame is the one that led to it; the first frame of an episode has none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn, Tensor

from .config import DynamicsConfig
from .memory import Memory, Ring
from .trunk import Group, Tokens, Trunk

TOKEN_STD = 0.02


class Estimate(NamedTuple):
    """The clean latents (B, T, N, D) and, where asked for, the agent's output (B, T, width)."""

    latent: Tensor
    agent: Tensor | None


class Dynamics(nn.Module):
    """f(noisy latents, level, step size, actions) -> clean latents."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.action = nn.Linear(config.action_size, width)
        self.base_action = nn.Parameter(torch.randn(width) * TOKEN_STD)
        self.level = nn.Embedding(config.levels, width // 2)
        self.step = nn.Embedding(config.step_sizes, width // 2)
        self.registers = nn.Parameter(torch.randn(config.registers, width) * TOKEN_STD)
        self.latent = nn.Linear(config.bottleneck, width)
        self.agent = nn.Parameter(torch.randn(1, width) * TOKEN_STD)
        groups = (
            Group('world', config.tokens, ('world',)),
            Group('agent', 1, ('world', 'agent')),
        )
        self.trunk = Trunk(config.trunk, groups)
        self.clean = nn.Linear(width, config.bottleneck)
        nn.init.zeros_(self.clean.weight)
        nn.init.zeros_(self.clean.bias)

    def forward(
        self,
        noisy: Tensor,
        action: Tensor | None,
        level: Tensor,
        step: Tensor,
        known: Tensor | None = None,
        memory: Memory | None = None,
        agent: bool = False,
    ) -> Estimate:
        """
        Estimate the clean latents.

        :param noisy: latents at their levels (B, T, N, D).
        :param action: normalised actions that led to the frames (B, T, A), None for unlabelled
            video.
        :param level: index of the signal level (B, T) int64.
        :param step: index of the step size (B, T) int64.
        :param known: False where a frame has no action (B, T) bool.
        :param memory: past frames; left out, the T frames are all there is.
        :param agent: also run the agent token.
        """
        tokens: Tokens = {'world': self._tokens(noisy, action, level, step, known)}
        if agent:
            tokens['agent'] = self.agent.expand(*noisy.shape[:2], -1, -1)
        read = self.trunk(tokens, memory)
        latent = self.clean(read['world'][:, :, 2 + self.config.registers :])
        return Estimate(latent, read['agent'].squeeze(2) if agent else None)

    def remember(
        self,
        blurred: Tensor,
        action: Tensor | None,
        level: Tensor,
        step: Tensor,
        memory: Memory,
        known: Tensor | None = None,
    ) -> Tensor:
        """
        Let frames become context; returns the agent's output (B, T, width).

        The arguments are those of a call; what only the latents would need is not computed.
        """
        tokens: Tokens = {'world': self._tokens(blurred, action, level, step, known)}
        tokens['agent'] = self.agent.expand(*blurred.shape[:2], -1, -1)
        return self.trunk(tokens, memory, ('agent',))['agent'].squeeze(2)

    def _tokens(
        self,
        noisy: Tensor,
        action: Tensor | None,
        level: Tensor,
        step: Tensor,
        known: Tensor | None,
    ) -> Tensor:
        """Lay out a frame's tokens (B, T, S, width)."""
        lead, dtype = noisy.shape[:2], self.base_action.dtype
        base = self.base_action.expand(*lead, -1)
        if action is not None:
            led = self.action(action.to(dtype))
            if known is not None:
                led = led * known.unsqueeze(-1).to(led.dtype)
            base = base + led
        noise = torch.cat((self.level(level), self.step(step)), dim=-1)
        first = torch.stack((base, noise.to(base.dtype)), dim=2)
        registers = self.registers.expand(*lead, -1, -1)
        return torch.cat((first, registers, self.latent(noisy.to(dtype))), dim=2)

    def ring(self, batch: int, chunk: int = 1, agent: bool = True) -> Ring:
        """Reserve the memory of ``batch`` worlds."""
        return self.trunk.ring(batch, chunk, () if agent else ('agent',))
