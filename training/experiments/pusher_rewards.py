"""
Rewards learned from the pusher's play: a Bradley-Terry goal energy and anticipated labels.

The energy orders the states of a play window by time (later is nearer to the window's end).  It
ranks states well, but its slope does not pull the tool to the object.  What the person at the pad
gives for free does: the number of steps until the next frame that bears a label, discounted,
slopes towards that event from everywhere on the board, and for both tool and object.
"""

from __future__ import annotations

from collections.abc import Callable

from dmo_ros.core.intent import MILESTONE
import torch
from torch import nn
from torch.nn import functional

from .pusher_play import Board, Play, Reward
from ..models.actor_critic import mlp


def anticipation(
    label: torch.Tensor, wanted: tuple[int, ...], g: float, horizon: int, restart: int = 80
) -> torch.Tensor:
    """
    Return g^k (N, T) with k the steps to the next frame labelled as ``wanted``; 0 beyond horizon.

    Streams restart every ``restart`` frames: nothing is anticipated across a restart.
    """
    hit = torch.stack([label == value for value in wanted]).any(dim=0)
    result = torch.zeros(label.shape)
    ahead = torch.zeros(len(label))
    for t in reversed(range(label.shape[1])):
        if (t + 1) % restart == 0:
            ahead = torch.zeros_like(ahead)
        ahead = torch.where(hit[:, t], torch.ones_like(ahead), g * ahead)
        result[:, t] = torch.where(ahead >= g**horizon, ahead, torch.zeros_like(ahead))
    return result


def _fit(
    net: nn.Module, loss: Callable[[], torch.Tensor], updates: int, rate: float = 1e-3
) -> nn.Module:
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, updates)
    for _ in range(updates):
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()
        schedule.step()
    return net.requires_grad_(False)


def anticipated_label(
    board: Board,
    play: Play,
    wanted: tuple[int, ...],
    terms: tuple[tuple[float, float], ...] = ((1.0, 0.95),),
    horizon: int = 30,
    updates: int = 2000,
    seed: int = 0,
) -> Reward:
    """
    Regress the anticipation of a label on states, one net for the sum of all ``terms``.

    :param terms: (weight, g) pairs; g near 1 slopes from far, a small g tells the last step from
        arrival.  The reward lies between 0 and the weights' sum.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = mlp(8, (128, 128), 1)
    states = play.state.flatten(0, 1)
    scale = sum(weight for weight, _ in terms)
    target = (
        torch.stack(
            [weight / scale * anticipation(play.label, wanted, g, horizon) for weight, g in terms]
        )
        .sum(dim=0)
        .flatten()
    )

    def loss() -> torch.Tensor:
        index = torch.randint(len(states), (512,), generator=generator)
        guess = torch.sigmoid(net(board.features(states[index]))[:, 0])
        return functional.mse_loss(guess, target[index])

    _fit(net, loss, updates)
    return lambda state: scale * torch.sigmoid(net(board.features(state))[:, 0])


def goal_energy(
    board: Board,
    play: Play,
    updates: int = 4000,
    goals: int = 16,
    seed: int = 0,
    restart: int = 80,
) -> Reward:
    """
    Train a Bradley-Terry energy and return its standardised negative, bounded to +-3.

    Pairs are two frames of one play window of 4-39 steps, its last frame the goal.  The reward is
    the mean over ``goals`` frames that bear the milestone label.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = mlp(16, (128, 128), 1)
    streams, steps = play.label.shape

    def energy(state: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        pair = torch.cat([board.features(state), board.features(goal)], dim=-1)
        value: torch.Tensor = net(pair)[..., 0]
        return value

    def loss() -> torch.Tensor:
        n = 512
        stream = torch.randint(streams, (n,), generator=generator)
        length = torch.randint(4, 40, (n,), generator=generator)
        spare = torch.rand(n, generator=generator)
        block = torch.randint(steps // restart, (n,), generator=generator) * restart
        start = block + (spare * (restart - length)).long()
        first = (torch.rand(n, generator=generator) * length).long()
        second = (torch.rand(n, generator=generator) * length).long()
        early, late = torch.minimum(first, second), torch.maximum(first, second) + 1
        goal = play.state[stream, start + length]
        margin = energy(play.state[stream, start + early], goal) - energy(
            play.state[stream, (start + late)], goal
        )
        return functional.softplus(-margin).mean()

    _fit(net, loss, updates)
    reached = play.state[play.label == MILESTONE]
    index = torch.randint(len(reached), (goals,), generator=generator)
    targets = reached[index]

    def raw(state: torch.Tensor) -> torch.Tensor:
        wide = state[:, None].expand(-1, goals, -1)
        return -energy(wide, targets.expand(len(state), -1, -1)).mean(dim=1)

    sample = play.state.flatten(0, 1)[::7]
    with torch.no_grad():
        values = raw(sample)
    mean, deviation = values.mean(), values.std()
    return lambda state: ((raw(state) - mean) / deviation).clamp(-3, 3)


def distance_attraction(board: Board, weight: float = 0.5) -> Reward:
    """The reference's hand-made pull of the tool to the object, to compare with."""
    contact = board.geometry.contact
    return lambda state: -weight * ((state[:, :2] - state[:, 2:]).norm(dim=1) - 2 * contact)


def hand_made(board: Board) -> Reward:
    """Distances that a person wrote down: object to goal, tool to object; to compare with."""
    goal = torch.tensor(board.geometry.goal)
    return lambda state: (
        1 - 2 * (state[:, 2:] - goal).norm(dim=1) - 0.5 * (state[:, :2] - state[:, 2:]).norm(dim=1)
    )
