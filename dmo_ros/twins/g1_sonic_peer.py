"""
SONIC as its deployment code behaves, without the neural networks: messages in, targets out.

Written against the documentation of the real program (hardware reference, section 7), not against
our own packer, so that a mistake there is seen here.  What the real one would obey to its harm (a
wrong number of joints, NaN, joints outside their range) is counted here, and the first two are
not obeyed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import json
import math
from typing import Any

import numpy as np

from ..core.tasks import get_task

HEADER = 1280
TIMEOUT = 1.0  # s without a plan until it stands by itself and lets the upper body go
PERIOD = 0.02  # s of its control loop
# Upper-body targets come in this order, given as motors of the robot.
ORDER = (12, 13, 14, 15, 22, 16, 23, 17, 24, 18, 25, 19, 26, 20, 27, 21, 28)
WAIT, CONTROL, ENDED = 'WAIT_FOR_CONTROL', 'CONTROL', 'ENDED'
MODES = range(27)
STATIC = (0, 4, 5, 6, 7)  # modes in which it does not walk
DEFAULT_SPEED = 0.3  # m/s of a walking mode that is told none
TURN_TIME, FASTEST_TURN = 0.5, 1.0  # s to make up for where it does not face yet, rad/s

_TYPES = {'f32': '<f4', 'f64': '<f8', 'i32': '<i4', 'i64': '<i8', 'u8': 'u1', 'bool': 'u1'}
_SPAN = np.array([(f.low, f.high) for f in get_task('grab_box').actions[:17]]).T


class UnreadableError(ValueError):
    """A message that its parser drops."""


def parse(topic: str, message: bytes) -> dict[str, np.ndarray]:
    """
    Return the fields of a message by name.

    :raises UnreadableError: another topic, no JSON, an unknown type, less payload than described.
    """
    name = topic.encode()
    if not message.startswith(name) or len(message) < len(name) + HEADER:
        raise UnreadableError(f'{len(message)} bytes are no {topic}')
    text = message[len(name) : len(name) + HEADER].split(b'\0', 1)[0]
    try:
        described = json.loads(text)
        entries = [(e['name'], e['dtype'], math.prod(e['shape'])) for e in described['fields']]
        swapped = described.get('endian', 'le') != 'le'
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f'header: {error!r}') from error
    found, at = {}, len(name) + HEADER
    for entry, kind, count in entries:
        if kind not in _TYPES:
            raise UnreadableError(f'{entry} has the unknown type {kind!r}')
        number = np.dtype(_TYPES[kind])
        number = number.newbyteorder('>') if swapped else number
        if at + count * number.itemsize > len(message):
            raise UnreadableError(f'{entry} exceeds the message')
        found[entry] = np.frombuffer(message, number, count, at)
        at += count * number.itemsize
    return found


@dataclass(frozen=True)
class Planned:
    """What one ``planner`` message asks for; ``upper`` (17,) rad or None."""

    mode: int
    movement: tuple[float, float]
    facing: tuple[float, float]
    speed: float
    upper: np.ndarray | None


def read_plan(message: bytes) -> Planned:
    """
    Read a ``planner`` message.

    :raises UnreadableError: what the real decoder drops, or what would harm the robot.
    """
    fields = parse('planner', message)
    for name, count in (('mode', 1), ('movement', 3), ('facing', 3)):
        if name not in fields or len(fields[name]) < count:
            raise UnreadableError(f'{name} is missing')
    upper = fields.get('upper_body_position')
    for name in ('upper_body_position', 'upper_body_velocity'):
        if name in fields and len(fields[name]) != 17:
            raise UnreadableError(f'{name} has {len(fields[name])} values, 17 would be read')
    if any(not np.isfinite(values.astype(float)).all() for values in fields.values()):
        raise UnreadableError('a number is not finite')
    if int(fields['mode'][0]) not in MODES:
        raise UnreadableError(f'there is no mode {fields["mode"][0]}')
    if 'vr_position' in fields:
        raise UnreadableError('vr_position switches its encoder: the upper body is not obeyed')
    return Planned(
        int(fields['mode'][0]),
        _unit(fields['movement']),
        _unit(fields['facing']),
        float(fields['speed'][0]) if 'speed' in fields else -1.0,
        None if upper is None else upper.astype(float),
    )


def _unit(values: np.ndarray) -> tuple[float, float]:
    x, y = float(values[0]), float(values[1])
    length = math.hypot(x, y)
    return (x / length, y / length) if length > 1e-6 else (0.0, 0.0)


@dataclass
class Sonic:
    """
    Its state machine; ``take_*`` on arrival, ``update`` once per control period.

    ``counts``: what came, and what was wrong with it. ``index`` counts control periods.
    """

    note: Callable[[str, Any], None]
    state: str = WAIT
    index: int = 0
    plan: Planned | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _start: bool = False
    _stop: bool = False
    _streamed: bool = False
    _planned_at: float = -math.inf
    facing: float = 0.0
    _turning: float = 0.0  # rad/s, of where it should face

    def take_command(self, message: bytes) -> None:
        """Take a ``command``; start and stop are kept until the next period, whatever follows."""
        try:
            fields = parse('command', message)
            flags = {name: bool(fields[name][0]) for name in ('start', 'stop', 'planner')}
        except (UnreadableError, KeyError, IndexError) as error:
            self._refuse(error)
            return
        self.counts['command'] += 1
        self.note('command', flags)
        self._start |= flags['start']
        self._stop |= flags['stop']
        self._streamed = not flags['planner']

    def read(self, message: bytes) -> Planned | None:
        """Read a ``planner``; None when it is dropped."""
        try:
            plan = read_plan(message)
        except UnreadableError as error:
            self._refuse(error)
            return None
        self.counts['planner'] += 1
        if plan.upper is not None:
            outside = (plan.upper < _SPAN[0]) | (plan.upper > _SPAN[1])
            self.counts['violations'] += int(outside.any())
        self.note('planner', plan)
        return plan

    def follow(self, plan: Planned, now: float) -> None:
        """Let a plan be the newest; ``now`` in s of the robot's own time."""
        if self.state == CONTROL and not self._streamed:
            facing = math.atan2(plan.facing[1], plan.facing[0])
            turned = math.remainder(facing - self.facing, 2 * math.pi)
            self._turning = turned / min(TIMEOUT, max(PERIOD, now - self._planned_at))
            self.plan, self.facing, self._planned_at = plan, facing, now

    def update(self, now: float) -> bool:
        """Begin, end, give up a plan that is too old; True in the period in which it begins."""
        start, stop = self._start, self._stop
        self._start = self._stop = False
        if stop:
            self.state, self.plan = ENDED, None
        if start and self.state == WAIT:
            self.state, self.facing, self._turning = CONTROL, 0.0, 0.0
            return True
        if self.plan is not None and now - self._planned_at >= TIMEOUT - 1e-9:
            self.plan = None
            self.counts['timeouts'] += 1
        return False

    def velocity(self, heading: float) -> tuple[float, float, float]:
        """Return the body velocity that follows the plan, ``heading`` (rad) in its own world."""
        error = math.remainder(self.facing - heading, 2 * math.pi)
        turning = self._turning + error / TURN_TIME
        turning = max(-FASTEST_TURN, min(FASTEST_TURN, turning))
        plan = self.plan
        if plan is None or plan.mode in STATIC:
            return 0.0, 0.0, 0.0
        speed = DEFAULT_SPEED if plan.speed < 0 else plan.speed
        cos, sin = math.cos(heading), math.sin(heading)
        x, y = plan.movement
        return speed * (cos * x + sin * y), speed * (cos * y - sin * x), turning

    def rest(self) -> None:
        """Forget the plan: the twin was put elsewhere."""
        self.plan = None

    def _refuse(self, error: Exception) -> None:
        self.counts['refused'] += 1
        self.note('refused', str(error))


