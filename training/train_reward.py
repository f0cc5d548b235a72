"""
Stage 2: the global reward model from play data (paper section 3.3).

    dmo train reward --task pusher --preset demo --data DATASET --out RUN
    (about one minute on one core)

Two losses on the same play: Bradley-Terry on the order of two frames between a start and a goal,
and the operator's labels.  Milestone frames of the play become the goal set.

This is the reward model of single frames.  Where a task's reward is an 'intent_head', this is only
the door: ``train_head`` trains the head within its global model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import importlib
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

from dmo_ros.core.episode import Episode
from dmo_ros.core.intent import INTENT, MILESTONE
from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import engine
from .command import main, require_config
from .data import DataError, PlayDataset, valid_runs
from .models.rewards import anticipated, bradley_terry, RewardConfig, RewardModel, to_pixels


@dataclass(frozen=True)
class Config:
    """One run of this stage; lengths are in control steps."""

    task: str
    data: Path
    out: Path
    model: RewardConfig = field(default_factory=RewardConfig)
    updates: int = 4000
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    shortest: int = 4
    longest: int = 40
    shift: int = 2
    seed: int = 0
    threads: int = 0
    log_every: int = 50
    save_every: int = 1000


def script(task: str) -> ModuleType:
    """Return the script that trains a task's kind of reward: this one, or the head's."""
    if get_task(task).reward == 'intent_head':
        return importlib.import_module('.train_head', __package__)
    return sys.modules[__name__]


def train(config: Any, resume: bool = False, until: int | None = None) -> Path:
    """
    Train the reward model; returns its checkpoint.

    :param config: the ``Config`` of :func:`script` for its task.
    :param until: stop after this many updates, before goals are chosen (a job with a time limit).
    """
    stage = script(config.task)
    require_config(config, stage)
    if stage is not sys.modules[__name__]:
        path: Path = stage.train(config, resume, until)
        return path
    rng = engine.seed_everything(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    play = Play(open_dataset(config), config)
    model = RewardModel(config.model)
    optimiser = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, config.updates)
    path, start = config.out / 'reward.safetensors', 0
    if resume and path.is_file():
        start = _restore(path, config, model, optimiser, schedule, rng)
    log = engine.RunLog(config.out, config, resume, start)
    end = min(config.updates, until or config.updates)
    for step in engine.progress(end, start, 'reward'):
        losses = _losses(model, play, rng)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % config.log_every == 0:
            log.write(step + 1, {name: float(loss.detach()) for name, loss in losses.items()})
        if step + 1 < config.updates and ((step + 1) % config.save_every == 0 or step + 1 == end):
            _save(path, config, model, optimiser, schedule, rng, step + 1)
    if end == config.updates:
        finish(model, play, np.random.default_rng(config.seed), log)
        _save(path, config, model, optimiser, schedule, rng, end)
    log.close()
    return path


def open_dataset(config: Config) -> PlayDataset:
    """Open the play and refuse a model that does not fit the task."""
    spec = get_task(config.task)
    if config.model.frame_size != spec.frame_size:
        raise TaskError(
            f'the reward model takes frames of {config.model.frame_size} pixels, task '
            f'{spec.name!r} has {spec.frame_size}; set frame_size'
        )
    return PlayDataset.open(config.data, spec)


def finish(model: RewardModel, play: Play, rng: np.random.Generator, log: engine.RunLog) -> None:
    """Fix goals and judge; the same draws every time, so finishing twice changes nothing."""
    if model.config.energy_weight:
        _choose_goals(model, play, rng)
    log.write(play.config.updates, evaluate(model, play, rng))


class Play:
    """The dataset as flat arrays, with what the two losses draw from it."""

    def __init__(self, dataset: PlayDataset, config: Config) -> None:
        self.config = config
        self.splits = [self._flatten(dataset.train), self._flatten(dataset.held_out)]
        c = config.model
        needed = bool(c.energy_weight or c.milestone_weight)
        if needed and not (self.splits[0][1] == MILESTONE).any():
            raise DataError(
                'no frame of the play carries the milestone label, so there is no '
                'goal to rank towards; press the milestone key when the task is '
                'done, or label the dataset with `dmo relabel`'
            )

    def _flatten(
        self, episodes: list[Episode]
    ) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """
        Return valid frames, their labels, the targets of the intent head, and what is left.

        That is the number of frames after each in its bout.

        Bouts end where an episode ends and where a frame is not valid.
        """
        runs = [(e, run) for e in episodes for run in valid_runs(e.valid)]
        left = [np.arange(run.stop - run.start)[::-1] for _, run in runs]
        if max((len(bout) for bout in left), default=0) <= self.config.shortest:
            raise DataError(
                f'no stretch of {self.config.shortest + 1} valid frames in '
                f'{len(episodes)} episodes; record longer stretches without gaps, or '
                'set shortest'
            )
        frames = torch.from_numpy(np.concatenate([e.frames[run] for e, run in runs]))
        labels = np.concatenate([e.intent[run] for e, run in runs])
        targets = np.concatenate([self._targets(np.asarray(e.intent))[run] for e, run in runs])
        return frames, labels, targets, np.concatenate(left)

    def _targets(self, labels: np.ndarray) -> np.ndarray:
        """Return the targets (T, 2) of one episode's labels: anticipated intent and milestone."""
        c = self.config.model
        columns = []
        for label in (INTENT, MILESTONE):
            pressed = torch.from_numpy(labels == label)
            ahead = [
                anticipated(pressed, factor, c.anticipation_steps) for factor in c.anticipation
            ]
            columns.append(torch.stack(ahead).mean(dim=0).numpy())
        return np.stack(columns, axis=-1)

    def triplets(self, rng: np.random.Generator, split: int = 0) -> tuple[Tensor, ...]:
        """Draw pixels of (earlier, later, start, goal), each (B, 3, H, W), from one bout each."""
        frames, _, _, left = self.splits[split]
        c = self.config
        starts = np.flatnonzero(left >= c.shortest)
        start = starts[rng.integers(len(starts), size=c.batch)]
        length = rng.integers(c.shortest, np.minimum(left[start], c.longest) + 1)
        first = rng.integers(0, length)
        second = first + 1 + rng.integers(0, length - first)
        rows = np.concatenate([start + first, start + second, start, start + length])
        pixels = to_pixels(frames[torch.from_numpy(rows)]).view(4, c.batch, 3, *frames.shape[1:3])
        return tuple(_shift(pixels, c.shift, rng).unbind(0))

    def labelled(self, rng: np.random.Generator, split: int = 0) -> tuple[Tensor, Tensor]:
        """Draw pixels and the targets (B, 2): anticipated intent and milestone."""
        frames, _, targets, _ = self.splits[split]
        rows = rng.integers(len(targets), size=self.config.batch)
        pixels = to_pixels(frames[torch.from_numpy(rows)])[None]
        return _shift(pixels, self.config.shift, rng)[0], torch.from_numpy(targets[rows])


