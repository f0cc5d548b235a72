"""Actor and critics: MLPs of Linear, LayerNorm and SiLU (paper, Table 4: 256, 128, 64)."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import cast

import torch
from torch import nn
from torch.nn import functional


def mlp(inputs: int, hidden: Sequence[int], outputs: int, gain: float = 1.0) -> nn.Sequential:
    """Build an MLP with orthogonal weights and zero biases; ``gain`` scales the last layer."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [_orthogonal(nn.Linear(inputs, size)), nn.LayerNorm(size), nn.SiLU()]
        inputs = size
    return nn.Sequential(*layers, _orthogonal(nn.Linear(inputs, outputs), gain))


def _orthogonal(layer: nn.Linear, gain: float = 1.0) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Actor(nn.Module):
    """A tanh-squashed Gaussian policy with a state-dependent deviation."""

    def __init__(
        self,
        features: int,
        actions: int,
        hidden: Sequence[int] = (256, 128, 64),
        log_std_init: float = -0.5,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.net = mlp(features, hidden, 2 * actions)
        head = cast(nn.Linear, self.net[-1])
        with torch.no_grad():
            head.bias[actions:] = log_std_init

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-deviation before squashing, (B, A) each, of features (B, F)."""
        mean, log_std = self.net(features).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def mode(self, features: torch.Tensor) -> torch.Tensor:
        """Return the action (B, A) in [-1, 1] that is deployed: tanh of the mean."""
        return torch.tanh(self(features)[0])

    def sample(
        self,
        features: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a reparameterised action (B, A) and its entropy estimate -log pi (B,) in nats."""
        mean, log_std = self(features)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        u = mean + log_std.exp() * noise
        return torch.tanh(u), -self._log_prob(u, noise, log_std)

    @staticmethod
    def _log_prob(u: torch.Tensor, noise: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        """Log density (B,) of tanh(u), from u itself: an atanh of the action would overflow."""
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - u - functional.softplus(-2 * u))
        return (gaussian - squash).sum(dim=-1)


class Critics(nn.Module):
    """Some value functions of the same features, (n, ...) for features (..., F)."""

    def __init__(
        self, features: int, hidden: Sequence[int] = (256, 128, 64), count: int = 2
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(mlp(features, hidden, 1) for _ in range(count))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(features)[..., 0] for member in self.members])
