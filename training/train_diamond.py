"""
Stage 1: the global model, DIAMOND, from play data (paper sections 3.2 and A.4).

    dmo train global --task pusher --preset demo --data DATASET --out RUN
    (about five minutes on one and a half cores)
    torchrun --nproc-per-node 2 -m dmo_training.train_global ...   (the same options)

First the denoiser learns the next frame from real contexts, then from contexts that hold up to
``context_rollout`` of its own frames.  It is accepted by its rollouts on held-out play, not by its
loss: RUN holds global_metrics.json, the curves and strips of real and imagined frames.
"""

from __future__ import annotations

from contextlib import closing
import copy
from dataclasses import dataclass, field, replace
import json
import math
from pathlib import Path
import sys
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError
import numpy as np
import torch
from torch import nn, Tensor

from . import engine
from .data import PlayDataset, Segment
from .distributed import Stopped, Team
from .global_metrics import draw_curves, draw_strip, evaluate, judge, MARKERS, Rollout
from .models.diamond.context import ContextPool, Examples
from .models.diamond.denoiser import Denoiser, DenoiserConfig
from .models.diamond.sampler import roll, SamplerConfig
from .models.diamond.unet import NetworkConfig, parameter_count
from .models.diamond.world import load_denoiser, load_world

__all__ = ['Config', 'PRESETS', 'load_denoiser', 'load_world', 'train']


@dataclass(frozen=True)
class Config:
    """
    One run of this stage.

    ``updates`` are optimiser steps.  After ``rollout_from`` of them (a share) examples come from
    contexts with 0..``context_rollout`` generated frames, made with ``rollout_steps`` denoisings.
    ``autoregressive`` is DIAMOND's own, weaker measure: later frames of a segment see its one-pass
    estimates; it applies where ``context_rollout`` does not.  ``average`` is the decay of the
    averaged weights that are used afterwards (0: none).  ``normalise`` maps the dataset's mean and
    deviation to the network's; off is what the original does.  ``sampler`` is what the model is
    judged with and what ``load_world`` uses.
    """

    task: str
    data: Path
    out: Path
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    updates: int = 400_000
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: int = 100
    cosine: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    autoregressive: int = 1
    context_rollout: int = 7
    rollout_from: float = 0.5
    rollout_steps: int = 1
    average: float = 0.0
    normalise: bool = True
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    judge_rows: int = 128
    judge_horizon: int = 40
    seed: int = 0
    threads: int = 0
    device: str = 'auto'
    log_every: int = 50
    save_every: int = 500


_DEMO_NETWORK = NetworkConfig(
    channels=(32, 32, 32), depths=(1, 1, 1), attention=(False,) * 3, cond_size=64, patch=2
)
# As Table 4 has it: the original's own measure against drift, and no context_rollout.
_PAPER = {'batch': 2, 'accumulate': 4, 'autoregressive': 1, 'context_rollout': 0}

# Fields of Config per preset.  The paper's text says 4 M parameters, its Table 4 gives 7.26 M.
PRESETS: dict[str, dict[str, Any]] = {
    'demo': {
        # Few denoising steps decide everything at high noise, so training looks mostly there.
        'denoiser': DenoiserConfig(network=_DEMO_NETWORK, noise_mean=1.0, changed_weight=5.0),
        'updates': 4500,
        'learning_rate': 1e-3,
        'warmup': 50,
        'cosine': True,
        'betas': (0.9, 0.99),
        'autoregressive': 0,
        'context_rollout': 4,
        'rollout_from': 0.8,
        'average': 0.99,
        # One step shows the mean of what it is unsure of, a blurred object; a second one at the
        # level of the offset noise decides.  Lower levels change nothing that can be seen.
        'sampler': SamplerConfig(steps=2, sigma_min=0.3),
    },
    'smoke': {
        'denoiser': DenoiserConfig(network=_DEMO_NETWORK, noise_mean=1.0),
        'updates': 5,
        'batch': 8,
        'autoregressive': 0,
        'context_rollout': 1,
        'judge_rows': 8,
        'judge_horizon': 16,
        'sampler': SamplerConfig(steps=1),
    },
    'paper_text': {'denoiser': DenoiserConfig(network=NetworkConfig()), **_PAPER},
    'paper_table': {
        'denoiser': DenoiserConfig(network=NetworkConfig(depths=(4, 4, 4, 4))),
        **_PAPER,
    },
}


