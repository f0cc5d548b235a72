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

from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import TokenizerConfig
from .losses import RunningRms
from .memory import Memory
from .pixels import resize, to_frames, to_images, to_patches
from .trunk import Group, Tokens, Trunk
from ..together import own_rows

TOKEN_STD = 0.02
PLACE_STD = 0.5  # as large as what lies there: smaller ones are learned from far more slowly


class Hidden(NamedTuple):
    """What is masked: patches (B, T, P) bool and proprioception (B, T) bool."""

    patch: Tensor
    proprio: Tensor


class Decoded(NamedTuple):
    """Standardised patches (B, T, P, 3 patch^2) and proprioception (B, T, D) or None."""

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
        self.place = _places(config.patches, config)
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
        """Encode standardised patches (B, T, P, 3 patch^2) and proprioception (B, T, D)."""
        x = self.patch(patches)
        if self.place is not None:
            x = x + self.place
        if hidden is not None:
            mask = self.mask if self.place is None else self.mask + self.place
            x = torch.where(hidden.patch.unsqueeze(-1), mask.to(x.dtype), x)
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
        self.place = _places(config.latents, config)
        std = PLACE_STD if config.places else width**-0.5
        self.readout = nn.Parameter(torch.randn(config.patches, width) * std)
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
        nn.init.zeros_(self.patch.weight)
        nn.init.zeros_(self.patch.bias)

    def forward(self, latent: Tensor, memory: Memory | None = None) -> Decoded:
        """Decode latents."""
        lead = latent.shape[:2]
        x = self.spread(latent.to(self.readout.dtype))
        tokens: Tokens = {
            'latent': x if self.place is None else x + self.place,
            'patch': self.readout.expand(*lead, -1, -1),
        }
        if 'proprio' in self.trunk.depth:
            tokens['proprio'] = self.proprio_readout.expand(*lead, -1, -1)
        read = self.trunk(tokens, memory)
        own = self.proprio(read['proprio'].flatten(-2)) if 'proprio' in read else None
        return Decoded(self.patch(read['patch']), own)


def _places(count: int, config: TokenizerConfig) -> nn.Parameter | None:
    """Return learned embeddings of places within a frame (count, width), if the config has any."""
    if not config.places:
        return None
    return nn.Parameter(torch.randn(count, config.trunk.width) * PLACE_STD)


class Tokenizer(nn.Module):
    """Frames uint8 (B, T, H, W, 3) of any size, proprioception (B, T, D) in SI units."""

    centre: Tensor
    contrast: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, config: TokenizerConfig, perceptual: nn.Module | None = None) -> None:
        """
        Build an untrained tokenizer; ``standardise`` it before training.

        :param perceptual: from :func:`losses.perceptual`; only training needs it.
        """
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        numbers = config.proprio_size
        self.register_buffer('centre', torch.zeros(config.patches, config.depth))
        self.register_buffer('contrast', torch.ones(()))
        self.register_buffer('mean', torch.zeros(numbers))
        self.register_buffer('spread', torch.ones(numbers))
        # In a tuple it is no part of the state: its weights are the user's.
        self._perceptual = (perceptual,)
        self.scale = nn.ModuleDict({name: RunningRms() for name in self._terms()})

    def _terms(self) -> list[str]:
        names = ['pixel']
        if self.config.perceptual != 'none':
            names.append('perceptual')
        return [*names, 'proprio'] if self.config.proprio_size else names

    @torch.no_grad()
    def standardise(self, frames: Tensor, proprio: Tensor | None = None) -> None:
        """
        Take mean image, contrast and proprioception's statistics from some play.

        Not a nicety: an untrained decoder first learns the mean image, and a tokenizer that is
        not given it forgets its input on the way.  On a 6-pixel square in 32x32 frames (4 layers
        of 64, 8 latents of 8) the latents' deviation fell to 0.001 within 200 updates and stayed
        there for 800; standardised it stays near 0.6, and 700 updates reach 26 dB, where the mean
        image has 21.5 dB.

        :param frames: uint8 (B, T, H, W, 3), some hundreds from all over the dataset.
        :param proprio: (B, T, D) in SI units.
        """
        cut = to_patches(resize(frames, self.config.image_size), self.config.patch)
        self.centre.copy_(cut.mean(dim=(0, 1)))
        self.contrast.copy_((cut - self.centre).square().mean().sqrt().clamp(min=1e-2))
        if proprio is not None and self.config.proprio_size:
            self.mean.copy_(proprio.mean(dim=(0, 1)))
            self.spread.copy_(proprio.flatten(0, 1).std(dim=0).clamp(min=1e-3))

    def patches(self, frames: Tensor) -> Tensor:
        """Bring frames to size, cut and standardise them, (B, T, P, 3 patch^2)."""
        cut = to_patches(resize(frames, self.config.image_size), self.config.patch)
        return ((cut - self.centre) / self.contrast).to(self.encoder.mask.dtype)

    def pixels(self, patches: Tensor) -> Tensor:
        """Undo the standardisation: patches in [-1, 1], where frames are concerned."""
        return patches.float() * self.contrast + self.centre

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
        return to_frames(self.pixels(decoded.patch), self.config.patch), own

    def hide(self, frames: Tensor, generator: torch.Generator | None = None) -> Hidden:
        """Draw what is masked: each frame has its own share of hidden patches, up to the most."""
        (batch, length), device = frames.shape[:2], frames.device

        def draw(*shape: int) -> Tensor:
            def rand(rows: int) -> Tensor:
                return torch.rand(rows, length, *shape, device=device, generator=generator)

            return own_rows(rand, batch, generator is not None)

        share = draw(2) * self.config.mask_most
        patch = draw(self.config.patches) < share[..., :1]
        return Hidden(patch, draw() < share[..., 1])

    def forward(
        self,
        frames: Tensor,
        proprio: Tensor | None = None,
        generator: torch.Generator | None = None,
        perceive: bool = True,
    ) -> dict[str, Tensor]:
        """
        Reconstruct masked frames (a training pass); every term is divided by its running RMS.

        :param perceive: with the perceptual term.  Leave it out until the latents carry
            something: structural similarity punishes all that an untrained decoder adds to a flat
            background, and the latents fall to a constant (measured; see ``standardise``).

        :returns: ``total`` to minimise, and the bare terms, detached.
        """
        patches, own = self.patches(frames), self.normalise(proprio)
        latent = self.encoder(patches, own, self.hide(frames, generator))
        made = self.decoder(latent)
        terms = {'pixel': (made.patch.float() - patches).square().mean()}
        if perceive and self._perceptual[0] is not None:
            terms['perceptual'] = self._perceived(made.patch, patches)
        if made.proprio is not None and own is not None:
            terms['proprio'] = F.mse_loss(made.proprio.float(), own)
        share = {'perceptual': self.config.perceptual_share}
        total = sum(share.get(name, 1.0) * self.scale[name](term) for name, term in terms.items())
        return {'total': total, **{name: term.detach() for name, term in terms.items()}}

    def _perceived(self, made: Tensor, real: Tensor) -> Tensor:
        judge = self._perceptual[0]
        assert judge is not None
        judge.to(made.device)
        images = (to_images(self.pixels(x), self.config.patch).flatten(0, 1) for x in (made, real))
        return judge(*(x.movedim(-1, 1) for x in images))
