"""
What an exported policy promises: task, graph signature, memory, a golden loop, where it came from.

The contract travels as JSON in the policy file (see :mod:`seal`).  It is checked against the
running task specification and against the graph itself before a policy may act; a refusal names
the field.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field, fields
import json
from typing import Any
import zlib

import numpy as np

from .seal import ContractError
from .tasks import first_difference, TaskSpec

VERSION = 1
BATCH = 'batch'  # the first dimension is free: 1 on a robot, many in an evaluation


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph; a dimension is a number or a name such as 'batch'."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Golden:
    """
    A closed loop to repeat at load.

    ``frames`` (N, H, W, 3) uint8 are shown one by one, the policy is reset before every number in
    ``first``, and its actions must be ``actions`` (N, A).  ``proprio`` (N, P) float32 in SI units
    goes with the frames; None where the task has none.
    """

    frames: np.ndarray
    first: tuple[int, ...]
    actions: np.ndarray
    proprio: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Frames as base64 of zlib, numbers as decimals that give the same float32 back."""
        packed = zlib.compress(np.ascontiguousarray(self.frames).tobytes(), 9)
        plain = {
            'frames': base64.b64encode(packed).decode(),
            'shape': list(self.frames.shape),
            'first': list(self.first),
            'actions': self.actions.astype(np.float64).tolist(),
        }
        # Only where there is any: a file of a task without it stays as all versions read it.
        if self.proprio is not None:
            plain['proprio'] = self.proprio.astype(np.float64).tolist()
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Golden:
        """Unpack; never more than the stated size, so that a small file cannot fill the memory."""
        own = {'proprio'} & set(plain)
        _require_keys(plain, {'frames', 'shape', 'first', 'actions', *own}, 'golden')
        shape = tuple(int(size) for size in plain['shape'])
        size = int(np.prod(shape, dtype=np.int64))
        if not 0 < size <= 2**28:
            raise ContractError(f'golden.shape: {shape} is no plausible stack of frames')
        raw = zlib.decompressobj().decompress(
            base64.b64decode(plain['frames'], validate=True), size + 1
        )
        if len(raw) != size:
            raise ContractError('golden.frames: not as long as golden.shape says')
        return cls(
            np.frombuffer(raw, np.uint8).reshape(shape),
            tuple(int(number) for number in plain['first']),
            np.asarray(plain['actions'], dtype=np.float32),
            np.asarray(plain['proprio'], dtype=np.float32) if own else None,
        )

    def require_fit(self, task: TaskSpec) -> None:
        """Refuse frames, actions or proprioception of another size, and impossible resets."""
        steps, size, width = len(self.frames), task.policy_size, len(task.policy_actions)
        if self.frames.shape[1:] != (size, size, 3):
            raise ContractError(
                f'golden.shape: {self.frames.shape}; the policy sees RGB of {size}x{size}'
            )
        if self.actions.shape != (steps, width):
            raise ContractError(
                f'golden.actions: {self.actions.shape} for {steps} frames and '
                f'{width} action fields'
            )
        if self.first[:1] != (0,) or max(self.first) >= steps:
            raise ContractError(
                f'golden.first: {self.first}; it starts with 0 and stays below {steps}'
            )
        shape = None if self.proprio is None else self.proprio.shape
        if shape != ((steps, len(task.proprioception)) if task.proprioception else None):
            raise ContractError(
                f'golden.proprio: {shape} for {steps} frames and '
                f'{len(task.proprioception)} proprioceptive fields; export the policy again'
            )


