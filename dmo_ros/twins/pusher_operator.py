"""
The scripted operator of the pusher: what a person with a pad would record as play data.

Bouts alternate.  Half of the time it wanders smoothly; else it takes the object somewhere: to the
goal, or anywhere, so that the object keeps moving and the play covers the board.  In a bout to the
goal it holds the intent button once the tool is behind the object and engages it; with the object
in the goal it presses the milestone key for as long as it stays.
"""

from __future__ import annotations

import numpy as np

from .pusher import Geometry, PusherTwin
from ..core.intent import INTENT, MILESTONE, PLAY

WANDER, TO_GOAL, ELSEWHERE = 0, 1, 2


def push_velocity(
    state: np.ndarray, target: np.ndarray, g: Geometry, limit: float, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Drive the tool round the object and push the object to ``target``.

    :param state: (B, 4) metres; ``target``: (B, 2) metres; ``limit``: m/s; ``period``: s.
    :returns: velocity (B, 2) in m/s, and whether the tool engages the object (B,) bool.
    """
    tool, thing = state[:, :2], state[:, 2:]
    way, remaining = _unit(target - thing)
    side, distance = _unit(tool - thing)
    aligned = -(side * way).sum(axis=1, keepdims=True)
    # Push: follow the point one contact distance behind the object, and move it on to the target.
    behind = thing - way * g.contact
    ahead = behind + way * np.minimum(remaining, limit * period)
    # Orbit: run round the object, a little away from it, on the shorter side.
    turn = np.sign(side[:, :1] * way[:, 1:] - side[:, 1:] * way[:, :1])
    tangent = np.hstack([side[:, 1:], -side[:, :1]]) * np.where(turn == 0, 1, turn)
    clearance = g.contact + 0.03 - distance
    orbit = tool + (tangent + side * np.clip(clearance * 12, -1.5, 1.5)) * limit * period
    engaged = aligned > 0.9
    goal = np.where(engaged, ahead, orbit)
    velocity = (goal - tool) / period
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    velocity *= np.minimum(1.0, limit / np.maximum(speed, 1e-9))
    return velocity, (engaged & (distance < g.contact + 0.06))[:, 0]


def _unit(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    return vector / np.maximum(length, 1e-9), length


class PusherOperator:
    """A batch of operators; feed them states, they return velocities and intent labels."""

    def __init__(
        self, batch: int = 1, seed: int = 0, noise: float = 0.25, skill: str = 'play'
    ) -> None:
        """``skill`` is 'play', 'expert' (always to the goal, no noise) or 'random' (uniform)."""
        if skill not in ('play', 'expert', 'random'):
            raise ValueError(f'an operator is play, expert or random, not {skill!r}')
        self.skill, self.noise = skill, noise
        self.rng = np.random.default_rng(seed)
        twin = PusherTwin(1)
        self.geometry, self.goal = twin.geometry, twin.goal
        self.limit, self.period = twin.spec.actions[0].high, twin.spec.period
        self.mode = np.zeros(batch, dtype=int)
        self.left = np.zeros(batch, dtype=int)
        self.target = np.tile(self.goal, (batch, 1))
        self.drift = np.zeros((batch, 2))

    def act(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return velocities (B, 2) in m/s and labels (B,) uint8 for states (B, 4)."""
        batch = len(state)
        if self.skill == 'random':
            action = self.rng.uniform(-self.limit, self.limit, (batch, 2))
            return action, np.full(batch, PLAY, dtype=np.uint8)
        if self.skill == 'expert':
            target = np.broadcast_to(self.goal, (batch, 2))
            action, engaged = push_velocity(state, target, self.geometry, self.limit, self.period)
            return action, self._labels(state, engaged)
        self._choose(state)
        return self._play(state)

    def _choose(self, state: np.ndarray) -> None:
        """Begin a new bout where the last one has run out or its object has arrived."""
        arrived = np.linalg.norm(state[:, 2:] - self.target, axis=1) < 0.03
        self.left[arrived] = np.minimum(self.left[arrived], 3)
        done = self.left <= 0
        count = int(done.sum())
        there = np.linalg.norm(state[done, 2:] - self.goal, axis=1) <= 0.08
        fresh = self.rng.choice((WANDER, TO_GOAL, ELSEWHERE), count, p=(0.3, 0.45, 0.25))
        # An object that has arrived is taken away again: play goes on without anyone's reset.
        self.mode[done] = np.where(there & (fresh == TO_GOAL), ELSEWHERE, fresh)
        self.left[done] = self.rng.integers(10, 36, count)
        margin = self.geometry.wall + self.geometry.contact
        places = self.rng.uniform(margin, 1 - margin, (count, 2))
        to_goal = (self.mode[done] == TO_GOAL)[:, None]
        self.target[done] = np.where(to_goal, self.goal, places)
        self.left -= 1

    def _play(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pushed, engaged = push_velocity(state, self.target, self.geometry, self.limit, self.period)
        shape = self.drift.shape
        self.drift = 0.8 * self.drift + 0.6 * self.rng.normal(size=shape) * self.limit
        pushed += self.noise * self.limit * self.rng.normal(size=shape)
        action = np.where((self.mode == WANDER)[:, None], self.drift, pushed)
        labels = self._labels(state, engaged & (self.mode == TO_GOAL))
        return np.clip(action, -self.limit, self.limit), labels

    def _labels(self, state: np.ndarray, engaged: np.ndarray) -> np.ndarray:
        inside = np.linalg.norm(state[:, 2:] - self.goal, axis=1) <= 0.08
        return np.where(inside, MILESTONE, np.where(engaged, INTENT, PLAY)).astype(np.uint8)
