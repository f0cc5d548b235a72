"""
SONIC's messages: NVIDIA's whole-body controller for the G1, commanded over ZeroMQ.

Layout and meaning: hardware reference, section 7 (``g1_deploy_onnx_ref``, zmq_manager).  A message
is its topic, a JSON header padded with zeros to 1280 bytes, and the fields one after the other.
Pure: the sockets are in :mod:`dmo_ros.robots.sonic_link`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
import struct
from typing import Any

from .base import RobotError

HEADER = 1280  # bytes
UPPER = 17  # joints above the legs; its decoder reads 17 whatever the header says
IDLE, SLOW_WALK = 0, 1  # locomotion modes; the others are not used here
DEFAULT = -1.0  # speed or height that the mode itself has
SLOWEST, FASTEST = 0.1, 0.6  # m/s of SLOW_WALK
STILL, STRAIGHT = 0.05, 0.02  # m/s and rad/s below which a command means none
LEAD = 0.4  # rad the commanded heading may be ahead of the measured one

_CODES = {'u8': 'B', 'i32': 'i', 'f32': 'f'}


class SonicError(RobotError):
    """Numbers that must not be sent, or bytes that are no feedback."""


def pack(topic: str, fields: Sequence[tuple[str, str, Sequence[float]]]) -> bytes:
    """
    Return a message of ``fields`` (name, dtype, values), every one of shape [n].

    :raises SonicError: a number that is not finite, or more header than has room.
    """
    described, payload = [], b''
    for name, kind, values in fields:
        if not all(math.isfinite(value) for value in values):
            raise SonicError(f'{topic}: {name} is not finite: {list(values)}')
        described.append({'name': name, 'dtype': kind, 'shape': [len(values)]})
        payload += struct.pack(f'<{len(values)}{_CODES[kind]}', *values)
    plain = {'v': 1, 'endian': 'le', 'count': 1, 'fields': described}
    header = json.dumps(plain, separators=(',', ':')).encode()
    if len(header) > HEADER:
        raise SonicError(f'{topic}: the header takes {len(header)} of {HEADER} bytes')
    return topic.encode() + header.ljust(HEADER, b'\0') + payload


def pack_command(start: bool = False, stop: bool = False, planner: bool = True) -> bytes:
    """
    Return a ``command`` (1290 bytes).

    ``stop`` ends its program with the joints damped: the robot collapses unless it hangs.
    """
    flags = (('start', start), ('stop', stop), ('planner', planner))
    return pack('command', [(name, 'u8', (int(value),)) for name, value in flags])


@dataclass(frozen=True)
class Plan:
    """What the legs should do: directions are unit vectors in the planner's world frame."""

    mode: int = IDLE
    movement: tuple[float, float] = (0.0, 0.0)
    facing: tuple[float, float] = (1.0, 0.0)
    speed: float = DEFAULT  # m/s


def pack_planner(plan: Plan, position: Sequence[float], velocity: Sequence[float]) -> bytes:
    """
    Return a ``planner`` message (1459 bytes) with the upper body's targets (17 rad, 17 rad/s).

    :raises SonicError: not 17 finite numbers each.
    """
    if len(position) != UPPER or len(velocity) != UPPER:
        raise SonicError(f'{len(position)} positions, {len(velocity)} velocities: want {UPPER}')
    return pack(
        'planner',
        [
            ('mode', 'i32', (plan.mode,)),
            ('movement', 'f32', (*plan.movement, 0.0)),
            ('facing', 'f32', (*plan.facing, 0.0)),
            ('speed', 'f32', (plan.speed,)),
            ('height', 'f32', (DEFAULT,)),
            ('upper_body_position', 'f32', position),
            ('upper_body_velocity', 'f32', velocity),
        ],
    )


def turn(angle: float) -> float:
    """Return an angle as the same direction in [-pi, pi]."""
    return math.remainder(angle, 2 * math.pi)


class Walk:
    """
    Body velocities to directions in SONIC's world, whose x axis is the heading at its start.

    ``heading`` (rad) is where the robot should face; it leads the measured one by 0.4 rad at most
    and falls back to it when the robot is told to stand, so that standing ends a turn at once.
    """

    def __init__(self) -> None:
        self.heading = 0.0
        self._standing = False

    def plan(self, velocity: Sequence[float], dt: float, measured: float | None = None) -> Plan:
        """Return what to send for vx, vy (m/s) and wz (rad/s) over the next ``dt`` s."""
        vx, vy, wz = velocity
        speed = math.hypot(vx, vy)
        walks, turns = speed >= STILL, abs(wz) >= STRAIGHT
        if not (walks or turns):
            return self.stand(measured)
        self._standing = False
        if turns:
            self.heading = turn(self.heading + wz * dt)
        if measured is not None:
            lead = turn(self.heading - measured)
            self.heading = turn(measured + max(-LEAD, min(LEAD, lead)))
        cos, sin = self._facing()
        if not walks:  # on the spot: no direction to move in, and no speed
            return Plan(SLOW_WALK, (0.0, 0.0), (cos, sin), 0.0)
        along = ((cos * vx - sin * vy) / speed, (sin * vx + cos * vy) / speed)
        return Plan(SLOW_WALK, along, (cos, sin), max(SLOWEST, min(FASTEST, speed)))

    def stand(self, measured: float | None = None) -> Plan:
        """Return the plan to stand, facing where the robot faced when it was first told so."""
        if not self._standing and measured is not None:
            self.heading = measured
        self._standing = True
        return Plan(facing=self._facing())

    def _facing(self) -> tuple[float, float]:
        return math.cos(self.heading), math.sin(self.heading)


# ---------------------------------------------------------------------- what it answers
@dataclass(frozen=True)
class Feedback:
    """One ``g1_debug``: motors in the robot's own order, heading from where control began."""

    index: int
    q: tuple[float, ...]  # 29, rad
    dq: tuple[float, ...]  # 29, rad/s
    heading: float  # rad
    rate: float  # rad/s about the vertical
    temperature: float  # deg C of the hottest motor, 0 if not told


def read_feedback(fields: Any) -> Feedback:
    """
    Read the decoded msgpack map of a ``g1_debug``.

    :raises SonicError: something missing, of another size, or not finite.
    """
    try:
        q, dq = (tuple(map(float, fields[name])) for name in ('body_q', 'body_dq'))
        heading = _yaw(fields['base_quat'])
        if fields.get('init_base_quat') is not None:
            heading = turn(heading - _yaw(fields['init_base_quat']))
        rate = float(fields['base_ang_vel'][2])
        hottest = max(map(float, fields.get('motor_temperature') or ()), default=0.0)
        index = int(fields['index'])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SonicError(f'g1_debug misses or garbles something: {error!r}') from error
    if len(q) != 29 or len(dq) != 29 or not math.isfinite(sum((*q, *dq, heading, rate))):
        raise SonicError(f'g1_debug has {len(q)} and {len(dq)} joints, or one is not finite')
    return Feedback(index, q, dq, heading, rate, hottest)


def _yaw(quaternion: Sequence[float]) -> float:
    """Return the rotation about the vertical of (w, x, y, z), rad."""
    w, x, y, z = map(float, quaternion)
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
