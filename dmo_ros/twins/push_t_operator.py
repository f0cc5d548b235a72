"""
The scripted operator of Push-T: what a person with a pad would record as play data.

Bouts alternate: it wanders smoothly, pushes the T somewhere, or brings it to the goal.  In a bout
to the goal it holds the intent button while it pushes; with the T in its place it presses the
milestone key for as long as it stays, and takes the T away again in the next bout, so that play
goes on without anyone's reset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np

from .push_t import corner_error, Geometry, place
from .push_t_planner import compose, exponential, NEAR, Planner, Push, relative, to_frame, turned
from ..core.intent import INTENT, MILESTONE, PLAY
from ..core.tasks import TASKS

WANDER, TO_GOAL, ELSEWHERE = 0, 1, 2
PUSH_SPEED = 0.15  # m/s
COAST = 1.15  # how far the T goes when a push ends, over how far the tool went in its last step
SETTLED, CONTENT = (
    0.75,
    0.95,
)  # shares of the threshold: it stops below one, goes on above the other
PATIENCE = 30  # steps for one push and the way to it
BRAKE = 0.8  # m/s^2, below what the gate allows


@dataclass
class Hand:
    """What one operator is about to do."""

    push: Push | None = None
    pushing: bool = False
    left: float = 0.0  # m of the push
    patience: int = 0  # steps until the plan is made anew
    mode: int = TO_GOAL
    steps: int = 0  # left in this bout
    target: np.ndarray = field(default_factory=lambda: np.zeros(3))
    planned: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))  # T at the last plan
    drift: np.ndarray = field(default_factory=lambda: np.zeros(2))


class PushTOperator:
    """A batch of operators; feed them states (B, 5), they return velocities and labels."""

    def __init__(
        self, batch: int = 1, seed: int = 0, noise: float = 0.15, skill: str = 'play'
    ) -> None:
        """``skill`` is 'play', 'expert' (always to the goal, no noise) or 'random' (uniform)."""
        if skill not in ('play', 'expert', 'random'):
            raise ValueError(f'an operator is play, expert or random, not {skill!r}')
        self.skill, self.noise = skill, noise
        self.rng = np.random.default_rng(seed)
        self.spec = TASKS['push_t']
        self.limit, self.period = self.spec.actions[0].high, self.spec.period
        self.geometry = Geometry()
        self.goal = np.array(self.geometry.goal)
        self.planner = Planner(self.geometry)
        self.hands = [Hand(target=self.goal) for _ in range(batch)]

    def act(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return velocities (B, 2) in m/s and labels (B,) uint8 for states (B, 5)."""
        batch = len(state)
        if self.skill == 'random':
            action = self.rng.uniform(-self.limit, self.limit, (batch, 2))
            return action, np.full(batch, PLAY, dtype=np.uint8)
        done = corner_error(state[:, 2:], self.goal, self.geometry) <= self.spec.success.threshold
        action, labels = np.zeros((batch, 2)), np.full(batch, PLAY, dtype=np.uint8)
        for row, hand in enumerate(self.hands):
            if self.skill == 'play':
                self._choose(hand, state[row], bool(done[row]))
            action[row] = self._move(hand, state[row])
            if hand.mode == TO_GOAL and hand.pushing:
                labels[row] = INTENT
        labels[done] = MILESTONE
        return action, labels

    # ------------------------------------------------------------------ play
    def _choose(self, hand: Hand, state: np.ndarray, done: bool) -> None:
        """Begin a new bout where the last one has run out or its T has arrived."""
        hand.steps -= 1
        if hand.mode != WANDER and hand.push is None:
            hand.steps = min(hand.steps, 4)
        if hand.steps > 0:
            return
        hand.mode = int(self.rng.choice((WANDER, TO_GOAL, ELSEWHERE), p=(0.2, 0.5, 0.3)))
        if done and hand.mode == TO_GOAL:
            hand.mode = ELSEWHERE
        hand.steps = int(self.rng.integers(*((8, 20) if hand.mode == WANDER else (30, 110))))
        hand.push, hand.pushing, hand.patience = None, False, 0
        hand.target = self.goal if hand.mode == TO_GOAL else self._somewhere()

    def _somewhere(self) -> np.ndarray:
        """Draw a pose of the T that lies within the rail."""
        g = self.geometry
        while True:
            pose = self.rng.uniform(-1.0, 1.0, 3) * (g.rail, g.rail, math.pi)
            if (np.abs(place(g.outline, pose)) < g.rail - 0.01).all():
                return pose

    # ------------------------------------------------------------------ motion
    def _move(self, hand: Hand, state: np.ndarray) -> np.ndarray:
        """Return the velocity (2,) of one operator."""
        shape = self.rng.normal(size=2) if self.skill == 'play' else np.zeros(2)
        if hand.mode == WANDER:
            hand.drift = 0.85 * hand.drift + 0.45 * shape * self.limit
            home = np.where(np.abs(state[:2]) > self.geometry.reach - 0.02, -state[:2], 0.0)
            return np.clip(hand.drift + home, -self.limit, self.limit)
        velocity = self._pursue(hand, state)
        if hand.push is not None:
            velocity = velocity + self.noise * np.linalg.norm(velocity) * shape
        return np.clip(velocity, -self.limit, self.limit)

    def _pursue(self, hand: Hand, state: np.ndarray) -> np.ndarray:
        """Walk to the planned push, or push; plan anew when it is done."""
        pose = state[2:]
        tool = to_frame(state[:2], pose)
        error = self.planner.error(relative(pose, hand.target))
        if error < (SETTLED if hand.push is not None else CONTENT) * self.spec.success.threshold:
            hand.push, hand.pushing = None, False
            return np.zeros(2)
        hand.patience -= 1
        if hand.push is None or hand.left <= 1e-4 or hand.patience <= 0:
            self._plan(hand, tool, pose)
        if hand.push is None:
            return np.zeros(2)
        if not hand.pushing and np.linalg.norm(tool - hand.push.approach) < NEAR:
            hand.pushing = True
        if hand.pushing:
            return turned(self._shove(hand, hand.push, tool), float(pose[2]))
        goal = self.planner.waypoint(tool, hand.push.approach)
        return turned(self._towards(goal - tool), float(pose[2]))

    def _plan(self, hand: Hand, tool: np.ndarray, pose: np.ndarray) -> None:
        moved = np.abs(pose - hand.planned).max() > 1e-3
        again = hand.push is None or moved
        avoid = np.full(2, np.nan) if again or hand.push is None else hand.push.contact
        hand.push = self.planner.plan(tool, relative(pose, hand.target), hand.target, avoid)
        hand.patience, hand.pushing, hand.planned = PATIENCE, False, pose.copy()
        if hand.push is not None:
            hand.left = hand.push.length
            hand.pushing = bool(np.linalg.norm(tool - hand.push.contact) < NEAR)

    def _towards(self, way: np.ndarray) -> np.ndarray:
        """Return a velocity (2,) along ``way`` (2,) that can still be braked."""
        distance = float(np.linalg.norm(way))
        speed = min(self.limit, distance / self.period, math.sqrt(2 * BRAKE * distance))
        return way * (speed / max(distance, 1e-9))

    def _shove(self, hand: Hand, push: Push, tool: np.ndarray) -> np.ndarray:
        """Return the tool's velocity (2,) in the T's frame that carries the push on."""
        ahead = min(hand.left, PUSH_SPEED * self.period)
        going = ahead / COAST if ahead == hand.left else ahead
        moved = exponential(push.twist * going)
        goal = compose(moved, np.array([*push.contact, 0.0]))[:2]
        velocity = (goal - tool) / self.period
        speed = float(np.linalg.norm(velocity))
        if speed > self.limit:  # it is not at the contact yet: go there first
            return self._towards(push.contact - tool)
        hand.left -= ahead
        return velocity
