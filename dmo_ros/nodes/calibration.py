"""The file that ROS's camera_calibration writes, as CameraInfo."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sensor_msgs.msg import CameraInfo
import yaml

from .parameters import ParameterError

# Key of the file -> field of CameraInfo, and how many numbers it must have (None: any).
_MATRICES = {
    'camera_matrix': ('k', 9),
    'distortion_coefficients': ('d', None),
    'rectification_matrix': ('r', 9),
    'projection_matrix': ('p', 12),
}


def load_calibration(path: str | Path) -> CameraInfo:
    """
    Read image size, model and matrices (pixels) of a calibrated camera.

    :raises ParameterError: a file that cannot be read, or in which something is missing or wrong.
    """
    try:
        found = yaml.safe_load(Path(path).read_text())
        info = CameraInfo(
            width=int(found['image_width']),
            height=int(found['image_height']),
            distortion_model=str(found['distortion_model']),
        )
        for key, (field, count) in _MATRICES.items():
            setattr(info, field, _numbers(found[key], key, count))
    except OSError as error:
        raise ParameterError(f'calibration {path} cannot be read ({error.strerror})') from error
    except KeyError as error:
        raise ParameterError(
            f'calibration {path} has no {error}; it is to be the .yaml of camera_calibration'
        ) from error
    except (yaml.YAMLError, TypeError, ValueError, AssertionError) as error:
        raise ParameterError(f'calibration {path} is malformed: {error}') from error
    return info


def _numbers(matrix: Any, key: str, count: int | None) -> list[float]:
    data = [float(number) for number in matrix['data']]
    if not all(map(math.isfinite, data)) or (count and len(data) != count):
        raise ValueError(f'{key} has {len(data)} numbers, {count or "finite ones"} are needed')
    return data
