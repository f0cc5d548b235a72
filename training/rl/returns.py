"""Discounts and lambda-returns of a window whose actors may end episodes inside it."""

from __future__ import annotations

import torch


def segment_discount(ended: torch.Tensor, gamma: float) -> torch.Tensor:
    """
    Return gamma^h per step, (H, B), with h counted from the start of the step's own segment.

    ``ended`` (H, B) bool: the episode ended with that step, so the next step starts a new segment.
    """
    discount = torch.ones_like(ended[0], dtype=torch.get_default_dtype())
    steps = []
    for end in ended:
        steps.append(discount)
        discount = torch.where(end, torch.ones_like(discount), discount * gamma)
    return torch.stack(steps)


def lambda_returns(
    reward: torch.Tensor,
    value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """
    Return the TD(lambda) targets G (H, B) by the reverse recursion.

    ``value`` (H, B) is V of the state *after* each step (before any reset).  A terminated step has
    no future; a truncated one, and the last of the window, bootstraps with V alone.
    """
    following = value[-1]
    targets = []
    for h in reversed(range(len(reward))):
        cut = truncated[h] if h + 1 < len(reward) else torch.ones_like(truncated[h])
        mixed = torch.where(cut, value[h], (1 - lam) * value[h] + lam * following)
        following = reward[h] + gamma * torch.where(terminated[h], torch.zeros_like(mixed), mixed)
        targets.append(following)
    return torch.stack(targets[::-1])


def lambda_returns_by_sum(
    reward: torch.Tensor, value: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """
    Return the same targets as the weighted sum of n-step returns (the paper's equation 3).

    Quadratic in the horizon and without episode ends: it exists to check the recursion.
    """
    horizon = len(reward)
    targets = []
    for t in range(horizon):
        total, weight = torch.zeros_like(reward[0]), 1.0
        discounted = torch.zeros_like(reward[0])
        for n in range(1, horizon - t + 1):
            discounted = discounted + gamma ** (n - 1) * reward[t + n - 1]
            n_step = discounted + gamma**n * value[t + n - 1]
            last = n == horizon - t
            total = total + (weight if last else (1 - lam) * weight) * n_step
            weight *= lam
        targets.append(total)
    return torch.stack(targets)
