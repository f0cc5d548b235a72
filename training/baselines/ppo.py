"""
PPO (stable-baselines3) in the same world that DMO learns in.

Any global model becomes a vectorised environment: what PPO sees are the last observations of the
model, as the policy on the robot would see them, and its episodes begin and end as DMO's do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import time
from typing import Any

from gymnasium import spaces
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
import torch
from torch import nn

from ..world import Context, ContextSource, GlobalModel

Observe = Callable[[torch.Tensor], torch.Tensor]
# The library's worker interface passes indices of environments; ours is one batch.
Indices = int | Iterable[int] | None


@dataclass(frozen=True)
class PpoConfig:
    """Defaults are the paper's Table 4; ``hidden`` is the MLP behind the features."""

    actors: int = 256
    horizon: int = 64
    episode_length: int = 64
    samples: int = 40_000_000
    gamma: float = 0.99
    lam: float = 0.95
    mini_epochs: int = 4
    mini_batch: int = 4096
    lr: float = 5e-4
    clip: float = 0.2
    entropy_coefficient: float = 0.01
    grad_clip: float = 0.5
    log_std_init: float = 0.0
    hidden: tuple[int, ...] = (256, 128, 64)
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)  # further policy_kwargs


class WorldVecEnv(VecEnv):
    """
    A global model as a vectorised environment with ``stack`` past observations.

    ``observe`` maps stacked observations (B, stack, ...) to what the networks see: by default
    frames (B, H, W, 3 * stack) uint8, or states (B, stack * S) float32.
    """

    def __init__(
        self,
        world: GlobalModel,
        contexts: ContextSource,
        actions: int,
        episode_length: int,
        stack: int = 1,
        observe: Observe | None = None,
    ) -> None:
        self.world, self.contexts, self.stack = world, contexts, stack
        self.episode_length, self.observe = episode_length, observe or side_by_side
        self.elapsed = torch.zeros(world.batch, dtype=torch.long)
        context = contexts.sample(world.batch)
        self.history = self._history(context)
        example = self._seen(self.history)[0]
        space = (
            spaces.Box(0, 255, example.shape, np.uint8)
            if example.dtype == np.uint8
            else spaces.Box(-np.inf, np.inf, example.shape, np.float32)
        )
        super().__init__(world.batch, space, spaces.Box(-1.0, 1.0, (actions,), np.float32))

    def _history(self, context: Context) -> torch.Tensor:
        """Last observations of a context, (B, stack, ...), back-filled where it is shorter."""
        last = context.observation[:, -self.stack :]
        missing = self.stack - last.shape[1]
        return torch.cat([last[:, :1]] * missing + [last], dim=1)

    def _seen(self, history: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.observe(history).cpu().numpy()

    def reset(self) -> np.ndarray:
        context = self.contexts.sample(self.num_envs)
        with torch.no_grad():
            self.world.reset(context)
        self.history = self._history(context)
        self.elapsed = torch.zeros(self.num_envs, dtype=torch.long)
        return self._seen(self.history)

    def step_async(self, actions: np.ndarray) -> None:
        device = self.history.device
        self.action = torch.as_tensor(actions, dtype=torch.float32, device=device).clamp(-1, 1)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        with torch.no_grad():
            step = self.world.step(self.action)
        self.history = torch.cat([self.history[:, 1:], step.observation[:, None]], dim=1)
        self.elapsed += 1
        terminated = step.terminated.cpu()
        truncated = (self.elapsed >= self.episode_length) & ~terminated
        ended = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        seen = self._seen(self.history)
        if bool(ended.any()):
            for row in ended.nonzero()[:, 0].tolist():
                infos[row] = {
                    'terminal_observation': seen[row],
                    'TimeLimit.truncated': bool(truncated[row]),
                }
            self._restart(ended)
            seen = self._seen(self.history)
        return seen, step.reward.float().cpu().numpy(), ended.numpy(), infos

    def _restart(self, ended: torch.Tensor) -> None:
        context = self.contexts.sample(int(ended.sum()))
        rows = ended.to(self.history.device)
        with torch.no_grad():
            self.world.reset(context, rows)
        # Not in place: the terminal observations handed out may be views of the old history.
        self.history = self.history.index_put((rows,), self._history(context))
        self.elapsed[ended] = 0

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError(
            f'a batch of worlds has no single environment to call {method_name!r} on'
        )

    def env_is_wrapped(self, wrapper_class: Any, indices: Indices = None) -> list[bool]:
        return [False] * self.num_envs


def side_by_side(history: torch.Tensor) -> torch.Tensor:
    """Put the stack into the channels of frames, or into one vector of states."""
    if history.dim() == 5:
        return history.permute(0, 2, 3, 1, 4).flatten(3)
    return history.flatten(1)


class FrameFeatures(BaseFeaturesExtractor):
    """
    Stride-2 convolutions down to 4 pixels and one dense layer, for frames of any 2^n size.

    The library's Nature CNN takes no frames below 36 pixels.
    """

    def __init__(
        self, observation_space: spaces.Box, width: int = 256, channels: int = 32
    ) -> None:
        super().__init__(observation_space, width)
        inputs, side = observation_space.shape[0], observation_space.shape[-1]
        layers: list[nn.Module] = []
        while side > 4:
            layers += [nn.Conv2d(inputs, channels, 4, 2, 1), nn.ReLU()]
            inputs, side, channels = channels, side // 2, min(2 * channels, 64)
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(inputs * side * side, width), nn.ReLU()
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layers(observations)
        return features


def build_ppo(env: WorldVecEnv, config: PpoConfig, device: str = 'cpu') -> PPO:
    """Return stable-baselines3's PPO with this configuration; frames go through a CNN."""
    frames = env.observation_space.dtype == np.uint8
    cnn = {'features_extractor_class': FrameFeatures} if frames else {}
    network = {
        **cnn,
        'net_arch': list(config.hidden),
        'activation_fn': nn.ReLU,
        'log_std_init': config.log_std_init,
        **config.network,
    }
    return PPO(
        'CnnPolicy' if frames else 'MlpPolicy',
        env,
        n_steps=config.horizon,
        batch_size=config.mini_batch,
        n_epochs=config.mini_epochs,
        gamma=config.gamma,
        gae_lambda=config.lam,
        clip_range=config.clip,
        max_grad_norm=config.grad_clip,
        ent_coef=config.entropy_coefficient,
        seed=config.seed,
        device=device,
        learning_rate=lambda left: config.lr * left,
        policy_kwargs=network,
    )


def learn(
    model: PPO, samples: int, every: int, evaluate: Callable[[], dict[str, float]]
) -> list[dict[str, float]]:
    """Train for ``samples``; return the learning curve, a point each ``every`` and at the end."""
    curve: list[dict[str, float]] = []
    begun = time.process_time()

    def point() -> None:
        curve.append(
            {'samples': model.num_timesteps, 'cpu_s': time.process_time() - begun, **evaluate()}
        )

    def watch(*_: Any) -> bool:
        now = model.num_timesteps
        if now // every > (now - model.n_envs) // every:
            point()
        return True

    model.learn(samples, callback=watch)
    if not curve or curve[-1]['samples'] < model.num_timesteps:
        point()
    return curve


def deterministic(model: PPO, seen: torch.Tensor) -> torch.Tensor:
    """Return the mean action (B, A), clipped, of what the networks see (B, ...)."""
    action, _ = model.predict(seen.cpu().numpy(), deterministic=True)
    return torch.as_tensor(np.clip(action, -1, 1), dtype=torch.float32)
