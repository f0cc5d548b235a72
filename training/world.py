"""
The seam between the policy's training and the models it is trained in.

A **global model** is anything with ``reset(context)`` and ``step(action)``: DIAMOND, a
DreamerV4-type transformer, or a twin's simulator.  A **local model** lends its Jacobian: see
:class:`LocalModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

Latent = Any  # a local model's own state; training/rl only hands it round
Prediction = Any


@dataclass(frozen=True)
class WorldStep:
    """
    One step of a batch of worlds, without gradient.

    ``observation`` (B, H, W, 3) uint8 frames or (B, N) state vectors; ``reward`` (B,) float32 of
    the new observation; ``terminated`` (B,) bool; ``proprio`` (B, P) in SI units, where the model
    imagines it.
    """

    observation: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    proprio: torch.Tensor | None = None


@dataclass(frozen=True)
class Context:
    """
    True history both models start from: observations (B, L, ...) and the actions between them.

    ``action`` is (B, L - 1, A): action[:, t] led from observation t to t + 1.  ``proprio`` is
    (B, L, P) in SI units, for models that read it.  ``view`` holds the same frames at the size the
    policy sees, where the global model takes larger ones.
    """

    observation: torch.Tensor
    action: torch.Tensor
    proprio: torch.Tensor | None = None
    view: torch.Tensor | None = None

    @property
    def seen(self) -> torch.Tensor:
        """Return the observations as the local model and the policy see them."""
        return self.observation if self.view is None else self.view

    def rows(self, index: torch.Tensor) -> Context:
        """Return the context of some rows."""
        own, view = (None if x is None else x[index] for x in (self.proprio, self.view))
        return Context(self.observation[index], self.action[index], own, view)


class GlobalModel(Protocol):
    """Batched worlds on one device; the forward model of the decoupled step."""

    batch: int

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        """Start ``rows`` (bool (B,); all, when left out) from the contexts of those rows."""

    def step(self, action: torch.Tensor) -> WorldStep:
        """Advance every world by one action (B, A) in [-1, 1]."""


class ResumableModel(GlobalModel, Protocol):
    """A global model whose worlds can be saved and carried on."""

    def state_dict(self) -> dict[str, Any]:
        """Return contexts and generators."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""


class LocalModel(Protocol):
    """The light model whose Jacobian the policy gradient runs through."""

    def begin(self, context: Context) -> Latent:
        """Filter a context of true observations into a latent, without gradient."""

    def predict(self, latent: Latent, action: torch.Tensor) -> Prediction:
        """Predict the next latent, differentiable in both arguments."""

    def correct(
        self,
        prediction: Prediction,
        observation: torch.Tensor,
        proprio: torch.Tensor | None = None,
    ) -> Latent:
        """
        Give the prediction the value of the true observation and keep its own Jacobian.

        ``proprio`` (B, P) comes with the observation where the global model imagines it.
        """

    def reward(self, latent: Latent) -> torch.Tensor:
        """Return the predicted reward (B,) of a latent, differentiable."""

    def features(self, latent: Latent) -> torch.Tensor:
        """Return what actor and critic see, (B, F)."""


class ContextSource(Protocol):
    """Where episodes inside the models begin: windows of real play."""

    def sample(self, count: int) -> Context:
        """Draw ``count`` contexts."""
