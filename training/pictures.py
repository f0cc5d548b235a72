"""What people would rather look at than read: rollouts of both models and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from dmo_ros.core.tasks import get_task
import numpy as np
import torch

from .data import PlayDataset
from .models.diamond.world import load_world
from .models.rssm import Latent, mode
from .train_local import load_local
from .world import Context

SHOWN = (0, 1, 2, 4, 8, 12, 16, 24, 32)  # steps after the context


@torch.no_grad()
def rollout_strip(
    task: str, dataset: Path, global_run: Path, local_run: Path, out: Path, seed: int = 0
) -> None:
    """
    Draw held-out play beside what both models make of its first frames and its actions.

    Three rows a sample: real, global (open loop), local (prior alone, open loop), as in Figure 6
    of the paper.
    """
    spec = get_task(task)
    play = PlayDataset.open(dataset, spec)
    length = spec.context_length
    segment = play.sample(np.random.default_rng(seed), 2, length + SHOWN[-1] + 1, held_out=True)
    context = Context(segment.frames[:, :length], segment.action[:, : length - 1])
    world = load_world(global_run / 'global.safetensors', 2, lambda frame: torch.zeros(len(frame)))
    local = load_local(local_run / 'local.safetensors', spec)
    world.reset(context)
    latent = local.begin(context)
    rows: dict[str, list[np.ndarray]] = {'real': [], 'global': [], 'local': []}
    for ahead in range(SHOWN[-1] + 1):
        action = segment.action[:, length - 1 + ahead]
        imagined = world.step(action).observation
        prediction = local.predict(latent, action)
        latent = Latent(prediction.h, mode(prediction.prior))
        if ahead in SHOWN:
            rows['real'].append(segment.frames[:, length + ahead].numpy())
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
