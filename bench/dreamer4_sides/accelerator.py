"""
Our frames on an accelerator: how many a second, and how far from the machine's own limits.

The limits are measured in the same run: the rate of a large bfloat16 matrix product and of a large
copy.  What a frame has to do follows from the sizes: five passes of the dynamics and one of the
decoder over a full window.  The share of the roofline is the time that this would take at those
rates, arithmetic and memory one after the other, over the time that it took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import gc
import time
from typing import Any

from dmo_training.models.dreamer4.config import Dreamer4Config, HEAD_SIZE, size, TrunkConfig
from dmo_training.models.dreamer4.model import Dreamer4
from dmo_training.models.dreamer4.rollout import Imagined, Noise, Rollout, RolloutConfig
import torch
from torch import nn, Tensor

DTYPE, PREFILL = torch.bfloat16, 32


@dataclass(frozen=True)
class Need:
    """What one frame of one row takes: operations, and bytes of keys and values that are read."""

    operations: float
    bytes: float


def _pass(trunk: TrunkConfig, tokens: int, weights: float) -> Need:
    """Return what one pass over a frame's tokens takes, the window being full."""
    time_layers = trunk.layers // trunk.time_every
    space_layers = trunk.layers - time_layers
    attention = 4 * trunk.heads * HEAD_SIZE * tokens
    mixed = attention * (space_layers * tokens + time_layers * trunk.window)
    kept = 2 * time_layers * tokens * trunk.window * trunk.key_heads * HEAD_SIZE
    return Need(2 * weights * tokens + mixed, kept * DTYPE.itemsize)


def _layer_weights(trunk: TrunkConfig) -> float:
    """Return the weights that every token meets."""
    attention = trunk.width * (2 * trunk.heads + 2 * trunk.key_heads) * HEAD_SIZE
    return trunk.layers * (attention + 3 * trunk.width * trunk.mlp_width)


