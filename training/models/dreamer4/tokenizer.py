"""
The causal tokenizer: frames to latent tokens and back, learned by masked autoencoding.

Each frame's patches (and proprioception, if the robot has it) are read by learned latent tokens,
squeezed through a tanh bottleneck and decoded by learned readout tokens.  Nothing is quantised
and there is no prior: masked patches and a narrow bottleneck make the latents predictable.

Latents see every modality, a modality sees only itself; readouts see the latents and their own
modality (DreamerV4, arXiv 2509.24527).  So the dynamics never meets proprioception: the latents
carry it, and the decoder returns the generated frame's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import TokenizerConfig
from .losses import RunningRms
from .memory import Memory
from .pixels import resize, to_frames, to_images, to_patches
from .trunk import Group, Tokens, Trunk

TOKEN_STD = 0.02


class Hidden(NamedTuple):
    """What is masked: patches (B, T, P) bool and proprioception (B, T) bool."""

    patch: Tensor
    proprio: Tensor


class Decoded(NamedTuple):
    """Patches (B, T, P, 3 patch^2) in [-1, 1] and normalised proprioception (B, T, D) or None."""

    patch: Tensor
    proprio: Tensor | None


class Encoder(nn.Module):
    """Patches and proprioception -> latents (B, T, N, D) in (-1, 1)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, separate = config.trunk.width, config.streams - 1
        self.patch = nn.Linear(config.depth, width)
        self.mask = nn.Parameter(torch.randn(width) * TOKEN_STD)
        self.latent = nn.Parameter(torch.randn(config.latents, width) * width**-0.5)
        groups = [
            Group('latent', config.latents, ('latent', 'patch', 'proprio')),
            Group('patch', config.patches, ('patch',), separate, config.drop),
        ]
        if config.proprio_size:
            count = config.proprio_tokens
            self.proprio = nn.Linear(config.proprio_size, count * width)
            self.kind = nn.Parameter(torch.randn(width) * TOKEN_STD)
            self.proprio_mask = nn.Parameter(torch.randn(width) * TOKEN_STD)
            groups.append(Group('proprio', count, ('proprio',), separate, config.drop))
        self.trunk = Trunk(config.trunk, groups)
        self.squeeze = nn.Linear(width, config.bottleneck)

    def forward(
        self,
        patches: Tensor,
        proprio: Tensor | None = None,
        hidden: Hidden | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Encode patches (B, T, P, 3 patch^2) and normalised proprioception (B, T, D)."""
        x = self.patch(patches)
        if hidden is not None:
            x = torch.where(hidden.patch.unsqueeze(-1), self.mask.to(x.dtype), x)
        tokens: Tokens = {'latent': self.latent.expand(*x.shape[:2], -1, -1), 'patch': x}
        if proprio is not None:
            own = self.proprio(proprio).unflatten(-1, (-1, len(self.kind)))
            if hidden is not None:
                masked = hidden.proprio[..., None, None]
                own = torch.where(masked, self.proprio_mask.to(own.dtype), own)
            tokens['proprio'] = own + self.kind
        return self.squeeze(self.trunk(tokens, memory)['latent']).tanh()


class Decoder(nn.Module):
    """Latents (B, T, N, D) -> patches and proprioception."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        width, separate = config.trunk.width, config.streams - 1
        self.spread = nn.Linear(config.bottleneck, width)
        self.readout = nn.Parameter(torch.randn(config.patches, width) * width**-0.5)
        groups = [
            Group('latent', config.latents, ('latent',), 0, config.drop),
            Group('patch', config.patches, ('latent', 'patch'), separate),
        ]
        if config.proprio_size:
            count = config.proprio_tokens
            self.proprio_readout = nn.Parameter(torch.randn(count, width) * width**-0.5)
            self.proprio = nn.Linear(count * width, config.proprio_size)
            groups.append(Group('proprio', count, ('latent', 'proprio'), separate))
        self.trunk = Trunk(config.trunk, groups)
        self.patch = nn.Linear(width, config.depth)

    def forward(self, latent: Tensor, memory: Memory | None = None) -> Decoded:
        """Decode latents."""
        lead = latent.shape[:2]
        tokens: Tokens = {
            'latent': self.spread(latent.to(self.readout.dtype)),
            'patch': self.readout.expand(*lead, -1, -1),
        }
        if 'proprio' in self.trunk.depth:
            tokens['proprio'] = self.proprio_readout.expand(*lead, -1, -1)
        read = self.trunk(tokens, memory)
        own = self.proprio(read['proprio'].flatten(-2)) if 'proprio' in read else None
        return Decoded(self.patch(read['patch']), own)


class Tokenizer(nn.Module):
    """Frames uint8 (B, T, H, W, 3) of any size, proprioception (B, T, D) in SI units."""

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        config: TokenizerConfig,
        perceptual: nn.Module | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """
        Build an untrained tokenizer.

        :param perceptual: from :func:`losses.perceptual`; only training needs it.
        :param mean: of every proprioceptive number in the dataset.
        :param std: its standard deviation.
        """
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        numbers = config.proprio_size
        self.register_buffer('mean', torch.tensor(mean or [0.0] * numbers))
        self.register_buffer('spread', torch.tensor(std or [1.0] * numbers).clamp(min=1e-3))
        # In a tuple it is no part of the state: its weights are the user's.
        self._perceptual = (perceptual,)
        self.scale = nn.ModuleDict({name: RunningRms() for name in self._terms()})

    def _terms(self) -> list[str]:
        names = ['pixel']
        if self.config.perceptual != 'none':
            names.append('perceptual')
        return [*names, 'proprio'] if self.config.proprio_size else names

    def patches(self, frames: Tensor) -> Tensor:
        """Bring frames to the tokenizer's size and cut them, (B, T, P, 3 patch^2)."""
        cut = to_patches(resize(frames, self.config.image_size), self.config.patch)
        return cut.to(self.encoder.mask.dtype)

    def normalise(self, proprio: Tensor | None) -> Tensor | None:
        """Normalise proprioception; None where the robot has none."""
        if not self.config.proprio_size:
            return None
        if proprio is None:
            raise ValueError(
                f'this tokenizer reads {self.config.proprio_size} proprioceptive numbers besides '
                'the frames; give them'
            )
        return ((proprio - self.mean) / self.spread).to(self.encoder.mask.dtype)

    def encode(
        self, frames: Tensor, proprio: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return the latents (B, T, N, D) of unmasked frames."""
        return self.encoder(self.patches(frames), self.normalise(proprio), memory=memory)

    def decode(self, latent: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor | None]:
        """Return uint8 frames (B, T, H, W, 3) and proprioception (B, T, D) in SI units."""
        decoded = self.decoder(latent, memory)
        own = decoded.proprio
        own = None if own is None else own.float() * self.spread + self.mean
        return to_frames(decoded.patch, self.config.patch), own

    def hide(self, frames: Tensor, generator: torch.Generator | None = None) -> Hidden:
        """Draw what is masked: each frame has its own share of hidden patches, up to the most."""
        lead, device = frames.shape[:2], frames.device

        def draw(*shape: int) -> Tensor:
            return torch.rand(*lead, *shape, device=device, generator=generator)

        share = draw(2) * self.config.mask_most
        patch = draw(self.config.patches) < share[..., :1]
        return Hidden(patch, draw() < share[..., 1])

    def loss(
        self,
        frames: Tensor,
        proprio: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """
        Reconstruct masked frames; every term is divided by its own running RMS.

        :returns: ``total`` to minimise, and the bare terms, detached.
        """
        patches, own = self.patches(frames), self.normalise(proprio)
        latent = self.encoder(patches, own, self.hide(frames, generator))
        made = self.decoder(latent)
        terms = {'pixel': (made.patch.float() - patches).square().mean()}
        if self._perceptual[0] is not None:
            terms['perceptual'] = self._perceived(made.patch.float(), patches)
        if made.proprio is not None and own is not None:
            terms['proprio'] = F.mse_loss(made.proprio.float(), own)
        share = {'perceptual': self.config.perceptual_share}
        total = sum(share.get(name, 1.0) * self.scale[name](term) for name, term in terms.items())
        return {'total': total, **{name: term.detach() for name, term in terms.items()}}

    def _perceived(self, made: Tensor, real: Tensor) -> Tensor:
        judge = self._perceptual[0]
        assert judge is not None
        judge.to(made.device)
        images = (to_images(x, self.config.patch).flatten(0, 1) for x in (made, real))
        return judge(*(x.movedim(-1, 1) for x in images))
