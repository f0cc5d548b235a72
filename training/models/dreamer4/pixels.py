"""Camera frames to patches and back: uint8 (..., H, W, 3) and rows of numbers in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(frames: Tensor, side: int) -> Tensor:
    """Bring uint8 frames (..., H, W, 3) to squares by area; those of the right size stay."""
    if frames.shape[-3:-1] == (side, side):
        return frames
    flat = frames.flatten(0, -4).movedim(-1, 1).float()
    small = F.interpolate(flat, (side, side), mode='area').round().clamp(0, 255)
    return small.to(torch.uint8).movedim(1, -1).unflatten(0, frames.shape[:-3])


def to_patches(frames: Tensor, patch: int) -> Tensor:
    """Cut uint8 frames (..., H, W, 3) into (..., patches, 3 patch^2) in [-1, 1], row by row."""
    lead, (height, width) = frames.shape[:-3], frames.shape[-3:-1]
    cut = frames.reshape(*lead, height // patch, patch, width // patch, patch, 3)
    return cut.transpose(-4, -3).reshape(*lead, -1, 3 * patch**2).float() / 127.5 - 1


def to_images(patches: Tensor, patch: int) -> Tensor:
    """Lay square patches (..., P, 3 patch^2) out as images (..., H, W, 3)."""
    lead, side = patches.shape[:-2], round(patches.shape[-2] ** 0.5)
    laid = patches.reshape(*lead, side, side, patch, patch, 3).transpose(-4, -3)
    return laid.reshape(*lead, side * patch, side * patch, 3)


def to_frames(patches: Tensor, patch: int) -> Tensor:
    """Return uint8 frames (..., H, W, 3) of patches in [-1, 1]; what lies outside is clamped."""
    images = to_images(patches.float(), patch)
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
