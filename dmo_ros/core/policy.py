"""
A policy on the robot: one ONNX file, numpy and onnxruntime, nothing else.

:meth:`Policy.load` reads the file once and refuses it unless everything holds: hash, signature
(when keys are given), task specification, graph signature, execution provider, and the golden
loop that was recorded with PyTorch at export.  Then :meth:`Policy.step` maps a frame to an action;
in a task with proprioception, a frame and what the robot feels of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .contract import Contract, TensorSpec
from .history import FrameStack
from .images import to_policy_observation
from .proprioception import check_proprioception, ProprioceptionError
from .seal import ContractError, unseal
from .tasks import Field, get_task, TaskSpec

CPU = 'CPUExecutionProvider'
# Largest allowed |difference| to the golden actions: float32 on a CPU, and on devices whose
# convolutions may run in TF32.
TOLERANCE, DEVICE_TOLERANCE = 1e-4, 1e-2
_TYPES = {'tensor(uint8)': 'uint8', 'tensor(float)': 'float32'}

# The graph's inputs in the contract's order -> action (B, A), then the next states:
# image u8 (B, S, H, W, 3), prev_action (B, A), is_first (B, 1), [proprio (B, P),] states.
Infer = Callable[..., Sequence[np.ndarray]]


class PolicyError(ValueError):
    """A policy that cannot run here, or an answer of it that must not reach a robot."""


class ClosedLoop:
    """What a batch of policies remembers between two frames, around one inference function."""

    def __init__(
        self,
        infer: Infer,
        width: int,
        frame_stack: int,
        state_shapes: Sequence[tuple[int, ...]],
        batch: int = 1,
        proprioception: Sequence[Field] = (),
    ) -> None:
        """
        Begin.

        :param width: number of actions.
        :param state_shapes: without the batch dimension.
        :param proprioception: the task's fields; steps want proprioception where there are any.
        """
        self.batch, self.width, self.proprioception = batch, width, proprioception
        self._infer, self._stack, self._shapes = infer, FrameStack(frame_stack), state_shapes
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is the first of an episode."""
        self._stack.reset()
        self._prev_action = np.zeros((self.batch, self.width), np.float32)
        self._is_first = np.ones((self.batch, 1), np.float32)
        self._states = [np.zeros((self.batch, *shape), np.float32) for shape in self._shapes]

    def step(self, observation: np.ndarray, proprio: np.ndarray | None = None) -> np.ndarray:
        """
        Answer observations (B, H, W, 3) uint8 with actions (B, A) float32 in [-1, 1].

        :param proprio: (B, P) in SI units, of the observations' time; None in a task without any.
        :raises ProprioceptionError: it is missing, too much, or not finite; nothing is remembered.
        :raises PolicyError: when an action or a state is not finite, or an action lies outside
            [-1, 1]; the memory is cleared then, so that nothing of it outlives the refusal.
        """
        felt = self._felt(proprio)
        image = np.ascontiguousarray(np.moveaxis(self._stack.push(observation), 0, 1))
        answer = self._infer(image, self._prev_action, self._is_first, *felt, *self._states)
        action, states = answer[0], list(answer[1:])
        fault = _fault(action, states)
        if fault:
            self.reset()
            raise PolicyError(
                f'the policy answered with {fault}; the action is refused and its '
                'memory cleared. Look at the frame it saw, or export it again'
            )
        self._prev_action = np.clip(action, -1.0, 1.0)
        self._is_first = np.zeros((self.batch, 1), np.float32)
        self._states = states
        return self._prev_action.copy()

    def _felt(self, proprio: np.ndarray | None) -> list[np.ndarray]:
        """Return the graph's further inputs: proprioception, or nothing."""
        if not self.proprioception:
            if proprio is not None:
                raise ProprioceptionError('the task of this policy has no proprioception')
            return []
        if proprio is None or np.shape(proprio)[:1] != (self.batch,):
            raise ProprioceptionError(
                f'each step needs proprioception ({self.batch}, {len(self.proprioception)}), not '
                f'{"none" if proprio is None else np.shape(proprio)}'
            )
        with np.errstate(over='ignore'):  # too large for float32 is refused as infinite
            rows = np.ascontiguousarray(proprio, np.float32)
        return [check_proprioception(rows, self.proprioception)]


def _fault(action: np.ndarray, states: list[np.ndarray]) -> str | None:
    if not np.isfinite(action).all():
        return 'an action that is not finite'
    if not all(np.isfinite(state).all() for state in states):
        return 'a state that is not finite'
    if np.abs(action).max() > 1.0 + 1e-3:
        return f'an action of {np.abs(action).max():.3g}, outside [-1, 1]'
    return None