class Objective(nn.Module):
    """The denoiser's loss as a module: several processes exchange gradients behind its call."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, play: Segment | Examples) -> Tensor:
        """Return the loss () of a segment of play, or of examples behind generated frames."""
        if isinstance(play, Segment):
            return self.denoiser.segment_loss(play.frames, play.action)
        encode = self.denoiser.encode
        context, target = encode(play.context), encode(play.target)
        return self.denoiser.frame_loss(context, play.action, target)[0]


class GlobalTrainer:
    """
    Denoiser, averaged weights, optimiser and the pool of contexts: what a checkpoint holds.

    Processes draw the same global batch and take their rows of it; each adds noise of its own.
    """

    def __init__(
        self,
        config: Config,
        dataset: PlayDataset,
        rng: np.random.Generator,
        team: Team | None = None,
    ) -> None:
        self.config, self.dataset, self.rng = config, dataset, rng
        self.team = team or Team.alone(config.device)
        self.device, self.mine = self.team.device, self.team.share(config.batch)
        statistics = pixel_statistics(dataset, rng) if config.normalise else ()
        self.denoiser = Denoiser(config.denoiser, *statistics).to(self.device)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.call = self.team.wrap(Objective(self.denoiser))
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.denoiser, config.weight_decay),
            config.learning_rate,
            betas=config.betas,
            fused=True,
        )
        self.pool = ContextPool(config.denoiser.network.context)
        self.step = self.skipped = 0

    def update(self) -> dict[str, float]:
        """Take one optimiser step; a gradient that is not finite is skipped and counted."""
        c = self.config
        for group in self.optimiser.param_groups:
            group['lr'] = c.learning_rate * rate(c, self.step)
        loss_sum = 0.0
        self.team.reseed(c.seed, self.step)
        for micro in range(c.accumulate):
            with self.team.accumulate(self.call, last=micro == c.accumulate - 1):
                loss = self._loss() / c.accumulate
                loss.backward()
            loss_sum += float(loss.detach())
        loss_sum = self.team.mean({'loss': loss_sum})['loss']
        norm = self.team.clip(self.denoiser, c.grad_clip)
        if math.isfinite(loss_sum) and bool(torch.isfinite(norm)):
            self.optimiser.step()
        else:
            self.skipped += 1
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        return {'loss': loss_sum, 'grad_norm': float(norm), 'skipped': self.skipped}

    def _loss(self) -> Tensor:
        loss: Tensor = self.call(self._play())
        return loss

    def _play(self) -> Segment | Examples:
        """Draw the rows that this process learns from next."""
        c, n = self.config, self.config.denoiser.network.context
        rolling = c.context_rollout and self.step >= c.rollout_from * c.updates
        if not rolling and not len(self.pool):
            return self._segment(n + 1 + c.autoregressive, self.mine)
        if not len(self.pool):
            segment = self._segment(n + 1 + c.context_rollout)
            self.pool.fill(
                self.denoiser.frozen(),
                segment.frames,
                segment.action,
                SamplerConfig(c.rollout_steps),
                self.rng,
                self.mine,
                self.team.gather_rows,
            )
        return Examples(*(part[self.mine].to(self.device) for part in self.pool.take(c.batch)))

    def _segment(self, length: int, rows: slice = slice(None)) -> Segment:
        """Draw a batch of play; only some of its rows are read."""
        picks = self.dataset.draw(self.rng, self.config.batch, length)
        segment = self.dataset.at(picks[rows], length)
        frames, action = segment.frames.to(self.device), segment.action.to(self.device)
        return replace(segment, frames=frames, action=action)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights; early on they follow fast."""
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.parameters()),
            [p.detach() for p in self.denoiser.parameters()],
            1 - decay,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on."""
        return {
            'denoiser': dict(self.denoiser.state_dict()),
            'average': dict(self.average.state_dict()),
            'optimiser': self.optimiser.state_dict(),
            'pool': self.pool.state_dict(),
            'step': self.step,
            'skipped': self.skipped,
            'rng': engine.rng_state(self.rng),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        self.denoiser.load_state_dict(state['denoiser'])
        self.average.load_state_dict(state['average'])
        self.optimiser.load_state_dict(state['optimiser'])
        match_layouts(self.optimiser)
        self.pool.load_state_dict(state['pool'])
        self.step, self.skipped = int(state['step']), int(state['skipped'])
        engine.restore_rng(self.rng, state['rng'])


def rate(config: Config, step: int) -> float:
    """Return the learning rate as a share: linear warm-up, then constant or half a cosine."""
    share = min(1.0, (step + 1) / max(1, config.warmup))
    if config.cosine:
        share *= 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / config.updates)))
    return share


def parameter_groups(denoiser: Denoiser, weight_decay: float) -> list[dict[str, Any]]:
    """Decay the weights of convolutions and linear layers, not biases and norms."""
    parameters = list(denoiser.parameters())
    return [
        {'params': [p for p in parameters if p.ndim > 1], 'weight_decay': weight_decay},
        {'params': [p for p in parameters if p.ndim <= 1], 'weight_decay': 0.0},
    ]


def match_layouts(optimiser: torch.optim.Optimizer) -> None:
    """
    Give the optimiser's tensors the memory layout of their parameters.

    A checkpoint holds contiguous tensors and the parameters are channels_last; the fused AdamW
    walks both in memory order and would silently pair the wrong elements.
    """
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def pixel_statistics(
    dataset: PlayDataset, rng: np.random.Generator, count: int = 512
) -> tuple[list[float], list[float]]:
    """Return mean and deviation per colour of some training frames, in [-1, 1]."""
    pixels = dataset.sample(rng, count, 1).frames.reshape(-1, 3).double() / 127.5 - 1
    return pixels.mean(dim=0).tolist(), pixels.std(dim=0).tolist()


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Train, judge and draw; returns the checkpoint.

    :param until: stop after this many updates, without judging (a job with a time limit).
    :raises Stopped: the processes were asked to stop, and have saved.
    """
    engine.keep_memory()
    rng = engine.seed_everything(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset = open_dataset(config)
    with closing(Team.join(config.device)) as team:
        trainer = GlobalTrainer(config, dataset, rng, team)
        path = config.out / 'global.safetensors'
        if resume and path.is_file():
            state = engine.load_to_resume(path, 'global', config, get_task(config.task))
            trainer.load_state_dict(state['trainer'])
        end = min(config.updates, until or config.updates)
        with closing(team.log(config.out, config, resume, trainer.step)) as log:
            for step in team.progress(end, trainer.step, 'global'):
                figures = trainer.update()
                if (step + 1) % config.log_every == 0:
                    log.write(step + 1, figures)
                stopping = team.stopping and step + 1 < end
                if stopping or (step + 1) % config.save_every == 0 or step + 1 == end:
                    _save(path, config, trainer)
                if stopping:
                    raise Stopped
            if end == config.updates and team.main:
                log.write(end, report(config, trainer.average, dataset))
        team.wait()
    return path


def open_dataset(config: Config) -> PlayDataset:
    """Open the play and refuse a network that does not fit the task."""
    spec, network = get_task(config.task), config.denoiser.network
    if network.action_size != len(spec.actions):
        raise TaskError(
            f'the network takes {network.action_size} actions, task {spec.name!r} has '
            f'{len(spec.actions)}; set action_size'
        )
    return PlayDataset.open(config.data, spec)


def report(config: Config, denoiser: Denoiser, dataset: PlayDataset) -> dict[str, float]:
    """Judge rollouts on held-out play; write global_metrics.json, curves and a strip."""
    n, horizon = config.denoiser.network.context, config.judge_horizon
    rng = np.random.default_rng(0)
    segment = dataset.sample(rng, config.judge_rows, n + horizon, held_out=True)
    frames, action = segment.frames.numpy(), segment.action.numpy()
    model, markers = denoiser.frozen(), MARKERS.get(config.task, ())
    rollout = open_loop(model, config.sampler)
    figures, own = evaluate(rollout, frames, action, n, markers)
    figures['parameters'] = parameter_count(denoiser)
    figures['sampling_steps'] = config.sampler.steps
    figures['faults'] = judge(figures, markers)
    text = json.dumps(figures, indent=1, allow_nan=False)
    engine.atomic_write(config.out / 'global_metrics.json', text.encode())
    draw_curves(figures, markers, config.out / 'global_curves.png')
    draw_strip(frames[:, n:], own, config.out / 'global_strip.png')
    for fault in figures['faults']:
        print(f'not accepted: {fault}', file=sys.stderr)
    return summary(figures)


def open_loop(denoiser: Denoiser, sampler: SamplerConfig, seed: int = 0) -> Rollout:
    """Return the denoiser as a function of arrays that continues contexts on its own frames."""
    n = denoiser.config.network.context
    generator = torch.Generator(denoiser.device).manual_seed(seed)

    def rollout(context: np.ndarray, action: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(context).to(denoiser.device)
        commands = torch.from_numpy(action).to(denoiser.device)
        horizon = action.shape[1] - n + 1
        return roll(denoiser, frames, commands, horizon, sampler, generator).cpu().numpy()

    return rollout


def summary(figures: dict[str, Any]) -> dict[str, float]:
    """Pick the figures of a log line from the curves: 1, 10 and 16 frames ahead."""
    short = {}
    for ahead in (1, 10, 16):
        at = min(ahead, figures['horizon']) - 1
        for name in ('model', 'copy', 'shuffled_action'):
            short[f'psnr_{name}_{ahead}'] = figures['psnr'][name][at]
        for name, curves in figures.items():
            if isinstance(curves, dict) and 'vanished' in curves:
                for curve in ('vanished', 'error_moved', 'copy_error_moved'):
                    short[f'{name}_{curve}_{ahead}'] = curves[curve][at]
                if 'follows_foreign_action' in curves:
                    short[f'{name}_follows'] = curves['follows_foreign_action']
    return {name: math.nan if value is None else value for name, value in short.items()}


def _save(path: Path, config: Config, trainer: GlobalTrainer) -> None:
    trainer.team.save(
        path,
        {
            'stage': 'global',
            'task': get_task(config.task).to_dict(),
            'step': trainer.step,
            'config': engine.plain_config(config),
            'trainer': trainer.state_dict(),
        },
    )
