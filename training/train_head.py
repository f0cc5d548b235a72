r"""
Stage 2 of a DreamerV4-type global model: the reward head on its agent token.

    dmo train reward --task push_cube --preset demo --data DATASET --global RUN --out RUN
    torchrun --nproc-per-node 2 -m dmo_training.train_reward ...   (the same options)

The head learns the operator's labels, from windows of which half hold one, while the dynamics goes
on learning from the others.  Then it is calibrated on held-out play.  What the run hands over is
the complete model, so RUN is all that imagination needs; reward_metrics.json and a picture tell
how reliable its rewards are on episodes it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
import json
from pathlib import Path
import sys
from typing import Any, NamedTuple

from dmo_ros.core.episode import Episode
from dmo_ros.core.intent import MILESTONE, PLAY
from dmo_ros.core.tasks import get_task, TaskSpec
import numpy as np
import torch
from torch import Tensor

from . import engine, loop
from .command import main
from .data import PlayDataset, valid_runs
from .distributed import Team
from .models.dreamer4 import latents
from .models.dreamer4.config import HeadConfig
from .models.dreamer4.model import Dreamer4
from .models.dreamer4.objective import as_context, Batch, Objective
from .models.dreamer4.reward import auroc, judge, RewardHead
from .models.dreamer4.shortcut import plan, ShortcutConfig
from .models.dreamer4.world import load_model as load_dynamics
from .train_dynamics import encode, rows_of

ROWS = 16  # windows that are read at once


@dataclass(frozen=True, kw_only=True)
class Config(loop.LoopConfig):
    """
    One run of this stage; see :class:`loop.LoopConfig` for what all stages have.

    ``labelled`` is the share of windows that are drawn for a label they hold.  A milestone counts
    1, an intent ``intent_value``.  With ``freeze_base`` the dynamics stays as it is.
    """

    global_model: Path
    head: HeadConfig = field(default_factory=HeadConfig)
    shortcut: ShortcutConfig = field(default_factory=lambda: ShortcutConfig(bootstrap_from=0))
    updates: int = 10_000
    batch: int = 24
    long_batch: int = 0
    labelled: float = 0.5
    intent_value: float = 1.0
    freeze_base: bool = False


class HeadTrainer(loop.Trainer):
    """Draws windows of latents, half of them with a label, and learns rewards beside latents."""

    config: Config

    def __init__(
        self, config: Config, team: Team, play: latents.LatentPlay, model: Dreamer4
    ) -> None:
        for frames in (config.shortcut.short, config.shortcut.long):  # now, not at the first long
            team.share(rows_of(config.batch, config.long_batch, config.shortcut, frames))
        self.play = play
        parts = (model.dynamics, config.shortcut, model.head, config.freeze_base)
        super().__init__(config, team, Objective(*parts))

    def loss(self, micro: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of this process's windows."""
        c, device = self.config, self.team.device
        kind = plan(c.shortcut, c.seed, self.step, c.updates, self.step * c.accumulate + micro)
        rows = rows_of(c.batch, c.long_batch, c.shortcut, kind.frames)
        share = self.team.share(rows)
        draw = self.rows(micro)
        segment = self.play.sample(draw, rows, kind.frames, labelled=c.labelled, share=share)
        reward = rewards_of(segment.intent, c.intent_value)
        parts = (segment.latent, segment.action, segment.known, reward, segment.uniform)
        batch = Batch(*(part.to(device) for part in parts))
        with self.precise():
            return self.call(batch, kind.bootstrap, generator=self.noise(micro))


