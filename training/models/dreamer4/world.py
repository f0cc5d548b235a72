"""
DreamerV4 behind the seam of a global model: reset(context), step(action) -> frame and reward.

What the stages have to know:

* contexts are true frames at the task's size (or any other; they are resized by area) and the
  actions between them; the paper's are 32 frames long (``TaskSpec.context_length``);
* ``step`` returns frames of ``size`` pixels, which is what the policy's models see (the task's
  ``policy_size``), so a context has to be resized for the local model likewise;
* the reward is the calibrated head's, read in the commit pass from the latents as they become
  context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import TaskSpec
import torch
from torch import Tensor

from .model import Dreamer4
from .pixels import resize
from .rollout import Rollout, RolloutConfig
from ...loop import load_finished
from ...world import Context, WorldStep


class Dreamer4World:
    """A batch of imagined worlds with memories of up to ``window`` frames."""

    def __init__(
        self,
        model: Dreamer4,
        batch: int,
        config: RolloutConfig | None = None,
        size: int | None = None,
        reward: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Build worlds without a context; ``reset`` all of them before the first step.

        :param size: side of the frames in pixels; the tokenizer's own, when left out.
        :param reward: of uint8 frames (B, size, size, 3), instead of the agent token's head.
        """
        self.batch, self.reward = batch, reward
        self.rollout = Rollout(model, batch, config, seed, dtype)
        if not self.rollout.config.decode:
            raise ValueError('a world shows frames; leave decode on, or use Rollout for latents')
        self.size = size or model.config.tokenizer.image_size

    def reset(self, context: Context, rows: Tensor | None = None) -> None:
        """
        Start worlds from real play; other worlds keep their memories.

        :param context: of each selected world; proprioception too, where the tokenizer reads it.
        :param rows: bool (B,), which worlds; all, when left out.
        """
        chosen = torch.ones(self.batch, dtype=torch.bool) if rows is None else rows.cpu()
        frames, action = context.observation, context.action
        length = frames.shape[1]
        if frames.dtype != torch.uint8 or frames.ndim != 5 or action.shape[1] != length - 1:
            raise ValueError(
                'a context holds uint8 frames (n, L, H, W, 3) and the L - 1 actions between '
                f'them, not {tuple(frames.shape)} {frames.dtype} and {tuple(action.shape)}'
            )
        if len(frames) != int(chosen.sum()):
            raise ValueError(
                f'{len(frames)} contexts for {int(chosen.sum())} selected worlds of {self.batch}; '
                'give one for each selected world'
            )
        # The action of a frame is the one that led to it; nobody knows the first one's.
        first = action.new_zeros(len(action), 1, action.shape[2])
        led = torch.cat((first, action), dim=1)
        known = torch.ones(led.shape[:2], dtype=torch.bool)
        known[:, 0] = False
        latent = self._encode(frames, context.proprio)
        self.rollout.begin(latent, led.float(), known, torch.nonzero(chosen).flatten())

    @torch.no_grad()
    def _encode(self, frames: Tensor, proprio: Tensor | None) -> Tensor:
        """Return the latents of contexts, some rows at a time."""
        model, parts = self.rollout.model, []
        for part in torch.arange(len(frames)).split(self.rollout.config.prefill_rows):
            own = None if proprio is None else proprio[part].to(model.device)
            parts.append(model.tokenizer.encode(frames[part].to(model.device), own))
        return torch.cat(parts).float()

    def step(self, action: Tensor) -> WorldStep:
        """Apply actions (B, A) in [-1, 1]; return the next frames, without gradient."""
        made = self.rollout.step(action[:, None].float())
        assert made.frames is not None
        frame = resize(made.frames[:, 0], self.size)
        reward = made.reward[:, 0] if self.reward is None else self.reward(frame).float()
        terminated = torch.zeros(self.batch, dtype=torch.bool, device=reward.device)
        proprio = None if made.proprio is None else made.proprio[:, 0]
        return WorldStep(frame, reward, terminated, proprio)

    def state_dict(self) -> dict[str, Any]:
        """Memories and generator: with them a run resumes exactly."""
        return self.rollout.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put memories and generator back."""
        self.rollout.load_state_dict(state)


def load_model(
    checkpoint: Path, device: torch.device | str = 'cpu', spec: TaskSpec | None = None
) -> Dreamer4:
    """
    Load the model of a finished checkpoint of stage 'global'; its head is still untrained.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    return Dreamer4.rebuild(load_finished(checkpoint, 'global', spec)).to(device)
