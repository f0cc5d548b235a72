"""
Play data on disk: a dataset is a folder of episodes, an episode a folder of plain arrays.

::

    meta.json                     format, task specification, provenance, totals
    episodes/000123/frames.npy    (T, H, W, 3) uint8 RGB, H = W = the task's frame_size
                    action.npy    (T, A) float32 in [-1, 1], the task's action fields in order
                    intent.npy    (T,) uint8: 0 play, 1 intent, 2 milestone
                    valid.npy     (T,) bool: frame and action may be learned from
                    stamp.npy     (T,) float64, seconds
                    proprio.npy   (T, P) float32, SI units
                    episode.json  task specification and where the episode comes from

Convention: frame t, then action[t] in force during [t, t + 1/rate), then frame t + 1.  An episode
is written beside its place, synced, and renamed, so a reader finds it whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from .intent import MILESTONE
from .tasks import require_same, TaskSpec

FORMAT = 1
ARRAYS = ('frames', 'action', 'intent', 'valid', 'stamp', 'proprio')
_TYPES = {
    'frames': 'uint8',
    'action': 'float32',
    'intent': 'uint8',
    'valid': 'bool',
    'stamp': 'float64',
    'proprio': 'float32',
}


class EpisodeError(ValueError):
    """A dataset or an episode that is missing, damaged, or made for something else."""


@dataclass(frozen=True)
class Episode:
    """
    One stretch of play without a gap; shapes and units as in the module's description.

    ``info`` is plain JSON: 'task' holds the specification (:meth:`TaskSpec.to_dict`), the rest
    says where the episode comes from.
    """

    frames: np.ndarray
    action: np.ndarray
    intent: np.ndarray
    valid: np.ndarray
    stamp: np.ndarray
    proprio: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)

    @property
    def spec(self) -> TaskSpec:
        """The task specification it was recorded for."""
        if 'task' not in self.info:
            raise EpisodeError('the episode does not name its task; convert its bag again')
        return TaskSpec.from_dict(self.info['task'])

    def check(self) -> None:
        """Raise EpisodeError unless all arrays agree with each other and with the task."""
        spec, size = self.spec, self.spec.frame_size
        shapes = {
            'frames': (size, size, 3),
            'action': (len(spec.actions),),
            'intent': (),
            'valid': (),
            'stamp': (),
            'proprio': (len(spec.proprioception),),
        }
        for name in ARRAYS:
            array, wanted = getattr(self, name), (len(self), *shapes[name])
            if array.shape != wanted or array.dtype != _TYPES[name]:
                raise EpisodeError(
                    f'{name} is {array.shape} {array.dtype}, task {spec.name!r} wants {wanted} '
                    f'{_TYPES[name]}; convert the bag again'
                )
        if wrong := faults(self):
            raise EpisodeError(wrong[0])

    def save(self, folder: Path | str) -> Path:
        """
        Write the episode as ``folder``, whole or not at all, durable when this returns.

        :raises EpisodeError: the folder exists, or the arrays do not fit the task.
        """
        folder = Path(folder)
        self.check()
        if folder.exists():
            raise EpisodeError(f'{folder} exists already; episodes are never overwritten')
        beside = folder.with_name(folder.name + '.tmp')
        shutil.rmtree(beside, ignore_errors=True)  # what a killed writer left
        beside.mkdir(parents=True)
        for name in ARRAYS:
            with open(beside / f'{name}.npy', 'wb') as file:
                np.save(file, np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
                _sync(file)
        _write_json(beside / 'episode.json', self.info)
        beside.rename(folder)
        sync_folder(folder.parent)
        return folder

    @classmethod
    def load(cls, folder: Path | str, mmap: bool = True) -> Episode:
        """
        Read an episode; its frames stay on disk as a memory map unless ``mmap`` is off.

        :raises EpisodeError: a file is missing or damaged, or the arrays do not fit each other.
        """
        folder = Path(folder)
        arrays = {
            name: _read_array(folder / f'{name}.npy', mmap and name == 'frames') for name in ARRAYS
        }
        episode = cls(**arrays, info=_read_json(folder / 'episode.json'))
        try:
            episode.check()
        except ValueError as error:
            raise EpisodeError(f'{folder}/{error}') from error
        return episode


def faults(episode: Episode) -> list[str]:
    """Name file and row of every value that no recording can hold; training would suffer."""
    checks = (
        ('action.npy', ~np.isfinite(episode.action).all(axis=1), 'is not finite'),
        ('action.npy', (np.abs(episode.action) > 1).any(axis=1), 'is outside [-1, 1]'),
        ('intent.npy', episode.intent > MILESTONE, 'is no label'),
        ('proprio.npy', ~np.isfinite(episode.proprio).all(axis=1), 'is not finite'),
        ('stamp.npy', ~np.isfinite(episode.stamp), 'is not finite'),
    )
    return [sentence for name, bad, what in checks if (sentence := describe_rows(name, bad, what))]


def describe_rows(name: str, bad: np.ndarray, what: str) -> str:
    """Say which rows (T,) bool of a file are bad; empty when none is."""
    rows = np.flatnonzero(bad)
    more = f' and {len(rows) - 1} more' if len(rows) > 1 else ''
    return f'{name}: row {rows[0]}{more} {what}; convert the bag again' if len(rows) else ''


def episode_folders(dataset: Path | str) -> list[Path]:
    """List the finished episodes of a dataset in order; half-written ones are not among them."""
    return sorted(path for path in (Path(dataset) / 'episodes').glob('*') if path.name.isdigit())


def read_meta(dataset: Path | str, spec: TaskSpec | None = None) -> dict[str, Any]:
    """Read meta.json; a dataset of another task than ``spec`` is refused (TaskError)."""
    path = Path(dataset) / 'meta.json'
    if not path.is_file():
        raise EpisodeError(
            f'{dataset} is no dataset: it has no meta.json; make one from a bag '
            'with `dmo convert BAG -o DATASET`'
        )
    meta = _read_json(path)
    if meta.get('format') != FORMAT:
        raise EpisodeError(
            f'{path} has format {meta.get("format")!r}, this version reads '
            f'{FORMAT}; convert the bag again'
        )
    if spec is not None:
        require_same(spec, TaskSpec.from_dict(meta['task']), f'the dataset {dataset}')
    return meta


def write_meta(dataset: Path | str, spec: TaskSpec, **facts: Any) -> None:
    """Write meta.json (atomically) with the task's specification and ``facts``."""
    path = Path(dataset) / 'meta.json'
    beside = path.with_name('meta.json.tmp')
    _write_json(beside, {'format': FORMAT, 'task': spec.to_dict(), **facts})
    beside.replace(path)
    sync_folder(path.parent)


