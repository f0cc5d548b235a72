"""A policy file small enough to be rebuilt for every case, and a desk to try the gate on."""

from types import SimpleNamespace

from dmo_ros.core.actions import bounds
from dmo_ros.core.contract import BATCH, Contract, Golden, interface, TensorSpec
from dmo_ros.core.gate import Gate, GateConfig, POLICY, State, TELEOP
from dmo_ros.core.intent import Pad
from dmo_ros.core.policy import ClosedLoop
from dmo_ros.core.seal import seal
from dmo_ros.core.tasks import get_task
import numpy as np
import pytest

WIDTH = 2


def weights(rows, width=WIDTH):
    return np.random.default_rng(3).normal(size=(rows, width)).astype(np.float32)


def oracle(image, prev_action, is_first, *more):
    """What the graph below computes, in numpy; ``more`` is h, before it proprioception if any."""
    *felt, h = more
    mean = image.astype(np.float32).mean(axis=(2, 3)).reshape(len(image), -1) / np.float32(255)
    kept, width = 1 - is_first, prev_action.shape[1]
    h = mean @ weights(mean.shape[1], width) + 0.5 * kept * h
    if felt:
        h = h + felt[0] @ weights(felt[0].shape[1], width)
    h = np.tanh(h)
    return np.tanh(h + 0.3 * kept * prev_action), h


def graph(stack, size=32, nan_on_black=False, width=WIDTH, own=0):
    """The same as ONNX bytes: a recurrent policy of a few nodes, ``own``: of proprioception."""
    onnx = pytest.importorskip('onnx')
    make, types = onnx.helper, onnx.TensorProto

    def end(name, kind, *shape):
        return make.make_tensor_value_info(name, kind, [BATCH, *shape])

    def constant(name, array):
        return onnx.numpy_helper.from_array(np.asarray(array), name)

    nodes = [
        make.make_node('Cast', ['image'], ['x0'], to=types.FLOAT),
        make.make_node('ReduceMean', ['x0', 'axes'], ['x1'], keepdims=0),
        make.make_node('Reshape', ['x1', 'flat'], ['x2']),
        make.make_node('Div', ['x2', 'scale'], ['x3']),
        make.make_node('MatMul', ['x3', 'w'], ['x5' if own else 'x4']),
        make.make_node('Sub', ['one', 'is_first'], ['kept']),
        make.make_node('Mul', ['h', 'kept'], ['h1']),
        make.make_node('Mul', ['h1', 'half'], ['h2']),
        make.make_node('Add', ['x4', 'h2'], ['h3']),
        make.make_node('Tanh', ['h3'], ['h_next']),
        make.make_node('Mul', ['prev_action', 'kept'], ['p1']),
        make.make_node('Mul', ['p1', 'third'], ['p2']),
        make.make_node('Add', ['h_next', 'p2'], ['a1']),
        make.make_node('Tanh', ['a1'], ['a2' if nan_on_black else 'action']),
    ]
    if own:
        nodes[5:5] = [
            make.make_node('MatMul', ['proprio', 'v'], ['felt']),
            make.make_node('Add', ['x5', 'felt'], ['x4']),
        ]
    if nan_on_black:
        nodes += [
            make.make_node('ReduceSum', ['x3', 'last'], ['s0'], keepdims=1),
            make.make_node('Div', ['s0', 's0'], ['s1']),
            make.make_node('Mul', ['a2', 's1'], ['action']),
        ]
    f32 = np.float32
    model = make.make_model(
        make.make_graph(
            nodes,
            'tiny',
            [
                end('image', types.UINT8, stack, size, size, 3),
                end('prev_action', types.FLOAT, width),
                end('is_first', types.FLOAT, 1),
                *([end('proprio', types.FLOAT, own)] if own else []),
                end('h', types.FLOAT, width),
            ],
            [end('action', types.FLOAT, width), end('h_next', types.FLOAT, width)],
            [
                constant('axes', np.int64([2, 3])),
                constant('flat', np.int64([-1, 3 * stack])),
                constant('last', np.int64([1])),
                constant('scale', f32(255)),
                constant('one', f32(1)),
                constant('half', f32(0.5)),
                constant('third', f32(0.3)),
                constant('w', weights(3 * stack, width)),
                *([constant('v', weights(own, width))] if own else []),
            ],
        ),
        opset_imports=[make.make_opsetid('', 18)],
        ir_version=9,
    )
    return model.SerializeToString()


