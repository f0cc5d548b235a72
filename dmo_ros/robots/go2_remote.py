"""
Unitree's own hand remote as a pad: ``rt/wirelesscontroller`` -> axes and buttons in Joy order.

The order and signs are those of an Xbox pad under ``joy_node`` (left and up are positive), so the
maps in config/ hold for it as well: L1 dead-man, R1 intent, A milestone, start arm.  Mind that a
real Go2 listens to its remote by itself too: that is the operator's override, and is left on.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from . import unitree

# In the order of their bits in ``keys`` (hardware reference, section 10).
NAMES = (
    *('R1', 'L1', 'start', 'select', 'R2', 'L2', 'F1', 'F2'),
    *('A', 'B', 'X', 'Y', 'up', 'right', 'down', 'left'),
)
KEYS = {name: 1 << bit for bit, name in enumerate(NAMES)}
BUTTONS = ('A', 'B', 'X', 'Y', 'L1', 'R1', 'select', 'start', 'F1', 'F2')


def to_joy(
    lx: float, ly: float, rx: float, ry: float, keys: int
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """
    Return Joy's axes and buttons.

    Axes: left stick (left, up), L2, right stick (left, up), R2, cross (left, up); a trigger that
    is let go is 1, as ``joy_node`` has it, pressed -1.
    """

    def held(name: str) -> int:
        return int(bool(keys & KEYS[name]))

    axes = (
        *(-lx, ly, 1.0 - 2.0 * held('L2')),
        *(-rx, ry, 1.0 - 2.0 * held('R2')),
        *(float(held('left') - held('right')), float(held('up') - held('down'))),
    )
    return axes, tuple(held(name) for name in BUTTONS)


class Go2Remote:
    """
    Calls ``handle(axes, buttons)`` for each message, on a thread of DDS: it must be short.

    ``age``: seconds since the newest one, infinite before the first.
    """

    def __init__(
        self,
        domain: int,
        interface: str,
        handle: Callable[[tuple[float, ...], tuple[int, ...]], None],
    ) -> None:
        self.domain, self.interface, self.handle = domain, interface, handle
        self._reader: unitree.Subscription | None = None

    def connect(self) -> None:
        """Begin to listen; RobotError without the SDK.  A remote that is off is only silent."""
        kit = unitree.open_channel(self.domain, self.interface)
        kind = kit.go.WirelessController_
        self._reader = unitree.Subscription('rt/wirelesscontroller', kind, self._take)

    @property
    def age(self) -> float:
        """Return how long the remote has been silent."""
        reader = self._reader
        return time.monotonic() - reader.arrived if reader and reader.count else float('inf')

    def _take(self, message: Any) -> None:
        self.handle(*to_joy(message.lx, message.ly, message.rx, message.ry, message.keys))

    def close(self) -> None:
        """Listen no more; idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
