"""
What a command may ask of a robot: its range, and how fast it may change.

One law serves both kinds of field.  A position approaches its target with a bounded rate (speed)
that changes boundedly (acceleration); a velocity approaches its target with a bounded rate
(acceleration) that changes boundedly (jerk).  Vectors are scaled as a whole, so that a path stays
straight, and the rate falls in time to come to rest at the target and, whatever happens, at the
end of the range.  Braking obeys the acceleration alone: a stop is not delayed for smoothness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

from .tasks import TaskSpec

LANDING = 0.1  # of the rate that one interval can stop: below it, go to the target at once


@dataclass(frozen=True)
class Limits:
    """One number per action field, SI units; ``velocity`` tells velocities from positions."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    speed: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    velocity: tuple[bool, ...]

    @classmethod
    def of(cls, spec: TaskSpec) -> Limits:
        """Take the limits from a task."""
        return cls(
            tuple(field.low for field in spec.actions),
            tuple(field.high for field in spec.actions),
            spec.limits.speed,
            spec.limits.acceleration,
            spec.limits.jerk,
            tuple(field.is_velocity for field in spec.actions),
        )


def within_box(
    values: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """Shrink a vector as a whole until every field is inside its range; its direction is kept."""
    scale = 1.0
    for value, floor, ceiling in zip(values, low, high):
        bound = ceiling if value > 0 else floor
        if abs(value) > abs(bound):
            scale = min(scale, abs(bound / value))
    # The product may exceed the bound by a rounding error, a robot's own check may not forgive it.
    return tuple(min(h, max(l, v * scale)) for v, l, h in zip(values, low, high))


def within_reach(
    target: Sequence[float], previous: Sequence[float], rate: Sequence[float], dt: float
) -> tuple[float, ...]:
    """Move from ``previous`` straight towards ``target`` as far as ``dt`` seconds allow."""
    scale = 1.0
    for aim, before, limit in zip(target, previous, rate):
        change = abs(aim - before)
        if change > limit * dt:
            scale = min(scale, limit * dt / change)
    if scale == 1.0:
        return tuple(target)
    return tuple(before + scale * (aim - before) for aim, before in zip(target, previous))


def stoppable(way: float, change: float, dt: float) -> float:
    """
    Return the fastest rate for the next ``dt`` seconds that can still be stopped within ``way``.

    After the interval the rest of the way must do for slowing down by ``change`` per second, in
    intervals of any length: r dt + r^2 / (2 change) = way.
    """
    if way <= LANDING * change * dt * dt:
        return way / dt
    return 2.0 * way / (dt + math.sqrt(dt * dt + 2.0 * way / change))


@dataclass
class _Group:
    """The fields of one kind: places, their rates, and what bounds both."""

    index: list[int]
    low: list[float]
    high: list[float]
    fastest: list[float]
    change: list[float]
    place: list[float]
    rate: list[float]

    def approach(self, target: Sequence[float], dt: float) -> None:
        """Go towards ``target`` for ``dt`` seconds."""
        if all(change * dt >= 2 * top for change, top in zip(self.change, self.fastest)):
            place = list(within_reach(target, self.place, self.fastest, dt))
            self.rate = [(after - before) / dt for after, before in zip(place, self.place)]
            self.place = place
            return
        gaps = [aim - place for aim, place in zip(target, self.place)]
        scale = 1.0
        for gap, top, change in zip(gaps, self.fastest, self.change):
            if gap:
                best = min(top, stoppable(abs(gap), change, dt))
                scale = min(scale, best * dt / abs(gap))
        wanted = [scale * gap / dt for gap in gaps]
        self._move(within_reach(wanted, self.rate, self.change, dt), dt)
        for i, (aim, want) in enumerate(zip(target, wanted)):
            if scale == 1.0 and self.rate[i] == want:
                self.place[i] = aim  # exactly, not but for a rounding error

    def _move(self, rates: Sequence[float], dt: float) -> None:
        """Change at ``rates``, slower where the end of the range is near."""
        for i, rate in enumerate(rates):
            place, change = self.place[i], self.change[i]
            up = stoppable(max(0.0, self.high[i] - place), change, dt)
            down = stoppable(max(0.0, place - self.low[i]), change, dt)
            self.rate[i] = rate = min(up, max(-down, rate))
            self.place[i] = min(self.high[i], max(self.low[i], place + rate * dt))

    def coast(self, dt: float) -> None:
        """Let the rates go to zero as fast as they may."""
        self._move(within_reach([0.0] * len(self.rate), self.rate, self.change, dt), dt)

    def rest(self) -> None:
        """Stay where it is."""
        self.rate = [0.0] * len(self.rate)


class Limiter:
    """The command in force, and how it may go on from there."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        count = range(len(limits.low))
        self._speeds = self._group([i for i in count if limits.velocity[i]])
        self._places = self._group([i for i in count if not limits.velocity[i]])
        self.known = not self._places.index  # where the positions are

    def _group(self, index: list[int]) -> _Group:
        limits = self.limits
        moving = bool(index) and limits.velocity[index[0]]
        fastest = limits.acceleration if moving else limits.speed
        change = limits.jerk if moving else limits.acceleration
        low, high, fast, fickle = (
            [values[i] for i in index] for values in (limits.low, limits.high, fastest, change)
        )
        return _Group(index, low, high, fast, fickle, [0.0] * len(index), [0.0] * len(index))

    @property
    def values(self) -> tuple[float, ...]:
        """The command in force, one number per field."""
        values = [0.0] * len(self.limits.low)
        for group in (self._speeds, self._places):
            for i, place in zip(group.index, group.place):
                values[i] = place
        return tuple(values)

    @property
    def resting(self) -> bool:
        """Tell whether nothing moves."""
        return not any(self._speeds.place) and not any(self._places.rate)

    def moves(self, values: Sequence[float]) -> bool:
        """Tell whether a command asks for a velocity."""
        return any(values[i] for i in self._speeds.index)

    def allowed(self, values: Sequence[float]) -> tuple[float, ...]:
        """Bring a command into the range: velocities as a vector, each position by itself."""
        limits = self.limits
        speeds = within_box([values[i] for i in self._speeds.index], *self._box())
        inside = [min(h, max(l, v)) for v, l, h in zip(values, limits.low, limits.high)]
        for i, speed in zip(self._speeds.index, speeds):
            inside[i] = speed
        return tuple(inside)

    def _box(self) -> tuple[list[float], list[float]]:
        return self._speeds.low, self._speeds.high

    def hold(self, values: Sequence[float]) -> None:
        """Rest at the positions among ``values``."""
        inside = self.allowed(values)
        self._places.place = [inside[i] for i in self._places.index]
        self.known = True
        self.halt()

    def halt(self) -> None:
        """Rest at once: no velocity, positions where they are."""
        self._speeds.place = [0.0] * len(self._speeds.place)
        self._speeds.rest()
        self._places.rest()

    def step(self, values: Sequence[float], dt: float) -> None:
        """Go towards a command of the range (see :meth:`allowed`) for ``dt`` seconds."""
        if dt > 0:
            for group in (self._speeds, self._places):
                group.approach([values[i] for i in group.index], dt)

    def brake(self, dt: float) -> None:
        """Come to rest within the acceleration, for ``dt`` seconds."""
        if dt <= 0:
            return
        group = self._speeds
        still = [0.0] * len(group.place)
        place = list(within_reach(still, group.place, group.fastest, dt))
        group.rate = [(after - before) / dt for after, before in zip(place, group.place)]
        group.place = place
        self._places.coast(dt)
