"""
Checkpoints of weights that lie in shares on several processes (FSDP2).

``RUN/global.safetensors`` stays what it is, :mod:`engine`'s file of everything that all processes
have alike, with a name in place of each shared-out tensor.  The shares lie beside it in a folder
``global.shards-7``, written by ``torch.distributed.checkpoint`` as safetensors (its own format
would be a pickle), and the file names the folder, the sizes and the checksums.  The folder is
complete on the disk before the file is renamed into place, and older folders go afterwards, so a
kill at any moment leaves a checkpoint that loads.

Another number of processes loads it as well: each tensor is cut as the module that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import os
from pathlib import Path
import shutil
from typing import Any
import warnings
import zlib

import torch
from torch import nn, Tensor

from .engine import CheckpointError

SHARE = '@share'  # {SHARE: name}: a tensor that lies in the folder
FOLDER = '@shards'  # key of the state: which folder, and its files


def is_shared(value: Any) -> bool:
    """Tell whether a value is a tensor of which every process holds a share."""
    return isinstance(value, Tensor) and hasattr(value, 'device_mesh')


def take_out(tree: Any, shares: dict[str, Tensor], path: str = '') -> Any:
    """Return a nested state without its shared-out tensors, which go to ``shares``."""
    if is_shared(tree):
        shares[path] = tree.detach()
        return {SHARE: path}
    if isinstance(tree, Mapping):
        return {key: take_out(item, shares, f'{path}/{key}') for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        kept = [take_out(item, shares, f'{path}/{index}') for index, item in enumerate(tree)]
        return kept if isinstance(tree, list) else tuple(kept)
    return tree


def write(shares: Mapping[str, Tensor], folder: Path) -> dict[str, list[int]]:
    """Write the shares, all processes together; returns size and CRC-32 of this one's files."""
    from torch.distributed import checkpoint, get_rank

    folder.mkdir(parents=True, exist_ok=True)
    writer = _storage('Writer')(path=str(folder), save_distributed=True)
    checkpoint.save(dict(shares), storage_writer=writer)
    mine = sorted(folder.glob(f'shard-{get_rank() + 1:05d}-*.safetensors'))
    return {path.name: measure(path) for path in mine}


