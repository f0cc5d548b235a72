"""
Our DIAMOND beside the original, in one run, at equal weights and shapes.

    python bench/diamond.py --original FOLDER     (a checkout of eloialonso/diamond, branch main)

FOLDER may also come from the environment variable DMO_DIAMOND.  Without it there is nothing to
compare with, and only our own figures are printed.  Times are CPU time of one thread, medians of
interleaved rounds, so that a busy machine slows both sides alike.  The original runs as its
authors ship it (float32, AdamW); ours as the presets have it (bfloat16 where the processor
multiplies it, channels_last, fused AdamW).  Their discrete actions become one-hot vectors of ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import json
import os
from pathlib import Path
import sys
import time
from types import ModuleType
from typing import Any

from dmo_training.models.diamond.denoiser import bf16_is_native, Denoiser, DenoiserConfig
from dmo_training.models.diamond.sampler import sample, SamplerConfig
from dmo_training.models.diamond.unet import NetworkConfig, ResBlock
from dmo_training.train_diamond import PRESETS
import torch
from torch import nn, Tensor

ACTIONS, SIZE, CONTEXT, STEPS = 4, 64, 4, 3


class OriginalError(RuntimeError):
    """A checkout that is not what it should be."""


@dataclass
class Batch:
    """What the original's loss reads of a batch."""

    obs: Tensor
    act: Tensor
    mask_padding: Tensor


def load_original(folder: Path) -> ModuleType:
    """
    Import the original's diffusion modules from a checkout.

    Their package names (models, data, utils) and their other dependencies (environments, loggers)
    are kept out: of the latter two only type names are used by the denoiser.
    """
    if not (folder / 'src/models/diffusion/denoiser.py').is_file():
        raise OriginalError(
            f'{folder} is no checkout of DIAMOND: src/models/diffusion/denoiser.py is missing; '
            'clone eloialonso/diamond (branch main) and name that folder'
        )
    data, utils = ModuleType('data'), ModuleType('utils')
    data.Batch, utils.LossAndLogs = Batch, tuple  # type: ignore[attr-defined]
    kept = {name: sys.modules.get(name) for name in ('data', 'utils', 'models')}
    sys.modules |= {'data': data, 'utils': utils}
    sys.modules.pop('models', None)
    sys.path.insert(0, str(folder / 'src'))
    try:
        import models.diffusion as original  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder / 'src'))
        for name, module in kept.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
    return original


def build_original(original: ModuleType, depth: int) -> nn.Module:
    """Build the original denoiser with random weights everywhere (its zeros would hide errors)."""
    inner = original.InnerModelConfig(3, CONTEXT, 256, [depth] * 4, [64] * 4, [0] * 4, ACTIONS)
    denoiser = original.Denoiser(original.DenoiserConfig(inner, 0.5, 0.3))
    denoiser.setup_training(original.SigmaDistributionConfig(-0.4, 1.2, 2e-3, 20))
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return denoiser


def build_ours(depth: int, precision: str) -> Denoiser:
    """Build our denoiser in the same size; one-hot actions stand for their discrete ones."""
    network = NetworkConfig(action_size=ACTIONS, depths=(depth,) * 4)
    return Denoiser(DenoiserConfig(network=network, precision=precision, rounding='floor'))


@torch.no_grad()
def transfer(theirs: nn.Module, ours: Denoiser) -> None:
    """Copy the original's weights into our denoiser, module by module."""
    inner, network = theirs.inner_model, ours.network
    network.noise_embedding.load_state_dict(inner.noise_emb.state_dict())
    network.action_embedding.weight.copy_(inner.act_emb[0].weight.T)
    network.action_embedding.bias.zero_()
    network.condition.load_state_dict(inner.cond_proj.state_dict())
    network.conv_in.load_state_dict(inner.conv_in.state_dict())
    network.norm_out.load_state_dict(inner.norm_out.norm.state_dict())
    network.conv_out.load_state_dict(inner.conv_out.state_dict())
    for mine, other in (
        (network.unet.shrink, inner.unet.downsamples),
        (network.unet.grow, inner.unet.upsamples),
    ):
        mine.load_state_dict(other.state_dict())
    stacks = [*inner.unet.d_blocks, inner.unet.mid_blocks, *inner.unet.u_blocks]
    blocks = [block for stack in stacks for block in stack.resblocks]
    for mine_block, block in zip(network.unet.res_blocks(), blocks, strict=True):
        _transfer_block(block, mine_block)
    norms = [norm.linear for block in blocks for norm in (block.norm1, block.norm2)]
    network.unet.modulation.weight.copy_(torch.cat([linear.weight for linear in norms]))
    network.unet.modulation.bias.copy_(torch.cat([linear.bias for linear in norms]))


