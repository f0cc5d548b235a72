"""Figures of an evaluation: success, steps, straightness and curvature, with their intervals."""

from __future__ import annotations

import math

import numpy as np

from .tasks import SuccessSpec


def wilson(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson interval of a success rate (95 % by default); (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f'{successes} successes of {trials} trials cannot be')
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = (
        z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    )
    return max(0.0, centre - spread), min(1.0, centre + spread)


class SuccessTracker:
    """Both success criteria of a batch of episodes, fed one distance per control step."""

    def __init__(self, spec: SuccessSpec, batch: int = 1) -> None:
        self.spec = spec
        self.steps = 0
        self.relaxed = np.zeros(batch, dtype=bool)
        self.strict = np.zeros(batch, dtype=bool)
        self.steps_to_success = np.full(batch, -1)
        self._held = np.zeros(batch, dtype=int)

    def update(self, distance: np.ndarray) -> None:
        """Take the distance (B,) after one more control step, in the specification's unit."""
        self.steps += 1
        inside = np.asarray(distance) <= self.spec.threshold
        self._held = np.where(inside, self._held + 1, 0)
        self.relaxed |= inside
        reached = (self._held >= self.spec.hold_steps) & ~self.strict
        self.steps_to_success[reached] = self.steps
        self.strict |= reached


def straightness(path: np.ndarray) -> float:
    """Return net displacement over path length of positions (T, 2); 1 is a straight line."""
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    return float(np.linalg.norm(path[-1] - path[0])) / length if length > 0 else math.nan


def curvature(path: np.ndarray, yaw: np.ndarray) -> float:
    """Return the absolute yaw change per metre travelled (rad/m); positions (T, 2), yaw (T,)."""
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    turned = float(np.abs(np.diff(np.unwrap(yaw))).sum())
    return turned / length if length > 0 else math.nan
