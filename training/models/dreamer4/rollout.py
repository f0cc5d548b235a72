"""
Imagine frames in latent space, fast: every past frame is computed once and remembered.

A frame costs K denoising passes from pure noise (signal k / K, step 1 / K), one commit pass and
one pass of the decoder.  Past frames enter at a signal of 0.9, as in training, so that small
errors of the model's own frames do not add up; prefill and commit do the same.  The commit pass
also runs the agent token, so a reward costs no pass of its own.

``imagine`` draws no random numbers and decides nothing by a tensor's value: the same shapes run
the same operations on the same buffers, before and after the ring wraps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .memory import Append, Prefill
from .model import Dreamer4
from .shortcut import mix


@dataclass(frozen=True)
class RolloutConfig:
    """
    How frames are drawn.

    ``steps`` is K, a power of two; ``chunk`` the most frames that are imagined at once;
    ``prefill_rows`` how many rows are prefilled at once (it bounds the memory that takes).
    ``decode`` off leaves latents: nothing is decoded and no memory reserved for it.
    """

    steps: int = 4
    chunk: int = 1
    prefill_rows: int = 16
    decode: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps & (self.steps - 1):
            raise ValueError(f'steps is {self.steps}; shortcuts halve, so give a power of two')
        if self.chunk < 1 or self.prefill_rows < 1:
            raise ValueError(
                f'chunk {self.chunk} and prefill_rows {self.prefill_rows} have to be at least 1'
            )


class Imagined(NamedTuple):
    """
    New frames of every row.

    ``latent`` (B, T, N, D) and ``reward`` (B, T) float32; ``frames`` (B, T, H, W, 3) uint8 and
    ``proprio`` (B, T, P) in SI units, None where nothing is decoded or the robot has none.
    """

    latent: Tensor
    reward: Tensor
    frames: Tensor | None
    proprio: Tensor | None


class Noise(NamedTuple):
    """Unit noise (B, T, N, D) that frames begin as, and that corrupts them as context."""

    initial: Tensor
    context: Tensor


class Rollout:
    """A batch of imagined worlds in latent space, each with a length of its own."""

    def __init__(
        self,
        model: Dreamer4,
        batch: int,
        config: RolloutConfig | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Reserve the memory of ``batch`` worlds; ``begin`` each of them before the first frame.

        :param dtype: of weights and memory; bfloat16 where it is native.
        """
        self.config, self.batch = config or RolloutConfig(), batch
        levels = model.config.dynamics.levels
        if self.config.steps > levels:
            raise ValueError(
                f'{self.config.steps} denoising steps, but the dynamics knows {levels} signal '
                f'levels; take at most {levels}'
            )
        self.model = model.frozen(dtype)
        self.ring = self.model.dynamics.ring(batch, self.config.chunk)
        trunk = self.model.tokenizer.decoder.trunk
        self.screen = trunk.ring(batch, self.config.chunk) if self.config.decode else None
        self.generator = torch.Generator(model.device).manual_seed(seed)
        self.begun = torch.zeros(batch, dtype=torch.bool)
        self.lengths = torch.zeros(batch, dtype=torch.int64)  # as in the rings, on the host

    @torch.no_grad()
    def begin(
        self, latent: Tensor, action: Tensor, known: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """
        Start rows from real frames (prefill); the others go on.

        :param latent: of the real frames (n, L, N, D), as encoded.
        :param action: that led to them (n, L, A).
        :param known: whether it is known (n, L) bool.
        :param rows: int64 (n,), which rows; all of them, when left out.
        :returns: the rewards of the real frames (n, L).
        """
        rows = torch.arange(self.batch) if rows is None else rows.cpu()
        if not len(rows) == len(latent) == len(action) == len(known):
            raise ValueError(
                f'{len(latent)} contexts, {len(action)} rows of actions and {len(known)} of '
                f'their masks for {len(rows)} rows; give one of each for each row'
            )
        noise = self._draw(len(rows), latent.shape[1])
        rewards = []
        for part in torch.arange(len(rows)).split(self.config.prefill_rows):
            there = rows[part].to(self.model.device)
            pieces = (x[part.to(x.device)] for x in (latent, action, known, noise))
            rewards.append(self._prefill(there, *(x.to(self.model.device) for x in pieces)))
        self.begun[rows], self.lengths[rows] = True, latent.shape[1]
        return torch.cat(rewards)

    def _prefill(
        self, rows: Tensor, latent: Tensor, action: Tensor, known: Tensor, noise: Tensor
    ) -> Tensor:
        memory = Prefill(self.ring, rows, latent.shape[1])
        reward = self._read(latent, action, noise, memory, known)
        if self.screen is not None:
            seen = Prefill(self.screen, rows, latent.shape[1])
            self.model.tokenizer.decoder(latent, seen)
            seen.commit()
        return reward

    @torch.no_grad()
    def step(self, action: Tensor) -> Imagined:
        """
        Imagine the next frame of every row, or a chunk of them jointly.

        :param action: (B, T, A), T at most ``chunk``: action t leads to new frame t.
        """
        if not self.begun.all():
            missing = torch.nonzero(~self.begun).flatten().tolist()
            raise RuntimeError(f'rows {missing} have no context yet; begin them with real frames')
        frames = action.shape[1]
        noise = Noise(*(self._draw(self.batch, frames) for _ in range(2)))
        self.lengths += frames
        rings = [ring for ring in (self.ring, self.screen) if ring is not None]
        for ring in rings:
            ring.narrow(self.lengths)
        made = self.imagine(action.detach().to(self.model.device), noise)
        for ring in rings:
            ring.widen()
        return made

    def imagine(self, action: Tensor, noise: Noise) -> Imagined:
        """
        Do ``step`` with noise that is given; static shapes, nothing random.

        It reads the whole rings: ``step`` narrows them to what is filled, which changes shapes a
        few times until they wrap.
        """
        latent = self._denoise(action, noise.initial)
        memory = Append(self.ring, action.shape[1])
        reward = self._read(latent, action, noise.context, memory)
        frames = proprio = None
        if self.screen is not None:
            seen = Append(self.screen, action.shape[1])
            frames, proprio = self.model.tokenizer.decode(latent, seen)
            seen.commit()
        return Imagined(latent, reward, frames, proprio)

    def _denoise(self, action: Tensor, latent: Tensor) -> Tensor:
        """Turn noise into clean latents in ``steps`` passes that see the ring."""
        dynamics, steps = self.model.dynamics, self.config.steps
        memory = Append(self.ring, action.shape[1])
        jump = dynamics.config.levels // steps
        size = self._constant(action, steps.bit_length() - 1)
        for k in range(steps):
            level = self._constant(action, k * jump)
            clean = dynamics(latent, action, level, size, memory=memory).latent
            latent = latent + (clean.float() - latent) / (steps - k)
        return latent.clamp(-1.0, 1.0)  # the tokenizer's tanh knows nothing beyond

    def _read(
        self,
        latent: Tensor,
        action: Tensor,
        noise: Tensor,
        memory: Prefill | Append,
        known: Tensor | None = None,
    ) -> Tensor:
        """Let frames become context: corrupt, remember, and read the agent's reward (B, T)."""
        dynamics = self.model.dynamics
        at = dynamics.config.context_level
        level = self._constant(action, at)
        finest = self._constant(action, dynamics.config.step_sizes - 1)
        blurred = mix(noise, latent.float(), at / dynamics.config.levels)
        agent = dynamics.remember(blurred, action, level, finest, memory, known)
        memory.commit()
        return self.model.head(agent.float())

    def _constant(self, action: Tensor, index: int) -> Tensor:
        return torch.full(action.shape[:2], index, dtype=torch.int64, device=action.device)

    def _draw(self, rows: int, frames: int) -> Tensor:
        size = self.model.config.dynamics
        shape = (rows, frames, size.latents, size.bottleneck)
        return torch.randn(shape, generator=self.generator, device=self.model.device)

    def state_dict(self) -> dict[str, Any]:
        """Return memories and generator, for a checkpoint."""
        return {
            'ring': self.ring.state_dict(),
            'screen': None if self.screen is None else self.screen.state_dict(),
            'generator': self.generator.get_state(),
            'begun': self.begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.ring.load_state_dict(state['ring'])
        if self.screen is not None:
            self.screen.load_state_dict(state['screen'])
        self.generator.set_state(state['generator'])
        self.begun = state['begun'].clone()
        self.lengths = self.ring.length.cpu().clone()
