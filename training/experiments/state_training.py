"""DMO on plain states, the loop that the benchmarks share: fit, unroll, update, evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import NamedTuple

import torch

from ..models.state_model import StateModel
from ..rl.agent import DmoSapo, DmoSapoConfig
from ..rl.window import Actors, Transition
from ..world import Context, ContextSource, GlobalModel, LocalModel, WorldStep

Policy = Callable[[torch.Tensor], torch.Tensor]  # states (B, S) -> actions (B, A) in [-1, 1]
Point = dict[str, float]  # one evaluation: 'samples' and figures


@dataclass(frozen=True)
class StateTraining:
    """How a local model of states is kept up to date, and how long the policy learns."""

    samples: int = 60_000
    evaluate_every: int = 5_120
    pretrain_updates: int = 500
    model_updates: int = 16
    model_batch: int = 256
    model_lr: float = 1e-3
    action_noise: float = 0.0


class Transitions(NamedTuple):
    """States (N, S), actions (N, A), next states (N, S) and their rewards (N,)."""

    state: torch.Tensor
    action: torch.Tensor
    following: torch.Tensor
    reward: torch.Tensor

    def take(self, index: torch.Tensor) -> Transitions:
        return Transitions(*(part[index] for part in self))


class StateReplay:
    """Every transition the actors have made; a Listener of their rollouts."""

    def __init__(self) -> None:
        self.steps: list[Transitions] = []
        self.state = torch.zeros(0)
        self._stacked: Transitions | None = None

    def begin(self, rows: torch.Tensor, context: Context) -> None:
        start = context.observation[:, -1]
        self.state = start.clone() if bool(rows.all()) else self.state.index_put((rows,), start)

    def add(self, transition: Transition) -> None:
        self.steps.append(
            Transitions(self.state, transition.action, transition.observation, transition.reward)
        )
        self.state, self._stacked = transition.observation, None

    def all(self) -> Transitions:
        if self._stacked is None:
            self._stacked = Transitions(*(torch.cat(part) for part in zip(*self.steps)))
            self.steps = [self._stacked]
        return self._stacked

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        everything = self.all()
        return everything.take(
            torch.randint(len(everything.reward), (count,), generator=generator)
        )


class OwnWorld:
    """The local model as its own forward model: what DMO is compared with ("No Diffusion")."""

    def __init__(self, local: LocalModel, batch: int) -> None:
        self.local, self.batch = local, batch
        self.state = torch.zeros(0)

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        start = context.observation[:, -1]
        self.state = start.clone() if rows is None else self.state.index_put((rows,), start)

    def step(self, action: torch.Tensor) -> WorldStep:
        self.state = self.local.predict(self.state, action)
        return WorldStep(
            self.state, self.local.reward(self.state), torch.zeros(self.batch, dtype=torch.bool)
        )


class ReplayStarts:
    """Episodes of the own model begin at states that were really visited."""

    def __init__(self, replay: StateReplay, generator: torch.Generator) -> None:
        self.replay, self.generator = replay, generator

    def sample(self, count: int) -> Context:
        found = self.replay.sample(count, self.generator)
        return Context(found.state[:, None], found.action[:, None][:, :0])


def fit(
    model: StateModel,
    optimiser: torch.optim.Optimizer,
    play: Transitions,
    replay: StateReplay | None,
    config: StateTraining,
    updates: int,
    generator: torch.Generator,
) -> float:
    """Update the model on play data, half of each batch from the replay where there is one."""
    loss = torch.zeros(())
    for _ in range(updates):
        share = config.model_batch if replay is None else config.model_batch // 2
        index = torch.randint(len(play.reward), (share,), generator=generator)
        batch = play.take(index)
        if replay is not None:
            batch = Transitions(
                *(torch.cat(parts) for parts in zip(batch, replay.sample(share, generator)))
            )
        loss = model.loss(*batch, action_noise=config.action_noise, generator=generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def train_states(
    world: GlobalModel,
    model: StateModel,
    starts: ContextSource,
    play: Transitions,
    agent: DmoSapo,
    config: StateTraining,
    evaluate: Callable[[Policy], Point],
    lent: LocalModel | None = None,
    own: bool = False,
) -> list[Point]:
    """
    Train a policy with DMO and return its learning curve.

    :param lent: the local model that lends its Jacobian, ``model`` itself when left out.
    :param own: unroll ``lent`` itself instead of the world; the world then only supplies data.
    """
    cfg, lent = agent.config, lent or model
    generator = torch.Generator().manual_seed(cfg.seed + 5)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.model_lr)
    replay = StateReplay()
    actors = real = Actors(world, lent, starts, cfg.episode_length, replay)
    if own:
        actors = Actors(
            OwnWorld(lent, world.batch), lent, ReplayStarts(replay, generator), cfg.episode_length
        )
    per_window = world.batch * cfg.horizon
    curve, samples, begun = [], 0, time.process_time()
    fit(model, optimiser, play, None, config, config.pretrain_updates, generator)
    while samples < config.samples:
        if replay.steps:
            fit(model, optimiser, play, replay, config, config.model_updates, generator)
        if own:
            with torch.no_grad():
                real.rollout(agent.actor, cfg.horizon, agent.generator)
        stats = agent.update(actors.rollout(agent.actor, cfg.horizon, agent.generator))
        samples += per_window
        due = samples // config.evaluate_every > (samples - per_window) // config.evaluate_every
        if due or samples >= config.samples:
            curve.append(
                {
                    'samples': samples,
                    'cpu_s': time.process_time() - begun,
                    **evaluate(lambda state: agent.actor.mode(lent.features(state))),
                    'entropy': stats['entropy'],
                    'residual': stats['reward_residual_abs'],
                }
            )
    return curve


def epochs_for(samples: int, config: DmoSapoConfig) -> int:
    """Return the number of windows that this many samples make."""
    return -(-samples // (config.actors * config.horizon))
