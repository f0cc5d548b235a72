"""
The local model: an RSSM in the first DreamerV3 preprint's design (paper section 3.3, Table 4).

Symbols, used in every shape comment: B batch, T time, A action, D recurrent state ``h``, S groups
of K classes for the stochastic state ``z``, E embedding of a frame, F = D + S*K features.

Time: ``action[:, t]`` was in force from frame t to frame t + 1, so the state of frame t + 1 is
computed from the state of frame t and ``action[:, t]``.  The step of frame 0 starts from zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .rssm_nets import Decoder, dense, Encoder
from .two_hot import TwoHot
from ..rl.dmo import graft
from ..world import Context


@dataclass(frozen=True)
class RssmConfig:
    """
    Sizes and loss scales; the defaults are the paper's Push-T column of Table 4.

    ``motion_weight`` counts a pixel that many times more where the picture changes: a small tool
    is else left out of the latent for thousands of updates (docs/results/pusher_images.md).
    ``action_noise`` smooths the Jacobian by noise on the actions of the training data.
    ``proprio`` is how many proprioceptive numbers are seen beside a frame and predicted with it.
    """

    frame_size: int = 64
    actions: int = 2
    recurrent: int = 1024
    groups: int = 32
    classes: int = 32
    units: int = 640
    multiplier: int = 48
    mlp_layers: int = 3
    reward_bins: int = 101
    reward_span: float = 10.0
    unimix: float = 0.01
    dynamics_scale: float = 0.5
    representation_scale: float = 0.1
    free_nats: float = 1.0
    image_scale: float = 1.0
    reward_scale: float = 1.0
    motion_weight: float = 0.0
    action_noise: float = 0.0
    proprio: int = 0
    proprio_scale: float = 1.0


class Latent(NamedTuple):
    """h (B, D) and z (B, S, K)."""

    h: Tensor
    z: Tensor


class Prediction(NamedTuple):
    """The next h (B, D) and the prior's probabilities of the next z (B, S, K)."""

    h: Tensor
    prior: Tensor


