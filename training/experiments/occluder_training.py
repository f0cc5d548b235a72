"""Train the DreamerV4 model on the occluder's play: tokenizer, latents, dynamics, intent head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from .occluder_world import Play, PlayConfig, SIDE
from ..engine import load_checkpoint, progress, save_checkpoint
from ..models.dreamer4.config import (
    Dreamer4Config,
    DynamicsConfig,
    HeadConfig,
    TokenizerConfig,
    TrunkConfig,
)
from ..models.dreamer4.latents import encode_stream
from ..models.dreamer4.model import Dreamer4
from ..models.dreamer4.objective import Batch, Objective
from ..models.dreamer4.shortcut import plan, ShortcutConfig
from ..models.dreamer4.trunk import is_matrix

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class StageConfig:
    """
    A stage's updates.

    The rate rises over the first ``warm_up`` of them, stays, and falls over the last
    ``cool_down``: while it stays, a run may still be made longer or shorter.  With a
    ``matrix_rate`` the transformers' matrices are optimised by Muon.
    """

    updates: int
    batch: int
    rate: float
    length: int = 0  # frames; the dynamics' are in ShortcutConfig
    decay: float = 0.01
    warm_up: float = 0.03
    cool_down: float = 0.3
    matrix_rate: float = 0.0


_PLAY, _HELD_OUT = PlayConfig(episodes=1000), PlayConfig(episodes=400, seed=1)
_CODER = TrunkConfig(64, 4, 1, window=8)
_DYNAMICS = TrunkConfig(64, 6, 2, time_every=2, window=40)


@dataclass(frozen=True)
class OccluderConfig:
    """Everything the figures depend on."""

    play: PlayConfig = _PLAY
    held_out: PlayConfig = _HELD_OUT
    latents: int = 4
    bottleneck: int = 8
    coder: TrunkConfig = _CODER
    dynamics: TrunkConfig = _DYNAMICS
    mask_most: float = 0.5
    tokenizer: StageConfig = StageConfig(1500, 16, 1.5e-3, length=8)
    forcing: StageConfig = StageConfig(
        9000, 8, 1.5e-3, decay=0.05, warm_up=0.0857, cool_down=0.43, matrix_rate=3e-3
    )
    head: StageConfig = StageConfig(200, 8, 7e-4, length=48)
    shortcut: ShortcutConfig = field(
        default_factory=lambda: ShortcutConfig(bootstrap_from=800, short=48, long=96)
    )
    seed: int = 0
    save_every: int = 50

    def model(self) -> Dreamer4Config:
        """Return the sizes."""
        tokenizer = TokenizerConfig(
            SIDE, 8, self.latents, self.bottleneck, self.coder, streams=1, drop=1, places=True,
            perceptual='none', mask_most=self.mask_most,
        )  # fmt: skip
        dynamics = DynamicsConfig(2, self.latents, self.bottleneck, self.dynamics, registers=0)
        return Dreamer4Config(tokenizer, dynamics, HeadConfig(hidden=64))


Loss = Callable[[int], tuple[Tensor, dict[str, float]]]


def fit(
    module: nn.Module, loss: Loss, stage: StageConfig, name: str, run: Path, every: int
) -> None:
    """
    Minimise ``loss(update)`` over the trainable parameters; goes on where it was stopped.

    All chance is drawn from the number of the update, so a resumed run is the same run.
    """
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizers = _optimizers(module, stage)
    path, start, spent = run / f'{name}.safetensors', 0, 0.0
    module.train()
    if path.is_file():
        state = load_checkpoint(path)
        module.load_state_dict(state['module'])
        for optimizer, stored in zip(optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(stored)
        start, spent = state['update'], state['cpu_s']
    clock, seen = time.process_time(), dict[str, list[float]]()
    for update in progress(stage.updates, start, name):
        for optimizer, rate in zip(optimizers, (stage.rate, stage.matrix_rate)):
            optimizer.param_groups[0]['lr'] = rate * share(update, stage)
        total, figures = loss(update)
        module.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for key, value in figures.items():
            seen.setdefault(key, []).append(value)
        if (update + 1) % every == 0 or update + 1 == stage.updates:
            used = spent + time.process_time() - clock
            means = {key: float(f'{np.mean(values):.4g}') for key, values in seen.items()}
            with open(run / f'{name}.jsonl', 'a') as log:
                log.write(json.dumps({'update': update + 1, 'cpu_s': round(used), **means}) + '\n')
            seen.clear()
            save_checkpoint(
                path,
                {
                    'module': module.state_dict(),
                    'optimizers': [optimizer.state_dict() for optimizer in optimizers],
                    'update': update + 1,
                    'cpu_s': used,
                },
            )
    module.eval()


def _optimizers(module: nn.Module, stage: StageConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon for the matrices of the transformers where it has a rate."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            inner = stage.matrix_rate and is_matrix(name, weight)
            (matrices if inner else others).append(weight)
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, stage.rate, BETAS, weight_decay=stage.decay)
    ]
    if matrices:
        decay, fit = stage.decay, 'match_rms_adamw'
        made.append(
            torch.optim.Muon(matrices, stage.matrix_rate, weight_decay=decay, adjust_lr_fn=fit)
        )
    return made


def share(update: int, stage: StageConfig) -> float:
    """Return the share of the rate that an update takes."""
    rising = (update + 1) / max(1, stage.warm_up * stage.updates)
    falling = (stage.updates - update) / max(1, stage.cool_down * stage.updates)
    return min(1.0, rising, falling)


def chance(seed: int, update: int) -> tuple[np.random.Generator, torch.Generator]:
    """Return generators that belong to one update."""
    draws = np.random.default_rng((seed, update))
    return draws, torch.Generator().manual_seed(int(draws.integers(2**62)))


def windows(
    rng: np.random.Generator, shape: tuple[int, int], count: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` windows of ``length`` of play (E, T): indices (count, 1), (count, length)."""
    rows = rng.integers(shape[0], size=count)
    starts = rng.integers(shape[1] - length + 1, size=count)
    return rows[:, None], starts[:, None] + np.arange(length)


