"""
From a camera frame to an observation: one function for training and for the robot.

The converter, the policy node and the twins call :func:`to_observation`; a second implementation
anywhere would be a skew between what the policy was trained on and what it sees.
"""

from __future__ import annotations

import numpy as np

from .tasks import TaskSpec


class ImageError(ValueError):
    """A frame that cannot become an observation."""


def check_frame(frame: np.ndarray) -> None:
    """Raise ImageError unless ``frame`` is (H, W, 3) uint8."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise ImageError(
            f'a frame must be (H, W, 3) uint8, this one is {frame.shape} '
            f'{frame.dtype}; convert the camera image to rgb8 first'
        )


def crop_center(frame: np.ndarray) -> np.ndarray:
    """Return the largest centred square of an (H, W, 3) frame, as a view."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frame[top : top + side, left : left + side]


def to_observation(frame: np.ndarray, spec: TaskSpec, size: int | None = None) -> np.ndarray:
    """
    Crop and resize a camera frame for the world model (or, with ``size``, for the policy).

    :param frame: (H, W, 3) uint8, RGB.
    :param spec: the task; its ``camera.crop`` is 'center' or 'none'.
    :param size: side of the result in pixels; ``spec.frame_size`` when left out.
    :returns: (size, size, 3) uint8, contiguous.
    :raises ImageError: for another dtype or shape, or an unknown crop.
    """
    check_frame(frame)
    side = spec.frame_size if size is None else size
    if spec.camera.crop == 'center':
        frame = crop_center(frame)
    elif spec.camera.crop != 'none':
        raise ImageError(f'unknown crop {spec.camera.crop!r}; a task may say center or none')
    if frame.shape[:2] == (side, side):
        return np.ascontiguousarray(frame)
    return _resize(frame, side)


def to_policy_observation(frame: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """Return what the policy sees of a camera frame: the world model's view, made smaller."""
    return to_observation(to_observation(frame, spec), spec, spec.policy_size)


def _resize(frame: np.ndarray, side: int) -> np.ndarray:
    """Area interpolation: the only common one that does not alias when it shrinks."""
    import cv2

    shrinks = min(frame.shape[:2]) >= side
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(frame, (side, side), interpolation=how))
