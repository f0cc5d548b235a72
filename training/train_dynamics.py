r"""
Stage 1 of a DreamerV4-type global model: the dynamics, on the latents of play data.

    dmo train global --task push_cube --preset demo --data DATASET --tokenizer RUN --out RUN
    torchrun --nproc-per-node 2 -m dmo_training.train_global ...   (the same options)

Every frame is encoded once into RUN/latents; then a transformer learns to denoise them by shortcut
forcing (models/dreamer4/shortcut.py).  It is accepted by its rollouts on held-out play, not by its
loss: RUN holds global_metrics.json, the curves and strips of real and imagined frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
import sys
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError
import numpy as np
import torch
from torch import Tensor

from . import engine, loop
from .command import main
from .data import PlayDataset, Segment
from .distributed import Team
from .global_metrics import draw_strip, evaluate, psnr, Rollout
from .models.dreamer4 import latents
from .models.dreamer4.config import Dreamer4Config, DynamicsConfig
from .models.dreamer4.dynamics import Dynamics
from .models.dreamer4.model import Dreamer4
from .models.dreamer4.objective import Batch, Objective
from .models.dreamer4.pixels import resize
from .models.dreamer4.rollout import RolloutConfig
from .models.dreamer4.shortcut import plan, ShortcutConfig
from .models.dreamer4.tokenizer import Tokenizer
from .models.dreamer4.world import Dreamer4World
from .picture_metrics import overlap, THINGS
from .train_tokenizer import load_tokenizer, passed
from .world import Context

AHEAD = 1, 10, 32  # frames, of the figures in the log


@dataclass(frozen=True, kw_only=True)
class Config(loop.LoopConfig):
    """
    One run of this stage; see :class:`loop.LoopConfig` for what all stages have.

    ``batch`` is of short windows; long ones have ``long_batch`` rows, and as many frames in all as
    the short ones when that is 0.  Rollouts are judged on ``judge_rows`` windows of ``context``
    real frames (0: as many as the task has) and ``judge_horizon`` imagined ones, with
    ``judge_steps`` denoisings a frame, and on ``judge_fine_rows`` of them with ``judge_fine``.
    """

    tokenizer: Path
    model: DynamicsConfig = field(default_factory=DynamicsConfig)
    shortcut: ShortcutConfig = field(default_factory=ShortcutConfig)
    updates: int = 100_000
    batch: int = 24
    long_batch: int = 0
    context: int = 0
    judge_rows: int = 32
    judge_horizon: int = 32
    judge_steps: int = 4
    judge_fine: int = 64
    judge_fine_rows: int = 8


class DynamicsTrainer(loop.Trainer):
    """Draws windows of latents and denoises them."""

    config: Config

    def __init__(self, config: Config, team: Team, play: latents.LatentPlay) -> None:
        for frames in (config.shortcut.short, config.shortcut.long):  # now, not at the first long
            team.share(rows_of(config.batch, config.long_batch, config.shortcut, frames))
        self.play = play
        self.objective = Objective(Dynamics(config.model), config.shortcut)
        super().__init__(config, team, self.objective)

    def loss(self, micro: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of this process's windows."""
        c, device = self.config, self.team.device
        kind = plan(c.shortcut, c.seed, self.step, c.updates, self.step * c.accumulate + micro)
        rows = rows_of(c.batch, c.long_batch, c.shortcut, kind.frames)
        share = self.team.share(rows)
        segment = self.play.sample(self.rows(micro), rows, kind.frames, share=share)
        parts = (segment.latent, segment.action, segment.known)
        batch = Batch(*(part.to(device) for part in parts))
        with self.precise():
            return self.call(batch, kind.bootstrap, generator=self.noise(micro))


