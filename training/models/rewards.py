"""
Global reward models, learned from play data alone (paper section 3.3).

:class:`GoalEnergy` ranks frames by how close in time they are to a goal (Bradley-Terry);
:class:`IntentHead` predicts the operator's labels.  :class:`RewardModel` puts them together into
the one number that global rollouts are scored with and that the local reward head learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RewardConfig:
    """
    Sizes of the nets and the weights of the reward's terms.

    ``anticipation`` turns a label's target into the mean of g^(steps until the label) over its
    factors g, 0 beyond ``anticipation_steps``.  With (0,) the head learns the plain label.  A
    factor of 0.95 gives a slope that reaches thirty steps ahead, 0.5 one that is steep near the
    goal: together they draw a first-order method into contact and hold it at the goal, from labels
    alone (docs/results/pusher_contact.md).  A term of weight 0 is neither trained nor computed.
    """

    frame_size: int = 64
    channels: int = 32
    units: int = 128
    members: int = 2
    goals: int = 4
    anticipation: tuple[float, ...] = (0.95, 0.5)
    anticipation_steps: int = 30
    energy_weight: float = 1.0
    intent_weight: float = 0.0
    milestone_weight: float = 0.0
    energy_bound: float = 3.0
    caution: float = 0.5

    def __post_init__(self) -> None:
        if not (self.energy_weight or self.intent_weight or self.milestone_weight):
            raise ValueError(
                'every weight is 0, so there is no reward; set energy_weight, '
                'intent_weight or milestone_weight'
            )


def encoder(channels_in: int, size: int, channels: int, units: int) -> nn.Sequential:
    """Stride-2 convolutions down to 4x4, then one dense layer; frames in, (B, units) out."""
    layers: list[nn.Module] = []
    channel, side = channels_in, size
    while side > 4:
        out = min(channels * 2 ** (len(layers) // 3), 4 * channels)
        layers += [nn.Conv2d(channel, out, 4, 2, 1), nn.GroupNorm(1, out), nn.SiLU()]
        channel, side = out, side // 2
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channel * side * side, units),
        nn.LayerNorm(units),
        nn.SiLU(),
    )


def to_pixels(frames: Tensor) -> Tensor:
    """Turn (..., H, W, 3) uint8 into (..., 3, H, W) in [-0.5, 0.5]."""
    return frames.movedim(-1, -3).float() / 255.0 - 0.5


class GoalEnergy(nn.Module):
    """f(frame | start, goal): higher for frames closer in time to the goal."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            encoder(9, config.frame_size, config.channels, config.units),
            nn.Linear(config.units, 1),
        )

    def forward(self, frame: Tensor, start: Tensor, goal: Tensor) -> Tensor:
        """Score pixels (B, 3, H, W) given start and goal of the same shape; returns (B,)."""
        return self.net(torch.cat([frame, start, goal], dim=1)).squeeze(-1)


def bradley_terry(later: Tensor, earlier: Tensor) -> Tensor:
    """Return -log P(later ranks above earlier) of two scores, elementwise."""
    return F.softplus(earlier - later)


class IntentHead(nn.Module):
    """Anticipated intent and milestone of a frame, (B, 2) logits."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            encoder(3, config.frame_size, config.channels, config.units),
            nn.Linear(config.units, 2),
        )

    def forward(self, frame: Tensor) -> Tensor:
        """Return the logits of both labels."""
        return self.net(frame)


def anticipated(labels: Tensor, discount: float, steps: int) -> Tensor:
    """
    Turn labels (T,) bool into discount^(steps until the next true one), 0 beyond ``steps``.

    With discount 0 this is the label itself.
    """
    length = len(labels)
    target = labels.float()
    for ahead in range(1, min(steps, length - 1) + 1):
        coming = F.pad(labels[ahead:].float(), (0, ahead))
        target = torch.maximum(target, coming * discount**ahead)
    return target


class RewardModel(nn.Module):
    """
    r(frame) of the task: weighted goal energy, anticipated intent and milestone.

    The energy is standardised per goal over play, bounded, averaged over a fixed set of goals (the
    frames the operator marked as milestones), and lowered where the ensemble disagrees: a policy
    looks for frames on which a reward model is wrong.
    """

    starts: Tensor
    goals: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.config = config
        self.energies = nn.ModuleList(GoalEnergy(config) for _ in range(config.members))
        self.intent = IntentHead(config)
        side = (config.goals, 3, config.frame_size, config.frame_size)
        self.register_buffer('starts', torch.zeros(side))
        self.register_buffer('goals', torch.zeros(side))
        self.register_buffer('centre', torch.zeros(config.members, config.goals))
        self.register_buffer('spread', torch.ones(config.members, config.goals))

    @torch.no_grad()
    def raw_energy(self, pixels: Tensor) -> Tensor:
        """Return every member's energy under every goal, (members, goals, B)."""
        rows = []
        for energy in self.energies:
            rows.append(
                torch.stack(
                    [
                        energy(pixels, start.expand_as(pixels), goal.expand_as(pixels))
                        for start, goal in zip(self.starts, self.goals)
                    ]
                )
            )
        return torch.stack(rows)

    @torch.no_grad()
    def terms(self, frames: Tensor) -> dict[str, Tensor]:
        """Return the terms that count (B,) of frames (B, H, W, 3) uint8."""
        c, pixels, terms = self.config, to_pixels(frames), {}
        if c.energy_weight:
            scores = (self.raw_energy(pixels) - self.centre[..., None]) / self.spread[..., None]
            scores = scores.clamp(-c.energy_bound, c.energy_bound).mean(dim=1)
            terms['energy'] = scores.mean(dim=0) - c.caution * scores.std(dim=0, unbiased=False)
        if c.intent_weight or c.milestone_weight:
            terms['intent'], terms['milestone'] = self.intent(pixels).sigmoid().unbind(dim=-1)
        return terms

    def forward(self, frames: Tensor) -> Tensor:
        """Return the global reward (B,) of frames (B, H, W, 3) uint8."""
        weights = {
            'energy': self.config.energy_weight,
            'intent': self.config.intent_weight,
            'milestone': self.config.milestone_weight,
        }
        terms = self.terms(frames)
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum(dim=0)