def read(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill tensors with what the folder holds for them, each process what it has a share of."""
    from torch.distributed import checkpoint, is_initialized

    reader, alone = _storage('Reader')(path=str(folder)), not is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'torch.distributed is disabled')  # we know
        checkpoint.load(dict(targets), storage_reader=reader, no_dist=alone)


def _storage(kind: str) -> Callable[..., Any]:
    """Return a class of torch.distributed.checkpoint that stores safetensors."""
    from torch.distributed import checkpoint

    found = getattr(checkpoint, f'HuggingFaceStorage{kind}', None)
    if found is None:
        raise CheckpointError(
            f'torch {torch.__version__} does not store shares as safetensors; install a newer '
            'one (2.13 does), or train with sharding ddp'
        )
    return found


def measure(path: Path) -> list[int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = total = 0
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 24):
            size, total = size + len(block), zlib.crc32(block, total)
    return [size, total]


def faults(folder: Path, files: Mapping[str, list[int]], chosen: Iterable[str]) -> list[str]:
    """Say what is wrong with the ``chosen`` files of a folder."""
    found = []
    for name in chosen:
        path = folder / name
        if not path.is_file():
            found.append(f'{name} is missing')
        elif measure(path) != list(files[name]):
            found.append(f'{name} is not what was written')
    return found


def put_back(state: Any, folder: Path | None, module: nn.Module | None) -> Any:
    """
    Return a nested state whose tensors lie as the parameters of ``module`` do.

    A tensor belongs to the parameter that a key on its path names, if its shape is the same: the
    weights themselves, averages of them, the optimiser's moments.

    :param folder: of the shares; None where the state has none.
    """
    like = {name: p for name, p in (module.named_parameters() if module else ()) if is_shared(p)}
    targets: dict[str, Tensor] = {}
    if folder is not None:
        sizes = _storage('Reader')(path=str(folder)).read_metadata().state_dict_metadata
        for name, owner in _shares_in(state, like):
            size, kind = sizes[name].size, sizes[name].properties.dtype
            targets[name] = _empty(size, kind, owner)
        read(folder, targets)
    return _fill(state, targets, like, None)


def _shares_in(
    tree: Any, like: Mapping[str, Tensor], owner: Tensor | None = None
) -> Iterator[tuple[str, Tensor | None]]:
    """Yield the names of shares in a state, each with the parameter that it belongs to."""
    if isinstance(tree, Mapping) and set(tree) == {SHARE}:
        yield tree[SHARE], owner
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _shares_in(item, like, like.get(key, owner))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _shares_in(item, like, owner)


def _empty(size: torch.Size, kind: torch.dtype, owner: Tensor | None) -> Tensor:
    if owner is not None and owner.shape == size:
        return torch.empty_like(owner, dtype=kind, requires_grad=False)
    return torch.empty(size, dtype=kind)


def _fill(
    tree: Any, targets: Mapping[str, Tensor], like: Mapping[str, Tensor], owner: Tensor | None
) -> Any:
    if isinstance(tree, Mapping) and set(tree) == {SHARE}:
        return targets[tree[SHARE]]
    if isinstance(tree, Tensor):
        return _cut(tree, owner)
    if isinstance(tree, Mapping):
        return {k: _fill(item, targets, like, like.get(k, owner)) for k, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        kept = [_fill(item, targets, like, owner) for item in tree]
        return kept if isinstance(tree, list) else tuple(kept)
    return tree


def _cut(tensor: Tensor, owner: Any) -> Tensor:
    """Return a whole tensor as this process's share, where its parameter is shared out."""
    if owner is None or owner.shape != tensor.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    whole = tensor.to(owner.device)
    return distribute_tensor(whole, owner.device_mesh, owner.placements)


def next_folder(path: Path) -> str:
    """Return the name of a folder for the shares of a checkpoint that does not exist yet."""
    numbers = [int(p.name.rsplit('-', 1)[1]) for p in folders(path)]
    return f'{path.stem}.shards-{max(numbers, default=0) + 1}'


def folders(path: Path) -> list[Path]:
    """Return all folders of shares beside a checkpoint, complete or not."""
    found = path.parent.glob(f'{path.stem}.shards-*')
    return [p for p in found if p.is_dir() and p.name.rsplit('-', 1)[1].isdecimal()]


def remove_others(path: Path, keep: str | None) -> None:
    """Remove the folders of earlier checkpoints, and of saves that were cut short."""
    for folder in folders(path):
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path) -> None:
    """Let the names of a folder's files, and its own, reach the disk."""
    for place in (folder, folder.parent):
        number = os.open(place, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def optimiser_state(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state with the parameters' names for keys: all processes agree."""
    plain, names = optimiser.state_dict(), _names(module, optimiser)
    groups = [
        {**group, 'params': [names[i] for i in group['params']]} for group in plain['param_groups']
    ]
    return {'state': {names[i]: s for i, s in plain['state'].items()}, 'param_groups': groups}


def load_optimiser_state(
    module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """
    Undo :func:`optimiser_state`.

    :raises CheckpointError: the optimiser trains other parameters.
    """
    number = {name: index for index, name in enumerate(_names(module, optimiser))}
    stored = [name for group in state['param_groups'] for name in group['params']]
    if stored != list(number):
        other = sorted(set(stored) ^ set(number)) or ['their order']
        raise CheckpointError(
            f'the checkpoint trains other parameters than this run (for one, {other[0]}); resume '
            'with the configuration that wrote it'
        )
    groups = [
        {**group, 'params': [number[name] for name in group['params']]}
        for group in state['param_groups']
    ]
    moments = {number[name]: values for name, values in state['state'].items()}
    optimiser.load_state_dict({'state': moments, 'param_groups': groups})


def _names(module: nn.Module, optimiser: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimiser's parameters in its order."""
    known = {parameter: name for name, parameter in module.named_parameters()}
    return [known[p] for group in optimiser.param_groups for p in group['params']]