def _shift(pixels: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Move all frames of a sample by the same few pixels, so that only what is in them counts."""
    if most == 0:
        return pixels
    kinds, batch, channels, height, width = pixels.shape
    together = pixels.transpose(0, 1).reshape(batch, kinds * channels, height, width)
    padded = F.pad(together, (most,) * 4, mode='replicate')
    tops, sides = rng.integers(0, 2 * most + 1, (2, batch))
    moved = torch.stack(
        [padded[i, :, t : t + height, s : s + width] for i, (t, s) in enumerate(zip(tops, sides))]
    )
    return moved.view(batch, kinds, channels, height, width).transpose(0, 1)


def _losses(model: RewardModel, play: Play, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the losses of the terms that count."""
    c, losses = model.config, {}
    if c.energy_weight:
        ranking = [_ranking_loss(energy, play.triplets(rng)) for energy in model.energies]
        losses['ranking'] = torch.stack(ranking).sum()
    if c.intent_weight or c.milestone_weight:
        losses['labels'] = _label_loss(model, *play.labelled(rng))
    return losses


def _ranking_loss(energy: torch.nn.Module, triplet: tuple[Tensor, ...]) -> Tensor:
    earlier, later, start, goal = triplet
    return bradley_terry(energy(later, start, goal), energy(earlier, start, goal)).mean()


def _label_loss(model: RewardModel, pixels: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model.intent(pixels), target)


@torch.no_grad()
def _choose_goals(model: RewardModel, play: Play, rng: np.random.Generator) -> None:
    """Fix starts and goals, then standardise each member's energy per goal over play."""
    frames, labels, _, _ = play.splits[0]
    goals = rng.choice(np.flatnonzero(labels == MILESTONE), model.config.goals)
    starts = rng.choice(np.flatnonzero(labels != MILESTONE), model.config.goals)
    model.goals.copy_(to_pixels(frames[torch.from_numpy(goals)]))
    model.starts.copy_(to_pixels(frames[torch.from_numpy(starts)]))
    rows = torch.from_numpy(rng.integers(len(labels), size=1024))
    scores = model.raw_energy(to_pixels(frames[rows]))
    model.centre.copy_(scores.mean(dim=-1))
    model.spread.copy_(scores.std(dim=-1).clamp(min=1e-6))


@torch.no_grad()
def evaluate(model: RewardModel, play: Play, rng: np.random.Generator) -> dict[str, float]:
    """Rank accuracy and the label head's AUROC on held-out play, and the spread of the reward."""
    c, right, scores, truths = model.config, [], [], []
    for _ in range(8):
        if c.energy_weight:
            earlier, later, start, goal = play.triplets(rng, split=1)
            for energy in model.energies:
                gain = energy(later, start, goal) - energy(earlier, start, goal)
                right.append(float((gain > 0).float().mean()))
        if c.intent_weight or c.milestone_weight:
            pixels, target = play.labelled(rng, split=1)
            scores.append(model.intent(pixels)[:, 1])
            truths.append(target[:, 1] == 1)
    frames = play.splits[1][0]
    reward = model(frames[torch.from_numpy(rng.integers(len(frames), size=512))])
    figures = {'reward_mean': float(reward.mean()), 'reward_std': float(reward.std())}
    if scores:
        figures['milestone_auroc'] = auroc(torch.cat(scores), torch.cat(truths))
    return figures | ({'rank_accuracy': float(np.mean(right))} if right else {})


def auroc(score: Tensor, truth: Tensor) -> float:
    """Return the probability that a positive scores above a negative; nan without either."""
    positive, negative = score[truth], score[~truth]
    if len(positive) == 0 or len(negative) == 0:
        return float('nan')
    gap = positive[:, None] - negative[None]
    return float((gap > 0).float().mean() + 0.5 * (gap == 0).float().mean())


def _save(
    path: Path,
    config: Config,
    model: RewardModel,
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    rng: np.random.Generator,
    step: int,
) -> None:
    engine.save_checkpoint(
        path,
        {
            'stage': 'reward',
            'task': get_task(config.task).to_dict(),
            'step': step,
            'config': engine.plain_config(config),
            'model': model.state_dict(),
            'optimiser': optimiser.state_dict(),
            'schedule': schedule.state_dict(),
            'rng': engine.rng_state(rng),
        },
    )


def _restore(
    path: Path,
    config: Config,
    model: RewardModel,
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    rng: np.random.Generator,
) -> int:
    state = engine.load_to_resume(path, 'reward', config, get_task(config.task))
    model.load_state_dict(state['model'])
    optimiser.load_state_dict(state['optimiser'])
    schedule.load_state_dict(state['schedule'])
    engine.restore_rng(rng, state['rng'])
    return int(state['step'])


def load_reward(path: Path, spec: TaskSpec | None = None) -> RewardModel:
    """
    Load a trained reward model, frozen and ready to score.

    :raises CheckpointError: a file of another stage, or of a run without its goals yet.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    state = engine.load_stage(path, 'reward', spec)
    if state['step'] < state['config']['updates']:
        raise engine.CheckpointError(
            f'{path} is unfinished: {state["step"]} of {state["config"]["updates"]} updates and '
            'no goals yet; carry on with --resume'
        )
    model = RewardModel(RewardConfig(**state['config']['model']))
    model.load_state_dict(state['model'])
    return model.requires_grad_(False).eval()


@torch.no_grad()
def label_dataset(model: RewardModel, dataset: PlayDataset, batch: int = 512) -> None:
    """Score every frame of the dataset once, so that the local model can learn the reward."""
    rewards = []
    for episode in dataset.episodes():
        frames = torch.from_numpy(np.array(episode.frames))
        rewards.append(torch.cat([model(part) for part in frames.split(batch)]).numpy())
    dataset.label(rewards)


if __name__ == '__main__':
    sys.exit(main('reward', sys.argv[1:]))
