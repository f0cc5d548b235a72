"""
The one task specification.

Recorder, converter, loaders, models, export, policy node, gate and bridges read a task from here
and nowhere else.  A specification is stored as plain JSON in every episode, checkpoint and ONNX
file; a file whose copy differs from the running one is refused with the name of the field that
differs.

Convention of time, used everywhere: frame t, then action t in force during [t, t + 1/rate), then
frame t + 1.  Units are SI; frames follow REP-103.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
import json
from typing import Any


class TaskError(ValueError):
    """A task that does not exist, or a stored specification that does not fit."""


@dataclass(frozen=True)
class Field:
    """
    One named number of an action or of proprioception, with its SI unit and range.

    ``rest`` is its value while nobody drives it: zero velocity, or a joint's place in the robot's
    ready posture.
    """

    name: str
    unit: str
    low: float
    high: float
    rest: float = 0.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise TaskError(f'field {self.name!r}: low {self.low} must be below high {self.high}')
        if not self.low <= self.rest <= self.high:
            raise TaskError(f'field {self.name!r}: rest {self.rest} lies outside its range')

    @property
    def is_velocity(self) -> bool:
        """Tell a velocity (it ceases when nobody commands) from a position (it is held)."""
        return self.unit.endswith('/s')


@dataclass(frozen=True)
class CameraSpec:
    """The camera's image before it becomes an observation (size in pixels)."""

    width: int
    height: int
    encoding: str
    crop: str
    frame_id: str


@dataclass(frozen=True)
class LimitSpec:
    """
    What the gate enforces on a command, per action field.

    They limit motion, so a velocity field is limited by its own range, ``acceleration`` and
    ``jerk``; a position field by its range, ``speed`` and ``acceleration`` (SI units of the
    field's motion; ``speed`` of a velocity field and ``jerk`` of a position field bind nothing).
    ``command_timeout`` and ``frame_timeout`` are in seconds of the steady clock.  Vectors are
    scaled as a whole, so their direction is kept.
    """

    speed: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    command_timeout: float
    frame_timeout: float


@dataclass(frozen=True)
class SuccessSpec:
    """
    Success of an episode.

    ``distance`` (in ``unit``) between object and goal below ``threshold`` once is the relaxed
    criterion; for ``hold_steps`` control steps in a row it is the strict one (paper, footnote 1).
    """

    distance: str
    unit: str
    threshold: float
    hold_steps: int
    episode_steps: int


