"""
The structs and enumerations of Flexiv's Python SDK, as pybind11 makes them.

Fields, defaults and values of flexivrdk 1.9.4.1 and 2.0.0; compared with the real ones by
``test/robots/test_flexiv_conformance.py``.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from .flexiv_arm import MODES, STATUSES


class _Number(Enum):
    """As pybind11 makes enumerations: int() works, comparing with an int does not."""

    def __int__(self) -> int:
        return int(self.value)

    def __hash__(self) -> int:
        return int(self.value)

    def __str__(self) -> str:
        return f'{type(self).__name__}.{self.name}'


_make: Any = _Number  # a type checker does not follow enumerations made of a dictionary
Mode: Any = _make('Mode', MODES)
OperationalStatus: Any = _make(
    'OperationalStatus', {name: number for number, name in enumerate(STATUSES)}
)
CoordType: Any = _make('CoordType', {'WORLD': 0, 'TCP': 1})
JointGroup: Any = _make(
    'JointGroup', {'UNKNOWN': 0, 'ARMS': 2, 'ARM_1': 3, 'ARM_2': 4, 'FIRST': 2, 'LAST': 4}
)


def vector(values: Any, size: int | None = None) -> list[float]:
    """Take a list of numbers as pybind11 does: TypeError for another length or other things."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, str)]
        fits = len(numbers) == len(values) and size in (None, len(numbers))
    except TypeError:
        fits = False
    if not fits or isinstance(values, str):
        raise TypeError(f'incompatible function arguments: {size} numbers, not {values!r}')
    return numbers


class Struct:
    """A plain struct of the SDK: fixed fields with defaults, fixed sizes."""

    _fields: dict[str, Any] = {}
    __slots__ = ('_values',)

    def __init__(self) -> None:
        object.__setattr__(self, '_values', {k: _copy(v) for k, v in self._fields.items()})

    def __getattr__(self, name: str) -> Any:
        if name in type(self)._fields:
            return self._values[name]
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._fields:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        default = self._fields[name]
        if isinstance(default, list):
            value = vector(value, len(default) or None)
        elif isinstance(default, float):
            value = vector([value], 1)[0]
        self._values[name] = value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


_PER_JOINT = ('q', 'theta', 'dq', 'dtheta', 'tau', 'tau_dot', 'tau_ext', 'tau_interact')
_STATES: dict[str, Any] = {
    'timestamp': (0, 0),
    **{name: [] for name in (*_PER_JOINT, 'temperature')},
    **{name: [0.0] * 7 for name in ('tcp_pose', 'flange_pose')},
}


class RobotStates19(Struct):
    """States of 1.9."""

    __slots__ = ()
    _fields = {
        **_STATES,
        'tcp_vel': [0.0] * 6,
        'ft_sensor_raw': [0.0] * 6,
        **{
            f'ext_wrench_in_{frame}{raw}': [0.0] * 6
            for frame in ('tcp', 'world')
            for raw in ('', '_raw')
        },
    }


class RobotStates20(Struct):
    """States of 2.0."""

    __slots__ = ()
    _fields = {
        **_STATES,
        'tau_des': [],
        'tcp_twist': [0.0] * 6,
        'raw_ft_sensor': [0.0] * 6,
        **{
            f'{raw}tcp_wrench{local}': [0.0] * 6
            for raw in ('', 'raw_')
            for local in ('', '_local')
        },
    }


class RobotInfo(Struct):
    """What the arm is."""

    __slots__ = ()
    _fields = {
        **dict.fromkeys(('serial_num', 'software_ver', 'model_name', 'license_type'), ''),
        **dict.fromkeys(('DoF', 'DoF_m', 'DoF_e'), 0),
        'has_FT_sensor': False,
        'K_x_nom': [0.0] * 6,
        **{name: [] for name in ('K_q_nom', 'q_min', 'q_max', 'dq_max', 'tau_max')},
    }


_COMMAND: dict[str, Any] = {
    'pose_d': [0.0] * 7,
    'wrench_d': [0.0] * 6,
    'twist_d': [0.0] * 6,
    'max_linear_vel': 0.5,
    'max_angular_vel': 1.0,
    'max_linear_acc': 2.0,
    'max_angular_acc': 5.0,
}


class Command(Struct):
    __slots__ = ()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__()
        if len(args) > len(self._fields):
            raise TypeError('incompatible constructor arguments: too many')
        for name, value in (*zip(self._fields, args), *named.items()):
            if name not in self._fields:
                raise TypeError(f'incompatible constructor arguments: {name}')
            setattr(self, name, value)
        if (args or named) and not (args or 'pose_d' in named):
            raise TypeError('incompatible constructor arguments: pose_d is missing')


class NrtCartesianCmd19(Command):
    """A target of 1.9 (used there by SendMultiCartesianMotionForce only)."""

    __slots__ = ()
    _fields = {**_COMMAND, 'duration': 0.0}


class NrtCartesianCmd20(Command):
    """A target of 2.0."""

    __slots__ = ()
    _fields = _COMMAND


class RobotEvent(Struct):
    """What the arm's log holds; the real one of 2.0 cannot show its timestamp either."""

    __slots__ = ()
    _fields = {
        **dict.fromkeys(('description', 'consequences', 'probable_causes'), ''),
        'recommended_actions': '',
        'id': 0,
    }
