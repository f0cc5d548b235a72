"""
Pendulum-biased: what decoupling is for, in a minute.

The local model predicts every speed 0.4 rad/s too high.  DMO uses its Jacobian only and learns all
the same; the same model used in both directions misleads the policy.  PPO learns beside them.  Run
it with::

    python -m dmo_training.experiments.pendulum_biased
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .figures import Curves, first_at, markdown, plot, samples_text, save_json
from .state_training import epochs_for, Point, Policy, StateTraining, train_states, Transitions
from ..baselines.ppo import build_ppo, deterministic, learn, PpoConfig, WorldVecEnv
from ..models.state_model import StateModel
from ..rl.agent import DmoSapo, DmoSapoConfig
from ..world import Context, WorldStep

SOLVED, FAILED, BIAS = -200.0, -900.0, 0.4
REWARD_SCALE = 0.1
DMO = DmoSapoConfig(
    actors=32,
    horizon=16,
    episode_length=200,
    gamma=0.99,
    alpha_init=0.1,
    target_entropy='auto',
    actor_hidden=(128, 128),
    critic_hidden=(128, 128),
)
# The best of five settings tried; with 4 mini-epochs of 512 it stayed at -581 in 80k steps.
PPO = PpoConfig(
    actors=32,
    horizon=64,
    episode_length=200,
    gamma=0.95,
    mini_epochs=10,
    mini_batch=256,
    lr=1e-3,
    entropy_coefficient=0.0,
    hidden=(64, 64),
)
RANDOM_STEPS = 32


def features(state: torch.Tensor) -> torch.Tensor:
    """Cosine, sine and speed of order one, (..., 3), of angle and speed (..., 2)."""
    angle, speed = state[..., 0], state[..., 1]
    return torch.stack([torch.cos(angle), torch.sin(angle), speed / 8], dim=-1)


class Pendulum:
    """
    Gymnasium's Pendulum-v1 in a batch: states are (B, 2) angle from upright and speed in rad/s.

    The learning reward is a tenth of Gymnasium's, of the state after the step; ``cost`` keeps
    Gymnasium's own for the evaluation.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.state = torch.zeros(batch, 2)
        self.cost = torch.zeros(batch)

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        start = context.observation[:, -1]
        self.state = start.clone() if rows is None else self.state.index_put((rows,), start)

    def step(self, action: torch.Tensor) -> WorldStep:
        torque = 2 * action[:, 0].clamp(-1, 1)
        angle, speed = self.state.unbind(dim=1)
        self.cost = cost_of(self.state) + 0.001 * torque.square()
        speed = (speed + 0.05 * (15 * torch.sin(angle) + 3 * torque)).clamp(-8, 8)
        self.state = torch.stack([angle + 0.05 * speed, speed], dim=1)
        reward = -REWARD_SCALE * (cost_of(self.state) + 0.001 * torque.square())
        return WorldStep(self.state, reward, torch.zeros(self.batch, dtype=torch.bool))


def cost_of(state: torch.Tensor) -> torch.Tensor:
    angle = torch.remainder(state[:, 0] + torch.pi, 2 * torch.pi) - torch.pi
    return angle.square() + 0.1 * state[:, 1].square()


class Starts:
    """Gymnasium's starts: any angle, speeds up to 1 rad/s."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, count: int) -> Context:
        spread = torch.tensor([torch.pi, 1.0])
        state = spread * (2 * torch.rand(count, 2, generator=self.generator) - 1)
        return Context(state[:, None], torch.zeros(count, 0, 1))


class BiasedModel(StateModel):
    """Fits its data well, and then lies about the speed by a constant."""

    def predict(self, latent: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return super().predict(latent, action) + latent.new_tensor([0.0, BIAS])


def evaluate(policy: Policy, episodes: int = 64, steps: int = 200) -> Point:
    """Mean return over fixed starts, in Gymnasium's units; about -150 is the best there is."""
    world = Pendulum(episodes)
    world.reset(Starts(77).sample(episodes))
    total = torch.zeros(episodes)
    for _ in range(steps):
        with torch.no_grad():
            world.step(policy(world.state))
        total -= world.cost
    return {'return': float(total.mean())}