@dataclass(frozen=True)
class TaskSpec:
    """Everything the stages and the robot have to agree on for one task."""

    name: str
    robot: str
    rate_hz: float
    camera: CameraSpec
    frame_size: int
    policy_size: int
    frame_stack: int
    context_length: int
    proprioception: tuple[Field, ...]
    actions: tuple[Field, ...]
    policy_actions: tuple[str, ...]
    command_frame: str
    limits: LimitSpec
    success: SuccessSpec
    reward: str
    global_model: str

    def __post_init__(self) -> None:
        names = [field.name for field in self.actions]
        unknown = [name for name in self.policy_actions if name not in names]
        if unknown:
            raise TaskError(f'task {self.name}: policy_actions {unknown} are not among {names}')
        for kind in ('speed', 'acceleration', 'jerk'):
            values = getattr(self.limits, kind)
            if len(values) != len(self.actions) or not all(value > 0 for value in values):
                raise TaskError(f'task {self.name}: one positive limit of {kind} per action')

    @property
    def period(self) -> float:
        """One control step in seconds."""
        return 1.0 / self.rate_hz

    @property
    def body(self) -> bool:
        """Tell whether commands are whole-body ones (positions), not a twist."""
        return not all(field.is_velocity for field in self.actions)

    @property
    def driven(self) -> tuple[Field, ...]:
        """The fields the policy drives, in the policy's order."""
        by_name = {field.name: field for field in self.actions}
        return tuple(by_name[name] for name in self.policy_actions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, so that it survives any file format."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TaskSpec:
        """Rebuild a specification; TaskError names what is missing or unknown."""
        known = {field.name for field in fields(cls)}
        for name in sorted(known ^ set(plain)):
            fault = 'misses' if name in known else 'has the unknown'
            raise TaskError(
                f'the stored task specification {fault} field {name!r}; it was '
                'written by another version: record or export it again'
            )
        try:
            return cls(
                **{
                    **plain,
                    'camera': CameraSpec(**plain['camera']),
                    'proprioception': tuple(Field(**item) for item in plain['proprioception']),
                    'actions': tuple(Field(**item) for item in plain['actions']),
                    'policy_actions': tuple(plain['policy_actions']),
                    'limits': LimitSpec(
                        **{
                            **plain['limits'],
                            **{
                                kind: tuple(plain['limits'][kind])
                                for kind in ('speed', 'acceleration', 'jerk')
                            },
                        }
                    ),
                    'success': SuccessSpec(**plain['success']),
                }
            )
        except (TypeError, KeyError) as error:
            raise TaskError(f'the stored task specification is malformed: {error}') from error

    def difference(self, other: TaskSpec) -> str | None:
        """Name the first field in which two specifications differ, with both values."""
        return first_difference(self.to_dict(), other.to_dict(), '')


def first_difference(mine: Any, theirs: Any, path: str) -> str | None:
    """Name the first place where two plain JSON values differ, with both values."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        pairs = [(key, mine.get(key), theirs.get(key)) for key in sorted({*mine, *theirs})]
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = [(str(index), a, b) for index, (a, b) in enumerate(zip(mine, theirs))]
    else:
        return None if mine == theirs else f'{path}: {mine!r} here, {theirs!r} there'
    for key, a, b in pairs:
        found = first_difference(a, b, f'{path}.{key}' if path else key)
        if found:
            return found
    return None


def require_same(expected: TaskSpec, found: TaskSpec, what: str) -> None:
    """Refuse ``what`` (a file, say) when its specification is not the expected one."""
    difference = expected.difference(found)
    if difference:
        raise TaskError(
            f'{what} was made for another task specification ({difference}); use one '
            f'made for task {expected.name!r}, or make it again'
        )


def _velocity(name: str, limit: float, unit: str = 'm/s') -> Field:
    return Field(name, unit, -limit, limit)


# The planar pusher: sizes are chosen so that the tool is three pixels wide at 32x32 and moves
# about half the contact distance in one step (docs/results/pusher_contact.md tells why).
_PUSHER = TaskSpec(
    name='pusher',
    robot='pusher',
    rate_hz=5.0,
    camera=CameraSpec(32, 32, 'rgb8', 'center', 'board_camera_optical_frame'),
    frame_size=32,
    policy_size=32,
    frame_stack=4,
    context_length=4,
    proprioception=(),
    actions=(_velocity('vx', 0.4), _velocity('vy', 0.4)),
    policy_actions=('vx', 'vy'),
    command_frame='board',
    limits=LimitSpec(
        speed=(0.4, 0.4),
        acceleration=(8.0, 8.0),
        jerk=(400.0, 400.0),  # of no effect: the disc has no mass
        command_timeout=0.5,
        frame_timeout=0.5,
    ),
    success=SuccessSpec('object_to_goal', 'm', 0.08, hold_steps=5, episode_steps=64),
    reward='goal_energy',
    global_model='diamond',
)

_PUSH_T = TaskSpec(
    name='push_t',
    robot='flexiv',
    rate_hz=5.0,
    camera=CameraSpec(640, 480, 'rgb8', 'center', 'top_camera_optical_frame'),
    frame_size=64,
    policy_size=64,
    frame_stack=4,
    context_length=4,
    proprioception=(),
    actions=(_velocity('vx', 0.25), _velocity('vy', 0.25)),
    policy_actions=('vx', 'vy'),
    command_frame='world',
    limits=LimitSpec(
        speed=(0.25, 0.25),
        acceleration=(1.0, 1.0),
        jerk=(10.0, 10.0),
        command_timeout=0.5,
        frame_timeout=0.5,
    ),
    success=SuccessSpec('corner_error', 'm', 0.02, hold_steps=5, episode_steps=200),
    reward='goal_energy',
    global_model='diamond',
)

_PUSH_CUBE = TaskSpec(
    name='push_cube',
    robot='go2',
    rate_hz=5.0,
    camera=CameraSpec(1280, 720, 'rgb8', 'center', 'front_camera_optical_frame'),
    frame_size=128,
    policy_size=64,
    frame_stack=1,
    context_length=32,
    proprioception=(),
    actions=(_velocity('vx', 0.6), _velocity('vy', 0.4), _velocity('wz', 1.0, 'rad/s')),
    policy_actions=('vx', 'vy', 'wz'),
    command_frame='base_link',
    limits=LimitSpec(
        speed=(0.6, 0.4, 1.0),
        acceleration=(1.5, 1.5, 3.0),
        jerk=(15.0, 15.0, 30.0),
        command_timeout=0.5,
        frame_timeout=0.5,
    ),
    success=SuccessSpec('cube_to_goal', 'm', 0.6, hold_steps=5, episode_steps=150),
    reward='intent_head',
    global_model='dreamer4',
)

# Ranges in rad: 29-DoF URDF of the G1; the order is the upper-body order its controller expects.
# Joint, left range, right range, rest on the left, rest on the right: hands before the chest,
# palms down, clear of a box on the table.
_ARM = (
    ('shoulder_pitch', (-3.089, 2.670), (-3.089, 2.670), -0.2, -0.2),
    ('shoulder_roll', (-1.588, 2.2515), (-2.2515, 1.588), 0.65, -0.65),
    ('shoulder_yaw', (-2.618, 2.618), (-2.618, 2.618), 0.2, -0.2),
    ('elbow', (-1.047, 2.094), (-1.047, 2.094), -0.25, -0.25),
    ('wrist_roll', (-1.972, 1.972), (-1.972, 1.972), 0.8, -0.8),
    ('wrist_pitch', (-1.614, 1.614), (-1.614, 1.614), 0.0, 0.0),
    ('wrist_yaw', (-1.614, 1.614), (-1.614, 1.614), -0.8, 0.8),
)
_WAIST = (
    Field('waist_yaw', 'rad', -2.618, 2.618),
    Field('waist_roll', 'rad', -0.52, 0.52),
    Field('waist_pitch', 'rad', -0.52, 0.52),
)
_ARMS = tuple(
    Field(f'{side}_{joint}', 'rad', *span, rest)
    for joint, left, right, *rests in _ARM
    for side, span, rest in zip(('left', 'right'), (left, right), rests)
)
_HANDS = (Field('left_hand', '1', 0.0, 1.0), Field('right_hand', '1', 0.0, 1.0))
_LOCOMOTION = (_velocity('vx', 0.3), _velocity('vy', 0.3), _velocity('wz', 0.3, 'rad/s'))
_G1_DRIVEN = (
    *(field.name for field in _WAIST),
    *(f'right_{joint}' for joint, *_ in _ARM),
    'right_hand',
)

_GRAB_BOX = TaskSpec(
    name='grab_box',
    robot='g1',
    rate_hz=10.0,
    camera=CameraSpec(640, 480, 'rgb8', 'center', 'head_camera_optical_frame'),
    frame_size=256,
    policy_size=64,
    frame_stack=1,
    context_length=32,
    proprioception=(*_WAIST, *_ARMS, *_HANDS),
    actions=(*_WAIST, *_ARMS, *_HANDS, *_LOCOMOTION),
    policy_actions=_G1_DRIVEN,
    command_frame='base_link',
    limits=LimitSpec(
        speed=(1.0,) * 3 + (1.5,) * 14 + (4.0,) * 2 + (0.3, 0.3, 0.3),
        acceleration=(4.0,) * 3 + (6.0,) * 14 + (40.0,) * 2 + (1.0, 1.0, 1.0),
        jerk=(40.0,) * 3 + (60.0,) * 14 + (400.0,) * 2 + (10.0, 10.0, 10.0),
        command_timeout=0.25,
        frame_timeout=0.3,
    ),
    success=SuccessSpec('box_below_lift', 'm', 0.05, hold_steps=10, episode_steps=200),
    reward='intent_head',
    global_model='dreamer4',
)

TASKS: dict[str, TaskSpec] = {
    task.name: task for task in (_PUSHER, _PUSH_T, _PUSH_CUBE, _GRAB_BOX)
}


def get_task(name: str) -> TaskSpec:
    """Return the named task; TaskError lists the ones there are."""
    if name not in TASKS:
        raise TaskError(f'there is no task {name!r}; choose one of {", ".join(TASKS)}')
    return TASKS[name]