@dataclass(frozen=True)
class Contract:
    """Task, graph signature, memory, golden loop and provenance of one policy file."""

    task: dict[str, Any]
    frame_stack: int
    states: tuple[TensorSpec, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> str:
        """Canonical JSON: equal contracts give equal bytes, and NaN is refused."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain['golden'] = self.golden.to_dict()
        for name in ('states', 'inputs', 'outputs'):
            plain[name] = [asdict(tensor) for tensor in plain[name]]
        return json.dumps(plain, sort_keys=True, separators=(',', ':'), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Parse; ContractError names the field that is missing, unknown or malformed."""
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise ContractError(f'the contract is no JSON: {error}') from error
        if not isinstance(plain, dict):
            raise ContractError('the contract is no JSON object; export the policy again')
        _require_version(plain)
        _require_keys(plain, {item.name for item in fields(cls)}, 'contract')
        for name in ('states', 'inputs', 'outputs'):
            plain[name] = _parse(name, lambda items: tuple(map(_tensor, items)), plain[name])
        plain['golden'] = _parse('golden', Golden.from_dict, plain['golden'])
        plain['frame_stack'] = _parse('frame_stack', _count, plain['frame_stack'])
        plain['task'] = _parse('task', _object, plain['task'])
        plain['provenance'] = _parse('provenance', _object, plain['provenance'])
        return cls(**plain)

    def require_task(self, spec: TaskSpec) -> None:
        """Refuse another task specification, naming the first field that differs."""
        wanted, name = spec.to_dict(), {'name': self.task.get('name')}
        # The name first: every other number of another task differs as well.
        difference = first_difference({'name': spec.name}, name, 'task') or first_difference(
            wanted, self.task, 'task'
        )
        if difference:
            raise ContractError(
                f'the policy was exported for another task specification ({difference}); take a '
                f'policy for task {spec.name!r}, or export it again with this version'
            )

    def require_graph(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        """Refuse a contract that the task, or the graph with these ends, does not bear out."""
        _require_same('inputs', inputs, self.inputs)
        _require_same('outputs', outputs, self.outputs)
        task = TaskSpec.from_dict(self.task)
        given = {tensor.name for tensor in interface(task, self.frame_stack, ())[0]}
        found = tuple(tensor for tensor in inputs if tensor.name not in given)
        _require_same('states', found, self.states)
        if self.frame_stack != inputs[0].shape[1]:
            raise ContractError(
                f'frame_stack: {self.frame_stack}, but the graph takes '
                f'{inputs[0].shape[1]} frames; export the policy again'
            )
        wanted = interface(task, self.frame_stack, self.states)
        _require_same('inputs', wanted[0], inputs)
        _require_same('outputs', wanted[1], outputs)
        self.golden.require_fit(task)


def interface(
    task: TaskSpec, frame_stack: int, states: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """
    Return the inputs and the outputs that a policy of this task must have.

    The only place that knows their order; ``proprio`` is there for a task that has any.
    """
    width, size, own = len(task.policy_actions), task.policy_size, len(task.proprioception)
    inputs = (
        TensorSpec('image', 'uint8', (BATCH, frame_stack, size, size, 3)),
        TensorSpec('prev_action', 'float32', (BATCH, width)),
        TensorSpec('is_first', 'float32', (BATCH, 1)),
        *([TensorSpec('proprio', 'float32', (BATCH, own))] if own else []),
        *states,
    )
    outputs = (
        TensorSpec('action', 'float32', (BATCH, width)),
        *(TensorSpec(f'{s.name}_next', s.dtype, s.shape) for s in states),
    )
    return inputs, outputs


def _require_version(plain: dict[str, Any]) -> None:
    if plain.get('version') != VERSION:
        raise ContractError(
            f'version: the contract is of version {plain.get("version")!r}, this '
            f'program reads {VERSION}; export the policy again'
        )


def _require_keys(plain: dict[str, Any], known: set[str], what: str) -> None:
    for name in sorted(known ^ set(plain)):
        fault = 'is missing' if name in known else 'is unknown'
        raise ContractError(f'{what}: field {name!r} {fault}; export the policy again')


def _require_same(
    kind: str, expected: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> None:
    names = [tensor.name for tensor in expected], [tensor.name for tensor in found]
    if names[0] != names[1]:
        raise ContractError(f'{kind}: {names[1]} instead of {names[0]}; export the policy again')
    for want, have in zip(expected, found):
        for part in ('dtype', 'shape'):
            a, b = getattr(want, part), getattr(have, part)
            if a != b:
                raise ContractError(
                    f'{kind}.{want.name}.{part}: {b} instead of {a}; export the policy again'
                )


def _parse(name: str, convert: Any, value: Any) -> Any:
    """Convert one field of the contract; whatever goes wrong is a ContractError with its name."""
    try:
        return convert(value)
    except ContractError as error:
        raise ContractError(f'{name}: {str(error).removeprefix(name + ": ")}') from error
    except (TypeError, ValueError, KeyError, AttributeError, zlib.error) as error:
        raise ContractError(
            f'{name}: malformed in the contract ({error}); export the policy again'
        ) from error


def _tensor(plain: dict[str, Any]) -> TensorSpec:
    _require_keys(_object(plain), {'name', 'dtype', 'shape'}, 'tensor')
    return TensorSpec(str(plain['name']), str(plain['dtype']), tuple(plain['shape']))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f'{value!r} is no JSON object')
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f'{value!r} is no count')
    return value