class Policy:
    """A checked policy; make one with :meth:`load`."""

    def __init__(
        self, session: Any, contract: Contract, spec: TaskSpec, digest: str, trust: str
    ) -> None:
        self.contract, self.spec, self.digest, self.trust = contract, spec, digest, trust
        self.provider: str = session.get_providers()[0]
        self.golden_error = float('nan')
        self._session = session
        self._names = [tensor.name for tensor in contract.inputs]
        self._loop = self.loop()

    @classmethod
    def load(
        cls,
        path: str | Path,
        spec: TaskSpec | None,
        providers: Sequence[str] | None = None,
        trusted_keys: Sequence[str] | None = None,
        allow_unsigned: bool = False,
    ) -> Policy:
        """
        Read, verify and open a policy file.

        :param spec: the task the robot runs; None takes the file's word (to inspect a file).
        :param providers: onnxruntime execution providers, the first of which must be there; the
            CPU when left out.
        :param trusted_keys: public keys, one of which must have signed the file; None asks nobody.
        :raises ContractError: when the file is damaged, not trusted or made for something else.
        :raises PolicyError: when it cannot run here.
        """
        data = _read(path)
        sealed = unseal(data, trusted_keys, allow_unsigned)
        contract = Contract.from_json(sealed.contract)
        spec = get_task(str(contract.task.get('name'))) if spec is None else spec
        contract.require_task(spec)
        session = _open(data, list(providers or (CPU,)))
        contract.require_graph(_ends(session.get_inputs()), _ends(session.get_outputs()))
        policy = cls(session, contract, spec, sealed.digest, sealed.trust)
        policy.golden_error = policy.check_golden()
        return policy

    def loop(self, batch: int = 1) -> ClosedLoop:
        """Return a fresh closed loop of this policy over ``batch`` robots at once."""
        shapes = [tuple(int(size) for size in state.shape[1:]) for state in self.contract.states]
        return ClosedLoop(
            self.infer,
            len(self.spec.policy_actions),
            self.contract.frame_stack,
            shapes,
            batch,
            self.spec.proprioception,
        )

    def infer(self, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Run the graph once; order and shapes as in the contract."""
        outputs: Sequence[np.ndarray] = self._session.run(None, dict(zip(self._names, inputs)))
        return outputs

    def reset(self) -> None:
        """Begin an episode: forget frames, states and the last action."""
        self._loop.reset()

    def step(self, frame: np.ndarray, proprio: np.ndarray | None = None) -> np.ndarray:
        """
        Map one camera frame to one action.

        :param frame: (H, W, 3) uint8 RGB of any size.
        :param proprio: (P,) in SI units, as :func:`.proprioception.arrange` orders it; only for a
            task that has proprioception.
        :returns: (A,) float32 in [-1, 1], in the order of ``spec.policy_actions``.
        :raises ImageError: for a frame of another shape or dtype.
        :raises ProprioceptionError: it is missing, too much, or not finite.
        :raises PolicyError: for an action that must not reach a robot; the policy is reset then.
        """
        # By way of the world model's frame size, because that is how training saw it.
        seen = to_policy_observation(frame, self.spec)
        return self._loop.step(seen[None], None if proprio is None else proprio[None])[0]

    def describe(self) -> dict[str, Any]:
        """What a person wants to know of the file, as plain JSON."""
        contract = self.contract
        return {
            'task': self.spec.name,
            'digest': self.digest,
            'trust': self.trust,
            'provider': self.provider,
            'golden_error': self.golden_error,
            'golden_steps': len(contract.golden.frames),
            'frame_stack': contract.frame_stack,
            'inputs': {t.name: [t.dtype, *t.shape] for t in contract.inputs},
            'outputs': {t.name: [t.dtype, *t.shape] for t in contract.outputs},
            'proprioception': {f.name: f.unit for f in self.spec.proprioception},
            'drives': {f.name: f.unit for f in self.spec.driven},
            'at_rest': {
                f.name: [f.rest, f.unit] for f in self.spec.actions if f not in self.spec.driven
            },
            'provenance': contract.provenance,
        }

    def check_golden(self) -> float:
        """Repeat the recorded closed loop; return the largest difference or refuse it."""
        golden, actions, loop = self.contract.golden, [], self.loop()
        for index, frame in enumerate(golden.frames):
            if index in golden.first:
                loop.reset()
            felt = None if golden.proprio is None else golden.proprio[index, None]
            actions.append(loop.step(frame[None], felt)[0])
        error = float(np.abs(np.stack(actions) - golden.actions).max())
        allowed = TOLERANCE if self.provider == CPU else DEVICE_TOLERANCE
        if not error <= allowed:
            raise ContractError(
                f'golden: the actions differ by up to {error:.2g} from those recorded at export '
                f'({allowed:g} is allowed on {self.provider}); this onnxruntime computes another '
                'policy: use the versions of constraints.txt, or export it again'
            )
        return error


def verify(
    path: str | Path, spec: TaskSpec | None = None, trusted_keys: Sequence[str] | None = None
) -> dict[str, Any]:
    """Load a policy file as a robot would and describe it; raises as :meth:`Policy.load`."""
    return {'file': str(path), **Policy.load(path, spec, trusted_keys=trusted_keys).describe()}


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ContractError(
            f'the policy {path} cannot be read ({error.strerror}); give the path '
            'of a file that `dmo export` wrote'
        ) from error


def _open(data: bytes, providers: list[str]) -> Any:
    """Open a session; onnxruntime alone would fall back to the CPU without a word."""
    try:
        import onnxruntime
    except ImportError as error:
        raise PolicyError(
            'running a policy needs onnxruntime, which is not installed; install '
            "it: pip install 'dmo_ros[deploy]'"
        ) from error
    available = onnxruntime.get_available_providers()
    if providers[0] not in available:
        raise PolicyError(
            f'the provider {providers[0]} is not in this onnxruntime (it has '
            f"{', '.join(available)}); for CUDA: pip install 'dmo_ros[gpu]'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class but this one
        raise PolicyError(
            f'onnxruntime cannot open the graph ({error}); export it again, or update onnxruntime'
        ) from error
    if session.get_providers()[0] != providers[0]:
        raise PolicyError(
            f'{providers[0]} was asked for, onnxruntime chose '
            f'{session.get_providers()[0]}; its libraries do not load here'
        )
    return session


def _ends(tensors: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, _TYPES.get(t.type, t.type), tuple(t.shape)) for t in tensors)
