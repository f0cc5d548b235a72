"""
What a bridge needs of a robot, whatever protocol it speaks.

A :class:`Robot` is used by two threads: ``tick`` and ``stop`` come from the bridge's sender thread
only, ``command``, ``health`` and ``state`` may come from any.  An adapter imports its vendor's SDK
inside :meth:`Robot.connect`, and nothing moves before :meth:`Robot.engage`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class RobotError(RuntimeError):
    """What a robot or its SDK refused, and what to do about it."""


@dataclass(frozen=True)
class Health:
    """
    Whether the robot can be driven now.

    ``ok`` is false for a silent link, a fault, an emergency stop or a wrong mode; ``fault`` marks
    what a person must look at before anything may move again.  ``values`` go to diagnostics.
    """

    ok: bool
    reason: str = ''
    fault: bool = False
    values: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RobotState:
    """
    What the robot reports; SI units, REP-103, body joints named as the task's fields.

    ``joints``: name -> (position, velocity). ``pose``: x, y (m), yaw (rad) in its odometry frame.
    ``twist``: vx, vy (m/s), wz (rad/s) in its body frame. ``arrived``: s, steady clock.
    """

    arrived: float
    joints: dict[str, tuple[float, float]] = field(default_factory=dict)
    pose: tuple[float, float, float] | None = None
    twist: tuple[float, float, float] | None = None


class Robot(Protocol):
    """One robot, or the peer that stands in for it."""

    sink_hz: float  # how often tick() is called while commands are fresh

    def connect(self) -> None:
        """
        Import the SDK, open the link, check model and state; may take seconds, moves nothing.

        :raises RobotError: no SDK (names the extra), no robot, a wrong model, a fault.
        """

    def engage(self) -> None:
        """Bring the robot to where it obeys commands, and stand still there; RobotError if not."""

    def command(self, values: tuple[float, ...]) -> None:
        """Take the newest command: the task's action fields in order, SI units. Sends nothing."""

    def tick(self, dt: float) -> None:
        """Send one setpoint on the way to the newest command, ``dt`` (s) after the last one."""

    def stop(self) -> bool:
        """Bring it to rest: idempotent, at most 0.5 s; True when the robot has confirmed it."""

    def health(self) -> Health:
        """Return how it is; cheap, never blocks."""

    def state(self) -> RobotState | None:
        """Return the newest state, None before the first one."""

    def close(self) -> None:
        """Stop, hand the robot back as its vendor says, and end all threads."""