def random_play(seed: int) -> Transitions:
    """A few random steps to fit the first model on; they count as samples."""
    world, generator = Pendulum(DMO.actors), torch.Generator().manual_seed(seed + 11)
    world.reset(Starts(seed).sample(DMO.actors))
    parts = []
    for _ in range(RANDOM_STEPS):
        action = 2 * torch.rand(DMO.actors, 1, generator=generator) - 1
        before = world.state
        step = world.step(action)
        parts.append(Transitions(before, action, step.observation, step.reward))
    return Transitions(*(torch.cat(part) for part in zip(*parts)))


def dmo(seed: int, training: StateTraining, biased: bool = True, own: bool = False) -> list[Point]:
    """One seed of DMO, or of the local model in both directions (``own``)."""
    torch.manual_seed(seed)
    play = random_play(seed)
    spent = len(play.reward)
    config = replace(DMO, seed=seed, epochs=epochs_for(training.samples - spent, DMO))
    kind = BiasedModel if biased else StateModel
    model = kind(features, 2, 1, scale=(0.4, 1.0), hidden=(128, 128))
    agent = DmoSapo(model.width, 1, config)
    curve = train_states(
        Pendulum(config.actors),
        model,
        Starts(seed),
        play,
        agent,
        replace(training, samples=training.samples - spent),
        evaluate,
        own=own,
    )
    return [{**point, 'samples': point['samples'] + spent} for point in curve]


def ppo(seed: int, training: StateTraining) -> list[Point]:
    """One seed of stable-baselines3's PPO in the same world."""
    env = WorldVecEnv(
        Pendulum(PPO.actors),
        Starts(seed),
        1,
        PPO.episode_length,
        observe=lambda history: features(history[:, -1]),
    )
    model = build_ppo(env, replace(PPO, seed=seed, samples=training.samples))
    return learn(
        model,
        training.samples,
        training.evaluate_every,
        lambda: evaluate(lambda state: deterministic(model, features(state))),
    )


ARMS = {
    'dmo, biased model': lambda seed, training: dmo(seed, training),
    'own model, biased': lambda seed, training: dmo(seed, training, own=True),
    'dmo': lambda seed, training: dmo(seed, training, biased=False),
    'own model': lambda seed, training: dmo(seed, training, biased=False, own=True),
    'ppo': ppo,
}


def table(curves: Curves) -> str:
    rows = []
    for arm, runs in curves.items():
        for seed, run in enumerate(runs):
            rows.append(
                [
                    arm,
                    seed,
                    samples_text(first_at(run, 'return', SOLVED)),
                    f'{max(p["return"] for p in run):.0f}',
                    f'{run[-1]["return"]:.0f}',
                    f'{run[-1]["cpu_s"]:.0f}',
                ]
            )
    return markdown(['arm', 'seed', 'above -200 at', 'best', 'final', 'CPU-s'], rows)


def benchmark(arms: Sequence[str], seeds: int, samples: int, out: Path | None) -> Curves:
    """Run the arms, print the table, and write JSON and PNG below ``out``."""
    torch.set_num_threads(1)
    training = StateTraining(samples=samples, model_updates=32, pretrain_updates=200)
    curves = {arm: [ARMS[arm](seed, training) for seed in range(seeds)] for arm in arms}
    print(table(curves), flush=True)
    if out is not None:
        save_json(out / 'pendulum_biased.json', {'bias_rad_s': BIAS, 'curves': curves})
        plot(out / 'pendulum_biased.png', curves, 'return', 'return (200 steps)', SOLVED)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument(
        '--arms',
        nargs='+',
        choices=list(ARMS),
        default=['dmo, biased model', 'own model, biased', 'ppo'],
    )
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--samples', type=int, default=80_000)
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    options = parser.parse_args()
    benchmark(options.arms, options.seeds, options.samples, options.out)


if __name__ == '__main__':
    main()
