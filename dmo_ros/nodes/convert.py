"""
Between messages and the core's types: images, stamps, velocities.

Images are numpy views of the message's bytes wherever possible; `step` and endianness are
honoured. Encodings beyond the table go through cv_bridge where that is installed.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Time
from dmo_ros.msg import BodyCommand
from geometry_msgs.msg import TwistStamped
import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from ..core.actions import TWIST_AXES
from ..core.encodings import decode, ENCODINGS
from ..core.images import ImageError
from ..core.tasks import TaskSpec

UPPER_BODY = 19  # numbers of BodyCommand.upper_body; the rest are its locomotion

# Encoding -> (numpy type of a number, numbers per pixel)
_LAYOUTS = {
    'rgb8': ('u1', 3),
    'bgr8': ('u1', 3),
    'mono8': ('u1', 1),
    'rgba8': ('u1', 4),
    'bgra8': ('u1', 4),
    '8UC1': ('u1', 1),
    '8UC3': ('u1', 3),
    '8UC4': ('u1', 4),
    'mono16': ('u2', 1),
    '16UC1': ('u2', 1),
    '32FC1': ('f4', 1),
}


def to_array(message: Image) -> np.ndarray:
    """
    View an image message as (H, W) or (H, W, C), in its own encoding and number type.

    The result shares memory with ``message.data``; padding at the row ends is skipped by strides.

    :raises ImageError: an encoding that is unknown here, or sizes that contradict the data.
    """
    if message.encoding not in _LAYOUTS:
        return _by_cv_bridge(message, 'passthrough')
    kind, count = _LAYOUTS[message.encoding]
    number = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
    height, width = message.height, message.width
    pixel = count * number.itemsize
    row = width * pixel
    step = message.step or row
    if min(height, width) < 1 or step < row or len(message.data) < step * (height - 1) + row:
        raise ImageError(
            f'an image of {width}x{height} {message.encoding} with rows of '
            f'{message.step} bytes does not fit the {len(message.data)} bytes that '
            'came; the camera driver reports it wrong'
        )
    picture: np.ndarray = np.ndarray(
        (height, width, count), number, message.data, strides=(step, pixel, number.itemsize)
    )
    return picture[..., 0] if count == 1 else picture


def to_rgb(message: Image) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, by the function that the converter uses; a view for rgb8."""
    if message.encoding in ENCODINGS:
        return decode(
            message.data,
            message.height,
            message.width,
            message.encoding,
            message.step,
            bool(message.is_bigendian),
        )
    return _by_cv_bridge(message, 'rgb8')


def _by_cv_bridge(message: Image, encoding: str) -> np.ndarray:
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise ImageError(
            f'image encoding {message.encoding!r} is not converted here and '
            'cv_bridge is not installed; publish rgb8, or install '
            'ros-<distro>-cv-bridge'
        ) from error
    picture: np.ndarray = CvBridge().imgmsg_to_cv2(message, encoding)
    return picture


def to_image(picture: np.ndarray, encoding: str, header: Header) -> Image:
    """Make an image message of (H, W[, C]) pixels; ImageError when they do not fit."""
    if encoding not in _LAYOUTS:
        raise ImageError(f'images are published as one of {", ".join(_LAYOUTS)}, not {encoding!r}')
    kind, count = _LAYOUTS[encoding]
    number = np.dtype(kind)
    channels = picture.shape[2] if picture.ndim == 3 else 1
    same = picture.dtype.newbyteorder('=') == number
    if picture.ndim not in (2, 3) or channels != count or not same:
        raise ImageError(
            f'{encoding} has {count} numbers of {number} per pixel, this picture is '
            f'{picture.shape} {picture.dtype}'
        )
    data = array.array('B')  # an ndarray given to the field would be copied number by number
    pixels = np.ascontiguousarray(picture, number.newbyteorder('<')).view(np.uint8)
    data.frombytes(pixels)  # type: ignore[arg-type]  # takes any buffer
    return Image(
        header=header,
        height=picture.shape[0],
        width=picture.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=picture.shape[1] * count * number.itemsize,
        data=data,
    )


def nanoseconds(stamp: Time) -> int:
    """Return a stamp as ns."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def to_time(stamp: int) -> Time:
    """Return ns as a stamp message."""
    seconds, rest = divmod(stamp, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def command_type(spec: TaskSpec) -> type[TwistStamped] | type[BodyCommand]:
    """Return the message that carries a command of this task."""
    return BodyCommand if spec.body else TwistStamped


def to_command(values: Sequence[float], spec: TaskSpec, stamp: int) -> TwistStamped | BodyCommand:
    """Return the task's action fields (SI) as its message, in the task's command frame."""
    header = Header(stamp=to_time(stamp), frame_id=spec.command_frame)
    if spec.body:
        upper = [float(value) for value in values]
        legs = upper[UPPER_BODY:]
        del upper[UPPER_BODY:]
        return BodyCommand(header=header, task=spec.name, upper_body=upper, locomotion=legs)
    message = TwistStamped(header=header)
    for field, value in zip(spec.actions, values):
        part, axis = TWIST_AXES[field.name]
        setattr(getattr(message.twist, part), axis, float(value))
    return message


def from_command(message: TwistStamped | BodyCommand, spec: TaskSpec) -> tuple[float, ...]:
    """
    Return the task's action fields; one number that is not finite makes them all NaN.

    A BodyCommand of another task gives no fields at all: its receiver refuses the width.
    """
    if isinstance(message, BodyCommand):
        if message.task != spec.name:
            return ()
        values = (*map(float, message.upper_body), *map(float, message.locomotion))
        total = sum(values)
    else:
        linear, angular = message.twist.linear, message.twist.angular
        total = linear.x + linear.y + linear.z + angular.x + angular.y + angular.z
        values = tuple(
            getattr(getattr(message.twist, part), axis)
            for part, axis in (TWIST_AXES[field.name] for field in spec.actions)
        )
    if total - total != 0.0:  # inf or NaN anywhere
        return (float('nan'),) * len(values)
    return values


def joint_state(names: Sequence[str], positions: Any, header: Header) -> JointState:
    """Return named positions as a JointState."""
    return JointState(header=header, name=list(names), position=[float(p) for p in positions])


def posture(message: JointState, spec: TaskSpec) -> tuple[float, ...] | None:
    """
    Return the action fields that a robot's joints say, None while a joint is missing.

    Velocities are 0.  Hands (unit 1) may be absent, they are taken to rest.
    """
    joints = dict(zip(message.name, message.position))
    values = []
    for item in spec.actions:
        value = 0.0 if item.is_velocity else joints.get(item.name)
        if value is None and item.unit == '1':
            value = item.rest
        if value is None:
            return None
        values.append(float(value))
    return tuple(values)
