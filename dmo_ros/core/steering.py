"""
From a stick to a command of the task.

Velocity fields follow the stick.  A position field moves at a rate that the stick gives: its
target is integrated over the stamps of the pad, starts where the robot was last told to be, and
goes back to that whenever somebody else drives, so that taking over never jumps.
"""

from __future__ import annotations

from collections.abc import Sequence

from .limits import Limits, within_box
from .tasks import TaskSpec

JUMP = 5  # periods between two stamps: a new start in time, the body may be elsewhere


class Steering:
    """Feed it sticks (one number in [-1, 1] per action field) and what the gate sends."""

    def __init__(self, spec: TaskSpec) -> None:
        self.limits, self.period = Limits.of(spec), spec.period
        self._in_force: tuple[float, ...] | None = None
        self._target: list[float] | None = None
        self._stamp = self._jumped = 0

    @property
    def body(self) -> bool:
        """Tell whether the task has positions, which have to be heard before they are driven."""
        return not all(self.limits.velocity)

    def hear_command(self, values: Sequence[float]) -> None:
        """Take the command in force (``cmd``)."""
        if len(values) == len(self.limits.low):
            self._in_force = tuple(values)

    def hear_posture(self, values: Sequence[float], stamp: int) -> None:
        """Take where the robot is; it counts after a jump in time only."""
        if self._jumped and stamp >= self._jumped:
            self._in_force, self._target = tuple(values), list(values)
            self._jumped = 0

    def steer(
        self, stick: Sequence[float], stamp: int, held: bool, leads: bool
    ) -> tuple[float, ...] | None:
        """
        Return the command (SI units), None while the robot's posture is not known.

        :param stamp: of the pad's message (ns); the time between two is at most a period.
        :param held: whether the dead-man is held; :param leads: the gate follows this person.
        """
        dt = self._interval(stamp)
        stick = stick if held else [0.0] * len(stick)
        if not self.body:
            return self._velocities(stick)
        if self._in_force is None:
            return None
        if self._target is None or not held or not (leads or any(stick)):
            self._target = list(self._in_force)
        limits = self.limits
        values = list(self._velocities(stick))
        for i, moving in enumerate(limits.velocity):
            if not moving:
                wanted = self._target[i] + stick[i] * limits.speed[i] * dt
                self._target[i] = values[i] = min(limits.high[i], max(limits.low[i], wanted))
        return tuple(values)

    def _interval(self, stamp: int) -> float:
        between = (stamp - self._stamp) * 1e-9 if self._stamp and stamp else 0.0
        if between > JUMP * self.period:
            self._jumped = stamp
        self._stamp = stamp
        return min(max(0.0, between), self.period)

    def _velocities(self, stick: Sequence[float]) -> tuple[float, ...]:
        """Return the stick as velocities, shrunk as a vector into the range; 0 for positions."""
        limits = self.limits
        wanted = [
            value * (high if value > 0 else -low) if moving else 0.0
            for value, low, high, moving in zip(stick, limits.low, limits.high, limits.velocity)
        ]
        low = [floor if moving else -1.0 for floor, moving in zip(limits.low, limits.velocity)]
        high = [top if moving else 1.0 for top, moving in zip(limits.high, limits.velocity)]
        return within_box(wanted, low, high)
