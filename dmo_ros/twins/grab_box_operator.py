"""
The scripted operator of the G1: what a person in a tracking suit would record as play data.

An expert takes the handle, lifts the box and holds it, with the joints that the policy drives and
no noise.  Play alternates bouts: wander with the right hand, push the box about, fetch it (intent
while approaching, grasping and lifting, milestone while it is up, then put it down elsewhere),
with the left arm, both hands and small steps moving all the time, because the world model has to
know what each of the 22 actions does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from . import grab_box_scene as room
from .arm_kinematics import ArmKinematics, RIGHT
from .grab_box import LIFT
from ..core.intent import INTENT, MILESTONE, PLAY
from ..core.tasks import TASKS

ABOVE = 0.085  # m over the bar before the hand goes down
RAISE = 0.19  # m the box is lifted by
PITCH = 0.35  # rad the fingers point down
REACH, TURN = 0.30, 1.2  # m/s and rad/s of the hand at most
GAIN = 3.0  # 1/s
LEFT_ARM = tuple(i for i, joint in enumerate(room.JOINTS) if joint.name.startswith('left_'))
LEFT_HAND, RIGHT_HAND, BASE = 17, 18, slice(19, 22)
UP = np.array([0.0, 0.0, 1.0])


class Phase(IntEnum):
    """What the right hand is at."""

    WANDER = 0
    PUSH = 1
    OVER = 2
    DOWN = 3
    CLOSE = 4
    RAISE = 5
    HOLD = 6
    LOWER = 7
    OPEN = 8
    LEAVE = 9


# Phase -> most control steps in it, and what comes then.
PATIENCE = {
    Phase.WANDER: (40, Phase.OVER),
    Phase.PUSH: (40, Phase.LEAVE),
    Phase.OVER: (70, Phase.LEAVE),
    Phase.DOWN: (30, Phase.LEAVE),
    Phase.CLOSE: (12, Phase.OPEN),
    Phase.RAISE: (30, Phase.LOWER),
    Phase.HOLD: (25, Phase.LOWER),
    Phase.LOWER: (40, Phase.OPEN),
    Phase.OPEN: (6, Phase.LEAVE),
    Phase.LEAVE: (12, Phase.OVER),
}
GRASPING = (Phase.OVER, Phase.DOWN, Phase.CLOSE, Phase.RAISE)
SHUT = (Phase.CLOSE, Phase.RAISE, Phase.HOLD, Phase.LOWER)


@dataclass
class Person:
    """What one operator is doing."""

    phase: Phase
    spent: int = 0
    goal: np.ndarray = field(default_factory=lambda: np.zeros(3))
    yaw: float = 0.0
    patience: int = 1000
    left: np.ndarray = field(default_factory=lambda: np.zeros(7))
    grips: np.ndarray = field(default_factory=lambda: np.zeros(2))
    walk: np.ndarray = field(default_factory=lambda: np.zeros(3))


class GrabBoxOperator:
    """A batch of operators; feed them states, they return motions and intent labels."""

    def __init__(self, batch: int = 1, seed: int = 0, skill: str = 'play') -> None:
        """``skill`` is 'play', 'expert' (only the policy's joints, no noise) or 'random'."""
        if skill not in ('play', 'expert', 'random'):
            raise ValueError(f'an operator is play, expert or random, not {skill!r}')
        spec = TASKS['grab_box']
        self.skill, self.threshold = skill, spec.success.threshold
        self.rng = np.random.default_rng(seed)
        self.limit = np.array(
            [f.high if f.is_velocity else s for f, s in zip(spec.actions, spec.limits.speed)]
        )
        self.rest = np.array([f.rest for f in spec.actions])
        self.kinematics = ArmKinematics()
        self.people = [Person(Phase.OVER) for _ in range(batch)]
        self.motion = np.zeros((batch, len(self.limit)))
        if skill == 'play':
            for person in self.people:
                self._begin(person, Phase.WANDER)
                person.left = self.rest[list(LEFT_ARM)]

    def act(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return motions (B, 22), rates of joints and the base's velocity, and labels (B,)."""
        if self.skill == 'random':
            fresh = self.rng.uniform(-self.limit, self.limit, self.motion.shape)
            self.motion = 0.8 * self.motion + 0.2 * fresh
            return self.motion.copy(), np.full(len(state), PLAY, dtype=np.uint8)
        answers = [self._one(row, person) for row, person in zip(state, self.people)]
        motion = np.array([motion for motion, _ in answers])
        return np.clip(motion, -self.limit, self.limit), np.array(
            [label for _, label in answers], dtype=np.uint8
        )

    def _one(self, state: np.ndarray, person: Person) -> tuple[np.ndarray, int]:
        self.kinematics.look(state)
        self._next(state, person)
        aside = self.kinematics.bearing + 0.3  # turned to what is not before the right arm
        self.kinematics.posture[0] = np.clip(aside, -1.3, 1.3) if abs(aside) > 0.5 else 0.0
        motion = np.zeros(len(self.limit))
        motion[list(RIGHT)] = self._reach(person)
        grips = (state[LEFT_HAND], 1.0 if person.phase in SHUT else 0.0)
        if self.skill == 'play':
            self._fidget(state, person, motion)
            grips = (
                person.grips[0],
                person.grips[1] if person.phase == Phase.WANDER else grips[1],
            )
        motion[LEFT_HAND : RIGHT_HAND + 1] = 4.0 * (np.array(grips) - state[17:19])
        return motion, self._label(state, person)

    # ------------------------------------------------------------------ what to do now
    def _next(self, state: np.ndarray, person: Person) -> None:
        """Go on to the next phase when this one is done, or given up."""
        person.spent += 1
        place, _ = self.kinematics.hand
        bar, _ = self.kinematics.bar
        miss = place - bar
        phase, height = person.phase, _height(state)
        close = np.linalg.norm(miss[:2]) < 0.02
        if phase == Phase.OVER and close and self._aligned() and miss[2] < ABOVE + 0.03:
            self._begin(person, Phase.DOWN)
        elif phase == Phase.DOWN and close and miss[2] < 0.006:
            person.goal = place
            self._begin(person, Phase.CLOSE)
        elif phase == Phase.CLOSE and (state[RIGHT_HAND] > 0.93 or person.spent > 8):
            person.goal = place + np.array([0.0, 0.0, RAISE])
            self._begin(person, Phase.RAISE)
        elif phase == Phase.RAISE and height > LIFT:
            self._begin(person, Phase.HOLD)
        elif phase in (Phase.RAISE, Phase.HOLD) and miss[2] > 0.06:  # it slipped
            self._begin(person, Phase.OPEN)
        elif phase == Phase.LOWER and height < 0.012:
            person.goal = place
            self._begin(person, Phase.OPEN)
        elif phase == Phase.LOWER and height > 0.05 and person.spent > person.patience:
            self._begin(person, Phase.LOWER)  # elsewhere: a box is not dropped
        elif phase == Phase.PUSH and np.linalg.norm(person.goal - place) < 0.03:
            self._begin(person, Phase.LEAVE)
        elif person.spent > person.patience:
            self._give_up(person, place)

    def _give_up(self, person: Person, place: np.ndarray) -> None:
        if person.phase == Phase.HOLD and self.skill == 'expert':
            return
        after = PATIENCE[person.phase][1]
        if self.skill == 'play' and person.phase in (Phase.LEAVE, Phase.WANDER):
            options = (Phase.WANDER, Phase.PUSH, Phase.OVER)
            after = options[self.rng.choice(3, p=(0.25, 0.2, 0.55))]
        if after in (Phase.OPEN, Phase.LEAVE):
            person.goal = place.copy()
        self._begin(person, after)

    def _begin(self, person: Person, phase: Phase) -> None:
        person.phase, person.spent = phase, 0
        person.patience = PATIENCE[phase][0]
        if phase == Phase.LEAVE:
            person.goal = person.goal + np.array([0.0, 0.0, 0.14])
        if self.skill == 'play':
            self._choose(person, phase)

    def _choose(self, person: Person, phase: Phase) -> None:
        """Draw where a bout of play goes."""
        rng = self.rng
        if phase == Phase.WANDER:
            person.patience = int(rng.integers(10, 30))
            person.goal = self._in_room(rng.uniform((0.2, -0.45, 0.86), (0.45, 0.1, 1.15)))
            person.yaw = rng.uniform(-0.4, 0.8)
        elif phase == Phase.PUSH:
            bar, _ = self.kinematics.bar
            inwards = _within(self._in_room(np.array([0.4, -0.1, bar[2]])) - bar, 0.10)
            inwards[2] = rng.uniform(-0.08, 0.0)
            person.goal = bar + inwards + np.append(rng.uniform(-0.06, 0.06, 2), 0.0)
            person.yaw = rng.uniform(-0.3, 0.6)
        elif phase == Phase.HOLD:
            person.patience = int(rng.integers(12, 30))
        elif phase == Phase.LOWER:
            person.goal = self._in_room(np.append(rng.uniform((0.33, -0.26), (0.43, 0.04)), 0.0))
            person.goal[2] = room.TABLE + 2 * room.BOX[2] + room.HANDLE - 0.02

    def _in_room(self, place: np.ndarray) -> np.ndarray:
        """Return where a place (3,) that the robot sees before it is in the room."""
        base = self.kinematics.base
        c, s = np.cos(base[2]), np.sin(base[2])
        x, y = c * place[0] - s * place[1] + base[0], s * place[0] + c * place[1] + base[1]
        # What is put down has to stay on the table.
        return np.array([np.clip(x, 0.34, 0.65), np.clip(y, -0.35, 0.35), place[2]])

    # ------------------------------------------------------------------ how to do it
    def _frame(self, person: Person) -> np.ndarray:
        """Return the axes (3, 3) that the hand should have: across the bar, fingers down a bit."""
        heading = self.kinematics.base[2]
        if person.phase in (Phase.WANDER, Phase.PUSH):
            yaw = heading + person.yaw
            bar = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        elif person.phase in (Phase.OVER, Phase.DOWN):
            _, bar = self.kinematics.bar
            # A bar has two ends: the hand comes from the robot, and better from its right.
            ahead = heading + self.kinematics.bearing + 0.4
            bar = bar * np.sign(bar @ (-np.sin(ahead), np.cos(ahead), 0.0))
            bar = np.array([bar[0], bar[1], 0.0]) / max(np.hypot(bar[0], bar[1]), 1e-6)
            person.yaw = float(np.arctan2(-bar[0], bar[1]) - heading)
        else:
            yaw = heading + person.yaw
            bar = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        ahead = np.cross(bar, UP)
        fingers = np.cos(PITCH) * ahead - np.sin(PITCH) * UP
        return np.stack([fingers, bar, np.cross(fingers, bar)], axis=1)

    def _spin(self, person: Person) -> np.ndarray:
        _, axes = self.kinematics.hand
        wanted = self._frame(person)
        return 0.5 * np.cross(axes.T, wanted.T).sum(axis=0)

    def _aligned(self) -> bool:
        _, axes = self.kinematics.hand
        _, bar = self.kinematics.bar
        return bool(abs(axes[:, 1] @ bar) > 0.96)

    def _reach(self, person: Person) -> np.ndarray:
        """Return the rates (10,) of waist and right arm."""
        place, _ = self.kinematics.hand
        bar, _ = self.kinematics.bar
        goal = {
            Phase.OVER: bar + UP * ABOVE,
            Phase.DOWN: bar - UP * 0.004,
        }.get(person.phase, person.goal)
        miss = goal - place
        if person.phase == Phase.OVER and np.linalg.norm(miss[:2]) > 0.06:
            miss = miss + UP * 0.05  # come from above, not through the handle
        slow = 0.4 if person.phase in (Phase.DOWN, Phase.LOWER) else 1.0
        velocity = _within(GAIN * miss, REACH * slow)
        spin = _within(GAIN * self._spin(person), TURN)
        return self.kinematics.rates(velocity, spin, 0.8 * self.limit[list(RIGHT)])

    def _fidget(self, state: np.ndarray, person: Person, motion: np.ndarray) -> None:
        """Let everything else move too, and the right arm tremble: play covers all actions."""
        rng, left = self.rng, list(LEFT_ARM)
        if rng.random() < 0.04:
            low, high = (np.array([getattr(room.JOINTS[i], e) for i in left]) for e in _ENDS)
            wish = self.rest[left] + rng.normal(0.0, 0.35, len(left))
            person.left = np.clip(wish, low + 0.1, high - 0.1)
        if rng.random() < 0.03:
            person.grips = rng.choice((0.0, 0.0, 0.5, 1.0), 2)
        motion[left] = 1.5 * (person.left - state[left])
        busy = person.phase in (Phase.DOWN, Phase.CLOSE, Phase.RAISE, Phase.LOWER, Phase.OPEN)
        tremble = 0.02 if busy else 0.10
        motion[:17] += tremble * rng.normal(size=17) * self.limit[:17] * (motion[:17] != 0)
        person.walk = 0.85 * person.walk + 0.15 * rng.normal(0.0, 1.5, 3) * self.limit[BASE]
        motion[BASE] = (0.2 if busy else 1.0) * (person.walk + self._homewards(person))

    def _homewards(self, person: Person) -> np.ndarray:
        """Return the velocity (3,) that brings the robot before the box again."""
        base = self.kinematics.base
        bar, _ = self.kinematics.bar
        wanted = np.array([0.0, np.clip(bar[1] + 0.1, -0.4, 0.4), 0.0])
        if person.phase == Phase.OVER:
            wanted[0] = np.clip(bar[0] - 0.38, -0.1, 0.1)
        miss = wanted - base
        miss[2] = np.arctan2(np.sin(miss[2]), np.cos(miss[2]))
        c, s = np.cos(base[2]), np.sin(base[2])
        dead = np.where(np.abs(miss) > (0.05, 0.08, 0.15), miss, 0.0)
        return 0.6 * np.array([c * dead[0] + s * dead[1], c * dead[1] - s * dead[0], dead[2]])

    def _label(self, state: np.ndarray, person: Person) -> int:
        if _height(state) > LIFT - self.threshold:
            return MILESTONE
        return INTENT if person.phase in GRASPING else PLAY


_ENDS = ('low', 'high')


def _height(state: np.ndarray) -> float:
    """Return the box's height above the table in metres."""
    return float(state[24] - room.TABLE - room.BOX[2])


def _within(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))
