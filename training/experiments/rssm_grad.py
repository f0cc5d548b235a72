"""
Rssm-grad: which part of the RSSM may carry the policy's gradient.

A small RSSM is trained on random play of the pendulum (vectors instead of images).  The gradient
of the return with respect to every action of open-loop sequences is then compared with the true
simulator's, for three ways through the stochastic state that have equal values.  Run it with::

    python -m dmo_training.experiments.rssm_grad
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time
from typing import cast

import torch
from torch import nn, Tensor
from torch.nn import functional

from .figures import markdown, save_json
from .pendulum_biased import cost_of, features, Pendulum, REWARD_SCALE
from ..models.rssm import divergence, Latent, Rssm, RssmConfig, sample
from ..models.rssm_nets import dense, Encoder
from ..rl.dmo import graft
from ..world import Context

HORIZON, CONTEXT, LENGTH = 16, 4, 20
ROUTES = ('prior', 'posterior', 'none')
GATE, MARGIN = 0.8, 0.5


class VectorRssm(Rssm):
    """The RSSM with an MLP in place of the image encoder and decoder; observations are (B, 3)."""

    encoder: nn.Module  # type: ignore[assignment]
    decoder: nn.Module  # type: ignore[assignment]

    def __init__(self, recurrent: int = 128, groups: int = 16, classes: int = 16) -> None:
        super().__init__(
            RssmConfig(
                frame_size=8,
                actions=1,
                recurrent=recurrent,
                groups=groups,
                classes=classes,
                units=128,
                multiplier=8,
                mlp_layers=2,
            )
        )
        width = cast(Encoder, self.encoder).width
        self.encoder = nn.Sequential(dense(3, width), dense(width, width))
        self.decoder = nn.Sequential(dense(self.features_width, 128), nn.Linear(128, 3))

    def vector_loss(self, seen: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """DreamerV3's loss of segments: seen (B, T, 3), action (B, T, 1), reward (B, T)."""
        c = self.config
        latent, prior, posterior = self.observe(seen, action)
        known = self.features(latent).flatten(0, 1)
        image = (self.decoder(known) - seen.flatten(0, 1)).square().sum(dim=-1).mean()
        rewards = self.reward_head.loss(self.reward_net(known), reward.flatten()).mean()
        dynamics = divergence(posterior.detach(), prior).clamp(min=c.free_nats).mean()
        representation = divergence(posterior, prior.detach()).clamp(min=c.free_nats).mean()
        return (
            10 * image
            + rewards
            + c.dynamics_scale * dynamics
            + c.representation_scale * representation
        )


