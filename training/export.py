"""
From a trained policy to the one file a robot needs.

The graph is written by PyTorch's dynamo exporter at a pinned opset with its weights inside, sealed
with its contract and a golden closed loop, opened again with onnxruntime and compared with the
PyTorch module over a long closed loop.  Only then does the file appear under its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import copy
from dataclasses import asdict, dataclass
import json
import logging
import os
from pathlib import Path
import sys
import time
from typing import Any, cast, Protocol
import warnings

from dmo_ros.core.actions import bounds
from dmo_ros.core.contract import BATCH, Contract, Golden, interface, TensorSpec
from dmo_ros.core.policy import ClosedLoop, Infer, Policy
from dmo_ros.core.seal import seal
from dmo_ros.core.signature import SigningKey
from dmo_ros.core.tasks import TaskSpec
import numpy as np
import torch
from torch import nn, Tensor

OPSET = 20
GOLDEN_STEPS = 8


class ExportablePolicy(Protocol):
    """
    What a torch module must be to become a policy file.

    Everything happens inside the graph: scaling of pixels, the reset where ``is_first`` is 1
    (states are arbitrary then), the mode of the latent and of the action.
    """

    frame_stack: int
    state_shapes: Mapping[str, tuple[int, ...]]
    """Name and shape, without the batch, of every recurrent float32 state, in forward's order."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of nn.Module."""

    def __call__(
        self, image: Tensor, prev_action: Tensor, is_first: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """
        Answer one control step.

        :param image: (B, frame_stack, H, W, 3) uint8.
        :param prev_action: (B, A) float32 in [-1, 1]; ``is_first``: (B, 1) float32, 0 or 1.
        :param more: proprio (B, P) float32 in SI units, if the task has any; then the states.
        :returns: action (B, A) float32 in [-1, 1], then the next states.
        """


class ExportError(RuntimeError):
    """A module that cannot be exported, or whose file does not do what the module does."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how closely onnxruntime follows PyTorch over ``steps`` steps."""

    path: Path
    digest: str
    bytes: int
    seconds: float
    steps: int
    largest_difference: float


def torch_infer(policy: ExportablePolicy) -> Infer:
    """Return the numpy inference function of a torch policy, for a ClosedLoop."""
    device = next(iter(policy.parameters()), torch.empty(0)).device

    def infer(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = policy(*(torch.from_numpy(array).to(device) for array in inputs))
        return [tensor.cpu().numpy() for tensor in outputs]

    return infer


def torch_loop(policy: ExportablePolicy, spec: TaskSpec, batch: int = 1) -> ClosedLoop:
    """Return a closed loop around a torch policy, on whatever device it lives."""
    return ClosedLoop(
        torch_infer(policy),
        len(spec.policy_actions),
        policy.frame_stack,
        list(policy.state_shapes.values()),
        batch,
        spec.proprioception,
    )


def export(
    policy: ExportablePolicy,
    spec: TaskSpec,
    out: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    frames: np.ndarray | None = None,
    proprio: np.ndarray | None = None,
    key: SigningKey | None = None,
    parity_steps: int = 200,
) -> ExportReport:
    """
    Write ``policy`` (an nn.Module besides) as one sealed ONNX file and prove that it is the same.

    :param provenance: anything worth knowing about where the weights come from, as plain JSON.
    :param frames: (N, H, W, 3) uint8 at ``spec.policy_size``, shown in the golden loop; play data
        say more about a policy than the noise that is drawn when left out.
    :param proprio: (N, P) in SI units, of the same moments; only for a task that has any.
    :param key: signs the file.
    :raises ExportError: when the graph cannot be written or answers differently.
    """
    begin = time.monotonic()
    module = copy.deepcopy(cast(nn.Module, policy))  # the trainer's own stays as it is
    policy = cast(ExportablePolicy, module.eval().cpu().float())
    seen = _moments(spec, parity_steps, frames, proprio)
    model = _graph(policy, spec)
    contract = _contract(policy, spec, seen[:GOLDEN_STEPS], dict(provenance or {}))
    out = Path(out)
    draft = out.with_name(out.name + '.tmp')
    try:
        _write(draft, seal(model, contract.to_json(), key))
        loaded = Policy.load(draft, spec)
        difference = parity(policy, loaded, seen)
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
    return ExportReport(
        out, loaded.digest, out.stat().st_size, time.monotonic() - begin, len(seen), difference
    )


@dataclass(frozen=True)
class Moments:
    """What a policy is shown: frames (N, H, W, 3) uint8, proprio (N, P) float32 or None."""

    frames: np.ndarray
    proprio: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> Moments:
        return Moments(self.frames[part], None if self.proprio is None else self.proprio[part])

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield a batch of one for every moment, as :meth:`ClosedLoop.step` takes it."""
        for row, frame in enumerate(self.frames):
            yield frame[None], None if self.proprio is None else self.proprio[row, None]


def parity(
    policy: ExportablePolicy, loaded: Policy, seen: Moments, tolerance: float = 1e-4
) -> float:
    """
    Run both over what is seen, each feeding back its own states; return the largest difference.

    :raises ExportError: above ``tolerance``, with the first step that differs.
    """
    loop, twin = torch_loop(policy, loaded.spec), loaded.loop()
    gaps = np.array([np.abs(loop.step(*moment) - twin.step(*moment)).max() for moment in seen])
    if gaps.max() > tolerance:
        raise ExportError(
            f'the exported graph differs from the module by {gaps.max():.2g}, first '
            f'at step {int(np.argmax(gaps > tolerance))}; a graph with an argmax '
            'may flip between equal classes: train longer, or compare the states'
        )
    return float(gaps.max())


class _Graph(nn.Module):
    """One signature for every policy, whether it names its states or takes them as *states."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.policy(*tensors))


def _graph(policy: ExportablePolicy, spec: TaskSpec) -> bytes:
    """Return the serialised ONNX graph, weights inside and without traces of this machine."""
    inputs, outputs = interface(spec, policy.frame_stack, _states(policy))
    example = tuple(
        torch.zeros(
            [2 if size == BATCH else int(size) for size in tensor.shape],
            dtype=getattr(torch, tensor.dtype),
        )
        for tensor in inputs
    )
    shapes = (({0: torch.export.Dim(BATCH)},) * len(inputs),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        logging.getLogger('torch.onnx').setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                _Graph(cast(nn.Module, policy)),
                example,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[tensor.name for tensor in inputs],
                output_names=[tensor.name for tensor in outputs],
                dynamic_shapes=shapes,
                verbose=False,
            )
        except ImportError as error:
            raise ExportError(
                "exporting needs onnx and onnxscript; install them: pip install 'dmo_ros[train]'"
            ) from error
        except Exception as error:  # the exporter's exceptions share no base class but this one
            raise ExportError(
                f'the policy does not export ({str(error)[:400]}); its forward must '
                'use tensors only: masks instead of if, no sampling'
            ) from error
    assert program is not None
    model = program.model_proto
    for item in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.functions,
        model.graph,
    ):
        item.ClearField('metadata_props')  # stack traces with the paths of this machine
        item.ClearField('doc_string')
    data: bytes = model.SerializeToString()
    return data


def _states(policy: ExportablePolicy) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, 'float32', (BATCH, *shape)) for name, shape in policy.state_shapes.items()
    )


