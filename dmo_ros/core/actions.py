"""Normalised actions in [-1, 1] and commands in SI units, in the order of the task's fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tasks import Field, TaskSpec

# Action field -> where a TwistStamped carries it (REP-103: m/s and rad/s).
TWIST_AXES = {
    'vx': ('linear', 'x'),
    'vy': ('linear', 'y'),
    'vz': ('linear', 'z'),
    'wx': ('angular', 'x'),
    'wy': ('angular', 'y'),
    'wz': ('angular', 'z'),
}


class ActionError(ValueError):
    """An action of the wrong width, or one that is not finite."""


def bounds(fields: Sequence[Field]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lows and highs, each (A,) float64, in SI units."""
    return (
        np.array([field.low for field in fields], dtype=np.float64),
        np.array([field.high for field in fields], dtype=np.float64),
    )


def check_action(action: np.ndarray, fields: Sequence[Field]) -> np.ndarray:
    """Return ``action`` as an array; ActionError names a wrong width or a non-finite field."""
    action = np.asarray(action)
    if action.shape[-1:] != (len(fields),):
        names = ', '.join(field.name for field in fields)
        raise ActionError(
            f'an action has {len(fields)} numbers ({names}), this one has shape {action.shape}'
        )
    wrong = ~np.isfinite(action).reshape(-1, len(fields)).all(axis=0)
    if wrong.any():
        names = ', '.join(field.name for field, bad in zip(fields, wrong) if bad)
        raise ActionError(f'the action is not finite in {names}; it is refused, nothing is sent')
    return action


def to_si(normalised: np.ndarray, fields: Sequence[Field]) -> np.ndarray:
    """Map (..., A) in [-1, 1] to SI units; values outside are clipped to the fields' range."""
    low, high = bounds(fields)
    action = np.clip(check_action(normalised, fields), -1.0, 1.0)
    return low + (action + 1.0) * 0.5 * (high - low)


def to_normalised(si: np.ndarray, fields: Sequence[Field]) -> np.ndarray:
    """Map (..., A) in SI units to [-1, 1]; values outside the fields' range are clipped."""
    low, high = bounds(fields)
    return np.clip((check_action(si, fields) - low) / (high - low) * 2.0 - 1.0, -1.0, 1.0)


def fill(driven: np.ndarray, spec: TaskSpec) -> tuple[float, ...]:
    """Return all action fields (SI) of the driven ones (D,); the others are at rest."""
    values = dict(zip(spec.policy_actions, map(float, driven)))
    return tuple(values.get(field.name, field.rest) for field in spec.actions)