def load_dataset(dataset: Path | str, spec: TaskSpec) -> list[Episode]:
    """
    Open every episode of a dataset, frames as memory maps.

    :raises TaskError: the dataset or one of its episodes is of another task.
    :raises EpisodeError: no dataset, an empty one, or a damaged episode (named).
    """
    read_meta(dataset, spec)
    episodes = []
    for folder in episode_folders(dataset):
        episode = Episode.load(folder)
        require_same(spec, episode.spec, f'the episode {folder}')
        episodes.append(episode)
    if not episodes:
        raise EpisodeError(
            f'the dataset {dataset} holds no episode; record more play, or ask '
            '`dmo check` what is wrong with its bag'
        )
    return episodes


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_json(path: Path, plain: dict[str, Any]) -> None:
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(plain, file, indent=1, allow_nan=False)
        _sync(file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise EpisodeError(f'{path} is missing; convert the bag again') from error
    except ValueError as error:
        raise EpisodeError(f'{path} is damaged ({error}); convert the bag again') from error
    return plain


def _read_array(path: Path, mmap: bool) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode='r' if mmap else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise EpisodeError(f'{path} is missing; convert the bag again') from error
    except (ValueError, OSError, EOFError) as error:
        raise EpisodeError(f'{path} is damaged ({error}); convert the bag again') from error
    return array
