"""
What is computed once from play and kept beside it: small frames, rewards.

Files lie in ``cache/`` of the dataset's folder and carry in their names a stamp of all that their
content depends on, so one that is out of date is never opened.  Deleting the folder costs time and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import tempfile
from typing import Any
import zlib

from dmo_ros.core.episode import Episode
import numpy as np


def cached(episode: Episode, name: str, facts: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """
    Return what ``make`` makes of an episode, as a memory map where it could be kept.

    :param facts: all that it depends on besides the episode's frames, in words.
    """
    source = _source(episode)
    if source is None:
        return make()
    stat = source.stat()
    stamp = zlib.crc32(f'{stat.st_size} {stat.st_mtime_ns} {facts}'.encode())
    folder = source.parent
    path = folder.parent.parent / 'cache' / f'{folder.name}-{name}-{stamp:08x}.npy'
    if not path.is_file():
        made = make()
        try:
            _write(path, made)
        except OSError:  # a dataset on a medium that is read-only, or full
            return made
    found: np.ndarray = np.load(path, mmap_mode='r', allow_pickle=False)
    return found


def _source(episode: Episode) -> Path | None:
    """Return the file of an episode's frames; None where they are in memory."""
    name = getattr(episode.frames, 'filename', None)
    return None if name is None else Path(name)


def _write(path: Path, made: Any) -> None:
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
