"""
Play at the size the policy sees, made by the robot's own image function.

A dataset holds frames at the world model's size.  Local model and policy see smaller ones, and
``core.images`` makes them on the robot as here, so that they are the same to the last bit.  A
frame of 256 pixels is 196 kB to read and 12 kB once it is small: it is made small once.
"""

from __future__ import annotations

from dataclasses import replace

from dmo_ros.core.episode import Episode
from dmo_ros.core.images import to_observation
from dmo_ros.core.tasks import TaskSpec
import numpy as np

from .data import PlayDataset
from .play_cache import cached


def at_policy_size(dataset: PlayDataset, spec: TaskSpec) -> PlayDataset:
    """
    Return the same play, split and labels with frames of ``spec.policy_size`` pixels.

    They are kept beside the dataset; where that cannot be written they stay in memory.  A task
    whose policy sees the world model's frames gets ``dataset`` itself.
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
    """Return an episode's frames at the policy's size, (T, s, s, 3) uint8."""
    size = spec.policy_size

    def make() -> np.ndarray:
        made = np.empty((len(episode), size, size, 3), np.uint8)
        for row, frame in enumerate(episode.frames):
            made[row] = to_observation(np.asarray(frame), spec, size)
        return made

    return cached(episode, f'frames-{size}', spec.camera.crop, make)