def rewards_of(intent: Tensor, intent_value: float) -> Tensor:
    """Return the rewards (...) float32 that labels stand for."""
    values = torch.tensor([0.0, intent_value, 1.0], device=intent.device)
    return values[intent.long()]


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Train, calibrate, judge and draw; returns the checkpoint.

    :param until: stop after this many updates, without judging (a job with a time limit).
    """
    engine.keep_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    spec = get_task(config.task)
    base = load_dynamics(config.global_model, spec=spec)
    dataset = PlayDataset.open(config.data, spec)
    for length in (config.shortcut.short, config.shortcut.long):
        dataset.starts(length)
    team = Team.join(config.device)
    try:
        base.tokenizer.to(team.device)
        play = encode(base.tokenizer, dataset, latents_of(config, base, dataset), team)
        engine.seed_everything(config.seed)
        model = Dreamer4(replace(base.config, head=config.head))
        model.dynamics.load_state_dict(base.dynamics.state_dict())
        trainer = HeadTrainer(config, team, play, model)

        def finish(weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, float]]:
            made = Dreamer4(model.config).to(team.device)
            made.tokenizer.load_state_dict(base.tokenizer.state_dict())
            made.dynamics.load_state_dict(loop.part(weights, 'dynamics'))
            made.head.load_state_dict(loop.part(weights, 'head'))
            figures = report(config, made.requires_grad_(False).eval(), play)
            return made.describe(), figures

        return loop.run('reward', trainer, finish, resume, until)
    finally:
        team.close()


def latents_of(config: Config, base: Dreamer4, dataset: PlayDataset) -> Path:
    """Return the folder of latents: that of the global run, where they are of this play."""
    folder = config.global_model.parent / 'latents'
    known = latents.belongs(base.tokenizer, dataset.episodes(), folder)
    return folder if known else config.out / 'latents'


# What others do with it -------------------------------------------------------------------------


def load_model(path: Path, spec: TaskSpec | None = None) -> Dreamer4:
    """
    Load the complete model of a finished run, frozen.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    model = Dreamer4.rebuild(loop.load_finished(path, 'reward', spec))
    return model.requires_grad_(False).eval()


@torch.no_grad()
def label_dataset(model: Dreamer4, dataset: PlayDataset) -> None:
    """
    Give every frame of the dataset its reward, read as a rollout reads those of its context.

    Frames that are not valid get 0: nothing is learned from them.
    """
    rewards = []
    for episode in dataset.episodes():
        latent = encoded(model, episode)
        raw = read(model, episode, latent)
        scored = model.head.calibrated(torch.from_numpy(raw).to(model.device)).cpu().numpy()
        rewards.append(np.where(np.asarray(episode.valid), scored, 0.0).astype(np.float32))
    dataset.label(rewards)


def encoded(model: Dreamer4, episode: Episode) -> np.ndarray:
    """Return the latents (T, N, D) of an episode, zero where it is not valid."""
    size = model.config.tokenizer
    made = np.zeros((len(episode), size.latents, size.bottleneck), np.float16)
    for run in valid_runs(episode.valid):
        made[run] = latents.encode_stream(
            model.tokenizer, episode.frames[run], episode.proprio[run]
        )
    return made


class Window(NamedTuple):
    """Frames ``start`` to ``stop`` of an episode, of which those from ``kept`` on are read."""

    start: int
    stop: int
    kept: int


