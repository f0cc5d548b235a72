"""
From a few targets a second to many setpoints: the G1's upper body between two commands.

Pure, with time as an argument.  A new target is approached in a straight line over one control
period, or longer where a joint would exceed its speed.  After a start or a pause the way to the
first target is a smooth one of ``ramp`` seconds, from where the robot is.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from .base import RobotError

PEAK = 1.875  # of a smooth way's mean speed


class Tracker:
    """
    Setpoints for n joints: ``position`` and ``velocity`` (n,), never faster than ``speed``.

    :param low, high, speed: (n,) in the joints' units; positions never leave [low, high].
    :param period: s between two targets.
    :param ramp: s of the smooth way to the first target.
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        speed: Sequence[float],
        period: float,
        ramp: float,
    ) -> None:
        self.low, self.high, self.speed = np.array(low), np.array(high), np.array(speed)
        self.period, self.ramp = period, ramp
        self.clamped = 0  # targets that had to be moved into the range
        self.position = np.clip(np.zeros(len(self.low)), self.low, self.high)
        self.place(self.position)

    def place(self, position: Any) -> None:
        """
        Begin again at a measured position (n,), at rest.

        :raises RobotError: not n finite numbers.
        """
        self.position = np.clip(self._checked(position), self.low, self.high)
        self.hold()

    def hold(self) -> None:
        """Stay where the last setpoint was; the next target is approached smoothly."""
        self.velocity = np.zeros_like(self.position)
        self._asked = self._target = self._line = self._start = self.position.copy()
        self._rate = np.zeros_like(self.position)
        self._held, self._length, self._passed = True, 0.0, 0.0

    @property
    def resting(self) -> bool:
        """Tell whether the last setpoint was the target."""
        return bool(np.array_equal(self.position, self._target))

    def aim(self, target: Any) -> None:
        """
        Take the newest target (n,); the same one again changes nothing, save that it ends a pause.

        :raises RobotError: not n finite numbers.
        """
        asked = self._checked(target)
        if np.array_equal(asked, self._asked) and not self._held:
            return
        self._asked, self._target = asked, np.clip(asked, self.low, self.high)
        self.clamped += bool(np.any(self._target != asked))
        if self._held:
            self._begin()
        gap = self._target - self._line
        self._rate = gap / max(self.period, float(np.max(np.abs(gap) / self.speed)))

    def step(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the setpoint (position, velocity) ``dt`` seconds after the last one."""
        left = self._target - self._line
        move = self._rate * dt
        self._line = np.where(np.abs(move) >= np.abs(left), self._target, self._line + move)
        self._passed += dt
        goal = self._line
        if self._passed < self._length:
            part = self._passed / self._length
            smooth = part**3 * (10 - 15 * part + 6 * part**2)
            goal = self._start + smooth * (self._line - self._start)
        most = self.speed * dt
        before = self.position
        self.position = np.clip(goal, before - most, before + most)
        self.velocity = (self.position - before) / dt
        return self.position, self.velocity

    def _begin(self) -> None:
        """Set out on the smooth way, from rest, if the target is not where it stands."""
        gap = np.abs(self._target - self.position)
        self._held, self._passed = False, 0.0
        self._length = 0.0
        if np.any(gap > 1.01 * self.period * self.speed):  # more than one command's worth
            self._length = max(self.ramp, PEAK * float(np.max(gap / self.speed)))
            self._start, self._line = self.position.copy(), self._target.copy()

    def _checked(self, values: Any) -> np.ndarray:
        found = np.array(values, dtype=float)
        if found.shape != self.low.shape or not math.isfinite(float(found.sum())):
            raise RobotError(f'{len(self.low)} finite numbers are needed, not {list(values)}')
        return found
