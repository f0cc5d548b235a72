"""From what a policy drives to what the world model takes: the other fields stay at rest."""

from __future__ import annotations

from dmo_ros.core.actions import to_normalised
from dmo_ros.core.tasks import TaskSpec
import numpy as np
import torch
from torch import nn, Tensor


class Driven(nn.Module):
    """
    Fills the driven fields of a task into its whole action, as :func:`core.actions.fill` does.

    It has no weights and nothing to store; the same module stands in training between actor and
    world, and inside the exported policy.
    """

    index: Tensor
    rest: Tensor

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.driven, self.actions = len(spec.policy_actions), len(spec.actions)
        places = {name: number for number, name in enumerate(spec.policy_actions)}
        index = [places.get(field.name, self.driven) for field in spec.actions]
        still = [number for number, place in enumerate(index) if place == self.driven]
        for offset, number in enumerate(still):
            index[number] = self.driven + offset
        rest = to_normalised(np.array([field.rest for field in spec.actions]), spec.actions)
        self.whole = index == list(range(self.driven))
        self.register_buffer('index', torch.tensor(index), persistent=False)
        self.register_buffer(
            'rest', torch.tensor(rest[still], dtype=torch.float32), persistent=False
        )

    def forward(self, driven: Tensor) -> Tensor:
        """Return all fields (..., A) of the driven ones (..., D), both in [-1, 1]."""
        if self.whole:
            return driven
        rest = self.rest.to(driven.dtype).expand(*driven.shape[:-1], -1)
        return torch.cat((driven, rest), dim=-1)[..., self.index]
