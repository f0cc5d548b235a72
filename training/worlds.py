"""
The global model of a task, whichever kind it is: as worlds to train a policy in, and as a judge.

``diamond`` is one model of frames and another of rewards.  A ``dreamer4`` reward checkpoint holds
the complete model, dynamics and calibrated head, so its worlds need no other file.
"""

from __future__ import annotations

from pathlib import Path

from dmo_ros.core.tasks import TaskSpec

from .data import PlayDataset
from .world import ResumableModel


def load_world(
    global_run: Path,
    reward_run: Path,
    batch: int,
    spec: TaskSpec,
    steps: int | None = None,
    seed: int = 0,
    device: str = 'cpu',
) -> ResumableModel:
    """
    Load ``batch`` worlds of a task; they show frames of ``spec.policy_size`` pixels.

    :param global_run: the checkpoint of stage 'global'; a dreamer4 reads the other one instead,
        in which its dynamics went on learning.
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
        return Dreamer4World(model, batch, config, spec.policy_size, seed=seed)
    from .models.diamond.world import load_world as load_diamond
    from .train_reward import load_reward

    reward = load_reward(reward_run, spec).to(device)
    return load_diamond(global_run, batch, reward, steps, seed, device, spec)


def label(reward_run: Path, dataset: PlayDataset, spec: TaskSpec) -> None:
    """
    Score every frame of the dataset once with the task's reward model.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    if spec.global_model == 'dreamer4':
        from .train_head import label_dataset, load_model

        label_dataset(load_model(reward_run, spec), dataset)
        return
    from .train_reward import label_dataset as score
    from .train_reward import load_reward

    score(load_reward(reward_run, spec), dataset)
