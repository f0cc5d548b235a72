"""Do actions and frames belong together?  At which lag actions explain the pictures' motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmo_ros.core.episode import Episode
import numpy as np

LAGS = tuple(range(-3, 4))
FEWEST = 200  # transitions
SIDE = 32
CELLS = 4


@dataclass(frozen=True)
class Alignment:
    """
    ``lag`` is where the actions fit best: 0 when action t carries frame t to frame t + 1.

    A lag of +1 says that the motion from t to t + 1 is explained by the action stored at t + 1.
    ``score`` maps each lag of -3..3 to the held-out share of the actions' variance that the motion
    explains.  ``sure`` is false where the data cannot tell, and ``reason`` says why.
    """

    lag: int
    score: dict[int, float]
    sure: bool
    reason: str = ''


def estimate_lag(episodes: Sequence[Episode]) -> Alignment:
    """Estimate the offset between actions and frames from the pictures' motion."""
    parts = [
        (motion(np.asarray(e.frames)), e.action, np.asarray(e.valid))
        for e in episodes
        if len(e) > 2 * max(LAGS) + 2
    ]
    count = sum(len(features) - 2 * max(LAGS) for features, _, _ in parts)
    if count < FEWEST:
        return Alignment(0, {}, False, f'{count} transitions are too few, {FEWEST} are needed')
    score = {lag: _explained(parts, lag) for lag in LAGS}
    best = max(score, key=lambda lag: score[lag])
    if score[best] < 0.05:
        return Alignment(
            0,
            score,
            False,
            'the motion in the pictures explains no action; does the camera see the robot?',
        )
    return Alignment(best, score, True)


def motion(frames: np.ndarray) -> np.ndarray:
    """
    Describe the motion between consecutive frames, (T - 1, F) float32.

    In each cell of a grid, the correlation of the change with the picture's gradients is what
    optical flow is solved from (Lucas and Kanade, 1981); the size of the change goes with it.
    """
    grey = _shrink(frames).astype(np.float32).mean(axis=-1)
    blurred = _blur(grey)
    change = blurred[1:] - blurred[:-1]
    middle = (blurred[1:] + blurred[:-1]) / 2
    down, right = np.gradient(middle, axis=(1, 2))
    return np.concatenate(
        [_cells(change * right), _cells(change * down), _cells(np.abs(change))], axis=1
    )


def _shrink(frames: np.ndarray) -> np.ndarray:
    """Average blocks of pixels until a side is about 32 pixels."""
    factor = max(1, frames.shape[1] // SIDE)
    size = frames.shape[1] // factor * factor
    blocks = frames[:, :size, :size].reshape(
        len(frames), size // factor, factor, size // factor, factor, 3
    )
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _blur(pictures: np.ndarray) -> np.ndarray:
    """Blur by about two pixels, so that a step's motion is small against the edges."""
    for axis in (1, 2):
        for _ in range(3):
            edges = [(0, 0), (0, 0), (0, 0)]
            edges[axis] = (1, 1)
            padded = np.swapaxes(np.pad(pictures, edges, mode='edge'), 1, axis)
            mean = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / np.float32(3)
            pictures = np.swapaxes(mean, 1, axis)
    return pictures


def _cells(pictures: np.ndarray) -> np.ndarray:
    """Sum over a grid of cells: (T, H, W) to (T, CELLS * CELLS)."""
    size = pictures.shape[1] // CELLS * CELLS
    blocks = pictures[:, :size, :size].reshape(
        len(pictures), CELLS, size // CELLS, CELLS, size // CELLS
    )
    return blocks.sum(axis=(2, 4)).reshape(len(pictures), -1)


def _explained(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], lag: int) -> float:
    """Return the share of the actions' variance that ridge regression explains, held out."""
    reach = max(LAGS)
    xs, ys, folds = [], [], []
    for features, action, valid in parts:
        at = np.arange(reach, len(features) - reach)
        at = at[valid[at] & valid[at + 1]]
        xs.append(features[at])
        ys.append(action[at + lag])
        folds.append(np.arange(len(at)) // 50 % 2)  # alternate stretches, not alternate frames
    x, y, fold = np.concatenate(xs), np.concatenate(ys).astype(np.float64), np.concatenate(folds)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    moving = y.std(axis=0) > 1e-3
    if not moving.any():
        return 0.0
    left, total = np.zeros(moving.sum()), np.zeros(moving.sum())
    for held in (0, 1):
        fit, test = fold != held, fold == held
        gram = x[fit].T @ x[fit] + len(x) * 1e-2 * np.eye(x.shape[1])
        guess = x[test] @ np.linalg.solve(gram, x[fit].T @ y[fit][:, moving])
        left += ((y[test][:, moving] - guess) ** 2).sum(axis=0)
        total += ((y[test][:, moving] - y[fit][:, moving].mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1 - left / np.maximum(total, 1e-12)))