def windows(run: slice, length: int) -> Iterator[Window]:
    """
    Cover a stretch of frames by windows of ``length``, or by one where it is shorter.

    Each but the first reads its later half, so that a frame has half a window of past at least.
    """
    start, read_to = run.start, run.start
    while read_to < run.stop:
        stop = min(start + length, run.stop)
        start = max(run.start, stop - length)
        yield Window(start, stop, read_to)
        start, read_to = stop - length + max(1, length // 2), stop


@torch.no_grad()
def read(model: Dreamer4, episode: Episode, latent: np.ndarray, seed: int = 0) -> np.ndarray:
    """
    Return the raw outputs of the head (T,) for an episode, each frame read as context.

    :param latent: of its frames (T, N, D).
    """
    raw = np.zeros(len(episode), np.float32)
    length = model.config.dynamics.trunk.window
    todo = [w for run in valid_runs(episode.valid) for w in windows(run, length)]
    generator = torch.Generator(model.device).manual_seed(seed)
    while todo:
        size = todo[0].stop - todo[0].start
        some = [w for w in todo if w.stop - w.start == size][:ROWS]
        todo = [w for w in todo if w not in some]
        outputs = _outputs(model, episode, latent, some, generator)
        for window, output in zip(some, outputs):
            raw[window.kept : window.stop] = output[window.kept - window.start :]
    return raw


def _outputs(
    model: Dreamer4,
    episode: Episode,
    latent: np.ndarray,
    some: list[Window],
    generator: torch.Generator,
) -> np.ndarray:
    """Return the head's raw outputs (B, T) for windows of one length."""
    led = [latents.led(episode, w.start, w.stop - w.start) for w in some]
    parts = (
        np.stack([latent[w.start : w.stop] for w in some]).astype(np.float32),
        np.stack([action for action, _ in led]),
        np.stack([known for _, known in led]),
    )
    clean, action, known = (torch.from_numpy(part).to(model.device) for part in parts)
    agent = as_context(model.dynamics, clean, action, known, generator)
    outputs: np.ndarray = model.head.raw(agent.float()).cpu().numpy()
    return outputs


# What it is judged by ---------------------------------------------------------------------------


def report(config: Config, model: Dreamer4, play: latents.LatentPlay) -> dict[str, float]:
    """Calibrate the model's head, judge it, write reward_metrics.json and a picture."""
    episodes = play.dataset.held_out
    raw, label = [], []
    for episode in episodes:
        valid = np.asarray(episode.valid)
        raw.append(read(model, episode, np.asarray(play.latents[id(episode)]))[valid])
        label.append(np.asarray(episode.intent)[valid])
    reward, truth, kinds = cross_calibrated(model.head, raw, label, config.intent_value)
    values = rewards_of(torch.from_numpy(np.concatenate(label)), config.intent_value)
    model.head.calibrate(torch.from_numpy(np.concatenate(raw)), values)
    figures: dict[str, float] = judge(reward, truth)
    figures |= {
        'auroc': auroc(reward, (kinds != PLAY).astype(np.float32)),
        'auroc_milestone': auroc(reward, (kinds == MILESTONE).astype(np.float32)),
        'labelled': float(np.mean(kinds != PLAY)),
    }
    figures |= {'slope': float(model.head.slope), 'offset': float(model.head.offset)}
    stored = {**figures, 'episodes': len(episodes), 'frames': len(truth)}
    text = json.dumps({n: None if np.isnan(v) else v for n, v in stored.items()}, indent=1)
    engine.atomic_write(config.out / 'reward_metrics.json', text.encode())
    draw(reward, truth, kinds, config.out / 'reward_reliability.png')
    return figures


def cross_calibrated(
    head: RewardHead, raw: list[np.ndarray], label: list[np.ndarray], intent_value: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return rewards of held-out frames, calibrated on the other half of the held-out episodes.

    A single episode is cut in the middle; the head's own calibration stays as it is.

    :param raw: the head's raw outputs of each episode (T,); ``label`` its labels.
    :returns: rewards, what they should be, and labels, of all frames (N,).
    """
    if len(raw) == 1:
        raw, label = (np.array_split(x[0], 2) for x in (raw, label))
    rewards = [np.empty(0)] * len(raw)
    values = [rewards_of(torch.from_numpy(x), intent_value) for x in label]
    for half in (0, 1):
        other = [n for n in range(len(raw)) if n % 2 != half]
        fitted = RewardHead(head.config, head.hidden.in_features)
        fitted.calibrate(
            torch.from_numpy(np.concatenate([raw[n] for n in other])),
            torch.cat([values[n] for n in other]),
        )
        for number in range(half, len(raw), 2):
            rewards[number] = fitted.calibrated(torch.from_numpy(raw[number])).detach().numpy()
    return np.concatenate(rewards), torch.cat(values).numpy(), np.concatenate(label)


def draw(reward: np.ndarray, truth: np.ndarray, kinds: np.ndarray, path: Path) -> None:
    """Write a PNG: what rewards of a size stand for, how they are spread, and their course."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout='constrained')
    reliability, spread, course = figure.subplots(1, 3, width_ratios=(1, 1, 2))
    which = np.clip((reward * 10).astype(int), 0, 9)
    bins = np.unique(which)
    reliability.plot([0, 1], [0, 1], 'k:')
    reliability.plot(
        [reward[which == b].mean() for b in bins], [truth[which == b].mean() for b in bins], 'o-'
    )
    reliability.set(title='labels of frames with a reward', xlabel='reward', ylabel='label')
    for kind, name in enumerate(('play', 'intent', 'milestone')):
        spread.hist(reward[kinds == kind], bins=20, range=(0, 1), histtype='step', label=name)
    spread.set(title='frames with a reward, by label', xlabel='reward')
    spread.legend(fontsize=8)
    shown = slice(0, 400)
    course.fill_between(np.arange(len(truth[shown])), truth[shown], alpha=0.3, label='label')
    course.plot(reward[shown], label='reward')
    course.set(title='held-out play', xlabel='frame')
    course.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    sys.exit(main('reward', sys.argv[1:]))