def train_tokenizer(model: Dreamer4, play: Play, config: OccluderConfig, run: Path) -> None:
    """Train the tokenizer on short windows."""
    tokenizer, stage, shape = model.tokenizer, config.tokenizer, play.label.shape
    rng, _ = chance(config.seed, 2**31)
    tokenizer.standardise(torch.from_numpy(play.frames[windows(rng, shape, 128, 4)]))

    def loss(update: int) -> tuple[Tensor, dict[str, float]]:
        rng, generator = chance(config.seed, update)
        at = windows(rng, shape, stage.batch, stage.length)
        terms = tokenizer(torch.from_numpy(play.frames[at]), generator=generator)
        return terms['total'], {'pixel': float(terms['pixel'])}

    fit(tokenizer, loss, stage, 'tokenizer', run, config.save_every)


def encode(model: Dreamer4, play: Play, path: Path | None = None) -> np.ndarray:
    """Return the latents of play (E, T, N, D) float16, from ``path`` where they are."""
    if path is not None and path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    none = np.zeros((0, 0), np.float32)
    made = np.stack([encode_stream(model.tokenizer, frames, none) for frames in play.frames])
    if path is not None:
        np.save(path, made, allow_pickle=False)
    return made


def led(play: Play) -> tuple[np.ndarray, np.ndarray]:
    """Return the actions that led to the frames (E, T, 2), and whether there was one (E, T)."""
    action, known = np.zeros_like(play.action), np.ones(play.label.shape, bool)
    action[:, 1:], known[:, 0] = play.action[:, :-1], False
    return action, known


def train_dynamics(
    model: Dreamer4, play: Play, latent: np.ndarray, config: OccluderConfig, run: Path
) -> None:
    """Train the dynamics by shortcut forcing, half as many rows where the windows are long."""
    objective, stage = Objective(model.dynamics, config.shortcut), config.forcing
    action, known = led(play)

    def loss(update: int) -> tuple[Tensor, dict[str, float]]:
        turn = plan(config.shortcut, config.seed, update, stage.updates, update)
        rng, generator = chance(config.seed, update)
        rows = max(1, stage.batch * config.shortcut.short // turn.frames)
        at = windows(rng, known.shape, rows, turn.frames)
        batch = Batch(*(torch.from_numpy(part[at]) for part in (latent, action, known)))
        made: tuple[Tensor, dict[str, float]] = objective(
            batch, turn.bootstrap, generator=generator
        )
        return made

    fit(objective, loss, stage, 'dynamics', run, config.save_every)


def train_head(
    model: Dreamer4, play: Play, latent: np.ndarray, config: OccluderConfig, run: Path
) -> None:
    """Post-train agent token and head on the label, the dynamics going on to learn."""
    objective, stage = Objective(model.dynamics, config.shortcut, model.head), config.head
    action, known = led(play)
    label = play.label.astype(np.float32)

    def loss(update: int) -> tuple[Tensor, dict[str, float]]:
        rng, generator = chance(config.seed + 1, update)
        at = windows(rng, known.shape, stage.batch, stage.length)
        batch = Batch(*(torch.from_numpy(part[at]) for part in (latent, action, known, label)))
        made: tuple[Tensor, dict[str, float]] = objective(batch, False, generator=generator)
        return made

    # Its checkpoint holds the dynamics as well, so it belongs to one length of their training.
    fit(objective, loss, stage, f'head_{config.forcing.updates}', run, config.save_every)


def describe(config: OccluderConfig) -> dict[str, Any]:
    """Return the config as JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain
