"""
Accept or reject a global model: curves over the horizon of a rollout, not the loss of one step.

A model can have a good one-step loss and lose the object ten frames later, or ignore the action
because what moves is small.  So it is judged on open-loop rollouts from held-out play: does every
marked thing stay in the picture, how far is it from where it really went (centroid by colour),
does it move as a foreign action says, and is the picture nearer to the truth than a copy of the
last frame, or than the same model under shuffled actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLOUR_RADIUS = 60.0
VANISHED_BELOW = 0.4

# What is judged: context (B, n, H, W, 3), actions (B, n - 1 + T, A) -> frames (B, T, H, W, 3)
Rollout = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Marker:
    """A thing known by its RGB colour; ``driven``: actions 0 and 1 move it right and up."""

    name: str
    colour: tuple[float, float, float]
    driven: bool = False


# Colours of the twin's picture; a task without marks is judged by PSNR only.
MARKERS: dict[str, tuple[Marker, ...]] = {
    'pusher': (Marker('tool', (40, 72, 168), driven=True), Marker('object', (196, 64, 48)))
}


def find(frames: np.ndarray, marker: Marker) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the marker's centroid (..., 2), x right and y up in image widths, and its pixels (...).

    The centroid is NaN where no pixel has the colour.
    """
    gap = np.linalg.norm(frames.astype(np.float32) - np.array(marker.colour, np.float32), axis=-1)
    near = (gap < COLOUR_RADIUS).astype(np.float32)
    size = near.sum(axis=(-2, -1))
    height, width = frames.shape[-3:-1]
    x = (near.sum(axis=-2) * ((np.arange(width) + 0.5) / width)).sum(axis=-1)
    y = (near.sum(axis=-1) * (1 - (np.arange(height) + 0.5) / height)).sum(axis=-1)
    with np.errstate(invalid='ignore'):
        return np.stack((x, y), axis=-1) / np.where(size > 0, size, np.nan)[..., None], size


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB over rows (axis 0) and pixels, one value a time step."""
    error = (frames.astype(np.float32) - truth.astype(np.float32)) ** 2
    return 10 * np.log10(255**2 / np.maximum(error.mean(axis=(0, 2, 3, 4)), 1e-4))


def followed(frames: np.ndarray, action: np.ndarray, marker: Marker) -> float:
    """Correlate the marker's motion in (B, T + 1) frames with the actions (B, T, A) in force."""
    centre, _ = find(frames, marker)
    motion, command = np.diff(centre, axis=1).reshape(-1, 2), action[..., :2].reshape(-1, 2)
    seen = np.isfinite(motion).all(axis=1)
    if seen.sum() < 3:
        return 0.0
    pairs = [(motion[seen, axis], command[seen, axis]) for axis in (0, 1)]
    return float(
        np.mean(
            [np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else 0.0 for a, b in pairs]
        )
    )


def evaluate(
    rollout: Rollout,
    frames: np.ndarray,
    action: np.ndarray,
    context: int,
    markers: tuple[Marker, ...],
) -> tuple[dict[str, Any], np.ndarray]:
    """
    Judge a model on held-out segments.

    :param frames: uint8 (B, context + T, H, W, 3)
    :param action: normalised (B, context + T, A), entry t in force after frame t
    :returns: figures, every curve a list over t = 1..T; and the model's frames (B, T, H, W, 3)
    """
    start, truth = frames[:, :context], frames[:, context:]
    horizon, driving = truth.shape[1], action[:, : context - 1 + truth.shape[1]]
    # Foreign actions: this start, but from now on what another row did.
    foreign = np.concatenate(
        (driving[:, : context - 1], np.roll(driving, 1, axis=0)[:, context - 1 :]), axis=1
    )
    own, other = rollout(start, driving), rollout(start, foreign)
    copied = np.repeat(start[:, -1:], horizon, axis=1)
    figures: dict[str, Any] = {
        'rows': len(frames),
        'horizon': horizon,
        'psnr': {
            'model': _list(psnr(own, truth)),
            'copy': _list(psnr(copied, truth)),
            'shuffled_action': _list(psnr(other, truth)),
        },
    }
    for marker in markers:
        figures[marker.name] = _marker_figures(marker, own, other, copied, truth, start)
        if marker.driven:
            last = start[:, -1:]
            figures[marker.name] |= {
                'follows_foreign_action': followed(
                    np.concatenate((last, other), axis=1), foreign[:, context - 1 :], marker
                ),
                'follows_in_truth': followed(
                    np.concatenate((last, truth), axis=1), driving[:, context - 1 :], marker
                ),
            }
    return figures, own