def debug(
    index: int,
    q: np.ndarray,
    dq: np.ndarray,
    target: np.ndarray,
    headings: tuple[float, float],
    rate: float,
) -> dict[str, Any]:
    """Return the fields of a ``g1_debug``: motors (29,), headings now and at the start (rad)."""
    zero7 = [0.0] * 7
    now, first = (_quaternion(heading) for heading in headings)
    return {
        'control_loop_type': 'cpp',
        'index': index,
        'ros_timestamp': 0.0,
        'base_quat': now,
        'base_ang_vel': [0.0, 0.0, rate],
        'body_torso_quat': now,
        'body_torso_ang_vel': [0.0, 0.0, rate],
        'body_q': q.tolist(),
        'body_dq': dq.tolist(),
        'last_action': target.tolist(),
        'left_hand_q': zero7,
        'left_hand_dq': zero7,
        'right_hand_q': zero7,
        'right_hand_dq': zero7,
        'last_left_hand_action': zero7,
        'last_right_hand_action': zero7,
        'token_state': [],
        'motor_temperature': [40.0] * 58,
        'init_base_quat': first,
        'delta_heading': 0.0,
        'body_q_target': target.tolist(),
    }


def _quaternion(heading: float) -> list[float]:
    return [math.cos(heading / 2), 0.0, 0.0, math.sin(heading / 2)]