def rows_of(batch: int, long_batch: int, shortcut: ShortcutConfig, frames: int) -> int:
    """Return the rows of a micro-batch with so many frames."""
    if frames == shortcut.short:
        return batch
    return long_batch or max(1, batch * shortcut.short // shortcut.long)


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Train, judge and draw; returns the checkpoint.

    :param until: stop after this many updates, without judging (a job with a time limit).
    """
    engine.keep_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset, tokenizer = open_inputs(config)
    team = Team.join(config.device)
    try:
        tokenizer.to(team.device)
        play = encode(tokenizer, dataset, config.out / 'latents', team)
        engine.seed_everything(config.seed)
        trainer = DynamicsTrainer(config, team, play)

        def finish(weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, float]]:
            model = Dreamer4(Dreamer4Config(tokenizer.config, config.model)).to(team.device)
            model.tokenizer.load_state_dict(tokenizer.state_dict())
            model.dynamics.load_state_dict(loop.part(weights, 'dynamics'))
            return model.describe(), report(config, model.frozen(), dataset)

        return loop.run('global', trainer, finish, resume, until)
    finally:
        team.close()


def open_inputs(config: Config) -> tuple[PlayDataset, Tokenizer]:
    """Open play and tokenizer; what does not fit or is too short is refused before the work."""
    spec = get_task(config.task)
    if config.model.action_size != len(spec.actions):
        raise TaskError(
            f'the dynamics takes {config.model.action_size} actions, task {spec.name!r} has '
            f'{len(spec.actions)}; set action_size'
        )
    tokenizer = load_tokenizer(config.tokenizer, spec)
    Dreamer4Config(tokenizer.config, config.model)  # refuses latents of another size
    dataset = PlayDataset.open(config.data, spec)
    dataset.starts(config.shortcut.short)
    dataset.starts(config.shortcut.long)
    dataset.starts(context_of(config) + config.judge_horizon, held_out=True)
    return dataset, tokenizer


def context_of(config: Config) -> int:
    """Return the number of real frames before a rollout."""
    return config.context or get_task(config.task).context_length


def encode(
    tokenizer: Tokenizer, dataset: PlayDataset, folder: Path, team: Team
) -> latents.LatentPlay:
    """Encode the play once into a folder, the processes sharing the work."""
    episodes = dataset.episodes()
    if team.main:
        latents.claim(tokenizer, episodes, folder)
    team.wait()
    for number in _numbers(range(team.rank, len(episodes), team.size), team.main):
        latents.encode(tokenizer, episodes, folder, slice(number, number + 1))
    team.wait()
    return latents.LatentPlay(dataset, latents.encode(tokenizer, episodes, folder))


def _numbers(numbers: Sequence[int], main: bool) -> Any:
    from tqdm import tqdm

    return tqdm(numbers, desc='encode', unit='episode', disable=not main)


# What it is judged by ---------------------------------------------------------------------------


def report(config: Config, model: Dreamer4, dataset: PlayDataset) -> dict[str, float]:
    """Judge rollouts on held-out play; write global_metrics.json, curves and a strip."""
    n, horizon = context_of(config), config.judge_horizon
    rng = np.random.default_rng(0)
    segment = dataset.sample(rng, config.judge_rows, n + horizon, held_out=True)
    frames = resize(segment.frames, model.config.tokenizer.image_size).numpy()
    action, truth = segment.action.numpy(), frames[:, n:]
    figures, own = evaluate(open_loop(model, segment, config.judge_steps), frames, action, n, ())
    few = min(config.judge_fine_rows, config.judge_rows)
    part = rows(segment, few)
    fine = open_loop(model, part, config.judge_fine)(frames[:few, :n], action[:few, :-1])
    figures['psnr']['decoded_truth'] = _curve(
        psnr(passed(model.tokenizer, segment)[1], frames)[n:]
    )
    figures |= {
        f'psnr_few_{config.judge_steps}': _curve(psnr(own[:few], truth[:few])),
        f'psnr_few_{config.judge_fine}': _curve(psnr(fine, truth[:few])),
        'things': things(config.task, own, truth, frames[:, n - 1 : n]),
        'parameters': sum(p.numel() for p in model.dynamics.parameters()),
    }
    short = summary(figures, config)
    figures['faults'] = judge(short)
    text = json.dumps(figures, indent=1, allow_nan=False)
    engine.atomic_write(config.out / 'global_metrics.json', text.encode())
    draw(figures, config.out / 'global_curves.png')
    draw_strip(truth, own, config.out / 'global_strip.png', rows=6, every=2)
    for fault in figures['faults']:
        print(f'not accepted: {fault}', file=sys.stderr)
    return short


def rows(segment: Segment, count: int) -> Segment:
    """Return the first rows of a segment."""
    proprio = None if segment.proprio is None else segment.proprio[:count]
    return Segment(
        segment.frames[:count], segment.action[:count], segment.intent[:count], None, proprio
    )


def open_loop(model: Dreamer4, segment: Segment, steps: int, seed: int = 0) -> Rollout:
    """
    Return the model as a function of arrays that continues contexts on its own frames.

    :param segment: where the contexts are from: what the robot felt in them is taken from here.
    """

    def rollout(context: np.ndarray, action: np.ndarray) -> np.ndarray:
        n, commands = context.shape[1], torch.from_numpy(action)
        felt = None if segment.proprio is None else segment.proprio[:, :n]
        world = Dreamer4World(model, len(context), RolloutConfig(steps=steps), seed=seed)
        world.reset(Context(torch.from_numpy(context), commands[:, : n - 1], felt))
        made = [
            world.step(commands[:, t]).observation.cpu() for t in range(n - 1, action.shape[1])
        ]
        return torch.stack(made, dim=1).numpy()

    return rollout


def things(
    task: str, own: np.ndarray, truth: np.ndarray, last: np.ndarray
) -> dict[str, list[float | None]]:
    """Return curves over the horizon: how far imagined (and copied) things are in their places."""
    curves = {}
    for marker in THINGS.get(task, ()):
        copied = np.broadcast_to(last, truth.shape)
        name = f'{marker.name}_overlap'
        for kind, frames in (('model', own), ('copy', copied)):
            found = [
                overlap(frames[:, t], truth[:, t], marker)[name] for t in range(truth.shape[1])
            ]
            curves[f'{name}_{kind}'] = _curve(np.array(found))
    return curves


def summary(figures: dict[str, Any], config: Config) -> dict[str, float]:
    """
    Pick the figures of a log line from the curves.

    ``shuffled_ratio`` is the square error under another window's actions over that under its own;
    ``fine_gain`` what ``judge_fine`` denoisings are better than ``judge_steps``, in dB.
    """
    short, curves = {}, figures['psnr']
    for ahead in dict.fromkeys(min(ahead, figures['horizon']) for ahead in AHEAD):
        at = ahead - 1
        own, other = curves['model'][at], curves['shuffled_action'][at]
        short[f'psnr_model_{ahead}'] = own
        short[f'psnr_copy_{ahead}'] = curves['copy'][at]
        short[f'psnr_gain_{ahead}'] = own - curves['copy'][at]
        short[f'shuffled_ratio_{ahead}'] = 10 ** ((own - other) / 10)
        for name, curve in figures['things'].items():
            if curve[at] is not None:
                short[f'{name}_{ahead}'] = curve[at]
    fine, coarse = (
        np.mean(figures[f'psnr_few_{steps}']) for steps in (config.judge_fine, config.judge_steps)
    )
    return {**short, 'fine_gain': float(fine - coarse)}


def judge(short: dict[str, float]) -> list[str]:
    """Return one sentence for each requirement that is missed; empty means accepted."""
    faults = []
    ahead = max(int(name.rsplit('_', 1)[1]) for name in short if name.startswith('psnr_gain_'))
    gain, ratio = short[f'psnr_gain_{ahead}'], short[f'shuffled_ratio_{ahead}']
    if gain < 1.0:
        faults.append(
            f'imagined frames at t+{ahead} are {gain:.1f} dB better than the last real one (at '
            'least 1): train longer'
        )
    if ratio < 1.1:
        faults.append(
            f'foreign actions make the error at t+{ahead} only {ratio:.2f} times as large (at '
            'least 1.1): the model ignores the action; train longer, and check the play for an '
            'offset of one step (dmo check)'
        )
    if short['fine_gain'] > 1.0:
        faults.append(
            f'more denoising steps are {short["fine_gain"]:.1f} dB better (at most 1): give the '
            'bootstrap more updates'
        )
    return faults


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write the curves over the horizon as a PNG: PSNR, few and many denoisings, things."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout='constrained')
    steps = np.arange(1, figures['horizon'] + 1)
    fine = {name: curve for name, curve in figures.items() if name.startswith('psnr_few')}
    panels = (
        ('PSNR, dB', figures['psnr']),
        ('PSNR by denoising steps, some windows', fine),
        ('overlap of things with the truth', figures['things']),
    )
    for axes, (title, curves) in zip(figure.subplots(1, 3), panels):
        for name, curve in curves.items():
            axes.plot(steps, np.array(curve, float), label=name.replace('_', ' '))
        axes.set(title=title, xlabel='frames ahead')
        if curves:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _curve(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]


if __name__ == '__main__':
    sys.exit(main('global', sys.argv[1:]))
