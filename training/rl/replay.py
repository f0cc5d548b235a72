"""
The replay buffer of imagined experience: rings of frames on memory maps, one per actor.

Each slot holds a frame, the proprioception of its time if there is any, the action that led on
from it, its global reward and whether an episode began there.  Single frames are stored once; the
next frame is the next slot.  A million 64x64 frames are 12 GB, which is why they live in a file
and not in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import Segment


class Replay:
    """Rings of ``capacity // actors`` slots; ``folder`` keeps them on disk, None in memory."""

    def __init__(
        self,
        capacity: int,
        actors: int,
        frame_size: int,
        actions: int,
        folder: Path | None = None,
        proprio: int = 0,
    ) -> None:
        self.slots = capacity // actors
        if self.slots < 2:
            raise ValueError(
                f'a replay of {capacity} frames holds less than two for each of the '
                f'{actors} actors; raise capacity'
            )
        self.actors, self.head, self.filled = actors, 0, 0
        self.on_disk = folder is not None
        self.written = self._array('written', (1,), np.int64, folder)
        shape = (actors, self.slots)
        self.frames = self._array('frames', (*shape, frame_size, frame_size, 3), np.uint8, folder)
        self.action = self._array('action', (*shape, actions), np.float32, folder)
        self.reward = self._array('reward', shape, np.float32, folder)
        self.first = self._array('first', shape, np.bool_, folder)
        self.stored = ['frames', 'action', 'reward', 'first']
        self.proprio: np.ndarray | None = None
        if proprio:
            self.proprio = self._array('proprio', (*shape, proprio), np.float32, folder)
            self.stored.append('proprio')

    @staticmethod
    def _array(name: str, shape: tuple[int, ...], dtype: Any, folder: Path | None) -> np.ndarray:
        if folder is None:
            return np.zeros(shape, dtype)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'{name}.npy'
        if path.is_file():
            kept = np.load(path, mmap_mode='r+')
            if kept.shape == shape and kept.dtype == dtype:
                return kept
        return np.lib.format.open_memmap(path, mode='w+', dtype=dtype, shape=shape)

    def add(
        self,
        frames: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        first: torch.Tensor,
        proprio: torch.Tensor | None = None,
    ) -> None:
        """
        Add one slot per actor.

        :param frames: (B, H, W, 3); ``action`` (B, A), ``reward`` (B,), ``first`` (B,).
        :param proprio: (B, P), where this replay keeps it.
        :raises ValueError: there is proprioception and no place for it, or a place and none.
        """
        if (proprio is None) != (self.proprio is None):
            raise ValueError(
                'the replay and what is written to it differ in whether there is proprioception: '
                'the global model has to imagine it exactly where the task has it'
            )
        if proprio is not None and self.proprio is not None:
            self.proprio[:, self.head] = proprio.cpu().numpy()
        self.frames[:, self.head] = frames.cpu().numpy()
        self.action[:, self.head] = action.detach().cpu().numpy()
        self.reward[:, self.head] = reward.cpu().numpy()
        self.first[:, self.head] = first.cpu().numpy()
        self.head = (self.head + 1) % self.slots
        self.filled = min(self.filled + 1, self.slots)
        self.written[0] += 1

    def __len__(self) -> int:
        """Return the number of stored frames."""
        return self.filled * self.actors

    def ready(self, length: int) -> bool:
        """Tell whether segments of ``length`` can be drawn."""
        return self.filled >= length

    def sample(
        self, rng: np.random.Generator, batch: int, length: int
    ) -> tuple[Segment, torch.Tensor]:
        """Draw segments and their episode starts (B, L); none crosses the write head."""
        if not self.ready(length):
            raise ValueError(
                f'the replay holds {self.filled} frames per actor, less than a segment of {length}'
            )
        oldest = self.head - self.filled
        actor = rng.integers(self.actors, size=(batch, 1))
        start = rng.integers(self.filled - length + 1, size=(batch, 1))
        slot = (oldest + start + np.arange(length)) % self.slots
        first = torch.from_numpy(self.first[actor, slot])
        label = np.zeros((batch, length), np.uint8)
        return Segment(
            torch.from_numpy(self.frames[actor, slot]),
            torch.from_numpy(self.action[actor, slot]),
            torch.from_numpy(label),
            torch.from_numpy(self.reward[actor, slot]),
            None if self.proprio is None else torch.from_numpy(self.proprio[actor, slot]),
        ), first

    def state_dict(self) -> dict[str, Any]:
        """
        Return the cursors, and the filled slots of a replay in memory.

        Those of a replay on disk stay where they are: a million frames do not fit a checkpoint.
        """
        cursors = {'head': self.head, 'filled': self.filled, 'written': int(self.written[0])}
        if self.on_disk:
            for name in ('written', *self.stored):
                getattr(self, name).flush()
            return cursors
        return cursors | {name: getattr(self, name)[:, : self.filled] for name in self.stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Put back what :meth:`state_dict` returned; exact in memory, and on disk until it is full.

        A full replay on disk has lost the oldest slots to what was written after the checkpoint;
        it goes on without them and without what replaced them.
        """
        self.head, self.filled = int(state['head']), int(state['filled'])
        if self.on_disk:
            self.filled = self._left_on_disk(int(state['written']))
        else:
            for name in self.stored:
                getattr(self, name)[:, : self.filled] = state[name]
        self.written[0] = state['written']

    def _left_on_disk(self, written: int) -> int:
        """Return how many slots of the checkpoint were not written over since."""
        since = int(self.written[0]) - written
        if since < 0:
            raise ValueError(
                'the files of the replay are older than the checkpoint or are gone; '
                'begin the run anew, or bring its replay folder back'
            )
        unused = self.slots - self.filled
        return max(0, self.filled - max(0, since - unused))