def _transfer_block(theirs: nn.Module, ours: ResBlock) -> None:
    ours.conv1.load_state_dict(theirs.conv1.state_dict())
    ours.conv2.load_state_dict(theirs.conv2.state_dict())
    if ours.project is not None:
        ours.project.load_state_dict(theirs.proj.state_dict())
    if ours.attention is not None:
        ours.attention.norm.load_state_dict(theirs.attn.norm.norm.state_dict())
        ours.attention.qkv.load_state_dict(theirs.attn.qkv_proj.state_dict())
        ours.attention.out.load_state_dict(theirs.attn.out_proj.state_dict())


@dataclass
class Inputs:
    """The same frames and actions in both conventions."""

    frames: Tensor  # uint8 (B, L, H, W, 3)
    action: Tensor  # int (B, L)

    @classmethod
    def random(cls, batch: int, length: int) -> Inputs:
        """Draw noise frames: speed does not depend on what is in them."""
        return cls(
            torch.randint(0, 256, (batch, length, SIZE, SIZE, 3), dtype=torch.uint8),
            torch.randint(0, ACTIONS, (batch, length)),
        )

    def theirs(self) -> Batch:
        """Float frames in [-1, 1] and action numbers."""
        obs = self.frames.movedim(-1, 2).float().div(255).mul(2).sub(1).contiguous()
        return Batch(obs, self.action, torch.ones(obs.shape[:2], dtype=torch.bool))

    def one_hot(self) -> Tensor:
        """Actions as one-hot vectors (B, L, ACTIONS)."""
        return nn.functional.one_hot(self.action, ACTIONS).float()


def agreement(original: ModuleType, depth: int) -> dict[str, float]:
    """Compare outputs in float32 at equal weights: F, and a whole sampled frame."""
    torch.manual_seed(0)
    theirs, ours = build_original(original, depth), build_ours(depth, 'fp32')
    transfer(theirs, ours)
    inputs = Inputs.random(2, CONTEXT)
    batch, context = inputs.theirs(), ours.encode(inputs.frames)
    noisy, sigma = torch.randn(2, 3, SIZE, SIZE), torch.tensor([0.5, 5.0])
    with torch.no_grad():
        flat = batch.obs.flatten(1, 2)
        reference = theirs.compute_model_output(
            noisy, flat, batch.act, theirs.compute_conditioners(sigma)
        )
        output = ours.evaluate(
            noisy, ours.coefficients(sigma), context.flatten(1, 2), inputs.one_hot()
        )
        torch.manual_seed(1)
        frame, _ = _their_sampler(original, theirs).sample(batch.obs, batch.act)
        torch.manual_seed(1)
        initial = torch.randn(2, 3, SIZE, SIZE)
        mine = sample(ours, context, inputs.one_hot(), SamplerConfig(STEPS), initial=initial)
    levels = ((mine - frame) * 127.5).abs()
    return {
        'relative_error': float((output - reference).norm() / reference.norm()),
        'frame_levels_apart_most': float(levels.max()),
        'frame_pixels_equal': float((levels < 0.5).float().mean()),
    }


def _their_sampler(original: ModuleType, denoiser: nn.Module) -> Any:
    return original.DiffusionSampler(denoiser, original.DiffusionSamplerConfig(STEPS))


def sampling_pair(
    original: ModuleType | None, depth: int, batch: int
) -> dict[str, Callable[[], object]]:
    """Return what makes one frame of every row, per side."""
    inputs, ours = Inputs.random(batch, CONTEXT), build_ours(depth, 'auto').frozen()
    frames, action = inputs.frames, inputs.one_hot()

    @torch.no_grad()
    def mine() -> object:
        return ours.decode(sample(ours, ours.encode(frames), action, SamplerConfig(STEPS)))

    if original is None:
        return {'ours': mine}
    data = inputs.theirs()
    sampler = _their_sampler(original, build_original(original, depth))
    return {'original': lambda: sampler.sample(data.obs, data.act), 'ours': mine}


