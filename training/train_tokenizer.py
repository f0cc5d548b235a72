"""
Stage 0 of a DreamerV4-type global model: the tokenizer, from play data.

    dmo train tokenizer --task push_cube --preset demo --data DATASET --out RUN
    torchrun --nproc-per-node 2 -m dmo_training.train_tokenizer ...   (the same options)

A masked autoencoder learns to put a frame into a few latent tokens (models/dreamer4/tokenizer.py).
It is accepted by what it makes of held-out play: RUN holds tokenizer_metrics.json and a strip of
real and decoded frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import json
import math
from pathlib import Path
import sys
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
import numpy as np
import torch
from torch import Tensor

from . import engine, loop
from .command import main
from .data import PlayDataset, Segment
from .distributed import Team
from .global_metrics import draw_strip
from .models.dreamer4.config import restore, TokenizerConfig
from .models.dreamer4.losses import perceptual
from .models.dreamer4.pixels import resize, to_frames
from .models.dreamer4.tokenizer import Tokenizer
from .picture_metrics import overlap, psnr, ssim, THINGS

STATISTICS = 512  # frames that the mean image and the contrast are taken of
DEVIATION = 0.2, 0.9  # of the latents: less, and they say nothing; more, and they are saturated


@dataclass(frozen=True, kw_only=True)
class Config(loop.LoopConfig):
    """
    One run of this stage; see :class:`loop.LoopConfig` for what all stages have.

    Windows have ``length`` frames.  The perceptual term begins after a share ``perceive_from`` of
    the updates, and ``perceptual_weights`` is the user's file where it is LPIPS.  ``judge_rows``
    windows of ``judge_length`` held-out frames are what it is judged by.
    """

    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    updates: int = 100_000
    batch: int = 10
    length: int = 96
    perceive_from: float = 0.1
    perceptual_weights: Path | None = None
    judge_rows: int = 16
    judge_length: int = 16


class TokenizerTrainer(loop.Trainer):
    """Draws windows of play and reconstructs them."""

    config: Config

    def __init__(self, config: Config, team: Team, dataset: PlayDataset) -> None:
        """Build a tokenizer that knows the play's mean image."""
        self.dataset = dataset
        term = perceptual(config.model.perceptual, config.perceptual_weights)
        self.tokenizer = Tokenizer(config.model, term)
        some = dataset.sample(np.random.default_rng(config.seed), STATISTICS, 1)
        self.tokenizer.standardise(some.frames, some.proprio)
        super().__init__(config, team, self.tokenizer)

    def loss(self, micro: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of this process's windows."""
        c, device = self.config, self.team.device
        picks = self.dataset.draw(self.rows(micro), c.batch, c.length)
        segment = self.dataset.at(picks[self.team.share(c.batch)], c.length)
        proprio = None if segment.proprio is None else segment.proprio.to(device)
        perceive = self.step >= c.perceive_from * c.updates
        with self.precise():
            terms = self.call(segment.frames.to(device), proprio, self.noise(micro), perceive)
        return terms.pop('total'), {name: float(term) for name, term in terms.items()}


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Train, judge and draw; returns the checkpoint.

    :param until: stop after this many updates, without judging (a job with a time limit).
    """
    engine.keep_memory()
    engine.seed_everything(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset = open_dataset(config)
    team = Team.join(config.device)
    try:
        trainer = TokenizerTrainer(config, team, dataset)

        def finish(weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, float]]:
            model = {'config': engine.plain_config(config)['model'], 'weights': weights}
            return model, report(config, rebuild(model).to(team.device), dataset)

        return loop.run('tokenizer', trainer, finish, resume, until)
    finally:
        team.close()


def open_dataset(config: Config) -> PlayDataset:
    """Open the play and refuse a tokenizer that does not fit the task."""
    spec = get_task(config.task)
    check_fit(config.model, spec)
    dataset = PlayDataset.open(config.data, spec)
    dataset.starts(config.length)
    dataset.starts(config.judge_length, held_out=True)
    return dataset


def check_fit(model: TokenizerConfig, spec: TaskSpec) -> None:
    """Raise TaskError unless a tokenizer reads what the task's robot feels."""
    if model.proprio_size != len(spec.proprioception):
        raise TaskError(
            f'the tokenizer reads {model.proprio_size} proprioceptive numbers, task '
            f'{spec.name!r} has {len(spec.proprioception)}; set proprio_size'
        )


def load_tokenizer(path: Path, spec: TaskSpec) -> Tokenizer:
    """
    Load a trained tokenizer, frozen.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task.
    """
    return rebuild(loop.load_finished(path, 'tokenizer', spec))


def rebuild(model: dict[str, Any]) -> Tokenizer:
    """Return the frozen tokenizer that a checkpoint holds."""
    tokenizer = Tokenizer(restore(TokenizerConfig, model['config']))
    tokenizer.load_state_dict(model['weights'])
    return tokenizer.requires_grad_(False).eval()


# What it is judged by ---------------------------------------------------------------------------


def report(config: Config, tokenizer: Tokenizer, dataset: PlayDataset) -> dict[str, float]:
    """Judge held-out play; write tokenizer_metrics.json and a strip."""
    rng = np.random.default_rng(0)
    segment = dataset.sample(rng, config.judge_rows, config.judge_length, held_out=True)
    truth = resize(segment.frames, config.model.image_size).numpy()
    latent, made, proprio = passed(tokenizer, segment)
    figures = judge_pictures(made, truth, mean_image(tokenizer), config.task)
    figures['latent_deviation'] = float(latent.flatten(0, 1).std(dim=0).mean())
    if proprio is not None and segment.proprio is not None:
        spread = tokenizer.spread.cpu()
        error = (proprio - segment.proprio) / spread
        figures['proprio_error'] = float(error.square().mean().sqrt())
    faults = judge(figures)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    stored = {**figures, 'parameters': parameters, 'faults': faults}
    plain = {name: _number(value) for name, value in stored.items()}
    text = json.dumps(plain, indent=1, allow_nan=False)
    engine.atomic_write(config.out / 'tokenizer_metrics.json', text.encode())
    draw_strip(truth, made, config.out / 'tokenizer_strip.png', rows=6, every=2)
    for fault in faults:
        print(f'not accepted: {fault}', file=sys.stderr)
    return figures


@torch.no_grad()
def passed(tokenizer: Tokenizer, segment: Segment) -> tuple[Tensor, np.ndarray, Tensor | None]:
    """Return latents, decoded frames and proprioception of unmasked play, row by row."""
    device, parts = tokenizer.centre.device, []
    for row in range(len(segment.frames)):
        own = None if segment.proprio is None else segment.proprio[row : row + 1].to(device)
        latent = tokenizer.encode(segment.frames[row : row + 1].to(device), own)
        parts.append((latent, *tokenizer.decode(latent)))
    felt = [own for _, _, own in parts if own is not None]
    return (
        torch.cat([latent for latent, _, _ in parts]).cpu(),
        torch.cat([frames for _, frames, _ in parts]).cpu().numpy(),
        torch.cat(felt).cpu() if felt else None,
    )


def mean_image(tokenizer: Tokenizer) -> np.ndarray:
    """Return the mean image of the play, uint8 (H, W, 3): what knowing nothing would show."""
    return to_frames(tokenizer.centre.cpu(), tokenizer.config.patch).numpy()


def judge_pictures(
    made: np.ndarray, truth: np.ndarray, mean: np.ndarray, task: str
) -> dict[str, float]:
    """Return the figures of decoded frames (B, T, H, W, 3)."""
    flat, real = made.reshape(-1, *made.shape[2:]), truth.reshape(-1, *truth.shape[2:])
    nothing = np.broadcast_to(mean, real.shape)
    figures = {
        'psnr': psnr(flat, real),
        'psnr_mean_image': psnr(nothing, real),
        'ssim': ssim(flat, real),
        'ssim_mean_image': ssim(nothing.copy(), real),
    }
    for marker in THINGS.get(task, ()):
        figures.update(overlap(flat, real, marker))
    return figures


def judge(figures: dict[str, float]) -> list[str]:
    """Return one sentence for each requirement that is missed; empty means accepted."""
    faults, (least, most) = [], DEVIATION
    gain, deviation = figures['psnr'] - figures['psnr_mean_image'], figures['latent_deviation']
    if gain < 3.0:
        faults.append(
            f'decoded frames are {gain:.1f} dB better than the mean image (at least 3): train '
            'longer'
        )
    if not least <= deviation <= most:
        faults.append(
            f"the latents' deviation is {deviation:.2f} (from {least} to {most}): they carry too "
            'little or are saturated; train longer, or change the learning rate'
        )
    return faults


def _number(value: Any) -> Any:
    """Return what JSON can hold: null for a figure that is not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == '__main__':
    sys.exit(main('tokenizer', sys.argv[1:]))
