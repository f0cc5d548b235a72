"""
BrainCo's Revo2 hands over Unitree's DDS (hardware reference, 6.4).

Their service repeats the last command for ever, reads six entries without counting them, and lets
NaN through: so exactly six finite numbers leave here, and stopping is sending them again.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
import time
from typing import Any

from .base import RobotError

SIDES = ('left', 'right')
FINGERS = ('thumb', 'thumb_aux', 'index', 'middle', 'ring', 'pinky')
QUICK = 1.0  # of the motors' speed, 0 to 1


def fingers(closure: float) -> list[float]:
    """
    Return the six positions (0 open, 1 closed) of a hand that is ``closure`` closed.

    :raises RobotError: a closure that is not finite.
    """
    if not math.isfinite(closure):
        raise RobotError(f'a hand was told to close by {closure}')
    return [min(1.0, max(0.0, float(closure)))] * len(FINGERS)


class Hands:
    """Both hands; ``sdk`` is what :func:`dmo_ros.robots.unitree.open_channel` returned."""

    def __init__(self, sdk: Any) -> None:
        from .unitree import Publication, Subscription

        self._make = sdk.default.unitree_go_msg_dds__MotorCmd_
        self._kind = sdk.go.MotorCmds_
        self._out = [Publication(f'rt/brainco/{side}/cmd', self._kind) for side in SIDES]
        self._in = [
            Subscription(f'rt/brainco/{side}/state', sdk.go.MotorStates_) for side in SIDES
        ]

    def send(self, closures: Sequence[float]) -> None:
        """Send the closures (left, right), 0 to 1."""
        wanted = [fingers(closure) for closure in closures]
        for out, positions in zip(self._out, wanted):
            commands = []
            for position in positions:
                command = self._make()
                command.q, command.dq = position, QUICK
                commands.append(command)
            out.write(self._kind(commands))

    def age(self) -> float:
        """Return the seconds since the state that is the older of the two; inf before both."""
        came = [hand.arrived for hand in self._in if hand.count]
        return time.monotonic() - min(came) if len(came) == len(SIDES) else math.inf

    def measured(self) -> list[tuple[float, float]] | None:
        """Return (closure, its speed in 1/s) of left and right; None before both have told."""
        found = []
        for hand in self._in:
            states = [] if hand.sample is None else hand.sample.states
            if len(states) != len(FINGERS):
                return None
            found.append(
                (
                    sum(motor.q for motor in states) / len(states),
                    sum(motor.dq for motor in states) / len(states),
                )
            )
        return found

    def close(self) -> None:
        """End all four topics; the hands stay as they were last told."""
        for out, state in zip(self._out, self._in):
            out.close()
            state.close()
