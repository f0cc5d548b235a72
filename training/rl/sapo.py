"""
Soft Analytic Policy Optimization: the policy's objective, its critics' targets, its temperature.

Every function takes whole windows, (H, B) time first.  All of them are maximised or minimised as
their names say; the sign of each term is tested on a one-step bandit.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .returns import lambda_returns, segment_discount


def normalised_entropy(entropy: torch.Tensor, target: float) -> torch.Tensor:
    """Shift and scale an entropy in nats: a negative target goes to 0, an entropy of 0 to 1/2."""
    size = abs(target)
    return (entropy + size) / (2 * size)


def objective(
    soft_reward: torch.Tensor,
    bootstrap: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """
    Return J, to be **maximised**: mean over actors of the discounted soft return per step.

    :param soft_reward: (H, B) grafted reward + alpha times the normalised entropy, with gradient.
    :param bootstrap: (H, B) mean critic at the latent after each step, with gradient.
    """
    discount = segment_discount(terminated | truncated, gamma).to(soft_reward)
    open_end = truncated.clone()
    open_end[-1] = True
    open_end = open_end & ~terminated
    tail = torch.where(open_end, gamma * bootstrap, torch.zeros_like(bootstrap))
    return (discount * (soft_reward + tail)).sum(dim=0).mean() / len(soft_reward)


def critic_targets(
    soft_reward: torch.Tensor,
    bootstrap: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Return the critics' targets (H, B), detached; ``bootstrap`` is the smallest critic."""
    return lambda_returns(
        soft_reward.detach(), bootstrap.detach(), terminated, truncated, gamma, lam
    )


class Temperature(nn.Module):
    """alpha, kept positive by its logarithm."""

    def __init__(self, initial: float, target_entropy: float) -> None:
        super().__init__()
        if initial <= 0:
            raise ValueError(f'the initial temperature is {initial}: it must be positive')
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))
        self.target_entropy = target_entropy

    @property
    def value(self) -> torch.Tensor:
        return self.log_alpha.exp()

    def loss(self, entropy: torch.Tensor) -> torch.Tensor:
        """To be minimised: more entropy (nats) than the target lowers alpha, less raises it."""
        surplus = (entropy.detach() - self.target_entropy).mean()
        return self.value * abs(self.target_entropy) * surplus
