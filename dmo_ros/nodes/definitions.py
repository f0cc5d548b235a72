"""Message definitions and QoS as text, taken from the generated classes themselves."""

from __future__ import annotations

import importlib
import re
from typing import Any

_NAMES = {'double': 'float64', 'float': 'float32', 'boolean': 'bool', 'octet': 'byte'}
_LINE = '=' * 80


def message_class(kind: str) -> Any:
    """Return the class of a type such as 'sensor_msgs/msg/Image'; ImportError if not installed."""
    package, middle, name = kind.split('/')
    return getattr(importlib.import_module(f'{package}.{middle}'), name)


def definition(kind: str) -> str:
    """
    Return the definition of a message type and of all it contains, as recordings carry it.

    Constants and comments are not in the generated classes; neither changes the type's hash.
    """
    text, done, todo = _fields(kind), {kind}, _contained(kind)
    while todo:
        inner = todo.pop(0)
        if inner not in done:
            done.add(inner)
            name = inner.replace('/msg/', '/')
            text += f'{_LINE}\nMSG: {name}\n{_fields(inner)}'
            todo += _contained(inner)
    return text


def _fields(kind: str) -> str:
    pairs = message_class(kind).get_fields_and_field_types().items()
    return ''.join(f'{_spelled(spelling)} {name}\n' for name, spelling in pairs)


def _spelled(spelling: str) -> str:
    """Turn the IDL spelling of the Python classes into the one of .msg files."""
    bounded = re.fullmatch(r'sequence<(.+), (\d+)>', spelling)
    if bounded:
        return f'{_spelled(bounded[1])}[<={bounded[2]}]'
    sequence = re.fullmatch(r'sequence<(.+)>', spelling)
    if sequence:
        return f'{_spelled(sequence[1])}[]'
    array = re.fullmatch(r'(.+)\[(\d+)\]', spelling)
    if array:
        return f'{_spelled(array[1])}[{array[2]}]'
    text = re.fullmatch(r'(w?string)<(\d+)>', spelling)
    if text:
        return f'{text[1]}<={text[2]}'
    return _NAMES.get(spelling, spelling)


def _contained(kind: str) -> list[str]:
    """List the message types among the fields of one, in order."""
    found = []
    for spelling in message_class(kind).get_fields_and_field_types().values():
        inner = re.sub(r'\[.*$', '', _spelled(spelling))
        if '/' in inner:
            package, name = inner.split('/')
            found.append(f'{package}/msg/{name}')
    return found


def starts_with_stamp(kind: str) -> bool:
    """Tell whether the bytes of a message begin with a time (alone or in a header)."""
    first = next(iter(message_class(kind).get_fields_and_field_types().values()), '')
    return first in ('std_msgs/Header', 'builtin_interfaces/Time')


def qos_text(profiles: list[Any]) -> str:
    """Return publishers' QoS profiles as rosbag2 (metadata version 8) writes them."""
    return ''.join(
        f'- history: {profile.history.value}\n'
        f'  depth: {profile.depth}\n'
        f'  reliability: {profile.reliability.value}\n'
        f'  durability: {profile.durability.value}\n'
        f'  deadline:\n{_duration(profile.deadline)}'
        f'  lifespan:\n{_duration(profile.lifespan)}'
        f'  liveliness: {profile.liveliness.value}\n'
        f'  liveliness_lease_duration:\n{_duration(profile.liveliness_lease_duration)}'
        '  avoid_ros_namespace_conventions: '
        f'{str(profile.avoid_ros_namespace_conventions).lower()}\n'
        for profile in profiles
    )


def _duration(duration: Any) -> str:
    seconds, nanoseconds = divmod(duration.nanoseconds, 10**9)
    return f'    sec: {seconds}\n    nsec: {nanoseconds}\n'
