"""
The pip-installable side: lucidrains' ``dreamer4`` (measured with 0.16.3), where it is installed.

It is imported from this environment or from a folder the user names (``pip install --target``).
It needs torchvision for a loss that is not used here, and no torchvision fits a CPU-only torch
from every index: where it does not import, an empty one takes its place.
"""

from __future__ import annotations

import importlib
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

from dreamer4_sides.shapes import DENOISINGS, LEVELS, Shape, Work
import torch

BENCH = str(Path(__file__).parents[1])


class _Absent(ModuleType):
    """A module that has every name, and nothing behind it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return _Absent(name)


def load(folder: Path | None) -> ModuleType | None:
    """Import the package, or return None where it is not installed."""
    for name in ('torchvision', 'torchvision.models', 'torchvision.transforms', 'cv2'):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            sys.modules[name] = _Absent(name)
    kept, here = list(sys.path), sys.modules.pop('dreamer4', None)
    # This folder holds a script of the same name.
    sys.path[:] = [path for path in sys.path if path not in (BENCH, '')]
    sys.path += [str(folder)] if folder else []
    try:
        return importlib.import_module('dreamer4.dreamer4')
    except ModuleNotFoundError as missing:
        if folder:
            print(f'  the pip package dreamer4 in {folder} does not import: {missing}')
        return None
    finally:
        sys.path[:] = kept
        if here is not None:
            sys.modules['dreamer4'] = here


def frames(package: ModuleType, shape: Shape, batch: int, context: int) -> Work:
    """Return what makes the latents of one more frame of every row, with its cache of the past."""
    model = package.DynamicsWorldModel(
        shape.width, shape.bottleneck, num_latent_tokens=shape.latents,
        num_spatial_tokens=shape.latents, depth=shape.layers, attn_heads=shape.heads,
        attn_dim_head=64, max_steps=LEVELS, num_register_tokens=shape.registers,
        num_continuous_actions=shape.actions, predict_terminals=False,
    ).eval()  # fmt: skip
    latent = torch.randn(batch, context, shape.latents, shape.bottleneck).tanh()
    action = torch.rand(batch, context, shape.actions) * 0.8 + 0.1
    past: dict[str, Any] = {'latent': latent, 'cache': None}

    @torch.no_grad()
    def work() -> None:
        length = past['latent'].shape[1]
        made = model.generate(
            length + 1, num_steps=DENOISINGS, batch_size=batch, prompt_latents=past['latent'],
            prompt_continuous_actions=action[:, :1].expand(-1, length, -1),
            time_cache=past['cache'], return_time_cache=True, return_decoded_video=False,
        )  # fmt: skip
        past['latent'], past['cache'] = made[0], made[1]

    return work