def _contract(
    policy: ExportablePolicy, spec: TaskSpec, seen: Moments, provenance: dict[str, Any]
) -> Contract:
    """Record the golden loop with PyTorch: two episodes, so that the reset is checked as well."""
    first = (0, len(seen) // 2)
    loop, actions = torch_loop(policy, spec), []
    for index, moment in enumerate(seen):
        if index in first:
            loop.reset()
        actions.append(loop.step(*moment)[0])
    states = _states(policy)
    inputs, outputs = interface(spec, policy.frame_stack, states)
    versions = {'torch': torch.__version__, 'opset': OPSET}
    return Contract(
        spec.to_dict(),
        policy.frame_stack,
        states,
        inputs,
        outputs,
        Golden(seen.frames, first, np.stack(actions), seen.proprio),
        {**versions, **provenance},
    )


def _moments(
    spec: TaskSpec, count: int, frames: np.ndarray | None, proprio: np.ndarray | None
) -> Moments:
    """Return ``count`` moments, the given ones first and repeated as often as needed."""
    size, count = spec.policy_size, max(count, GOLDEN_STEPS)
    if frames is None:
        frames = _noise(size, count)
    if frames.shape[1:] != (size, size, 3) or frames.dtype != np.uint8 or not len(frames):
        raise ExportError(
            f'golden frames must be (N, {size}, {size}, 3) uint8, these are '
            f'{frames.shape} {frames.dtype}'
        )
    if proprio is None and spec.proprioception:
        proprio = _postures(spec, len(frames))
    wanted = (len(frames), len(spec.proprioception)) if spec.proprioception else None
    found = None if proprio is None else proprio.shape
    if found != wanted or (proprio is not None and not np.isfinite(proprio).all()):
        raise ExportError(
            f'golden proprioception must be finite and {wanted}, as task {spec.name!r} and the '
            f'frames have it; this is {found}'
        )
    rows = np.arange(count) % len(frames)
    given = Moments(frames, None if proprio is None else proprio.astype(np.float32))
    return Moments(
        np.ascontiguousarray(given.frames[rows]),
        None if given.proprio is None else given.proprio[rows],
    )


def _noise(size: int, count: int) -> np.ndarray:
    """Return smooth noise: single-pixel noise is nothing that a camera shows."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    repeat = -(-size // 4)
    return coarse.repeat(repeat, 1).repeat(repeat, 2)[:, :size, :size].copy()


def _postures(spec: TaskSpec, count: int) -> np.ndarray:
    """Return postures (count, P) that a robot of the task may be in, over its whole ranges."""
    low, high = bounds(spec.proprioception)
    return np.random.default_rng(1).uniform(low, high, (count, len(low)))


def _write(path: Path, data: bytes) -> None:
    with open(path, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def export_run(
    run: Path, out: Path, key: SigningKey | None = None, data: Path | None = None
) -> ExportReport:
    """
    Export the policy of a run folder (or of its checkpoint).

    :param data: dataset whose play makes up the golden loop; the noise of :func:`export` without.
    """
    from .deploy import golden_play, load_policy

    checkpoint = run / 'policy.safetensors' if run.is_dir() else run
    module, spec, provenance = load_policy(checkpoint)
    frames, proprio = golden_play(data, spec) if data is not None else (None, None)
    return export(
        module, spec, out, provenance=provenance, frames=frames, proprio=proprio, key=key
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Export from the command line; one sentence and exit code 2 when it cannot be done."""
    import argparse

    parser = argparse.ArgumentParser(prog='dmo export', description='Write a policy file.')
    parser.add_argument('run', type=Path, help='folder or checkpoint of dmo train policy')
    parser.add_argument('-o', '--out', type=Path, default=Path('policy.onnx'))
    parser.add_argument('--data', type=Path, help='dataset whose frames make up the golden loop')
    parser.add_argument('--sign', type=Path, metavar='KEY', help='sign with this private key')
    parser.add_argument('--new-key', type=Path, metavar='KEY', help='make that key first')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(arguments)
    try:
        new = SigningKey.generate(given.new_key) if given.new_key else None
        key = SigningKey.read(given.sign) if given.sign else new
        report = export_run(given.run, given.out, key, given.data)
    except (ExportError, RuntimeError, ValueError, OSError) as error:
        print(f'dmo export: {error}', file=sys.stderr)
        return 2
    figures = {**asdict(report), 'path': str(report.path)}
    figures['public_key'] = key.public if key else None
    if given.json:
        print(json.dumps(figures))
    else:
        print(
            f'{report.path}: {report.bytes / 1e6:.2f} MB, sha256 {report.digest[:12]}..., '
            f'within {report.largest_difference:.1g} of PyTorch over {report.steps} steps'
            + (f'\nsigned; trusted_keys for the robot: {key.public}' if key else '')
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