def _marker_figures(
    marker: Marker,
    own: np.ndarray,
    other: np.ndarray,
    copied: np.ndarray,
    truth: np.ndarray,
    start: np.ndarray,
) -> dict[str, Any]:
    """Vanished share and position error over the horizon, for rows where it moved as well."""
    real, real_size = find(truth, marker)
    mine, size = find(own, marker)
    least = VANISHED_BELOW * real_size.mean()
    moved = (
        np.linalg.norm(real[:, -1] - find(start[:, -1], marker)[0], axis=-1) > 1 / truth.shape[-2]
    )
    error, copy_error = (
        np.linalg.norm(centre - real, axis=-1) for centre in (mine, find(copied, marker)[0])
    )
    return {
        'vanished': _list((size < least).mean(axis=0)),
        'vanished_foreign_action': _list((find(other, marker)[1] < least).mean(axis=0)),
        'error': _list(_mean(error)),
        'copy_error': _list(_mean(copy_error)),
        'moved_rows': int(moved.sum()),
        'error_moved': _list(_mean(error[moved])),
        'copy_error_moved': _list(_mean(copy_error[moved])),
        'size_ratio': _list(size.mean(axis=0) / max(real_size.mean(), 1e-9)),
    }


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over rows that are numbers; a column of none gives NaN, written as null."""
    seen = np.isfinite(values)
    with np.errstate(invalid='ignore'):
        return np.where(seen, values, 0).sum(axis=0) / np.where(
            seen.any(axis=0), seen.sum(axis=0), np.nan
        )


def _list(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]


@dataclass(frozen=True)
class Acceptance:
    """What a model has to reach on held-out play (curve index t - 1)."""

    vanished_at: int = 16
    vanished_most: float = 0.05
    error_at: int = 10
    error_share_of_copy: float = 0.5
    follows_least: float = 0.8


def judge(
    figures: dict[str, Any], markers: tuple[Marker, ...], limits: Acceptance = Acceptance()
) -> list[str]:
    """Return one sentence for each requirement that is missed; empty means accepted."""
    faults = []
    for marker in markers:
        curve = figures[marker.name]
        at = min(limits.vanished_at, figures['horizon'])
        gone = curve['vanished'][at - 1]
        if gone > limits.vanished_most:
            faults.append(
                f'{marker.name} vanished in {gone:.0%} of rollouts at t+{at} '
                f'(at most {limits.vanished_most:.0%}): train longer or with more context_rollout'
            )
        at = min(limits.error_at, figures['horizon'])
        error, copy = curve['error_moved'][at - 1], curve['copy_error_moved'][at - 1]
        if curve['moved_rows'] and (error is None or error > limits.error_share_of_copy * copy):
            faults.append(
                f'{marker.name} is {error} image widths off at t+{at} where it moved, a copy of '
                f'the last frame {copy}: train longer, or record more play with contact'
            )
        if marker.driven and curve['follows_foreign_action'] < limits.follows_least:
            faults.append(
                f'{marker.name} follows foreign actions with correlation '
                f'{curve["follows_foreign_action"]:.2f} (at least {limits.follows_least}): train '
                'longer, and check the play for an offset of one step (dmo check)'
            )
    return faults


def draw_curves(figures: dict[str, Any], markers: tuple[Marker, ...], path: Path) -> None:
    """Write the curves as a PNG: vanished, position error and PSNR over the horizon."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout='constrained')
    gone, error, quality = figure.subplots(1, 3)
    steps = np.arange(1, figures['horizon'] + 1)
    for i, marker in enumerate(markers):
        curve, colour = figures[marker.name], f'C{i}'
        gone.plot(steps, np.array(curve['vanished']) * 100, colour, label=marker.name)
        error.plot(
            steps, np.array(curve['error_moved'], float), colour, label=f'{marker.name}, model'
        )
        error.plot(
            steps,
            np.array(curve['copy_error_moved'], float),
            colour,
            ls=':',
            label=f'{marker.name}, copy',
        )
    for name, values in figures['psnr'].items():
        quality.plot(steps, values, label=name.replace('_', ' '))
    for axes, title in (
        (gone, 'vanished, % of rollouts'),
        (error, 'position error where it moved, image widths'),
        (quality, 'PSNR, dB'),
    ):
        axes.set(title=title, xlabel='frames ahead')
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_strip(
    truth: np.ndarray, model: np.ndarray, path: Path, rows: int = 4, every: int = 2, zoom: int = 2
) -> None:
    """Write a PNG of `rows` rollouts, each a strip of real frames above a strip of the model's."""
    import cv2

    bands = []
    for real, mine in zip(truth[:rows], model[:rows]):
        for frames in (real, mine):
            bands.append(
                np.concatenate(
                    list(np.pad(frames[::every], ((0, 0), (1, 1), (1, 1), (0, 0)))), axis=1
                )
            )
        bands.append(np.full_like(bands[-1][:4], 255))
    picture = np.concatenate(bands).repeat(zoom, axis=0).repeat(zoom, axis=1)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OSError(f'could not write {path}: is the folder there and the disk not full?')
