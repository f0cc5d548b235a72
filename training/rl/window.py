"""
The decoupled rollout: actors that live on from window to window inside the global model.

A window is H steps of B actors.  Gradient flows along a window through the local model and stops
at its start and at every episode's end; the actors themselves carry on where they stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import nn

from .dmo import decoupled_step
from .tree import detach, replace_rows
from ..world import Context, ContextSource, GlobalModel, Latent, LocalModel


class Policy(Protocol):
    """What a rollout needs of an actor."""

    def sample(
        self,
        features: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reparameterised actions (B, A) in [-1, 1] and their entropy estimate (B,)."""


@dataclass(frozen=True)
class Transition:
    """
    One step of every actor, for a replay buffer; tensors are detached.

    ``action`` (B, A), of all fields, led to ``observation`` and ``proprio``; ``first`` (B,): the
    step left an episode's first latent, the end of its ``context``.
    """

    action: torch.Tensor
    observation: torch.Tensor
    reward: torch.Tensor
    first: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    proprio: torch.Tensor | None = None


class Listener(Protocol):
    """Hears what happens in a rollout: a replay buffer, a film strip."""

    def begin(self, rows: torch.Tensor, context: Context) -> None:
        """``rows`` (bool (B,)) start an episode from ``context`` (rows.sum(), L, ...)."""

    def add(self, transition: Transition) -> None:
        """Take one step of every actor."""


@dataclass(frozen=True)
class Window:
    """H steps of B actors, time first; features, reward and entropy carry gradient."""

    features: torch.Tensor  # (H, B, F) of the latent the action was chosen at
    next_features: torch.Tensor  # (H, B, F) of the latent after the step, before any reset
    action: torch.Tensor  # (H, B, D) of the driven fields
    reward: torch.Tensor  # (H, B) grafted
    entropy: torch.Tensor  # (H, B) nats, -log pi of the sample
    residual: torch.Tensor  # (H, B) global minus local reward
    terminated: torch.Tensor  # (H, B) bool: no future
    truncated: torch.Tensor  # (H, B) bool: the time limit; bootstrap there
    guard: GradientGuard


class GradientGuard:
    """Zeroes non-finite gradient entries on the way back through a window, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad:
            tensor.register_hook(self._clean)
        return tensor

    def _clean(self, gradient: torch.Tensor) -> torch.Tensor:
        bad = ~torch.isfinite(gradient)
        self.count += int(bad.sum())
        return torch.where(bad, torch.zeros_like(gradient), gradient)


@contextmanager
def frozen(*modules: Any) -> Iterator[None]:
    """Build a graph that does not reach the parameters of ``modules`` (nn.Module or not)."""
    parameters = [
        p
        for module in modules
        if isinstance(module, nn.Module)
        for p in module.parameters()
        if p.requires_grad
    ]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Actors:
    """B persistent actors: the global world they act in, their latents, and their episodes."""

    def __init__(
        self,
        world: GlobalModel,
        local: LocalModel,
        contexts: ContextSource,
        episode_length: int,
        listener: Listener | None = None,
        expand: Callable[[torch.Tensor], torch.Tensor] = lambda driven: driven,
    ) -> None:
        """
        Gather actors; the first window starts their episodes.

        :param expand: makes the models' actions (B, A) of the policy's (B, D), differentiably.
        """
        if episode_length < 1:
            raise ValueError(f'an episode has {episode_length} steps: it needs at least one')
        self.world, self.local, self.contexts = world, local, contexts
        self.episode_length, self.listener, self.expand = episode_length, listener, expand
        self.latent: Latent = None
        self.elapsed = torch.zeros(0)

    def start(self) -> None:
        """Start an episode in every actor; the first window does it where nobody has."""
        context = self.contexts.sample(self.world.batch)
        self.world.reset(context)
        with torch.no_grad():
            self.latent = detach(self.local.begin(context))
        self.elapsed = torch.zeros(self.world.batch, dtype=torch.long, device=context.seen.device)
        if self.listener is not None:
            self.listener.begin(torch.ones_like(self.elapsed, dtype=torch.bool), context)

    def rollout(
        self, policy: Policy, horizon: int, generator: torch.Generator | None = None
    ) -> Window:
        """Unroll ``horizon`` steps with gradient to the policy and to nothing else."""
        if self.latent is None:
            self.start()
        self.latent = detach(self.latent)
        guard, steps = GradientGuard(), []
        with frozen(self.local):
            for _ in range(horizon):
                steps.append(self._step(policy, generator, guard))
        names = (field.name for field in fields(Window) if field.name != 'guard')
        columns = {name: torch.stack(column) for name, column in zip(names, zip(*steps))}
        return Window(guard=guard, **columns)

    def _step(
        self, policy: Policy, generator: torch.Generator | None, guard: GradientGuard
    ) -> tuple[torch.Tensor, ...]:
        features = guard.watch(self.local.features(self.latent))
        action, entropy = policy.sample(features, generator)
        action = guard.watch(action)
        whole = self.expand(action)
        done = decoupled_step(self.world, self.local, self.latent, whole)
        following = self.local.features(done.latent)
        terminated = done.step.terminated.to(self.elapsed.device)
        first = self.elapsed == 0
        self.elapsed = self.elapsed + 1
        truncated = (self.elapsed >= self.episode_length) & ~terminated
        if self.listener is not None:
            self.listener.add(
                Transition(
                    whole.detach(),
                    done.step.observation,
                    done.step.reward,
                    first,
                    terminated,
                    truncated,
                    done.step.proprio,
                )
            )
        self.latent = self._restart(done.latent, terminated | truncated)
        return (
            features,
            following,
            action,
            done.reward,
            entropy,
            done.residual,
            terminated,
            truncated,
        )

    def _restart(self, latent: Latent, ended: torch.Tensor) -> Latent:
        """Start new episodes, without gradient, where one has ended."""
        if not bool(ended.any()):
            return latent
        context = self.contexts.sample(int(ended.sum()))
        with torch.no_grad():
            self.world.reset(context, ended)
            fresh = self.local.begin(context)
        self.elapsed = torch.where(ended, torch.zeros_like(self.elapsed), self.elapsed)
        if self.listener is not None:
            self.listener.begin(ended, context)
        return replace_rows(latent, ended, detach(fresh))

    def state_dict(self) -> dict[str, Any]:
        """The actors' own state; the world and the context source keep theirs themselves."""
        return {'latent': detach(self.latent), 'elapsed': self.elapsed}

    def load_state_dict(
        self, state: dict[str, Any], rebuild: Callable[[Any], Latent] = lambda latent: latent
    ) -> None:
        """Carry on; ``rebuild`` makes the latent of what a checkpoint made of it, if it must."""
        self.latent, self.elapsed = rebuild(state['latent']), state['elapsed']
