"""
A local model of plain state vectors: an MLP for the state's difference, an MLP for the reward.

It is the RSSM's stand-in where the observation already is the state: benchmarks and vector twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .actor_critic import mlp
from ..rl.dmo import graft
from ..world import Context


class StateModel(nn.Module):
    """
    LocalModel whose latent is the state (B, S) itself.

    ``features`` maps states (B, S) to what the networks see; ``scale`` is the size of a typical
    one-step difference in state units, so that the dynamics network's output is of order one.
    """

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        states: int,
        actions: int,
        scale: float | Sequence[float] = 1.0,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        self._features = features
        width = features(torch.zeros(1, states)).shape[-1]
        self.width = width
        self.scale: torch.Tensor
        self.register_buffer('scale', torch.as_tensor(scale, dtype=torch.get_default_dtype()))
        self.dynamics = mlp(width + actions, hidden, states)
        self.reward_head = mlp(width, hidden, 1)

    def begin(self, context: Context) -> torch.Tensor:
        return context.observation[:, -1]

    def predict(self, latent: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return latent + self.scale * self._difference(latent, action)

    def _difference(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        difference: torch.Tensor = self.dynamics(torch.cat([self.features(state), action], dim=-1))
        return difference

    def correct(
        self,
        prediction: torch.Tensor,
        observation: torch.Tensor,
        proprio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return graft(observation, prediction)

    def reward(self, latent: torch.Tensor) -> torch.Tensor:
        reward: torch.Tensor = self.reward_head(self.features(latent))[..., 0]
        return reward

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        return self._features(latent)

    def loss(
        self,
        state: torch.Tensor,
        action: torch.Tensor,
        following: torch.Tensor,
        reward: torch.Tensor,
        action_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """
        Mean squared error of scaled differences plus that of the reward of the next state.

        ``action_noise`` smooths the learned Jacobian over actions (randomised smoothing): near a
        contact the true one is zero on one side, which no gradient can follow.
        """
        if action_noise:
            action = action + action_noise * torch.randn(
                action.shape, generator=generator, device=action.device, dtype=action.dtype
            )
        error = self._difference(state, action) - (following - state) / self.scale
        return error.square().mean() + (self.reward(following) - reward).square().mean()
