"""
From the bytes of a ``sensor_msgs/Image`` to an RGB frame.

The nodes (live) and the converter (from a bag) both call :func:`decode`; ``rosbags-image`` is the
oracle it is tested against.  Rows may be padded (``step``) and 16-bit pixels may be big endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .images import ImageError

# Encoding -> (numbers per pixel, which of them are red, green and blue).
_LAYOUTS: dict[str, tuple[int, tuple[int, int, int]]] = {
    'rgb8': (3, (0, 1, 2)),
    '8UC3': (3, (2, 1, 0)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    '8UC4': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
    '8UC1': (1, (0, 0, 0)),
    'rgb16': (3, (0, 1, 2)),
    'bgr16': (3, (2, 1, 0)),
    'mono16': (1, (0, 0, 0)),
}
ENCODINGS = tuple(_LAYOUTS)


def decode(
    data: Any, height: int, width: int, encoding: str, step: int = 0, big_endian: bool = False
) -> np.ndarray:
    """
    Return (H, W, 3) uint8 RGB; for ``rgb8`` without padding it is a view of ``data``, not a copy.

    :param data: anything with a buffer of bytes (bytes, array.array, ndarray of uint8).
    :param step: bytes per row, padding included; 0 stands for rows without padding.
    :raises ImageError: unknown encoding, or too few bytes for the size that is claimed.
    """
    if encoding not in _LAYOUTS:
        raise ImageError(
            f'image encoding {encoding!r} is not known here; publish one of '
            f'{", ".join(ENCODINGS)}, or convert it with cv_bridge'
        )
    count, order = _LAYOUTS[encoding]
    wide = encoding.endswith('16')
    row = width * count * (2 if wide else 1)
    step = step or row
    buffer = np.frombuffer(data, dtype=np.uint8)
    if height < 1 or width < 1 or step < row or len(buffer) < step * (height - 1) + row:
        raise ImageError(
            f'an image of {width}x{height} {encoding} with rows of {step} bytes does '
            f'not fit the {len(buffer)} bytes that came; the driver reports it wrong'
        )
    rows = np.lib.stride_tricks.as_strided(buffer, (height, row), (step, 1), writeable=False)
    if wide:  # the more significant byte is the 8-bit picture
        rows = rows[:, (0 if big_endian else 1) :: 2]
    pixels = rows.reshape(height, width, count)
    return pixels if order == (0, 1, 2) and count == 3 else pixels[..., order]
