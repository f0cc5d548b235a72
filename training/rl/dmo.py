"""
The decoupled step: the value comes from the global model, the gradient from the local one.

First-order model-based RL through decoupled backpropagation (DMO).  A trajectory is unrolled in
an accurate model that need not be differentiable; the backward pass uses the Jacobian of a light
model, evaluated at the accurate model's states.  One-step accuracy of the light model is then
enough, and a constant error of its value does no harm at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..world import GlobalModel, Latent, LocalModel, WorldStep


class _Graft(torch.autograd.Function):
    """
    Forward: ``value``.  Backward: the gradient goes to ``surrogate`` as if it had been the output.

    The arithmetic trick ``surrogate + (value - surrogate).detach()`` rounds, and turns an infinite
    surrogate into NaN values; this is exact.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


def graft(value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
    """
    Return ``value``, bit for bit, with the gradient of ``surrogate``; shapes must be equal.

    :raises ValueError: when the shapes differ, which would silently misplace the gradient.
    """
    if value.shape != surrogate.shape:
        raise ValueError(
            f'cannot graft a value of shape {tuple(value.shape)} on a surrogate of '
            f'shape {tuple(surrogate.shape)}: the two must describe the same thing'
        )
    grafted: torch.Tensor = _Graft.apply(value.detach().to(surrogate.dtype), surrogate)
    return grafted


class Decoupled(NamedTuple):
    """What one decoupled step gives: the next latent, the grafted reward, and how wrong R was."""

    latent: Latent
    reward: torch.Tensor  # (B,) value of the global reward, gradient of the local head
    residual: torch.Tensor  # (B,) global minus local reward, detached: the head's health
    step: WorldStep


def decoupled_step(
    world: GlobalModel, local: LocalModel, latent: Latent, action: torch.Tensor
) -> Decoupled:
    """
    Advance the global model by ``action`` (B, A) and give the result the local model's Jacobian.

    The local Jacobian is taken at the true latent and the action applied there.
    """
    with torch.no_grad():
        step = world.step(action.detach())
    following = local.correct(local.predict(latent, action), step.observation, step.proprio)
    guess = local.reward(following)
    reward = graft(step.reward, guess)
    return Decoupled(following, reward, (reward - guess).detach(), step)
