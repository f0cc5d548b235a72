"""
The pusher on plain states: play data, its rewards, and the twin as the forward model.

A stage before images: nothing here is estimated from pixels, so only the learning question
remains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dmo_ros.core.actions import to_normalised, to_si
from dmo_ros.core.intent import INTENT, MILESTONE
from dmo_ros.twins.pusher import Geometry, PusherTwin
from dmo_ros.twins.pusher_operator import PusherOperator
import numpy as np
import torch

from ..world import Context, WorldStep

Reward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Board:
    """A geometry, its goal's radius in metres, and the fraction of the twin's speed in use."""

    geometry: Geometry = field(default_factory=Geometry)
    goal_radius: float = 0.08
    speed: float = 1.0

    def twin(self, batch: int, seed: int) -> PusherTwin:
        return PusherTwin(batch, seed, self.geometry)

    def features(self, state: torch.Tensor) -> torch.Tensor:
        """Positions and differences of positions (B, 8) of states (B, 4), of order one."""
        goal = state.new_tensor(self.geometry.goal)
        tool, thing = state[..., :2], state[..., 2:]
        return 4 * torch.cat([state - 0.5, thing - tool, thing - goal], dim=-1)


DEFAULT = Board()
# The geometry in which the reference measured best: a step of 0.56 of the contact distance.
SMALL_SLOW = Board(Geometry(tool_radius=0.03, object_radius=0.06), goal_radius=0.06, speed=0.625)
BOARDS = {'default': DEFAULT, 'small-slow': SMALL_SLOW}


@dataclass(frozen=True)
class Play:
    """Play data of a scripted operator, streams first: states (N, T, 4), actions (N, T, 2)."""

    state: torch.Tensor
    action: torch.Tensor
    label: torch.Tensor  # (N, T) uint8
    moved: float  # share of steps in which the object moves

    @property
    def transitions(self) -> int:
        return self.action.shape[0] * (self.action.shape[1] - 1)

    def flat(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states, actions and next states of every transition."""
        return (
            self.state[:, :-1].flatten(0, 1),
            self.action[:, :-1].flatten(0, 1),
            self.state[:, 1:].flatten(0, 1),
        )


def record_play(
    board: Board, streams: int = 256, steps: int = 160, seed: int = 1000, restart: int = 80
) -> Play:
    """Let the scripted operator play on many boards at once; fresh boards every ``restart``."""
    twin, operator = board.twin(streams, seed), PusherOperator(streams, seed)
    operator.geometry, operator.limit = board.geometry, operator.limit * board.speed
    states, actions, labels = [], [], []
    for step in range(steps):
        if step % restart == 0 and step:
            twin.reset()
        action, label = operator.act(twin.state)
        inside = twin.distance() <= board.goal_radius
        label = np.where(label == MILESTONE, INTENT, label)
        label = np.where(inside, MILESTONE, label)
        states.append(twin.state.copy())
        actions.append(to_normalised(action / board.speed, twin.spec.actions))
        labels.append(label)
        twin.step(action)
    state = np.stack(states, axis=1)
    moved = np.abs(np.diff(state[..., 2:], axis=1)).sum(axis=-1) > 1e-6
    return Play(
        torch.as_tensor(state, dtype=torch.float32),
        torch.as_tensor(np.stack(actions, axis=1), dtype=torch.float32),
        torch.as_tensor(np.stack(labels, axis=1).astype(np.uint8)),
        float(moved.mean()),
    )


class TwinWorld:
    """A batch of twins as a global model: observations are states (B, 4)."""

    def __init__(self, board: Board, batch: int, reward: Reward, seed: int = 0) -> None:
        self.batch, self.board, self.reward = batch, board, reward
        self.twin = board.twin(batch, seed)
        self.moved = 0.0

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        start = context.observation[:, -1].double().numpy()
        self.twin.reset(None if rows is None else rows.numpy(), start)

    def step(self, action: torch.Tensor) -> WorldStep:
        before = self.twin.state[:, 2:].copy()
        velocity = to_si(action.double().numpy(), self.twin.spec.actions) * self.board.speed
        self.twin.step(velocity)
        moved = np.abs(self.twin.state[:, 2:] - before).sum(axis=1) > 1e-6
        self.moved = 0.99 * self.moved + 0.01 * float(moved.mean())
        state = torch.as_tensor(self.twin.state, dtype=torch.float32)
        return WorldStep(state, self.reward(state), torch.zeros(self.batch, dtype=torch.bool))


class PlayStarts:
    """Episodes begin at random frames of the play data."""

    def __init__(self, play: Play, seed: int = 0) -> None:
        self.states = play.state.flatten(0, 1)
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, count: int) -> Context:
        index = torch.randint(len(self.states), (count,), generator=self.generator)
        return Context(self.states[index][:, None], torch.zeros(count, 0, 2))


def evaluate(
    board: Board,
    policy: Callable[[torch.Tensor], torch.Tensor],
    episodes: int = 256,
    seed: int = 77,
) -> tuple[float, float]:
    """Return the strict and the relaxed success rate of a state policy on fixed random starts."""
    world = TwinWorld(board, episodes, lambda state: state[:, 0], seed)
    success = world.twin.spec.success
    held = np.zeros(episodes, dtype=int)
    strict, relaxed = np.zeros(episodes, dtype=bool), np.zeros(episodes, dtype=bool)
    for _ in range(success.episode_steps):
        with torch.no_grad():
            world.step(policy(torch.as_tensor(world.twin.state, dtype=torch.float32)))
        inside = world.twin.distance() <= board.goal_radius
        held = np.where(inside, held + 1, 0)
        strict |= held >= success.hold_steps
        relaxed |= inside
    return float(strict.mean()), float(relaxed.mean())
