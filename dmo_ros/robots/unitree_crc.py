"""
The checksum of Unitree's low-level messages, fast enough for 500 Hz (hardware reference, 6.2).

Works on any message with the SDK's fields, so it needs no SDK; :mod:`.unitree` hands it on.
"""

from __future__ import annotations

from array import array
from dataclasses import fields, is_dataclass
from operator import attrgetter
import struct
from typing import Any
import zlib

# The messages as the robots lay them out in memory (section 6.2), by IDL name.
_LAYOUTS = {
    'unitree_go.msg.dds_.LowCmd_': '<4B4IH2x' + 'B3x5f3I' * 20 + '4B' + '55Bx2I',
    'unitree_go.msg.dds_.LowState_': (
        '<4B4IH2x' + '13fb3x' + 'B3x7fb3x3I' * 20 + '4BiH4b15H' + '8hI41B3xf2b2x2f4h2I'
    ),
    'unitree_hg.msg.dds_.LowCmd_': '<2B2x' + 'B3x5fI' * 35 + '5I',
    'unitree_hg.msg.dds_.LowState_': '<2I2B2xI' + '13fh2x' + 'B3x4f2hf7I' * 35 + '40B5I',
}
_MIRROR = bytes(int(f'{octet:08b}'[::-1], 2) for octet in range(256))


def pack(message: Any) -> bytes:
    """Return a LowCmd_ or LowState_ as the robot's computer lays it out; its last word is crc."""
    try:
        layout = _LAYOUTS[message.__idl_typename__]
    except (AttributeError, KeyError):
        raise TypeError(f'{type(message).__name__} carries no checksum that is known') from None
    return struct.pack(layout, *_flat(message))


def crc32(message: Any) -> int:
    """
    Return the checksum for ``message.crc``.

    CRC-32 with 0x04C11DB7, start 0xFFFFFFFF, most significant bit first in each little-endian
    word, nothing inverted at the end: zlib's, of words turned round and every octet mirrored.
    """
    words = array('I', pack(message)[:-4])
    words.byteswap()
    found = zlib.crc32(words.tobytes().translate(_MIRROR)) ^ 0xFFFFFFFF
    return int.from_bytes(found.to_bytes(4, 'little').translate(_MIRROR), 'big')


_plans: dict[type, tuple[Any, str]] = {}  # IDL type -> its fields at once, and what each one is


def _flat(message: Any) -> list[Any]:
    """Return the numbers of a message, in the order of its fields."""
    values, kinds = _plans.get(type(message)) or _plan(message)
    if kinds.strip('n') == '':
        return list(values(message))
    flat: list[Any] = []
    for kind, item in zip(kinds, values(message)):
        if kind == 'n':
            flat.append(item)
        elif kind == 'a':
            flat.extend(item)
        else:
            for part in item if kind == 'm' else (item,):
                flat.extend(_flat(part))
    return flat


def _plan(message: Any) -> tuple[Any, str]:
    """Look once at a type: its fields are numbers (n), arrays (a), messages (s, m)."""
    names = [item.name for item in fields(message)]
    kinds = ''
    for value in (getattr(message, name) for name in names):
        many = isinstance(value, (list, tuple, bytes, bytearray))  # octets arrive as bytes
        inside = is_dataclass(value[0] if many else value)
        kinds += ('m' if inside else 'a') if many else ('s' if inside else 'n')
    _plans[type(message)] = attrgetter(*names), kinds
    return _plans[type(message)]
