"""
What every stage needs around its loop: device, seeds, checkpoints, log.

A checkpoint is one safetensors file: the tensors of nested ``state_dict`` trees, and everything
else as JSON in the file's own metadata.  It is written beside its place, flushed to the disk and
renamed, so a kill at any moment leaves the previous one whole.  Nothing here reads a pickle.
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
import zlib

from dmo_ros.core.tasks import first_difference, require_same, TaskSpec
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
        return {'@tensor': _keep(tree.detach().cpu().contiguous().clone(), tensors, path)}
    if isinstance(tree, np.ndarray):
        return {'@array': _keep(_from_array(tree, path), tensors, path)}
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, (bool, int, float, str)):
                raise CheckpointError(
                    f'{path or "the state"} has the key {key!r}; a checkpoint '
                    'holds dicts with strings or numbers as keys'
                )
        return {
            '@dict': [[key, pack(value, tensors, f'{path}.{key}')] for key, value in tree.items()]
        }
    if isinstance(tree, (list, tuple)):
        return {
            '@list' if isinstance(tree, list) else '@tuple': [
                pack(value, tensors, f'{path}.{index}') for index, value in enumerate(tree)
            ]
        }
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise CheckpointError(
        f'{path or "the state"} is a {type(tree).__name__}, which a checkpoint '
        'does not hold; keep numbers, strings, arrays, tensors, lists and dicts'
    )


def _keep(tensor: torch.Tensor, tensors: dict[str, torch.Tensor], name: str) -> str:
    """Put a tensor under a name of its own: {'a.b': x} and {'a': {'b': x}} spell the same path."""
    while name in tensors:
        name += "'"
    tensors[name] = tensor
    return name


def _from_array(array: np.ndarray, path: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(array, order='C'))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f'{path} is an array of {array.dtype}, which a checkpoint does not '
            'hold; keep numbers in the byte order of the machine'
        ) from error


def unpack(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo :func:`pack`."""
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == '@tensor':
        return tensors[value]
    if kind == '@array':
        return tensors[value].numpy()
    if kind == '@dict':
        return {key: unpack(item, tensors) for key, item in value}
    if kind not in ('@list', '@tuple'):
        raise ValueError(f'{kind!r} is no kind of value')
    items = [unpack(item, tensors) for item in value]
    return tuple(items) if kind == '@tuple' else items


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (see :func:`pack`) to ``path`` atomically."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(state, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {'dmo_ros': text, 'crc32': _checksum(text, tensors)}
    atomic_write(path, to_bytes(tensors, header))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; CheckpointError says what is wrong with the file."""
    if not path.is_file():
        raise CheckpointError(f'there is no checkpoint {path}; train that stage first')
    try:
        with safe_open(path, framework='pt') as stream:
            header = stream.metadata() or {}
            names = stream.keys()
            tensors = {name: stream.get_tensor(name) for name in names}
        if 'dmo_ros' not in header:
            raise CheckpointError(
                f'{path} is no checkpoint of dmo_ros; train that stage, or give '
                'the .safetensors file of one of its runs'
            )
        text = header['dmo_ros']
        found = _checksum(text, tensors)
        if header.get('crc32', found) != found:
            raise ValueError('its checksum does not match what it holds')
        state: dict[str, Any] = unpack(json.loads(text), tensors)
        if not isinstance(state, dict):
            raise ValueError('it holds no state')
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f'{path} is damaged ({error}); delete it and resume from the one '
            'before, or train the stage again'
        ) from error
    return state


def _checksum(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Sum up everything that is stored: safetensors itself would not notice a flipped bit."""
    value = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        label = f'{name} {tensor.dtype} {tuple(tensor.shape)}'
        value = zlib.crc32(label.encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f'{value:08x}'


def load_stage(path: Path, stage: str, spec: TaskSpec | None = None) -> dict[str, Any]:
    """
    Read the checkpoint of a stage.

    :raises CheckpointError: the file is missing, damaged, or of another stage.
    :raises TaskError: it was made for another task than ``spec``.
    """
    state = load_checkpoint(path)
    if state.get('stage') != stage:
        raise CheckpointError(
            f'{path} is a checkpoint of stage {state.get("stage")!r}; give the '
            f'{stage}.safetensors of a {stage} run'
        )
    if spec is not None:
        require_same(spec, TaskSpec.from_dict(state['task']), f'the checkpoint {path}')
    return state


# What may change between stop and resume: nothing that is learned depends on it.
FREE = ('out', 'device', 'threads', 'sharding', 'log_every', 'save_every')


def load_to_resume(path: Path, stage: str, config: Any, spec: TaskSpec) -> dict[str, Any]:
    """Read a checkpoint to carry on from; one written with another config is refused by field."""
    state = load_stage(path, stage, spec)
    here, there = (
        {name: value for name, value in plain.items() if name not in FREE}
        for plain in (plain_config(config), state['config'])
    )
    difference = first_difference(here, there, '')
    if difference:
        raise CheckpointError(
            f'{path} was written with another configuration ({difference}); '
            'resume with that one, or begin anew in another folder'
        )
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

    def __init__(
        self, folder: Path, config: Any, resume: bool = False, start: int | None = None
    ) -> None:
        """
        Open a run folder.

        :param start: the last step of the checkpoint a run resumes from; later lines are of steps
            that will be taken again, and go.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.started = time.monotonic()
        stored = {
            'config': plain_config(config),
            'git': git_revision(),
            'torch': torch.__version__,
        }
        atomic_write(folder / 'config.json', json.dumps(stored, indent=2).encode())
        lines, resumed = folder / 'metrics.jsonl', resume and start is not None
        if resumed and lines.is_file():
            atomic_write(lines, _lines_until(lines, start or 0))
        self._lines = open(lines, 'a' if resume else 'w', buffering=1)  # noqa: SIM115
        self._board = SummaryWriter(
            str(folder / 'tensorboard'), purge_step=(start or 0) + 1 if resumed else None
        )

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


class NoLog:
    """The log of a process that leaves the writing to another."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing."""


def _lines_until(path: Path, step: int) -> bytes:
    """Return the whole lines of a log up to a step; a killed run may have cut its last."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b'\n') and json.loads(line)['step'] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return b''.join(kept)


def progress(total: int, start: int, what: str) -> Iterator[int]:
    """Yield step numbers with a progress bar on standard error."""
    from tqdm import tqdm

    yield from tqdm(
        range(start, total),
        desc=what,
        initial=start,
        total=total,
        unit='step',
        mininterval=1.0,
        dynamic_ncols=True,
    )
