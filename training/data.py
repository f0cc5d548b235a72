"""Play data for training: episodes on disk -> segments of equal length -> tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    ``frames`` (B, L, H, W, 3) uint8; ``action`` (B, L, A) float32 in [-1, 1], action[:, t] in force
    from frame t to frame t + 1; ``intent`` (B, L) uint8; ``reward`` (B, L) float32, the global reward
    of frame t, when the dataset was labelled with one.
    """

    frames: torch.Tensor
    action: torch.Tensor
    intent: torch.Tensor
    reward: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Return L."""
        return int(self.frames.shape[1])


class PlayDataset:
    """
    Episodes of one task, held as memory maps, from which segments are drawn.

    The last ``holdout`` share of the episodes is kept apart for validation: a split inside an
    episode would leak.
    """

    def __init__(self, episodes: list[Episode], holdout: float = 0.1) -> None:
        if not episodes:
            raise DataError('the dataset holds no episode; record more play, or look at what '
                            '`dmo check` says of the bag')
        kept = max(1, len(episodes) - round(holdout * len(episodes)))
        self.train = episodes[:kept]
        self.held_out = episodes[kept:] or episodes[-1:]
        self.rewards: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, folder: Path, spec: TaskSpec, holdout: float = 0.1) -> PlayDataset:
        """Open a dataset folder of the task; a dataset of another task is refused."""
        return cls(load_dataset(folder, spec), holdout)

    def frames(self) -> int:
        """Return how many frames there are in all."""
        return sum(len(episode.action) for episode in (*self.train, *self.held_out))

    def label(self, rewards: list[np.ndarray]) -> None:
        """Attach a global reward per frame, one array per episode in train + held_out order."""
        episodes = list(dict.fromkeys(map(id, (*self.train, *self.held_out))))
        self.rewards = dict(zip(episodes, rewards, strict=True))

    def sample(self, rng: np.random.Generator, batch: int, length: int,
               held_out: bool = False) -> Segment:
        """Draw ``batch`` valid segments uniformly over their starts."""
        episodes = self.held_out if held_out else self.train
        starts = self._starts(episodes, length, held_out)
        picks = starts[rng.integers(len(starts), size=batch)]
        return self.cut([(episodes[e], int(t)) for e, t in picks], length)

    def cut(self, places: list[tuple[Episode, int]], length: int) -> Segment:
        """Cut segments of ``length`` at (episode, start) places."""
        def gather(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([
                np.asarray(getattr(episode, name)[t:t + length]) for episode, t in places]))
        reward = None
        if self.rewards:
            reward = torch.from_numpy(np.stack([
                self.rewards[id(episode)][t:t + length] for episode, t in places])).float()
        return Segment(gather('frames'), gather('action').float(), gather('intent'), reward)

    def _starts(self, episodes: list[Episode], length: int, held_out: bool) -> np.ndarray:
        """List every (episode, start) whose ``length`` frames are all valid, once per length."""
        cache = self.__dict__.setdefault('_cache', {})
        if (length, held_out) not in cache:
            found = []
            for number, episode in enumerate(episodes):
                valid = np.asarray(episode.valid, dtype=np.int64)
                if len(valid) >= length:
                    whole = np.convolve(valid, np.ones(length, dtype=np.int64), 'valid') == length
                    times = np.flatnonzero(whole)
                    found.append(np.stack([np.full_like(times, number), times], axis=1))
            cache[length, held_out] = np.concatenate(found) if found else np.empty((0, 2), int)
        if len(cache[length, held_out]) == 0:
            longest = max(len(episode.action) for episode in episodes)
            raise DataError(f'no stretch of {length} valid frames in {len(episodes)} episodes (the '
                            f'longest has {longest}); record longer stretches without gaps')
        return cache[length, held_out]
