"""
What every stage needs around its loop: device, seeds, checkpoints, log.

A checkpoint is one safetensors file: the tensors of nested ``state_dict`` trees, and everything else as
JSON in the file's own metadata.  It is written beside its place, flushed to the disk and renamed, so a
kill at any moment leaves the previous one whole.  Nothing here reads a pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import ctypes
from dataclasses import asdict, is_dataclass
import json
import os
from pathlib import Path
import random
import subprocess
import time
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save as to_bytes
import torch


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or made by something else."""


def pick_device(name: str = 'auto') -> torch.device:
    """Return the named device; 'auto' takes CUDA where there is one."""
    if name != 'auto':
        return torch.device(name)
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def seed_everything(seed: int) -> np.random.Generator:
    """Seed python and torch, and return the numpy generator a stage draws from."""
    random.seed(seed)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def keep_memory() -> None:
    """
    Let glibc keep freed memory for this process; elsewhere nothing happens.

    A small network takes and frees the same megabytes a thousand times per step.  By default they
    go back to the system every time: 1000 to 2900 page faults per forward and backward pass of the
    demo's DIAMOND, 4 to 10 % of its CPU time, and more wall time in a virtual machine.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 64 << 20)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either the old bytes or all of the new ones."""
    part = path.with_name(f'.{path.name}.part')
    with open(part, 'wb') as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def pack(tree: Any, tensors: dict[str, torch.Tensor], path: str = '') -> Any:
    """Replace each tensor of a nested tree by its name in ``tensors``; the rest must be JSON."""
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {'@tensor': path}
    if isinstance(tree, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(tree))
        return {'@array': path}
    if isinstance(tree, Mapping):
        return {'@dict': [[key, pack(value, tensors, f'{path}.{key}')]
                          for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {'@list' if isinstance(tree, list) else '@tuple':
                [pack(value, tensors, f'{path}.{index}') for index, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise CheckpointError(f'{path or "the state"} is a {type(tree).__name__}, which a checkpoint '
                          'does not hold; keep numbers, strings, arrays, tensors, lists and dicts')


def unpack(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo :func:`pack`."""
    if not isinstance(plain, dict):
        return plain
    (kind, value), = plain.items()
    if kind == '@tensor':
        return tensors[value]
    if kind == '@array':
        return tensors[value].numpy()
    if kind == '@dict':
        return {key: unpack(item, tensors) for key, item in value}
    items = [unpack(item, tensors) for item in value]
    return tuple(items) if kind == '@tuple' else items


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (see :func:`pack`) to ``path`` atomically."""
    tensors: dict[str, torch.Tensor] = {}
    tree = pack(state, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, to_bytes(tensors, {'dmo_ros': json.dumps(tree)}))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; CheckpointError says what is wrong with the file."""
    if not path.is_file():
        raise CheckpointError(f'there is no checkpoint {path}; train that stage first')
    try:
        with safe_open(path, framework='pt') as stream:
            tree = json.loads((stream.metadata() or {})['dmo_ros'])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}
    except KeyError as error:
        raise CheckpointError(f'{path} is no checkpoint of dmo_ros') from error
    except Exception as error:
        raise CheckpointError(f'{path} is damaged ({error}); delete it and resume from the one '
                              'before, or train the stage again') from error
    state: dict[str, Any] = unpack(tree, tensors)
    return state


def rng_state(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of every generator a stage uses, for a checkpoint."""
    return {'numpy': json.dumps(generator.bit_generator.state), 'torch': torch.get_rng_state()}


def restore_rng(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put the generators back where :func:`rng_state` found them."""
    generator.bit_generator.state = json.loads(state['numpy'])
    torch.set_rng_state(state['torch'])


def plain_config(config: Any) -> dict[str, Any]:
    """Return a dataclass config as JSON types (paths become strings)."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f'a stage config is a dataclass instance, not {type(config).__name__}')
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return plain


def git_revision() -> str:
    """Return the revision of the code, 'unknown' outside a checkout."""
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty']
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return found.stdout.strip()


class RunLog:
    """A run folder: config.json once, metrics.jsonl and TensorBoard events as it goes."""

    def __init__(self, folder: Path, config: Any, resume: bool = False) -> None:
        from torch.utils.tensorboard import SummaryWriter
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.started = time.monotonic()
        stored = {'config': plain_config(config), 'git': git_revision(), 'torch': torch.__version__}
        atomic_write(folder / 'config.json', json.dumps(stored, indent=2).encode())
        self._lines = open(folder / 'metrics.jsonl', 'a' if resume else 'w', buffering=1)
        self._board = SummaryWriter(str(folder / 'tensorboard'))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of a step; not-finite ones are kept as they are, they are the news."""
        figures = {name: float(value) for name, value in figures.items()}
        seconds = round(time.monotonic() - self.started, 2)
        self._lines.write(json.dumps({'step': step, 'seconds': seconds, **figures}) + '\n')
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush both logs."""
        self._lines.close()
        self._board.close()


def progress(total: int, start: int, what: str) -> Iterator[int]:
    """Yield step numbers with a progress bar on standard error."""
    from tqdm import tqdm
    yield from tqdm(range(start, total), desc=what, initial=start, total=total, unit='step',
                    mininterval=1.0, dynamic_ncols=True)