def need(config: Dreamer4Config, steps: int) -> Need:
    """Return what a frame takes: ``steps`` denoising passes, the commit, and the decoder."""
    dynamics, coder = config.dynamics, config.tokenizer
    one = _pass(dynamics.trunk, dynamics.tokens, _layer_weights(dynamics.trunk))
    shown = _pass(coder.trunk, coder.latents + coder.patches, _layer_weights(coder.trunk))
    return Need(
        (steps + 1) * one.operations + shown.operations, (steps + 1) * one.bytes + shown.bytes
    )


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median seconds of a call, the device's work included."""
    spent = []
    for number in range(rounds + 3):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        if number >= 3:
            spent.append(time.perf_counter() - start)
    return sorted(spent)[len(spent) // 2]


def ceilings(device: torch.device, side: int, rounds: int = 20) -> tuple[float, float]:
    """Return operations per second of a matrix product, and bytes per second of a copy."""
    left, right = (torch.randn(side, side, device=device).to(DTYPE) for _ in range(2))
    rate = 2 * side**3 / timed(lambda: left @ right, device, rounds)
    source = torch.randn(side * side * 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.itemsize
    return rate, moved / timed(lambda: target.copy_(source), device, rounds)


def _model(config: Dreamer4Config, device: torch.device) -> Dreamer4:
    """Build a model whose outputs are not the zeros of an untrained one: zeros are faster."""
    with device:
        model = Dreamer4(config)
    for weight in (model.dynamics.clean.weight, model.tokenizer.decoder.patch.weight):
        nn.init.normal_(weight, std=0.02)
    return model


def start(config: Dreamer4Config, batch: int, device: torch.device) -> Rollout:
    """Begin a batch of worlds."""
    made = Rollout(_model(config, device), batch, RolloutConfig(), dtype=DTYPE)
    part = config.dynamics
    latent = torch.randn(batch, PREFILL, part.latents, part.bottleneck).tanh()
    known = torch.ones(batch, PREFILL, dtype=torch.bool)
    made.begin(latent, torch.randn(batch, PREFILL, part.action_size), known)
    return made


def inputs(rollout: Rollout) -> tuple[Tensor, Noise]:
    """Return an action for every row, and noise, on the device."""
    part, device = rollout.model.config.dynamics, rollout.model.device
    shape = (rollout.batch, 1, part.latents, part.bottleneck)
    noise = Noise(*(torch.randn(shape, device=device) for _ in range(2)))
    return torch.randn(rollout.batch, 1, part.action_size, device=device), noise


def captured(rollout: Rollout, action: Tensor, noise: Noise) -> Callable[[], Imagined]:
    """Return a frame as one CUDA graph; whoever uses it copies new inputs into the old ones."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            rollout.imagine(action, noise)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        made = rollout.imagine(action, noise)

    def replay() -> Imagined:
        graph.replay()
        return made

    return replay


def _row(
    config: Dreamer4Config, batch: int, device: torch.device, rounds: int, limits: Any
) -> dict[str, Any]:
    """Measure one batch size; its figures, or why there are none."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    rollout = start(config, batch, device)
    action, noise = inputs(rollout)

    @torch.no_grad()
    def frame() -> object:
        return rollout.imagine(action, noise)

    seconds = {'eager': timed(frame, device, rounds)}
    if device.type == 'cuda':
        seconds['graph'] = timed(captured(rollout, action, noise), device, rounds)
    wanted = need(config, rollout.config.steps)
    weights = sum(p.numel() * p.element_size() for p in rollout.model.parameters())
    computed = batch * wanted.operations / limits[0]
    passes = rollout.config.steps + 1
    # Both the bytes of every row's memory and, once a pass, the weights.
    moved = (batch * wanted.bytes + passes * weights) / limits[1]
    row: dict[str, Any] = {'batch': batch, 'kv_heads': config.dynamics.trunk.key_heads}
    for name, spent in seconds.items():
        row[f'{name}_frames_per_s'] = batch / spent
        row[f'{name}_of_roofline'] = (computed + moved) / spent
        row[f'{name}_of_matmul_rate'] = computed / spent
    if device.type == 'cuda':
        row['peak_gib'] = torch.cuda.max_memory_allocated(device) / 2**30
    return row


def run(device: torch.device, rounds: int, preset: str, batches: tuple[int, ...]) -> Any:
    """Measure a preset with one key-value head per head, and with a quarter of them."""
    large = device.type == 'cuda'
    limits = ceilings(device, 8192 if large else 256)
    base, rows = size(preset, 3), []
    heads = base.dynamics.trunk.heads
    for shared in (heads, max(1, heads // 4)):
        trunk = replace(base.dynamics.trunk, kv_heads=shared)
        config = replace(base, dynamics=replace(base.dynamics, trunk=trunk))
        for batch in batches:
            try:
                rows.append(_row(config, batch, device, rounds, limits))
            except torch.OutOfMemoryError:
                rows.append({'batch': batch, 'kv_heads': shared, 'out_of_memory': True})
            gc.collect()
            if large:
                torch.cuda.empty_cache()
    return {
        'device': torch.cuda.get_device_name(device) if large else device.type,
        'preset': preset,
        'matmul_tflops': limits[0] / 1e12,
        'copy_gb_per_s': limits[1] / 1e9,
        'rows': rows,
    }


def show(report: Any) -> None:
    """Print the figures as a table."""
    print(
        f'Frames on {report["device"]}, preset {report["preset"]}, {DTYPE}, full window; measured '
        f'limits: {report["matmul_tflops"]:.1f} TFLOP/s, {report["copy_gb_per_s"]:.0f} GB/s'
    )
    for row in report['rows']:
        line = f'  {row["kv_heads"]:2d} kv heads, batch {row["batch"]:3d}: '
        if row.get('out_of_memory'):
            print(line + 'does not fit')
            continue
        for name in ('eager', 'graph'):
            if f'{name}_frames_per_s' in row:
                line += (
                    f'{name} {row[f"{name}_frames_per_s"]:7.1f} frames/s '
                    f'({row[f"{name}_of_roofline"]:.0%} of the roofline, '
                    f'{row[f"{name}_of_matmul_rate"]:.0%} of the matmul rate)  '
                )
        print(line + (f'peak {row["peak_gib"]:.1f} GiB' if 'peak_gib' in row else ''))
