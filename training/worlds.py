"""
The global model of a task, whichever kind it is: as worlds to train a policy in, and as a judge.

``diamond`` is one model of frames and another of rewards.  The reward stage of a ``dreamer4``
hands over the complete model, dynamics and calibrated head, so its worlds need no other file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
import zlib

from dmo_ros.core.episode import Episode
from dmo_ros.core.tasks import TaskSpec
import numpy as np
import torch

from .data import PlayDataset
from .play_cache import cached
from .world import ResumableModel


def load_world(
    global_run: Path,
    reward_run: Path,
    batch: int,
    spec: TaskSpec,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device | str = 'cpu',
) -> ResumableModel:
    """
    Load ``batch`` worlds of a task; they show frames of ``spec.policy_size`` pixels.

    :param global_run: the checkpoint of stage 'global'.  A dreamer4's is not opened: its dynamics
        went on learning in stage 'reward' and is there.
    :param reward_run: the checkpoint of stage 'reward'.
    :param steps: denoising steps of a frame, a power of two for a dreamer4; the model's own
        number, when left out.
    :raises CheckpointError: a file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    if spec.global_model == 'dreamer4':
        from .models.dreamer4.rollout import RolloutConfig
        from .models.dreamer4.world import Dreamer4World
        from .train_head import load_model

        config = RolloutConfig() if steps is None else RolloutConfig(steps=steps)
        model = load_model(reward_run, spec).to(device)
        dtype = torch.bfloat16 if model.device.type == 'cuda' else torch.float32
        return Dreamer4World(model, batch, config, spec.policy_size, seed=seed, dtype=dtype)
    from .models.diamond.world import load_world as load_diamond
    from .train_reward import load_reward

    reward = load_reward(reward_run, spec).to(device)
    return load_diamond(global_run, batch, reward, steps, seed, device, spec)


def label(reward_run: Path, dataset: PlayDataset, spec: TaskSpec) -> None:
    """
    Score every frame of the dataset once with the task's reward model.

    The scores of a dreamer4, which costs a pass of the transformer a frame, are kept beside the
    play: local model and policy need the same ones.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    if spec.global_model == 'dreamer4':
        _label_by_head(reward_run, dataset, spec)
        return
    from .train_reward import label_dataset, load_reward

    label_dataset(load_reward(reward_run, spec), dataset)


def _label_by_head(reward_run: Path, dataset: PlayDataset, spec: TaskSpec) -> None:
    from .engine import pick_device
    from .train_head import label_dataset, load_model

    loaded: list[Any] = []

    def score(episode: Episode) -> np.ndarray:
        if not loaded:
            loaded.append(load_model(reward_run, spec).to(pick_device()))
        alone = PlayDataset([episode])
        label_dataset(loaded[0], alone)
        return alone.rewards[id(episode)]

    dataset.label([_scores(reward_run, episode, score) for episode in dataset.episodes()])


def _scores(
    reward_run: Path, episode: Episode, score: Callable[[Episode], np.ndarray]
) -> np.ndarray:
    """Return the rewards (T,) of an episode: those kept of this model and play, or ``score``."""
    if not reward_run.is_file():
        return score(episode)
    stat = reward_run.stat()
    moved = zlib.crc32(np.ascontiguousarray(episode.action).tobytes())
    valid = zlib.crc32(np.ascontiguousarray(episode.valid).tobytes())
    facts = f'{stat.st_size} {stat.st_mtime_ns} {moved} {valid}'
    return cached(episode, 'reward', facts, lambda: score(episode))
