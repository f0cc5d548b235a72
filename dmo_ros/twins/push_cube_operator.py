"""
The scripted operator of push cube: what a person who looks through the robot's eyes would record.

Bouts alternate: it walks about, looks around, pushes the cube somewhere, or brings it to the goal.
Whoever has lost the cube turns until it is in the picture again.  In a bout to the goal the intent
button is held while the robot pushes; with the cube in the goal the milestone key is pressed for
as long as it stays.  Later it is pushed out again from behind, so that play goes on without
anyone's reset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np

from .push_cube import sight
from .push_cube_routes import BEHIND, Routes
from .push_cube_scene import Room
from ..core.intent import INTENT, MILESTONE, PLAY
from ..core.tasks import TASKS

WANDER, LOOK, TO_GOAL, ELSEWHERE = 0, 1, 2, 3
SHARES = (0.16, 0.06, 0.5, 0.28)
IN_VIEW = math.radians(48.0)  # of the square picture's middle, with a good part of the cube
PUSH_SPEED = 0.5  # m/s


@dataclass
class Walker:
    """What one operator is about to do."""

    mode: int = TO_GOAL
    steps: int = 0  # left in this bout
    target: np.ndarray = field(default_factory=lambda: np.zeros(2))
    via: np.ndarray = field(default_factory=lambda: np.zeros(2))  # on the cube's way there
    pushing: bool = False
    before: np.ndarray = field(default_factory=lambda: np.zeros(6))  # the state it saw last
    still: int = 0  # steps for which nothing has moved though it wanted to; below 0: it backs off
    side: float = 1.0  # where the cube was seen last: 1 to the left, -1 to the right
    drift: np.ndarray = field(default_factory=lambda: np.zeros(3))


class PushCubeOperator:
    """A batch of operators; feed them states (B, 6), they return velocities and labels."""

    def __init__(
        self, batch: int = 1, seed: int = 0, noise: float = 0.12, skill: str = 'play'
    ) -> None:
        """``skill`` is 'play', 'expert' (always to the goal, no noise) or 'random' (uniform)."""
        if skill not in ('play', 'expert', 'random'):
            raise ValueError(f'an operator is play, expert or random, not {skill!r}')
        self.skill, self.noise = skill, noise
        self.rng = np.random.default_rng(seed)
        self.spec = TASKS['push_cube']
        self.limits = np.array([axis.high for axis in self.spec.actions])
        self.room = Room()
        self.routes = Routes(self.room)
        self.goal = np.array(self.room.net)
        self.walkers = [Walker(target=self.goal, via=self.goal) for _ in range(batch)]

    def act(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return velocities (B, 3) in m/s and rad/s, and labels (B,) uint8, for states (B, 6)."""
        batch = len(state)
        if self.skill == 'random':
            action = self.rng.uniform(-1.0, 1.0, (batch, 3)) * self.limits
            return action, np.full(batch, PLAY, dtype=np.uint8)
        gap = np.linalg.norm(state[:, 3:5] - self.room.net, axis=1)
        done = gap <= self.spec.success.threshold
        action, labels = np.zeros((batch, 3)), np.full(batch, PLAY, dtype=np.uint8)
        for row, walker in enumerate(self.walkers):
            if self.skill == 'play':
                self._choose(walker, state[row], bool(done[row]))
            action[row] = self._move(walker, state[row], gap[row])
            if walker.mode == TO_GOAL and walker.pushing:
                labels[row] = INTENT
        labels[done] = MILESTONE
        return action, labels

    # ------------------------------------------------------------------ play
    def _choose(self, walker: Walker, state: np.ndarray, done: bool) -> None:
        """Begin a new bout where the last one has run out or its cube has arrived."""
        walker.steps -= 1
        arrived = np.linalg.norm(state[3:5] - walker.target) < 0.2
        if (walker.mode == TO_GOAL and done) or (walker.mode == ELSEWHERE and arrived):
            walker.steps = min(walker.steps, 6)
        if walker.steps > 0:
            return
        walker.mode = int(self.rng.choice(4, p=SHARES))
        if done:
            walker.mode = ELSEWHERE if self.rng.random() < 0.8 else WANDER
        span = {WANDER: (10, 30), LOOK: (15, 40)}.get(walker.mode, (60, 160))
        walker.steps = int(self.rng.integers(*span))
        walker.pushing = False
        walker.target, walker.via = self.goal, state[3:5]
        if walker.mode == ELSEWHERE:
            walker.target = self.rng.uniform((-1.5, -1.5), (0.6, 1.5))
        if walker.mode == LOOK:
            walker.side = float(self.rng.choice((-1.0, 1.0)))

    # ------------------------------------------------------------------ motion
    def _move(self, walker: Walker, state: np.ndarray, gap: float) -> np.ndarray:
        """Return the velocity (3,) of one operator."""
        shake = self.rng.normal(size=3) if self.skill == 'play' else np.zeros(3)
        if walker.mode == WANDER:
            walker.drift = 0.85 * walker.drift + 0.4 * shake * self.limits
            return self._within(walker.drift + np.array([0.15, 0.0, 0.0]))
        if walker.mode == LOOK:
            return self._within(np.array([0.0, 0.0, 0.7 * walker.side]) + 0.1 * shake)
        if walker.mode == TO_GOAL and gap < 0.85 * self.spec.success.threshold:
            walker.pushing = False
            return np.zeros(3)
        velocity = self._pursue(walker, state)
        if self._stuck(walker, state, velocity):
            walker.pushing = False
            velocity = np.array([-0.4, 0.25 * walker.side, 0.0])
        return self._within(velocity + self.noise * shake * self.limits)

    def _stuck(self, walker: Walker, state: np.ndarray, velocity: np.ndarray) -> bool:
        """Tell whether it hangs on something, or backs off from that."""
        moved = float(np.abs(state - walker.before).max())
        walker.before = state.copy()
        if walker.still < 0 or (moved < 0.01 and float(np.abs(velocity).max()) > 0.1):
            walker.still += 1
        else:
            walker.still = 0
        if walker.still > 3:
            walker.still, walker.side = -5, -walker.side
        return walker.still < 0

    def _within(self, velocity: np.ndarray) -> np.ndarray:
        """Shorten the way and clip the turn to what may be commanded."""
        over = float(np.max(np.abs(velocity[:2]) / self.limits[:2]))
        way = velocity[:2] / max(1.0, over)
        return np.array([*way, np.clip(velocity[2], -self.limits[2], self.limits[2])])

    def _pursue(self, walker: Walker, state: np.ndarray) -> np.ndarray:
        """Look for the cube, get behind it, push it."""
        bearing, far = sight(state)
        if abs(bearing) < IN_VIEW:
            walker.side = math.copysign(1.0, bearing)
        elif far > 0.9:
            walker.pushing = False
            return np.array([0.0, 0.0, 0.9 * walker.side])
        cube = state[3:5]
        target = walker.target
        if walker.mode == TO_GOAL:  # anywhere between the posts will do
            wide = 0.3 if cube[0] > self.room.goal_line - 0.3 else 0.15
            target = np.array([self.goal[0], np.clip(cube[1], -wide, wide)])
        if not self.routes.keeps(cube, walker.via, target):
            walker.via = self.routes.aim(cube, target)
        way = walker.via - cube
        way = way / max(float(np.linalg.norm(way)), 1e-9)
        back, off = self._behind(state, way)
        heading = _wrapped(math.atan2(way[1], way[0]) - state[2])
        ready = (0.12, 0.3, BEHIND + 0.12) if not walker.pushing else (0.24, 0.6, BEHIND + 0.25)
        near = 0.4 < back < ready[2]
        walker.pushing = abs(off) < ready[0] and abs(heading) < ready[1] and near
        if walker.pushing:
            return self._push(off, heading)
        return self._approach(state, cube - way * BEHIND, heading, bearing)

    def _behind(self, state: np.ndarray, way: np.ndarray) -> tuple[float, float]:
        """Return how far the robot is behind the cube, and how far left of the line of push."""
        gap = state[3:5] - state[:2]
        return float(gap @ way), float(gap[0] * way[1] - gap[1] * way[0])

    def _push(self, off: float, heading: float) -> np.ndarray:
        """Walk on along the line of push, the slower the more there is to correct."""
        speed = PUSH_SPEED * max(0.3, 1.0 - 2.5 * abs(off) - abs(heading))
        return np.array([speed, -1.8 * off, 2.0 * heading])

    def _approach(
        self, state: np.ndarray, place: np.ndarray, heading: float, bearing: float
    ) -> np.ndarray:
        """Walk to the place behind the cube, eyes on the cube or, far from it, on the way."""
        onwards = self.routes.next(state[:2], place, state[3:5]) - state[:2]
        far = float(np.linalg.norm(place - state[:2]))
        length = float(np.linalg.norm(onwards))
        speed = min(0.6, 1.6 * far + 0.05, length / self.spec.period)
        onwards = onwards * (speed / max(length, 1e-9))
        turn = heading if far < 0.35 else bearing
        cos, sin = math.cos(state[2]), math.sin(state[2])
        ahead = cos * onwards[0] + sin * onwards[1]
        left = cos * onwards[1] - sin * onwards[0]
        return np.array([ahead, left, 1.8 * turn])


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi
