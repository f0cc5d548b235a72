"""What people would rather look at than read: rollouts of both models and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from dmo_ros.core.tasks import get_task
import numpy as np
import torch

from .data import PlayDataset
from .models.rssm import Latent, mode
from .small_frames import at_policy_size
from .train_local import load_local
from .world import Context
from .worlds import load_world

SHOWN = (0, 1, 2, 4, 8, 12, 16, 24, 32)  # steps after the context


@torch.no_grad()
def rollout_strip(task: str, dataset: Path, runs: Path, out: Path, seed: int = 0) -> None:
    """
    Draw held-out play beside what both models make of its first frames and its actions.

    Three rows a sample: real, global (open loop), local (prior alone, open loop), as in Figure 6
    of the paper; all as the policy sees them.

    :param runs: the folder of the runs 'global', 'reward' and 'local'.
    """
    spec = get_task(task)
    play = PlayDataset.open(dataset, spec)
    length = spec.context_length
    total = length + SHOWN[-1] + 1
    picks = play.draw(np.random.default_rng(seed), 2, total, held_out=True)
    large = play.at(picks, total, held_out=True)
    small = at_policy_size(play, spec).at(picks, total, held_out=True).frames
    own = None if large.proprio is None else large.proprio[:, :length]
    context = Context(
        large.frames[:, :length], large.action[:, : length - 1], own, small[:, :length]
    )
    judge = runs / 'reward' / 'reward.safetensors'
    world = load_world(runs / 'global' / 'global.safetensors', judge, 2, spec)
    local = load_local(runs / 'local' / 'local.safetensors', spec)
    world.reset(context)
    latent = local.begin(context)
    rows: dict[str, list[np.ndarray]] = {'real': [], 'global': [], 'local': []}
    for ahead in range(SHOWN[-1] + 1):
        action = large.action[:, length - 1 + ahead]
        imagined = world.step(action).observation
        prediction = local.predict(latent, action)
        latent = Latent(prediction.h, mode(prediction.prior))
        if ahead in SHOWN:
            rows['real'].append(small[:, length + ahead].numpy())
            rows['global'].append(imagined.numpy())
            rows['local'].append(local.decode(latent).numpy())
    strips = {name: np.stack(frames, axis=1) for name, frames in rows.items()}
    _draw_strip(strips, spec.period, out)


def _draw_strip(rows: dict[str, np.ndarray], period: float, out: Path) -> None:
    """Draw (B, N, H, W, 3) frames of each row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.15 * len(SHOWN), 1.2 * 3 * samples), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(3 * samples, len(SHOWN))
    for sample in range(samples):
        for line, (name, frames) in enumerate(rows.items()):
            for column, ahead in enumerate(SHOWN):
                axis = axes[3 * sample + line, column]
                axis.imshow(frames[sample, column], interpolation='nearest')
                axis.set(xticks=[], yticks=[])
                if column == 0:
                    axis.set_ylabel(name)
                if line == 0:
                    axis.set_title(f'{(ahead + 1) * period:.1f} s', fontsize=9)
    figure.savefig(out, dpi=90)


def learning_curve(runs: Sequence[Path], out: Path) -> None:
    """Draw the success on the twin and the imagined reward of policy runs over their samples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout='constrained')
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for run in runs:
        rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        for axis, name in ((left, 'strict'), (right, 'reward')):
            points = [(row['step'], row[name]) for row in rows if name in row]
            if points:
                steps = [step / 1000 for step, _ in points]
                values = [value for _, value in points]
                axis.plot(steps, values, label=run.name, marker='.' if name == 'strict' else None)
    left.set(title='strict success on the twin', ylim=(0, 1), xlabel='thousand imagined samples')
    right.set(title='imagined reward per step', xlabel='thousand imagined samples')
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend()
    figure.savefig(out, dpi=90)