def random_play(episodes: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return states (N, T, 2), what is seen (N, T, 3), actions (N, T, 1), rewards (N, T)."""
    world, generator = Pendulum(episodes), torch.Generator().manual_seed(seed)
    spread = torch.tensor([torch.pi, 6.0])
    start = spread * (2 * torch.rand(episodes, 1, 2, generator=generator) - 1)
    world.reset(Context(start, torch.zeros(episodes, 0, 1)))
    states, actions = [world.state], []
    for _ in range(LENGTH):
        actions.append(2 * torch.rand(episodes, 1, generator=generator) - 1)
        states.append(world.step(actions[-1]).observation)
    state = torch.stack(states[:-1], dim=1)
    reward = -REWARD_SCALE * cost_of(state.flatten(0, 1)).view(state.shape[:2])
    return state, features(state), torch.stack(actions, dim=1), reward


def train(updates: int, seed: int) -> VectorRssm:
    """Train the RSSM on random play, 32 segments an update."""
    torch.manual_seed(seed)
    model = VectorRssm()
    _, seen, action, reward = random_play(1024, seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, updates)
    for _ in range(updates):
        rows = torch.randint(len(seen), (32,))
        loss = model.vector_loss(seen[rows], action[rows], reward[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimiser.step()
        schedule.step()
    return model.requires_grad_(False)


def true_gradient(start: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return d(return)/d(action) (N, H) and the returns (N,) of the simulator itself."""
    action = action.clone().requires_grad_(True)
    world = Pendulum(len(start))
    world.reset(Context(start[:, None], action[:, :0]))
    total = torch.zeros(len(start))
    for h in range(action.shape[1]):
        total = total - REWARD_SCALE * cost_of(world.step(action[:, h]).observation)
    return torch.autograd.grad(total.sum(), action)[0][..., 0], total.detach()


def route_gradient(
    model: VectorRssm, latent: Latent, seen: Tensor, action: Tensor, route: str, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the same through the RSSM, filtered on the true frames (N, H, 3) of the sequence."""
    torch.manual_seed(seed)
    action = action.clone().requires_grad_(True)
    total = torch.zeros(len(seen))
    for h in range(action.shape[1]):
        latent = step(model, latent, action[:, h], seen[:, h], route)
        total = total + model.reward(latent)
    return torch.autograd.grad(total.sum(), action)[0][..., 0], total.detach()


def step(model: VectorRssm, latent: Latent, action: Tensor, seen: Tensor, route: str) -> Latent:
    """One filtered step; the routes differ in what z's gradient is, never in its value."""
    prediction = model.predict(latent, action)
    if route == 'prior':
        return model.correct(prediction, seen)
    posterior = model.posterior(prediction.h, model.encoder(seen))
    z = sample(posterior.detach())
    return Latent(prediction.h, graft(z, posterior) if route == 'posterior' else z)


def compare(gradient: Tensor, truth: Tensor) -> dict[str, float]:
    """Cosine per sequence (mean) and of the batch's mean gradient, and the ratio of norms."""
    cosine = functional.cosine_similarity(gradient, truth, dim=1).mean()
    mean = functional.cosine_similarity(gradient.mean(0), truth.mean(0), dim=0)
    ratio = gradient.norm(dim=1).mean() / truth.norm(dim=1).mean()
    return {'cosine': float(cosine), 'mean_cosine': float(mean), 'norm_ratio': float(ratio)}


def benchmark(
    updates: int = 1200, sequences: int = 256, seed: int = 0, out: Path | None = None
) -> dict[str, dict[str, float]]:
    """Train, compare the routes, print the table."""
    torch.set_num_threads(1)
    begun = time.process_time()
    model = train(updates, seed)
    state, seen, action, _ = random_play(sequences, seed + 1)
    latent = model.begin(Context(seen[:, :CONTEXT], action[:, : CONTEXT - 1]))
    ahead = action[:, CONTEXT - 1 : CONTEXT - 1 + HORIZON]
    truth, returns = true_gradient(state[:, CONTEXT - 1], ahead)
    frames = seen[:, CONTEXT : CONTEXT + HORIZON]
    figures = {}
    for route in ROUTES:
        gradient, guess = route_gradient(model, latent, frames, ahead, route, seed)
        correlation = torch.corrcoef(torch.stack([guess, returns]))[0, 1]
        figures[route] = compare(gradient, truth) | {'return_correlation': float(correlation)}
    header = ['gradient of z through', 'cosine', 'cosine of means', 'norm ratio', 'return corr.']
    print(
        markdown(
            header,
            [
                [route, *(f'{value:.3f}' for value in row.values())]
                for route, row in figures.items()
            ],
        )
    )
    print(f'{time.process_time() - begun:.0f} CPU-s', flush=True)
    if out is not None:
        save_json(out / 'rssm_grad.json', {'updates': updates, 'seed': seed, 'routes': figures})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--updates', type=int, default=1200)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    options = parser.parse_args()
    figures = benchmark(options.updates, seed=options.seed, out=options.out)
    good = figures['prior']['cosine'] > max(GATE, figures['posterior']['cosine'] + MARGIN)
    raise SystemExit(0 if good else 'the prior route has lost the gradient: see the table')


if __name__ == '__main__':
    main()
