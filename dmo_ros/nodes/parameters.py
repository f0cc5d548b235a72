"""
Parameters from a frozen dataclass: declared once, with description, range and choices.

``rclpy`` ignores an override whose name no node declares, so a misspelt time-out would silently
keep its default.  Here it is refused, with the name that was probably meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass
import difflib
import math
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

Config = TypeVar('Config')
BUILT_IN = ('use_sim_time', 'start_type_description_service')


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type, or outside its range."""


def parameter(
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Make a dataclass field that :func:`declare` turns into a ROS parameter."""
    meta = {'description': description, 'low': low, 'high': high, 'choices': tuple(choices)}
    return field(default=default, metadata=meta)


def names(kind: Any, prefix: str = '') -> list[str]:
    """Return the parameter names that :func:`declare` makes of a dataclass."""
    found = []
    for item in fields(kind):
        nested = is_dataclass(item.default)
        found += names(item.default, f'{prefix}{item.name}.') if nested else [prefix + item.name]
    return found


def declare(node: Node, kind: type[Config]) -> Config:
    """
    Declare every field of ``kind`` on ``node`` and return an instance with the values.

    A field that is itself a dataclass becomes ``name.field``.  All are read-only: a change needs a
    restart, which a person sees.

    :raises ParameterError: unknown names, wrong types, values outside the range or the choices.
    """
    known = names(kind)
    for name in getattr(node, '_parameter_overrides', {}):
        if name not in (*known, *BUILT_IN) and not name.startswith('qos_overrides.'):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean {near[0]!r}?' if near else f'it has {", ".join(known)}'
            raise ParameterError(f'node {node.get_name()!r} has no parameter {name!r}; {hint}')
    return _declare(node, kind, '')


def _declare(node: Node, kind: type[Config], prefix: str) -> Config:
    values = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(item.default):
            values[item.name] = _declare(node, type(item.default), f'{prefix}{item.name}.')
        else:
            values[item.name] = _declare_one(node, prefix + item.name, item.default, item.metadata)
    try:
        return kind(**values)
    except ValueError as error:
        raise ParameterError(f'node {node.get_name()!r}: {error}') from error


def _declare_one(node: Node, name: str, default: Any, meta: Any) -> Any:
    plain = list(default) if isinstance(default, tuple) else default
    try:
        value = node.declare_parameter(name, plain, _descriptor(plain, meta)).value
    except InvalidParameterTypeException as error:
        raise ParameterError(
            f'parameter {name!r} is a {type(default).__name__}, write it like {plain!r}: {error}'
        ) from error
    except InvalidParameterValueException as error:
        raise ParameterError(
            f'parameter {name!r} lies outside {meta["low"]} to {meta["high"]} '
            f'({meta["description"]}): {error}'
        ) from error
    choices = meta.get('choices') or ()
    if choices and value not in choices:
        raise ParameterError(f'parameter {name!r} is one of {", ".join(choices)}, not {value!r}')
    numbers = value if isinstance(default, tuple) else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise ParameterError(f'parameter {name!r} must be finite, not {value}')
    return tuple(value) if isinstance(default, tuple) else value


def _descriptor(default: Any, meta: Any) -> ParameterDescriptor:
    choices = meta.get('choices') or ()
    descriptor = ParameterDescriptor(
        description=meta.get('description', ''),
        read_only=True,
        additional_constraints=f'one of {", ".join(choices)}' if choices else '',
    )
    low, high = meta.get('low'), meta.get('high')
    if low is None or high is None:
        return descriptor
    if isinstance(default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high))
        ]
    else:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor
