"""
What a Go2 says of itself, judged: is it there, does its clock run, does it stand and obey.

``Move`` returning 0 proves nothing (for ten seconds after the robot's death it still does), so
the link is judged by the age of ``rt/sportmodestate`` and, because its firmware has been seen to
freeze with the network alive, by the stamp inside.  Numbers: hardware reference, sections 4, 5.
"""

from __future__ import annotations

import math
from typing import Any

from .base import Health, RobotState

LATE = 0.2  # seconds of silence that are worth a word
LOST = 0.5  # seconds of silence, or of a standing stamp, after which it is not driven
LOW_BATTERY = 15  # per cent

DAMPING, STANDING_LOCK = 1001, 1002
DRIVABLE = {
    100: 'agile',
    1013: 'balance stand',
    1015: 'walk',
    1016: 'run',
    1017: 'endurance',
    2010: 'classic walk',
}
POSTURES = {
    **DRIVABLE,
    DAMPING: 'damping',
    STANDING_LOCK: 'standing lock',
    1004: 'crouch',
    1006: 'special action',
    1007: 'sit',
    1008: 'front jump',
    1009: 'lunge',
    1091: 'pose',
    2006: 'crouch',
    2007: 'dodge',
    2008: 'bound',
    2009: 'jump-run',
    2011: 'handstand',
    2012: 'flip',
    2013: 'flip',
    2014: 'flip',
    2016: 'cross step',
    2017: 'upright',
    2019: 'towing',
}


def posture(code: int) -> str:
    """Return a state's name and number, for sentences."""
    return f'{POSTURES.get(code, "a state unknown here")} ({code})'


class StateWatch:
    """
    The newest ``rt/sportmodestate``, and what it means.

    ``take`` is called on a thread of DDS, the rest from any; each reads one tuple, so no lock.
    """

    def __init__(self) -> None:
        self._newest: tuple[float, float, Any] | None = None  # arrived, stamp moved, message
        self._battery: int | None = None
        self.bad_checksums = 0

    def take(self, message: Any, now: float) -> None:
        """Take a SportModeState_ that came at ``now`` (s, steady clock)."""
        before = self._newest
        moved = now
        if before is not None and _stamp(message) <= _stamp(before[2]):
            moved = before[1]
        self._newest = now, moved, message

    def take_battery(self, charge: int | None) -> None:
        """Take the battery's charge (%); None: the message's checksum was wrong."""
        if charge is None:
            self.bad_checksums += 1
        else:
            self._battery = charge

    @property
    def code(self) -> int | None:
        """Return the newest state of its state machine, None before the first message."""
        newest = self._newest
        return None if newest is None else int(newest[2].error_code)

    def health(self, now: float, counts: dict[str, object]) -> Health:
        """Judge it at ``now``; ``counts`` are shown beside."""
        newest = self._newest
        if newest is None:
            return Health(False, 'no rt/sportmodestate has come from the Go2', values=counts)
        arrived, moved, message = newest
        age, still, code = now - arrived, arrived - moved, int(message.error_code)
        values = {
            **counts,
            'state_age': round(age, 3),
            'posture': posture(code),
            'battery': 'unknown' if self._battery is None else self._battery,
            'bad_checksums': self.bad_checksums,
        }
        if age > LOST:
            return Health(False, f'the Go2 has not been heard for {age:.1f} s', values=values)
        if still > LOST:
            text = (
                'the clock in the state of the Go2 stands: its firmware has frozen, '
                'although it answers; switch it off and on'
            )
            return Health(False, text, True, values)
        if code not in DRIVABLE:
            text = f'the Go2 is in {posture(code)} and does not obey velocities'
            return Health(False, text, True, values)
        return Health(True, self._remark(age), values=values)

    def _remark(self, age: float) -> str:
        if age > LATE:
            return f'the state of the Go2 is {age:.2f} s old'
        if self._battery is not None and self._battery < LOW_BATTERY:
            return f'the battery of the Go2 is at {self._battery} %'
        return ''

    def state(self) -> RobotState | None:
        """
        Return the newest odometry, None before the first message.

        ``velocity`` is forward and sideways in the body's frame (vendor header, example
        state_machine/comm.h); the pose drifts, as legs do.
        """
        newest = self._newest
        if newest is None:
            return None
        arrived, _, message = newest
        x, y, _ = message.position
        vx, vy, _ = message.velocity
        pose = float(x), float(y), _yaw(message.imu_state.quaternion)
        return RobotState(
            arrived, pose=pose, twist=(float(vx), float(vy), float(message.yaw_speed))
        )


def _stamp(message: Any) -> tuple[int, int]:
    return message.stamp.sec, message.stamp.nanosec


def _yaw(quaternion: Any) -> float:
    w, x, y, z = quaternion
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
