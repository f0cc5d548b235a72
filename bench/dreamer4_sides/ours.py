"""This repository's side: frames as a rollout makes them, updates as the stages do."""

from __future__ import annotations

from typing import Any

from dmo_training.models.dreamer4.config import (
    Dreamer4Config,
    DynamicsConfig,
    HeadConfig,
    TokenizerConfig,
    TrunkConfig,
)
from dmo_training.models.dreamer4.memory import Append, Prefill
from dmo_training.models.dreamer4.model import Dreamer4
from dmo_training.models.dreamer4.objective import Batch, Objective
from dmo_training.models.dreamer4.rollout import Rollout, RolloutConfig
from dmo_training.models.dreamer4.shortcut import mix, ShortcutConfig
from dreamer4_sides.shapes import DENOISINGS, Shape, Work
import torch
from torch import nn, Tensor


def build(shape: Shape, **trunk: Any) -> Dreamer4:
    """Build an untrained model; ``trunk`` changes what the presets have on."""
    coder = TrunkConfig(
        shape.coder_width, shape.coder_layers, shape.coder_heads, window=shape.window, **trunk
    )
    size = TrunkConfig(shape.width, shape.layers, shape.heads, window=shape.window, **trunk)
    return Dreamer4(
        Dreamer4Config(
            TokenizerConfig(
                shape.image, shape.patch, shape.latents, shape.bottleneck, coder, perceptual='none'
            ),
            DynamicsConfig(
                shape.actions, shape.latents, shape.bottleneck, size, registers=shape.registers
            ),
            HeadConfig(),
        )
    )


class WithoutReward(Rollout):
    """A rollout without agent token and reward, which the authors' cached step leaves out."""

    def _read(
        self,
        latent: Tensor,
        action: Tensor,
        noise: Tensor,
        memory: Prefill | Append,
        known: Tensor | None = None,
    ) -> Tensor:
        dynamics = self.model.dynamics
        at = dynamics.config.context_level
        blurred = mix(noise, latent.float(), at / dynamics.config.levels)
        level = self._constant(action, at)
        finest = self._constant(action, dynamics.config.step_sizes - 1)
        tokens = {'world': dynamics._tokens(blurred, action, level, finest, known)}
        dynamics.trunk(tokens, memory, ())
        memory.commit()
        return latent.new_zeros(latent.shape[:2])


def frames(
    shape: Shape, batch: int, context: int, decode: bool = True, reward: bool = True
) -> Work:
    """Return what makes one more frame of every row, after ``context`` frames."""
    kind = Rollout if reward else WithoutReward
    rollout = kind(build(shape), batch, RolloutConfig(DENOISINGS, decode=decode))
    latent = torch.randn(batch, context, shape.latents, shape.bottleneck).tanh()
    known = torch.ones(batch, context, dtype=torch.bool)
    rollout.begin(latent, torch.randn(batch, context, shape.actions), known)
    action = torch.randn(batch, 1, shape.actions)
    return lambda: rollout.step(action)


def update(parameters: list[nn.Parameter], loss: Any) -> Work:
    """Return one update: loss, gradient, clip, AdamW; the same for all sides."""
    optimiser = torch.optim.AdamW([p for p in parameters if p.requires_grad], 1e-4, fused=True)

    def work() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return work


def dynamics_update(shape: Shape, batch: int, length: int, bootstrap: bool, **trunk: Any) -> Work:
    """Return an update of the dynamics on a flow or a bootstrap batch."""
    objective = Objective(build(shape, **trunk).dynamics, ShortcutConfig())
    latent = torch.randn(batch, length, shape.latents, shape.bottleneck).tanh()
    action = torch.randn(batch, length, shape.actions)
    clips = Batch(latent, action, torch.ones(batch, length, dtype=torch.bool))
    return update(list(objective.parameters()), lambda: objective(clips, bootstrap)[0])


def tokenizer_update(shape: Shape, batch: int, length: int) -> Work:
    """Return an update of the tokenizer on its squared error."""
    tokenizer = build(shape).tokenizer.train()
    size = (batch, length, shape.image, shape.image, 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8)
    return update(list(tokenizer.parameters()), lambda: tokenizer(images)['total'])
