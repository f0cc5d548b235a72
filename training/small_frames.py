"""
Play at the size the policy sees, made by the robot's own image function and kept beside the play.

A dataset holds frames at the world model's size.  Local model and policy see smaller ones, and
``core.images`` makes them on the robot as here, so that they are the same to the last bit.  A
frame of 256 pixels is 196 kB to read and 12 kB once it is small: it is made small once.
"""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import tempfile
import zlib

from dmo_ros.core.episode import Episode
from dmo_ros.core.images import to_observation
from dmo_ros.core.tasks import TaskSpec
import numpy as np

from .data import PlayDataset


def at_policy_size(dataset: PlayDataset, spec: TaskSpec) -> PlayDataset:
    """
    Return the same play, split and labels with frames of ``spec.policy_size`` pixels.

    Frames go to ``cache/`` in the dataset's folder; where that cannot be written they stay in
    memory.  A task whose policy sees the world model's frames gets ``dataset`` itself.
    """
    if spec.policy_size == spec.frame_size:
        return dataset
    small = {id(e): replace(e, frames=small_frames(e, spec)) for e in dataset.episodes()}
    view = PlayDataset(list(small.values()))
    view.train = [small[id(e)] for e in dataset.train]
    view.held_out = [small[id(e)] for e in dataset.held_out]
    view.rewards = {id(small[number]): reward for number, reward in dataset.rewards.items()}
    return view


def small_frames(episode: Episode, spec: TaskSpec) -> np.ndarray:
    """Return an episode's frames at the policy's size (T, s, s, 3) uint8, from disk if it can."""
    path = _place(episode.frames, spec)
    if path is not None and path.is_file():
        return _open(path)
    size = spec.policy_size
    made = np.empty((len(episode), size, size, 3), np.uint8)
    for row, frame in enumerate(episode.frames):
        made[row] = to_observation(np.asarray(frame), spec, size)
    if path is None:
        return made
    try:
        _write(path, made)
    except OSError:  # a dataset on a medium that is read-only, or full
        return made
    return _open(path)


def _place(frames: np.ndarray, spec: TaskSpec) -> Path | None:
    """Name the cache of a file of frames by all that its content depends on; None for no file."""
    name = getattr(frames, 'filename', None)
    if name is None:
        return None
    source = Path(name)
    stat = source.stat()
    facts = f'{stat.st_size} {stat.st_mtime_ns} {spec.camera.crop}'
    stamp = f'{zlib.crc32(facts.encode()):08x}'
    folder = source.parent
    return folder.parent.parent / 'cache' / f'{folder.name}-{spec.policy_size}-{stamp}.npy'


def _write(path: Path, made: np.ndarray) -> None:
    """Write under a name of its own and rename: stages may run side by side."""
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.part', delete=False) as stream:
        try:
            np.save(stream, made, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            os.unlink(stream.name)
            raise
    os.replace(stream.name, path)


def _open(path: Path) -> np.ndarray:
    found: np.ndarray = np.load(path, mmap_mode='r', allow_pickle=False)
    return found