def training_pair(
    original: ModuleType | None, depth: int, batch: int
) -> dict[str, Callable[[], object]]:
    """Return one optimiser step with one autoregressive step (two denoisings), per side."""
    inputs, ours = Inputs.random(batch, CONTEXT + 2), build_ours(depth, 'auto')
    frames, action = inputs.frames, inputs.one_hot()
    optimiser = torch.optim.AdamW(ours.parameters(), 1e-4, fused=True)
    sides = {'ours': _step(ours, optimiser, lambda: ours.segment_loss(frames, action))}
    if original is None:
        return sides
    theirs, data = build_original(original, depth), inputs.theirs()
    their_optimiser = torch.optim.AdamW(theirs.parameters(), 1e-4)
    return {'original': _step(theirs, their_optimiser, lambda: theirs(data)[0]), **sides}


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> Callable[[], object]:
    def step() -> None:
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def measure(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each side, rounds interleaved after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            start = time.process_time()
            work()
            if number:
                times[name].append(time.process_time() - start)
    return {name: sorted(spent)[len(spent) // 2] for name, spent in times.items()}


def demo_rates(rounds: int, batch: int = 32) -> dict[str, float]:
    """Return imagined frames per CPU second of the demo preset, per number of denoisings."""
    ours = Denoiser(PRESETS['demo']['denoiser']).frozen()
    size = 32
    frames = torch.randint(0, 256, (batch, CONTEXT, size, size, 3), dtype=torch.uint8)
    action = torch.zeros(batch, CONTEXT, ours.config.network.action_size)

    @torch.no_grad()
    def work(steps: int) -> object:
        return ours.decode(sample(ours, ours.encode(frames), action, SamplerConfig(steps)))

    times = measure({str(k): partial(work, k) for k in (1, 2, 3)}, rounds)
    return {steps: batch / seconds for steps, seconds in times.items()}


def run(folder: Path | None, depth: int = 2, rounds: int = 5) -> dict[str, Any]:
    """Measure everything; without the original only our own times."""
    torch.set_num_threads(1)
    original = load_original(folder) if folder else None
    report: dict[str, Any] = {
        'depth': depth,
        'size': SIZE,
        'bf16': bf16_is_native(torch.device('cpu')),
        'seconds': {},
        'demo_frames_per_second': demo_rates(rounds),
    }
    if original is not None:
        report['agreement'] = agreement(original, depth)
    for kind, make, batches in (
        ('sampling', sampling_pair, (1, 8, 16)),
        ('training', training_pair, (2, 8)),
    ):
        for batch in batches:
            times = measure(make(original, depth, batch), rounds)
            if 'original' in times:
                times['ratio'] = times['original'] / times['ours']
            report['seconds'][f'{kind} b{batch}'] = times
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    print(
        f'DIAMOND, depths {report["depth"]}, {SIZE}x{SIZE}, {STEPS} steps, one thread, CPU time; '
        f'bfloat16 in hardware: {"yes" if report["bf16"] else "no"}'
    )
    if 'agreement' in report:
        found = report['agreement']
        print(
            f'  equal weights, float32: relative error {found["relative_error"]:.1e}; sampled '
            f'frame: {found["frame_pixels_equal"]:.2%} of the pixels equal, at most '
            f'{found["frame_levels_apart_most"]:.0f} of 255 levels apart'
        )
    else:
        print('  no original to compare with: name a checkout with --original or DMO_DIAMOND')
    for name, times in report['seconds'].items():
        line = f'  {name:13s} ours {times["ours"] * 1e3:7.0f} ms'
        if 'ratio' in times:
            line += f'   original {times["original"] * 1e3:7.0f} ms   ratio {times["ratio"]:.2f}'
        print(line)

    rates = report['demo_frames_per_second']
    listed = ', '.join(f'{rate:.0f} with {steps}' for steps, rate in rates.items())
    print(f'  demo size, batch 32: frames per second by denoisings: {listed}')


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description='speed of our DIAMOND beside the original')
    parser.add_argument(
        '--original',
        type=Path,
        default=os.environ.get('DMO_DIAMOND') or None,
        help='checkout of eloialonso/diamond (else environment DMO_DIAMOND)',
    )
    parser.add_argument('--depth', type=int, default=2, help='2: 4.41 M parameters, 4: 7.26 M')
    parser.add_argument('--rounds', type=int, default=5, help='timed rounds')
    parser.add_argument('--json', action='store_true', help='print JSON')
    options = parser.parse_args(arguments)
    original = Path(options.original) if options.original else None
    try:
        report = run(original, options.depth, options.rounds)
    except OriginalError as error:
        parser.error(str(error))
    print(json.dumps(report, indent=1)) if options.json else show(report)


if __name__ == '__main__':
    main()