class Rssm(nn.Module):
    """The recurrent state-space model with its image, reward and proprioception heads."""

    proprio_mean: Tensor
    proprio_spread: Tensor

    def __init__(self, config: RssmConfig) -> None:
        super().__init__()
        c = self.config = config
        stochastic = c.groups * c.classes
        self.features_width = c.recurrent + stochastic
        self.encoder = Encoder(c.frame_size, c.multiplier)
        self.embedding_width = self.encoder.width + (c.units if c.proprio else 0)
        self.inputs = dense(stochastic + c.actions, c.units)
        self.cell = nn.Linear(c.units + c.recurrent, 3 * c.recurrent, bias=False)
        self.cell_norm = nn.LayerNorm(3 * c.recurrent, eps=1e-3)
        self.prior_net = nn.Sequential(dense(c.recurrent, c.units), nn.Linear(c.units, stochastic))
        self.posterior_net = nn.Sequential(
            dense(c.recurrent + self.embedding_width, c.units), nn.Linear(c.units, stochastic)
        )
        self.decoder = Decoder(self.features_width, c.frame_size, c.multiplier)
        widths = [self.features_width] + [c.units] * c.mlp_layers
        self.reward_net = nn.Sequential(*map(dense, widths, widths[1:]))
        self.reward_head = TwoHot(c.units, c.reward_bins, c.reward_span)
        if c.proprio:
            self.register_buffer('proprio_mean', torch.zeros(c.proprio))
            self.register_buffer('proprio_spread', torch.ones(c.proprio))
            self.proprio_net = dense(c.proprio, c.units)
            self.proprio_head = nn.Sequential(
                dense(self.features_width, c.units), nn.Linear(c.units, c.proprio)
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.cell.weight.device

    # What is seen -------------------------------------------------------------------------------

    @torch.no_grad()
    def standardise(self, proprio: Tensor, floor: Tensor) -> None:
        """
        Take the statistics of proprioception from play (N, P), SI units, before training.

        :param floor: the least deviation (P,): a joint that never moved in play would else make a
            storm of the first millimetre it moves on the robot.
        """
        self.proprio_mean.copy_(proprio.mean(dim=0))
        self.proprio_spread.copy_(torch.maximum(proprio.std(dim=0), floor))

    def _standard(self, proprio: Tensor) -> Tensor:
        return ((proprio - self.proprio_mean) / self.proprio_spread).clamp(-10.0, 10.0)

    def embed(self, frames: Tensor, proprio: Tensor | None = None) -> Tensor:
        """
        Embed frames (N, H, W, 3) with the proprioception (N, P) of their time, in SI units.

        :raises ValueError: the model reads proprioception and there is none.
        """
        embedding: Tensor = self.encoder(frames)
        if not self.config.proprio:
            return embedding
        if proprio is None:
            raise ValueError(
                f'this local model reads {self.config.proprio} proprioceptive numbers with every '
                'frame; give them, or use a global model that imagines them'
            )
        own = self.proprio_net(self._standard(proprio.to(embedding.dtype)))
        return torch.cat([embedding, own], dim=-1)

    # One step ----------------------------------------------------------------------------------

    def initial(self, batch: int) -> Latent:
        """Return the zero state before the first frame."""
        c, weight = self.config, self.cell.weight
        return Latent(
            weight.new_zeros(batch, c.recurrent), weight.new_zeros(batch, c.groups, c.classes)
        )

    def advance(self, latent: Latent, action: Tensor) -> Tensor:
        """Return the next h (B, D): the GRU on [z, a]."""
        x = self.inputs(torch.cat([latent.z.flatten(1), action], dim=-1))
        gates = self.cell_norm(self.cell(torch.cat([x, latent.h], dim=-1)))
        reset, candidate, update = gates.chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        return update * candidate + (1.0 - update) * latent.h

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Return (B, S, K) probabilities with a little of the uniform mixed in."""
        c = self.config
        probabilities = logits.view(-1, c.groups, c.classes).softmax(dim=-1)
        return (1.0 - c.unimix) * probabilities + c.unimix / c.classes

    def prior(self, h: Tensor) -> Tensor:
        """Return the probabilities (B, S, K) of z given h alone."""
        return self._probabilities(self.prior_net(h))

    def posterior(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the probabilities (B, S, K) of z given h and the frame's embedding (B, E)."""
        return self._probabilities(self.posterior_net(torch.cat([h, embedding], dim=-1)))

    # The local model of the decoupled step (training/world.py) ---------------------------------

    def predict(self, latent: Latent, action: Tensor) -> Prediction:
        """Predict h and the prior of z, differentiable in latent and action."""
        h = self.advance(latent, action)
        return Prediction(h, self.prior(h))

    def correct(
        self, prediction: Prediction, observation: Tensor, proprio: Tensor | None = None
    ) -> Latent:
        """
        Take the true frame's z as value and the PRIOR's probabilities as gradient.

        The recurrence already runs on true latents, so h needs no graft.  A gradient through the
        posterior instead would be wrong although every value would be the same
        (docs/results/rssm_grad.md).
        """
        with torch.no_grad():
            embedding = self.embed(observation, proprio)
            z = sample(self.posterior(prediction.h, embedding))
        return Latent(prediction.h, graft(z, prediction.prior))

    @torch.no_grad()
    def begin(self, context: Context) -> Latent:
        """Filter (B, L) true frames, with the L - 1 actions between them, into a latent."""
        batch, length = context.seen.shape[:2]
        embedding = self._embed_all(context.seen, context.proprio)
        latent = self.initial(batch)
        action = context.action.new_zeros(batch, self.config.actions)
        for t in range(length):
            h = self.advance(latent, action if t == 0 else context.action[:, t - 1])
            latent = Latent(h, sample(self.posterior(h, embedding[:, t])))
        return latent

    def features(self, latent: Latent) -> Tensor:
        """Return l = [h, z], (B, F)."""
        return torch.cat([latent.h, latent.z.flatten(-2)], dim=-1)

    def reward(self, latent: Latent) -> Tensor:
        """Return the reward (B,) of a latent, differentiable."""
        return self.reward_head(self.reward_net(self.features(latent)))

    # Training ----------------------------------------------------------------------------------

    def _embed_all(self, frames: Tensor, proprio: Tensor | None) -> Tensor:
        """Embed (B, T, ...) frames and proprioception; returns (B, T, E)."""
        own = None if proprio is None else proprio.flatten(0, 1)
        return self.embed(frames.flatten(0, 1), own).unflatten(0, frames.shape[:2])

    def observe(
        self,
        frames: Tensor,
        action: Tensor,
        first: Tensor | None = None,
        proprio: Tensor | None = None,
    ) -> tuple[Latent, Tensor, Tensor]:
        """
        Filter frames (B, T, H, W, 3), actions (B, T, A) and, if it is read, proprio (B, T, P).

        ``first`` (B, T) bool marks frames on which an episode begins: state and action before them
        are forgotten.

        :returns: the latents, each (B, T, ...), with straight-through gradients, and the prior's
            and the posterior's probabilities (B, T, S, K).
        """
        batch, length = frames.shape[:2]
        embedding = self._embed_all(frames, proprio)
        if self.config.action_noise:
            action = action + self.config.action_noise * torch.randn_like(action)
        latent, rows, before = self.initial(batch), [], torch.zeros_like(action[:, 0])
        for t in range(length):
            if first is not None:
                keep = (~first[:, t, None]).to(before.dtype)
                before = before * keep
                latent = Latent(latent.h * keep, latent.z * keep[..., None])
            h = self.advance(latent, before)
            before = action[:, t]
            posterior = self.posterior(h, embedding[:, t])
            z = graft(sample(posterior.detach()), posterior)
            latent = Latent(h, z)
            rows.append((h, z, self.prior(h), posterior))
        h, z, prior, posterior = (torch.stack(column, dim=1) for column in zip(*rows))
        return Latent(h, z), prior, posterior

    def loss(
        self,
        frames: Tensor,
        action: Tensor,
        reward: Tensor,
        first: Tensor | None = None,
        emphasis: float = 1.0,
        proprio: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Return the DreamerV3 loss of segments and its parts.

        ``reward`` (B, T) is the global reward of each frame, not-finite where nobody scored it.
        Images sum over pixels, the KL over groups with free nats, both mean over (B, T);
        ``emphasis`` multiplies the image part.  Proprioception sums over its standardised numbers.
        """
        c = self.config
        latent, prior, posterior = self.observe(frames, action, first, proprio)
        features = self.features(latent).flatten(0, 1)
        pixels = frames.flatten(0, 1).permute(0, 3, 1, 2).to(features.dtype) / 255.0 - 0.5
        scored = reward.flatten().isfinite()
        reward_loss = self.reward_head.loss(
            self.reward_net(features[scored]), reward.flatten()[scored]
        )
        errors = (self.decoder(features) - pixels).square().sum(dim=1)
        weight = 1.0 + c.motion_weight * moving(frames, first).flatten(0, 1)
        parts = {
            'image': (weight * errors).sum(dim=(1, 2)).mean(),
            'reward': reward_loss.sum() / scored.sum().clamp(min=1),
            'dynamics': divergence(posterior.detach(), prior).clamp(min=c.free_nats).mean(),
            'representation': divergence(posterior, prior.detach()).clamp(min=c.free_nats).mean(),
        }
        if c.proprio and proprio is not None:
            wrong = self.proprio_head(features) - self._standard(proprio.flatten(0, 1))
            parts['proprio'] = wrong.square().sum(dim=-1).mean()
        total = (
            emphasis * c.image_scale * parts['image']
            + c.reward_scale * parts['reward']
            + c.dynamics_scale * parts['dynamics']
            + c.representation_scale * parts['representation']
        )
        if 'proprio' in parts:
            total = total + c.proprio_scale * parts['proprio']
        return total, {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """Return the frames (B, H, W, 3) uint8 a latent stands for."""
        pixels = self.decoder(self.features(latent)).permute(0, 2, 3, 1)
        return ((pixels + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    @torch.no_grad()
    def decode_proprio(self, latent: Latent) -> Tensor | None:
        """Return the proprioception (B, P) a latent stands for, SI units; None without any."""
        if not self.config.proprio:
            return None
        own: Tensor = self.proprio_head(self.features(latent))
        return own * self.proprio_spread + self.proprio_mean


def moving(frames: Tensor, first: Tensor | None = None, threshold: int = 12) -> Tensor:
    """Mark pixels (B, T, H, W) that change before or after a frame; 1 where they do."""
    change = (frames[:, 1:].short() - frames[:, :-1].short()).abs().amax(dim=-1) > threshold
    if first is not None:
        change = change & ~first[:, 1:, None, None]
    marks = torch.zeros(frames.shape[:4], dtype=torch.bool, device=frames.device)
    marks[:, 1:] |= change
    marks[:, :-1] |= change
    return marks.float()


def sample(probabilities: Tensor) -> Tensor:
    """Draw one-hot samples (..., S, K), by the Gumbel-max trick."""
    noise = -torch.empty_like(probabilities).exponential_().log()
    index = (probabilities.log() + noise).argmax(dim=-1)
    return F.one_hot(index, probabilities.shape[-1]).to(probabilities.dtype)


def mode(probabilities: Tensor) -> Tensor:
    """Return the most likely one-hot (..., S, K): what the deployed policy takes."""
    return F.one_hot(probabilities.argmax(dim=-1), probabilities.shape[-1]).to(probabilities.dtype)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) (...,) summed over groups, of probabilities (..., S, K)."""
    return (p * (p.log() - q.log())).sum(dim=(-2, -1))
