"""DIAMOND behind the seam of a global model: reset(context), step(action) -> frame and reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import TaskSpec
import torch
from torch import Tensor

from .denoiser import Denoiser, DenoiserConfig
from .sampler import sample, SamplerConfig
from .unet import NetworkConfig
from ...engine import load_stage
from ...world import Context, WorldStep

Reward = Callable[[Tensor], Tensor]  # uint8 frames (B, H, W, 3) -> (B,)


class DiamondWorld:
    """
    A batch of imagined worlds, each with its own context of the last n frames and actions.

    A frame costs ``sampler.steps`` denoisings; in a deterministic scene 1 tracks as well as 3.
    One generator, seeded here and part of ``state_dict``, draws all noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        batch: int,
        reward: Reward,
        sampler: SamplerConfig,
        seed: int = 0,
    ) -> None:
        """
        Build worlds without a context; ``reset`` all of them before the first step.

        :param reward: the global reward of new frames.
        """
        self.denoiser, self.reward, self.batch = denoiser.frozen(), reward, batch
        self.sampler = sampler
        self.generator = torch.Generator(denoiser.device).manual_seed(seed)
        self.frames: Tensor | None = None
        self.action: Tensor | None = None

    def reset(self, context: Context, rows: Tensor | None = None) -> None:
        """
        Start worlds from real play; other worlds keep their contexts.

        :param context: of each selected world, the n newest (or more) uint8 frames and the actions
            between them.
        :param rows: bool (B,), which worlds; all, when left out.
        """
        n = self.denoiser.config.network.context
        frames, action = context.observation.to(self._device), context.action.to(self._device)
        chosen = torch.ones(self.batch, dtype=torch.bool) if rows is None else rows.cpu()
        if frames.shape[1] < n or action.shape[1] < n - 1 or frames.dtype != torch.uint8:
            raise ValueError(
                f'a context holds {n} uint8 frames and {n - 1} actions, not '
                f'{tuple(frames.shape)} {frames.dtype} and {tuple(action.shape)}; draw longer ones'
            )
        if len(frames) != int(chosen.sum()):
            raise ValueError(
                f'{len(frames)} contexts for {int(chosen.sum())} selected worlds of {self.batch}; '
                'give one for each selected world'
            )
        if self.frames is None or self.action is None:
            if not chosen.all():
                raise ValueError('the first reset has to start all worlds (rows left out)')
            self.frames = frames.new_zeros(self.batch, n, *frames.shape[2:])
            self.action = action.new_zeros(self.batch, n, action.shape[2])
        self.frames[chosen] = frames[:, -n:]
        # The last slot belongs to the action of the coming step.
        self.action[chosen, :-1] = action[:, action.shape[1] - (n - 1) :]

    @torch.no_grad()
    def step(self, action: Tensor) -> WorldStep:
        """Apply actions (B, A) in [-1, 1]; return the next frames, without gradient."""
        if self.frames is None or self.action is None:
            raise RuntimeError('reset the worlds with contexts of play before the first step')
        self.action[:, -1] = action.detach().to(self._device)
        context = self.denoiser.encode(self.frames)
        following = sample(self.denoiser, context, self.action, self.sampler, self.generator)
        frame = self.denoiser.decode(following).contiguous()
        reward = self.reward(frame).float()
        self.frames = torch.cat((self.frames[:, 1:], frame[:, None]), dim=1)
        self.action = torch.roll(self.action, -1, dims=1)
        return WorldStep(frame, reward, torch.zeros(self.batch, dtype=torch.bool))

    @property
    def _device(self) -> torch.device:
        return self.denoiser.device

    def state_dict(self) -> dict[str, Any]:
        """Contexts and generator: with them a run resumes exactly."""
        return {
            'frames': self.frames,
            'action': self.action,
            'generator': self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put contexts and generator back."""
        self.frames, self.action = state['frames'], state['action']
        self.generator.set_state(state['generator'])


def denoiser_config(plain: dict[str, Any]) -> DenoiserConfig:
    """Rebuild a configuration from its JSON form; an unknown key is refused by name."""
    network: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in plain['network'].items()
    }
    try:
        return DenoiserConfig(**{**plain, 'network': NetworkConfig(**network)})
    except TypeError as error:
        raise ValueError(
            f'the stored denoiser was written by another version ({error}); train it again'
        ) from error


def load_denoiser(checkpoint: Path, device: torch.device | str = 'cpu') -> Denoiser:
    """Load the averaged denoiser of a train_diamond checkpoint."""
    return _load(checkpoint, device)[0]


def load_world(
    checkpoint: Path,
    batch: int,
    reward: Reward,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device | str = 'cpu',
    spec: TaskSpec | None = None,
) -> DiamondWorld:
    """
    Load a trained global model as ``batch`` worlds; ``steps`` overrides its sampler's.

    :raises TaskError: it was trained for another task than ``spec``.
    """
    denoiser, sampler = _load(checkpoint, device, spec)
    sampler = sampler if steps is None else replace(sampler, steps=steps)
    return DiamondWorld(denoiser, batch, reward, sampler, seed)


def _load(
    checkpoint: Path, device: torch.device | str, spec: TaskSpec | None = None
) -> tuple[Denoiser, SamplerConfig]:
    state = load_stage(checkpoint, 'global', spec)
    denoiser = Denoiser(denoiser_config(state['config']['denoiser']))
    denoiser.load_state_dict(state['trainer']['average'])
    return denoiser.to(device), SamplerConfig(**state['config']['sampler'])
