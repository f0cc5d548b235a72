"""Play data for training: episodes on disk -> segments of equal length -> tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dmo_ros.core.episode import Episode, load_dataset
from dmo_ros.core.tasks import TaskSpec
import numpy as np
import torch


class DataError(ValueError):
    """A dataset that is empty or too short for what is asked of it."""


@dataclass(frozen=True)
class Segment:
    """
    A batch of equally long pieces of play.

    ``frames`` (B, L, H, W, 3) uint8; ``action`` (B, L, A) float32 in [-1, 1], action[:, t] in
    force from frame t to frame t + 1; ``intent`` (B, L) uint8; ``reward`` (B, L) float32, the
    global reward of frame t, when the dataset was labelled with one; ``proprio`` (B, L, P) float32
    in SI units, None where the task has none.
    """

    frames: torch.Tensor
    action: torch.Tensor
    intent: torch.Tensor
    reward: torch.Tensor | None = None
    proprio: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Return L."""
        return int(self.frames.shape[1])

    def to(self, device: torch.device | str) -> Segment:
        """Return the same on a device."""
        return self._make([None if x is None else x.to(device) for x in self._parts()])

    def join(self, other: Segment) -> Segment:
        """Return the rows of both; what only one of them has is left out."""
        pairs = zip(self._parts(), other._parts())
        return self._make(
            [None if a is None or b is None else torch.cat([a, b]) for a, b in pairs]
        )

    def _parts(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]

    @staticmethod
    def _make(parts: list[Any]) -> Segment:
        return Segment(*parts)


class PlayDataset:
    """
    Episodes of one task, held as memory maps, from which segments are drawn.

    The last ``holdout`` share of the episodes, one at least, is kept apart for validation: a split
    inside an episode would leak.  A single episode has to serve as both.
    """

    def __init__(self, episodes: list[Episode], holdout: float = 0.1) -> None:
        if not episodes:
            raise DataError(
                'the dataset holds no episode; record more play, or look at what '
                '`dmo check` says of the bag'
            )
        kept = max(1, len(episodes) - max(1, round(holdout * len(episodes))))
        self.train = episodes[:kept]
        self.held_out = episodes[kept:] or episodes[-1:]
        self.rewards: dict[int, np.ndarray] = {}
        self._cache: dict[tuple[int, bool], np.ndarray] = {}

    @classmethod
    def open(cls, folder: Path, spec: TaskSpec, holdout: float = 0.1) -> PlayDataset:
        """Open a dataset folder of the task; a dataset of another task is refused."""
        return cls(load_dataset(folder, spec), holdout)

    def frames(self) -> int:
        """Return how many frames there are in all."""
        return sum(len(episode.action) for episode in self.episodes())

    def episodes(self) -> list[Episode]:
        """Return every episode once, those for training first."""
        return list({id(e): e for e in (*self.train, *self.held_out)}.values())

    def label(self, rewards: list[np.ndarray]) -> None:
        """Attach a global reward per frame, one array for each of :meth:`episodes`."""
        episodes = self.episodes()
        lengths = [len(e.action) for e in episodes], [len(reward) for reward in rewards]
        if lengths[0] != lengths[1]:
            raise DataError(
                f'rewards of {lengths[1]} frames for episodes of {lengths[0]}; score '
                'every frame of every episode once'
            )
        self.rewards = {id(e): reward for e, reward in zip(episodes, rewards)}

    def sample(
        self, rng: np.random.Generator, batch: int, length: int, held_out: bool = False
    ) -> Segment:
        """Draw ``batch`` valid segments uniformly over their starts."""
        return self.at(self.draw(rng, batch, length, held_out), length, held_out)

    def draw(
        self, rng: np.random.Generator, batch: int, length: int, held_out: bool = False
    ) -> np.ndarray:
        """Draw (episode number, start) of ``batch`` valid segments, (batch, 2), for :meth:`at`."""
        starts = self.starts(length, held_out)
        return starts[rng.integers(len(starts), size=batch)]

    def at(self, picks: np.ndarray, length: int, held_out: bool = False) -> Segment:
        """Cut the segments that :meth:`draw` picked, here or in the same play at another size."""
        episodes = self.held_out if held_out else self.train
        return self.cut([(episodes[e], int(t)) for e, t in picks], length)

    def cut(self, places: list[tuple[Episode, int]], length: int) -> Segment:
        """Cut segments of ``length`` at (episode, start) places."""

        def gather(name: str) -> torch.Tensor:
            return torch.from_numpy(
                np.stack(
                    [np.asarray(getattr(episode, name)[t : t + length]) for episode, t in places]
                )
            )

        reward = None
        if self.rewards:
            reward = torch.from_numpy(
                np.stack([self.rewards[id(episode)][t : t + length] for episode, t in places])
            ).float()
        proprio = gather('proprio').float() if places[0][0].proprio.shape[1] else None
        return Segment(
            gather('frames'), gather('action').float(), gather('intent'), reward, proprio
        )

    def starts(self, length: int, held_out: bool = False) -> np.ndarray:
        """
        List the (episode, start) whose ``length`` frames are all valid, once per length.

        :raises DataError: there is none; ask before a long training rather than after it.
        """
        if (length, held_out) not in self._cache:
            episodes = self.held_out if held_out else self.train
            runs = [
                (number, run.start, run.stop)
                for number, episode in enumerate(episodes)
                for run in valid_runs(episode.valid)
            ]
            found = [
                np.stack(np.broadcast_arrays(number, np.arange(start, stop - length + 1)), -1)
                for number, start, stop in runs
                if stop - start >= length
            ]
            if not found:
                longest = max((stop - start for _, start, stop in runs), default=0)
                raise DataError(
                    f'no stretch of {length} valid frames in {len(episodes)} episodes '
                    f'(the longest has {longest}); record longer stretches without '
                    'gaps'
                )
            self._cache[length, held_out] = np.concatenate(found)
        return self._cache[length, held_out]


def valid_runs(valid: np.ndarray) -> list[slice]:
    """Return the stretches of an episode without an invalid frame."""
    edges = np.flatnonzero(np.diff(np.asarray(valid, dtype=np.int8), prepend=0, append=0))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
