"""
How near pictures are to the truth: PSNR, SSIM, and whether the things that matter are there.

A picture can be good on the average and lack a small cube.  So things are also looked for by their
colour: the overlap of where they are and where they should be.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from .global_metrics import COLOUR_RADIUS, Marker

# Colours of the twins' pictures, in the middle of what light makes of them.
THINGS: dict[str, tuple[Marker, ...]] = {'push_cube': (Marker('cube', (195, 50, 37)),)}

WINDOW = 7
SMALL = 0.02  # a thing that fills less of the picture is a small one
SEEN = 5e-4  # and one that fills less than this is not counted as seen


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all of some uint8 frames."""
    error = frames.astype(np.float32) - truth.astype(np.float32)
    return float(10 * np.log10(255**2 / max(float(np.square(error).mean()), 1e-4)))


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """
    Mean structural similarity of uint8 frames (N, H, W, 3), over 7x7 windows of each colour.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004).
    """

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, WINDOW, 1)

    a, b = (torch.from_numpy(x).movedim(-1, 1).float() / 255 for x in (frames, truth))
    mean_a, mean_b = mean(a), mean(b)
    spread = mean(a.square()) - mean_a**2 + mean(b.square()) - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((light * (2 * shared + c2) / (spread + c2)).mean())


def where(frames: np.ndarray, marker: Marker) -> np.ndarray:
    """Return the pixels (..., H, W) bool that have a marker's colour."""
    gap = frames.astype(np.float32) - np.array(marker.colour, np.float32)
    near: np.ndarray = np.linalg.norm(gap, axis=-1) < COLOUR_RADIUS
    return near


def overlap(frames: np.ndarray, truth: np.ndarray, marker: Marker) -> dict[str, float]:
    """
    Return the shared part of a thing's pixels, in all frames that show it and in small views.

    :param frames: uint8 (N, H, W, 3), ``truth`` likewise.
    :returns: intersection over union, of pixels over all those frames; NaN where none shows it.
    """
    mine, real = where(frames, marker), where(truth, marker)
    share = real.mean(axis=(-2, -1))

    def ratio(chosen: np.ndarray) -> float:
        union = (mine[chosen] | real[chosen]).sum()
        return float((mine[chosen] & real[chosen]).sum() / union) if union else float('nan')

    seen = share > SEEN
    return {
        f'{marker.name}_overlap': ratio(seen),
        f'{marker.name}_overlap_small': ratio(seen & (share < SMALL)),
    }
