"""
The pusher's own simulator behind the global model's seam: the ceiling no learned model can pass.

It answers the first question of every learning run, "does the policy learn when the forward model
is right?", and is the forward model of ``pusher-contact``.  Contexts hold frames only, so the
state is read off the last one.
"""

from __future__ import annotations

from collections.abc import Callable
import json
from typing import Any

from dmo_ros.core.actions import to_si
from dmo_ros.core.tasks import TASKS
from dmo_ros.twins.pusher import locate, PusherTwin
import numpy as np
import torch

from .world import Context, WorldStep


class TwinWorld:
    """A batch of pusher twins that answer with frames and the learned global reward."""

    def __init__(
        self, batch: int, reward: Callable[[torch.Tensor], torch.Tensor], seed: int = 0
    ) -> None:
        self.batch, self.reward = batch, reward
        self.twin = PusherTwin(batch, seed=seed)
        self.fields = TASKS['pusher'].driven

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        """Place ``rows`` where the last frames of the contexts show tool and object."""
        mask = np.ones(self.batch, bool) if rows is None else rows.cpu().numpy()
        state = locate(context.observation[:, -1].numpy())
        lost = ~np.isfinite(state).all(axis=1)
        state[lost] = self.twin.state[mask][lost]
        self.twin.reset(mask, state)

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> WorldStep:
        """Apply normalised actions (B, 2)."""
        self.twin.step(to_si(action.cpu().numpy(), self.fields))
        frames = torch.from_numpy(self.twin.render())
        return WorldStep(frames, self.reward(frames), torch.zeros(self.batch, dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        """Return where everything stands and the twin's generator."""
        return {
            'state': self.twin.state.copy(),
            'rng': json.dumps(self.twin.rng.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put both back."""
        self.twin.state = np.array(state['state'])
        self.twin.rng.bit_generator.state = json.loads(state['rng'])