def contract(spec, stack, frames=6):
    rng = np.random.default_rng(5)
    seen = rng.integers(0, 256, (frames, spec.policy_size, spec.policy_size, 3), dtype=np.uint8)
    # Frames of different brightness, so that their order matters to a policy that sees means.
    seen = (seen // np.arange(1, frames + 1)[:, None, None, None]).astype(np.uint8)
    width, fields = len(spec.policy_actions), spec.proprioception
    felt = rng.uniform(*bounds(fields), (frames, len(fields))).astype(np.float32)
    proprio = felt if fields else None
    loop = ClosedLoop(oracle, width, stack, [(width,)], 1, fields)
    actions, first = [], (0, frames // 2)
    for index, frame in enumerate(seen):
        if index in first:
            loop.reset()
        actions.append(loop.step(frame[None], felt[index, None] if fields else None)[0])
    states = (TensorSpec('h', 'float32', (BATCH, width)),)
    return Contract(
        spec.to_dict(),
        stack,
        states,
        *interface(spec, stack, states),
        Golden(seen, first, np.stack(actions), proprio),
        {'commit': 'abc', 'seed': 1},
    )


def pieces(spec):
    stack = spec.frame_stack
    width, own = len(spec.policy_actions), len(spec.proprioception)
    model = graph(stack, spec.policy_size, width=width, own=own)
    promise = contract(spec, stack)
    return SimpleNamespace(
        spec=spec,
        stack=stack,
        graph=model,
        contract=promise,
        oracle=oracle,
        build=graph,
        promise=contract,
        sealed=seal(model, promise.to_json()),
    )


@pytest.fixture(scope='session')
def tiny():
    """A task, the pieces of a policy file for it, and the sealed bytes."""
    return pieces(get_task('pusher'))


@pytest.fixture(scope='session')
def body():
    """The same for a task that has proprioception and whose policy drives half of the body."""
    return pieces(get_task('grab_box'))


class Desk:
    """
    A gate with a person, a robot and a clock.

    The pad is heard at 50 Hz unless it is unplugged; so are a bridge, a camera and a posture
    where there is one.
    """

    def __init__(self, task='push_cube', posture=None, **needs):
        self.spec = get_task(task)
        self.transitions, self.sent = [], []
        config = GateConfig.of(self.spec, **needs)
        self.gate = Gate(config, lambda *transition: self.transitions.append(transition))
        self.now, self.stamp = 100.0, 10_000_000_000
        self.rest = tuple(field.rest for field in self.spec.actions)
        self.neutral = (0.0,) * len(self.rest)
        self.pad, self.teleop = Pad(self.neutral, False, False, False, False), self.rest
        self.plugged = self.teleop_runs = True
        self.bridge = (True, '') if config.need_bridge else None
        self.camera, self.posture = config.need_camera, posture

    def hold(self, deadman=True, stick=None, arm=False):
        self.pad = Pad(stick or self.neutral, deadman, False, False, arm)
        self.teleop = stick or self.rest
        return self.run(0.1)

    def surroundings(self):
        """Let bridge, camera and robot speak; what the gate sends upon it."""
        if self.bridge is not None:
            ok, reason = self.bridge
            yield self.gate.on_health(self.now, ok, not ok, reason)
        if self.camera:
            yield self.gate.on_frame(self.now, self.stamp)
        if self.posture is not None:
            self.gate.on_posture(self.now, self.posture, self.stamp)

    def run(self, seconds, policy=None):
        """Let time pass; ``policy`` sends its command once in a period."""
        out, due = [], self.now
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.stamp += 20_000_000
            out += self.surroundings()
            if self.plugged:
                out.append(self.gate.on_pad(self.now, self.pad, self.stamp))
                if self.teleop_runs:
                    out.append(self.gate.on_command(self.now, TELEOP, self.teleop, self.stamp))
            if policy is not None and self.now >= due:
                due += self.spec.period
                out.append(self.gate.on_command(self.now, POLICY, policy, self.stamp))
            out.append(self.gate.tick(self.now))
        out = [command for command in out if command is not None]
        self.sent += out
        return out

    def arm(self):
        self.hold(deadman=False)
        self.hold(deadman=True)
        self.run(0.2)
        self.hold(deadman=True, arm=True)
        self.hold(deadman=True)
        assert self.gate.state is State.ARMED, self.gate.reason
        return self

    def reasons(self):
        return [(before.value, after.value) for before, after, _ in self.transitions]


@pytest.fixture(scope='session')
def make_desk():
    """Return the Desk: call it with a task, the robot's posture, and what its gate needs."""
    return Desk


@pytest.fixture
def desk():
    """Return a Desk whose gate is before a Go2."""
    return Desk()
