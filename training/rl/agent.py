"""
DMO-SAPO: one actor step per window, then the temperature, then the critics (paper, Algorithm 1).

The agent sees windows and nothing of the models behind them, so the benchmarks on plain states and
the training from images share this code.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .sapo import critic_targets, normalised_entropy, objective, Temperature
from .window import frozen, Window
from ..models.actor_critic import Actor, Critics


@dataclass(frozen=True)
class DmoSapoConfig:
    """
    Hyperparameters; defaults are the paper's Table 4, and what it leaves open is marked.

    ``epochs`` (open: 8e6 samples / 2048) is the length of the linear learning-rate schedule.
    ``alpha_init`` (open) decides success: 1.0 failed wherever it was measured, 0.01-0.1 worked
    with rewards of deviation 0.2.  ``target_entropy`` is in nats over all dimensions, or 'auto'
    for minus half their number.
    """

    actors: int = 128
    horizon: int = 16
    episode_length: int = 64
    epochs: int = 3906
    gamma: float = 0.99
    lam: float = 0.95
    alpha_init: float = 0.05
    target_entropy: float | str = -6.0
    actor_lr: float = 2e-3
    critic_lr: float = 5e-4
    temperature_lr: float = 5e-3
    final_lr: float = 1e-5
    betas: tuple[float, float] = (0.7, 0.95)
    grad_clip: float = 1.0
    mini_epochs: int = 8
    mini_batch: int = 256
    n_critics: int = 2
    actor_hidden: tuple[int, ...] = (256, 128, 64)
    critic_hidden: tuple[int, ...] = (256, 128, 64)
    log_std_init: float = -0.5
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    seed: int = 0

    def entropy_target(self, actions: int) -> float:
        """Return the target entropy in nats for this many action dimensions."""
        if self.target_entropy == 'auto':
            return -actions / 2
        if isinstance(self.target_entropy, str) or self.target_entropy == 0:
            raise ValueError(
                f'target_entropy is {self.target_entropy!r}: give nats other than 0, '
                "or 'auto' for minus half the action dimensions"
            )
        return float(self.target_entropy)


class DmoSapo:
    """Actor, critics and temperature with their optimisers; ``update(window)`` is one epoch."""

    def __init__(
        self,
        features: int,
        actions: int,
        config: DmoSapoConfig,
        device: torch.device | str = 'cpu',
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.actor = Actor(
                features, actions, config.actor_hidden, config.log_std_init, config.log_std_range
            ).to(device, dtype)
            self.critics = Critics(features, config.critic_hidden, config.n_critics)
            self.critics.to(device, dtype)
        self.temperature = Temperature(config.alpha_init, config.entropy_target(actions))
        self.temperature.to(device, dtype)
        self.optimisers = {
            'actor': self._adam(self.actor, config.actor_lr),
            'critics': self._adam(self.critics, config.critic_lr),
            'temperature': self._adam(self.temperature, config.temperature_lr),
        }
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.epoch = 0

    def _adam(self, module: nn.Module, rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=rate, betas=self.config.betas)

    def update(self, window: Window) -> dict[str, float]:
        """
        Learn from one window, returning what to log.

        :raises FloatingPointError: when rewards, values or a gradient are not finite.
        """
        config = self.config
        self._schedule()
        alpha = self.temperature.value.detach()
        bonus = normalised_entropy(window.entropy, self.temperature.target_entropy)
        soft_reward = window.reward + alpha * bonus
        with frozen(self.critics):
            values = self.critics(window.next_features)
        ends = window.terminated, window.truncated
        targets = critic_targets(soft_reward, values.amin(dim=0), *ends, config.gamma, config.lam)
        gain = objective(soft_reward, values.mean(dim=0), *ends, config.gamma)
        if not bool(torch.isfinite(targets).all()):
            raise FloatingPointError(
                f'the rewards or values of epoch {self.epoch} are not finite, and nothing was '
                'learned from them: the global model or the reward model has left its range'
            )
        stats = {'objective': gain.item(), 'actor_grad_norm': self._step('actor', -gain)}
        stats['temperature_grad_norm'] = self._step(
            'temperature', self.temperature.loss(window.entropy)
        )
        stats['critic_loss'] = self._fit_critics(window.features.detach(), targets)
        self.epoch += 1
        return stats | self._figures(window, targets)

    def gradient_report(self, window: Window) -> dict[str, float]:
        """
        Return the norms of the actor's gradient by where it comes from: reward, value, entropy.

        Call it before :meth:`update`, which consumes the window's graph.  A reward norm near zero
        says that the local model lends no useful Jacobian, however well the critics learn.
        """
        nothing = torch.zeros_like(window.reward)
        with frozen(self.critics):
            values = self.critics(window.next_features).mean(dim=0)
        bonus = self.temperature.value.detach() * normalised_entropy(
            window.entropy, self.temperature.target_entropy
        )
        paths = {
            'reward': (window.reward, nothing),
            'value': (nothing, values),
            'entropy': (bonus, nothing),
        }
        report = {}
        for name, (reward, value) in paths.items():
            gain = objective(reward, value, window.terminated, window.truncated, self.config.gamma)
            slopes = (
                torch.autograd.grad(
                    gain, list(self.actor.parameters()), retain_graph=True, materialize_grads=True
                )
                if gain.requires_grad
                else ()
            )
            report[f'grad_{name}'] = math.hypot(*(float(slope.norm()) for slope in slopes))
        return report

    def _schedule(self) -> None:
        """Set the linear learning rates of actor and critics; the temperature's is constant."""
        config = self.config
        left = max(0.0, 1.0 - self.epoch / config.epochs)
        for name, rate in (('actor', config.actor_lr), ('critics', config.critic_lr)):
            for group in self.optimisers[name].param_groups:
                group['lr'] = config.final_lr + (rate - config.final_lr) * left

    def _step(self, name: str, loss: torch.Tensor) -> float:
        """Minimise ``loss`` by one clipped step and return the gradient's norm before clipping."""
        optimiser = self.optimisers[name]
        parameters = optimiser.param_groups[0]['params']
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.grad_clip))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f'the gradient of the {name} has norm {norm} in epoch {self.epoch}: the local '
                'model or the rewards have left their range; look at the residual and the '
                'non-finite counts of the last epochs, and resume with a smaller learning rate'
            )
        optimiser.step()
        return norm

    def _fit_critics(self, features: torch.Tensor, targets: torch.Tensor) -> float:
        """Regress every critic on the targets in shuffled mini-batches; return the mean loss."""
        features, targets = features.flatten(0, 1), targets.flatten()
        losses = []
        for _ in range(self.config.mini_epochs):
            order = torch.randperm(len(targets), generator=self.generator, device=targets.device)
            for batch in order.split(self.config.mini_batch):
                values = self.critics(features[batch])
                loss = functional.mse_loss(values, targets[batch].expand_as(values))
                self._step('critics', loss)
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _figures(self, window: Window, targets: torch.Tensor) -> dict[str, float]:
        variance = targets.var()
        return {
            'reward': window.reward.mean().item(),
            'reward_residual': window.residual.mean().item(),
            'reward_residual_abs': window.residual.abs().mean().item(),
            'entropy': window.entropy.mean().item(),
            'alpha': self.temperature.value.item(),
            'value': targets.mean().item(),
            'value_std': float(variance.sqrt()),
            'action_abs': window.action.abs().mean().item(),
            'actor_lr': self.optimisers['actor'].param_groups[0]['lr'],
            'nonfinite_gradients': float(window.guard.count),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            'actor': self.actor.state_dict(),
            'critics': self.critics.state_dict(),
            'temperature': self.temperature.state_dict(),
            'optimisers': {
                name: optimiser.state_dict() for name, optimiser in self.optimisers.items()
            },
            'generator': self.generator.get_state(),
            'epoch': self.epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on exactly where :meth:`state_dict` was taken."""
        self.actor.load_state_dict(state['actor'])
        self.critics.load_state_dict(state['critics'])
        self.temperature.load_state_dict(state['temperature'])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state['optimisers'][name])
        self.generator.set_state(state['generator'].cpu())
        self.epoch = int(state['epoch'])
