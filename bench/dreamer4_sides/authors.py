"""
The authors' side: Rooholla-KhorramBakht/dreamerV4-UWM, commit 29c15b8, a checkout the user names.

Only its ``models.py`` is imported, and run as its player and its trainer do: images in [0, 1], no
dropout, every past frame in a cache that is rolled once it is full.  Its level indices count
backwards: index 127 is pure noise.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from dmo_training.models.dreamer4.attention import LayerWeights
from dmo_training.models.dreamer4.rollout import Noise, RolloutConfig
from dmo_training.models.dreamer4.trunk import Layer
from dreamer4_sides import ours
from dreamer4_sides.shapes import CONTEXT_SIGNAL, DENOISINGS, LEVELS, Shape, Work
import torch
from torch import nn, Tensor

FINEST = LEVELS.bit_length() - 1
CONTEXT = int(CONTEXT_SIGNAL * LEVELS)


class OriginalError(RuntimeError):
    """A checkout that is not what it should be."""


def load(folder: Path) -> ModuleType:
    """
    Import the authors' models from a checkout.

    :raises OriginalError: it holds none.
    """
    source = folder / 'models.py'
    if not source.is_file() or 'class DreamerV4Dynamics' not in source.read_text():
        raise OriginalError(
            f'{folder} is no checkout of dreamerV4-UWM: its models.py with DreamerV4Dynamics is '
            'missing; check out commit 29c15b8 and name that folder'
        )
    spec = importlib.util.spec_from_file_location('authors_models', source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dynamics(models: ModuleType, shape: Shape, length: int) -> nn.Module:
    """Build their dynamics for sequences of up to ``length`` frames."""
    made: nn.Module = models.DreamerV4Dynamics(
        shape.actions, shape.latents, shape.bottleneck, shape.width, shape.layers, shape.heads,
        shape.registers, seq_len=length, dropout=0.0, num_tau_levels=LEVELS,
    )  # fmt: skip
    return made


def _coder(models: ModuleType, name: str, shape: Shape, length: int) -> nn.Module:
    made: nn.Module = getattr(models, name)(
        (shape.image, shape.image), shape.patch, shape.coder_width, shape.coder_layers,
        shape.coder_heads, shape.coder_heads, seq_len=length, n_latents=shape.latents,
        bottleneck_dim=shape.bottleneck, temporal_every=4,
    )  # fmt: skip
    return made


def _indices(shape: tuple[int, int], index: int) -> Tensor:
    return torch.full(shape, index)


class Frames:
    """Their player's loop: denoise, commit, decode."""

    def __init__(self, network: nn.Module, decoder: nn.Module | None, shape: Shape) -> None:
        self.network, self.decoder, self.shape = network.eval(), decoder, shape
        self.now = 0

    @torch.no_grad()
    def begin(self, latent: Tensor, action: Tensor) -> None:
        """Fill the caches with real frames."""
        batch, self.now = latent.shape[:2]
        for part in filter(None, (self.network, self.decoder)):
            part.init_cache(batch, torch.device('cpu'), self.shape.window)
        level = _indices((batch, self.now), LEVELS - 1 - CONTEXT)
        finest = _indices((batch, self.now), FINEST)
        self.network.forward_step(action, latent, level, finest, 0, True)
        if self.decoder is not None:
            self.decoder.forward_step(latent, 0, True)

    @torch.no_grad()
    def step(self, action: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        """Make the next frame of every row from unit noise; returns its latents."""
        batch = len(action)
        size = _indices((batch, 1), DENOISINGS.bit_length() - 1)
        for k in range(DENOISINGS):
            level = _indices((batch, 1), LEVELS - 1 - k * LEVELS // DENOISINGS)
            clean = self.network.forward_step(action, latent, level, size, self.now, False)
            latent = latent + (clean - latent) / (DENOISINGS - k)
        signal = CONTEXT / LEVELS
        blurred = signal * latent + (1 - signal) * noise
        level, finest = _indices((batch, 1), LEVELS - 1 - CONTEXT), _indices((batch, 1), FINEST)
        self.network.forward_step(action, blurred, level, finest, self.now, True)
        if self.decoder is not None:
            self.decoder.forward_step(latent, self.now, True)
        self.now += 1
        return latent


def frames(models: ModuleType, shape: Shape, batch: int, context: int) -> Work:
    """Return what makes one more frame of every row, after ``context`` frames."""
    length = 8 * shape.window  # their table of positions ends there
    decoder = _coder(models, 'DreamerV4Decoder', shape, length).eval()
    made = Frames(dynamics(models, shape, length), decoder, shape)
    size = (batch, context, shape.latents, shape.bottleneck)
    made.begin(torch.randn(size).tanh(), torch.randn(batch, context, shape.actions))
    action = torch.randn(batch, 1, shape.actions)
    one = (batch, 1, shape.latents, shape.bottleneck)
    return lambda: made.step(action, torch.randn(one), torch.randn(one))


def dynamics_update(
    models: ModuleType, shape: Shape, batch: int, length: int, bootstrap: bool
) -> Work:
    """Return an update of their dynamics on a flow or a bootstrap batch."""
    network = dynamics(models, shape, length)
    clean = torch.randn(batch, length, shape.latents, shape.bottleneck).tanh()
    action = torch.randn(batch, length, shape.actions)
    loss = _bootstrap if bootstrap else _flow

    def run(noisy: Tensor, level: Tensor, step: Tensor) -> Tensor:
        made: Tensor = network(action, noisy, LEVELS - 1 - level, step)[0]
        return made

    return ours.update(list(network.parameters()), lambda: loss(run, clean))


Run = Callable[[Tensor, Tensor, Tensor], Tensor]


def _flow(run: Run, clean: Tensor) -> Tensor:
    noise, level = torch.randn_like(clean), torch.randint(0, LEVELS, clean.shape[:2])
    tau = (level / LEVELS)[..., None, None]
    made = run((1 - tau) * noise + tau * clean, level, torch.full_like(level, FINEST))
    return ((0.9 * tau + 0.1) * (made - clean).square()).mean()


def _bootstrap(run: Run, clean: Tensor) -> Tensor:
    step = torch.randint(0, FINEST, clean.shape[:2])
    count = 2**step
    level = (torch.rand(step.shape) * count).long() * (LEVELS // count)
    tau, size = (level / LEVELS)[..., None, None], (1 / count)[..., None, None]
    noisy = (1 - tau) * torch.randn_like(clean) + tau * clean
    made = run(noisy, level, step)
    with torch.no_grad():
        first = (run(noisy, level, step + 1) - noisy) / (1 - tau)
        midway = noisy + first * size / 2
        later = level + LEVELS // count // 2
        second = (run(midway, later, step + 1) - midway) / (1 - tau - size / 2)
    error = (made - noisy) - (1 - tau) * (first + second) / 2
    return ((0.9 * tau + 0.1) * error.square()).mean()


def tokenizer_update(models: ModuleType, shape: Shape, batch: int, length: int) -> Work:
    """Return an update of their tokenizer on its squared error."""
    encoder = _coder(models, 'DreamerV4Encoder', shape, length)
    decoder = _coder(models, 'DreamerV4Decoder', shape, length)
    images = torch.rand(batch, length, 3, shape.image, shape.image)

    def loss() -> Tensor:
        made: Tensor = decoder(encoder(images)[2])[1]
        return (made - images).square().mean()

    return ours.update([*encoder.parameters(), *decoder.parameters()], loss)


def agreement(models: ModuleType, shape: Shape, new: int = 3) -> dict[str, float]:
    """Compare latents at equal weights: frames after a context, denoised and committed."""
    torch.manual_seed(0)
    network = dynamics(models, shape, 8 * shape.window)
    model = ours.build(shape, qk_norm=False, final_norm=False)
    transfer(network, model.dynamics)
    rollout = ours.WithoutReward(model, 1, RolloutConfig(DENOISINGS, decode=False))
    context = torch.randn(1, 8, shape.latents, shape.bottleneck).tanh()
    action = torch.randn(1, 8 + new, shape.actions)
    theirs = Frames(network, None, shape)
    blur = torch.randn(context.shape)
    signal = CONTEXT / LEVELS
    theirs.begin(signal * context + (1 - signal) * blur, action[:, :8])
    rollout._draw = lambda *_: blur  # type: ignore[method-assign]
    rollout.begin(context, action[:, :8], torch.ones(1, 8, dtype=torch.bool))
    errors = []
    for index in range(8, 8 + new):
        noise = Noise(*(torch.randn(context[:, :1].shape) for _ in range(2)))
        with torch.no_grad():
            mine = rollout.imagine(action[:, index : index + 1], noise).latent
        other = theirs.step(action[:, index : index + 1], *noise)
        errors.append(float((mine - other.clamp(-1, 1)).norm() / other.norm()))
    return {'largest_relative_error': max(errors)}


@torch.no_grad()
def transfer(theirs: Any, mine: Any) -> None:
    """Copy their dynamics' weights into ours; heads rotate halves instead of adjacent pairs."""
    for name, other in (
        ('action', theirs.act_proj), ('latent', theirs.z_proj), ('clean', theirs.out_proj),
    ):  # fmt: skip
        nn.init.normal_(other.weight, std=0.02)
        getattr(mine, name).load_state_dict(other.state_dict())
    mine.base_action.zero_()
    mine.registers.copy_(theirs.register_tokens)
    mine.level.weight.copy_(theirs.sigma_embed.weight.flip(0))
    mine.step.weight.copy_(theirs.step_embed.weight)
    for layer, other in zip(mine.trunk.layers, theirs.layers, strict=True):
        assert isinstance(layer, Layer)
        _transfer_layer(other, layer.of('world'))


def _transfer_layer(theirs: Any, mine: LayerWeights) -> None:
    attention, mlp = theirs.attn, theirs.ffn
    parts = [_halves(attention.Wq.weight), _halves(attention.Wk.weight), attention.Wv.weight]
    mine.qkv.weight.copy_(torch.cat(parts))
    mine.out.weight.copy_(attention.out.weight)
    mine.norm_attention.weight.copy_(theirs.norm1.weight)
    mine.norm_mlp.weight.copy_(theirs.norm2.weight)
    mine.up.weight.copy_(torch.cat((mlp.up.weight, mlp.gate.weight)))
    mine.down.weight.copy_(mlp.down.weight)


def _halves(weight: Tensor) -> Tensor:
    """Bring the rows of each head from adjacent pairs to halves."""
    return weight.unflatten(0, (-1, 32, 2)).transpose(1, 2).flatten(0, 2)
