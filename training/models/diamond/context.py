"""
Contexts made of the model's own frames: the cure for objects that vanish in rollouts.

One-step training only ever shows real contexts; in a rollout the context is the model's own,
slightly wrong frames, and the error grows.  So segments are rolled forward without gradient by a
cheap sampler, and the denoiser is trained on the real next frame behind 0..K generated ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .denoiser import Denoiser
from .sampler import roll, SamplerConfig


class Examples(NamedTuple):
    """Training examples: uint8 context (B, n, H, W, 3), action (B, n, A), uint8 target."""

    context: Tensor
    action: Tensor
    target: Tensor


class ContextPool:
    """
    Examples behind 0..K generated frames, handed out in random order until none is left.

    One fill serves rows * (K + 1) examples, so each costs one cheap extra denoising.  What is left
    is part of a checkpoint, so that a resumed run goes on with the same examples.
    """

    def __init__(self, context: int) -> None:
        self.context = context
        self._frames: list[Tensor] = []
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def fill(
        self,
        denoiser: Denoiser,
        frames: Tensor,
        action: Tensor,
        config: SamplerConfig,
        rng: np.random.Generator,
        share: slice = slice(None),
        gather: Callable[[Tensor], Tensor] = lambda rolled: rolled,
    ) -> None:
        """
        Roll real segments forward.

        :param frames: uint8 (B, n + 1 + K, H, W, 3); K = 0 gives plain one-step examples.
        :param action: (B, n + K or more, A), entry t in force from frame t to t + 1.
        :param share: the rows to roll here, where several processes fill the same pool.
        :param gather: puts the rows of all of them together.
        """
        n, depth = self.context, frames.shape[1] - self.context - 1
        mixed = frames[:, :n]
        if depth:
            own = gather(roll(denoiser, mixed[share], action[share], depth, config))
            mixed = torch.cat((mixed, own), dim=1)
        self._frames = [mixed, frames, action]
        self._order = rng.permutation(len(frames) * (depth + 1))

    def take(self, count: int) -> Examples:
        """Hand out up to ``count`` examples that were not handed out before."""
        mixed, real, action = self._frames
        pick, self._order = self._order[:count], self._order[count:]
        row, start = np.divmod(pick, real.shape[1] - self.context)
        window = start[:, None] + np.arange(self.context)
        rows = row[:, None]
        return Examples(mixed[rows, window], action[rows, window], real[row, start + self.context])

    def state_dict(self) -> dict[str, Any]:
        """Return what is left, for a checkpoint."""
        return {'frames': list(self._frames), 'order': self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._frames, self._order = list(state['frames']), state['order']
