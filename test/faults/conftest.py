"""
A running graph to do harm to, ears at the gate and at the robot's own wire, and a book of limits.

Times are taken where they count: when the command that reaches the robot is zero.  Set
DMO_FAULT_RUNS for more than one run of each fault, and DMO_FAULT_TABLE to a file that collects
what was measured (docs/fault_table.py makes the table of it).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.core.contract import BATCH, Contract, Golden, interface
from dmo_ros.core.seal import seal
from dmo_ros.core.tasks import get_task
from dmo_ros.nodes import convert, qos
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from dmo_ros.stacks import get_stack
from dmo_ros.up import Child, Graph
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

PATIENCE = 60.0
RUNS = int(os.environ.get('DMO_FAULT_RUNS', '1'))
SETTLED = 0.6  # seconds without motion that prove a stop
DRIVEN = 0.5  # what the policy of these tests always answers, normalised


@pytest.fixture(params=range(RUNS))
def run(request):
    """Return the number of this run of a fault."""
    return request.param


@pytest.fixture(scope='session')
def book():
    """Return a function that notes row, what happened, limit and measured seconds."""
    path = os.environ.get('DMO_FAULT_TABLE')

    def note(row, what, limit, seconds):
        assert seconds <= limit, f'{row} {what}: {seconds:.3f} s, the limit is {limit:.3f} s'
        if path:
            with open(path, 'a') as file:
                line = {'row': row, 'fault': what, 'limit': limit, 'seconds': seconds}
                file.write(json.dumps(line) + '\n')

    return note


def write_policy(file, task):
    """Write a policy that always answers the same, whatever it sees."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    spec = get_task(task)
    make, types = onnx.helper, onnx.TensorProto
    width, size, stack = len(spec.driven), spec.policy_size, spec.frame_stack

    def end(name, kind, *shape):
        return make.make_tensor_value_info(name, kind, [BATCH, *shape])

    answer = np.full((1, width), DRIVEN, np.float32)
    answer[:, 1:] = 0.0
    nodes = [
        make.make_node('Cast', ['image'], ['x0'], to=types.FLOAT),
        make.make_node('ReduceMean', ['x0', 'axes'], ['x1'], keepdims=0),
        make.make_node('Mul', ['x1', 'nothing'], ['x2']),
        make.make_node('Reshape', ['x2', 'column'], ['x3']),
        make.make_node('Mul', ['prev_action', 'nothing'], ['p0']),
        make.make_node('Mul', ['is_first', 'nothing'], ['f0']),
        make.make_node('Add', ['p0', 'x3'], ['a0']),
        make.make_node('Add', ['a0', 'f0'], ['a1']),
        make.make_node('Add', ['a1', 'answer'], ['action']),
    ]
    model = make.make_model(
        make.make_graph(
            nodes,
            'constant',
            [
                end('image', types.UINT8, stack, size, size, 3),
                end('prev_action', types.FLOAT, width),
                end('is_first', types.FLOAT, 1),
            ],
            [end('action', types.FLOAT, width)],
            [
                onnx.numpy_helper.from_array(np.asarray(array), name)
                for name, array in (
                    ('axes', np.int64([1, 2, 3, 4])),
                    ('column', np.int64([-1, 1])),
                    ('nothing', np.float32(0)),
                    ('answer', answer),
                )
            ],
        ),
        opset_imports=[make.make_opsetid('', 18)],
        ir_version=9,
    )
    seen = np.random.default_rng(5).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    golden = Golden(seen, (0, 2), np.repeat(answer, 4, axis=0))
    promise = Contract(
        spec.to_dict(), stack, (), *interface(spec, stack, ()), golden, {'commit': '', 'seed': 1}
    )
    file.write_bytes(seal(model.SerializeToString(), promise.to_json()))
    return file


class Wire:
    """Hears what is sent to the Go2 on its own DDS topic, as the robot would."""

    def __init__(self):
        self.heard = []
        sdk = unitree.open_channel(twin_dds_domain(int(os.environ['ROS_DOMAIN_ID'])))
        self.reader = unitree.Subscription(
            'rt/api/sport/request', sdk.api.Request_, self._on_request
        )
        self.walked = [0.0]  # when it was last seen to walk
        self.state = unitree.Subscription(
            'rt/sportmodestate', sdk.go.SportModeState_, self._on_state
        )

    def _on_state(self, state):
        if np.hypot(*state.velocity[:2]) > 0.05 or abs(state.yaw_speed) > 0.1:
            self.walked.append(time.monotonic())

    def _on_request(self, request):
        call = request.header.identity.api_id
        if call == 1008:
            wanted = json.loads(request.parameter)
            self.heard.append((time.monotonic(), (wanted['x'], wanted['y'], wanted['z'])))
        elif call in (1001, 1003):
            self.heard.append((time.monotonic(), (0.0, 0.0, 0.0)))

    def story(self):
        """How long each ear has heard nothing, and where the robot was last."""
        now, state = time.monotonic(), self.state.sample
        ages = [f'{now - ear.arrived:.2f} s' for ear in (self.reader, self.state)]
        pose = state and [round(float(x), 2) for x in state.position[:2]]
        return f'; silent: requests {ages[0]}, state {ages[1]}, robot at {pose}'

    def close(self):
        self.reader.close()
        self.state.close()


class Rig:
    """A graph with a policy at the wheel and a person who holds the dead-man."""

    def __init__(self, task, policy, wire=None, **arguments):
        self.spec = get_task(task)
        given = {'policy': str(policy), **arguments}
        self.processes = get_stack(task).resolve(given)
        self.graph = Graph(self.processes, None)
        self.wire = wire
        self.node = rclpy.create_node('fault_rig')
        self.commands, self.gate, self.bridge = [], [], []
        self.commands_in = self._hear_commands()
        self._listen('gate/status', self.gate)
        self._listen('bridge/status', self.bridge)
        self.twin = np.nan
        self.node.create_subscription(JointState, 'twin/state', self._on_twin, qos.NEWEST)
        self.place_out = self.node.create_publisher(JointState, 'twin/place', qos.FEW)
        self.harm_out = self.node.create_publisher(String, 'twin/harm', qos.FEW)
        self.joy_out = self.node.create_publisher(Joy, 'joy', qos.STREAM)
        self.plugged, self.held, self.pressed, self.stick = True, False, False, 0.0
        self.teleop = next(p for p in self.processes if p.name == 'teleop')
        self.node.create_timer(0.02, self._report)
        self.ended = False
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()
        self.graph.wait_ready(PATIENCE)

    def _spin(self):
        while not self.ended:
            with contextlib.suppress(Exception):  # garbage on a topic that it hears itself
                self.executor.spin_once(timeout_sec=0.1)

    def _hear_commands(self):
        kind = convert.command_type(self.spec)
        return self.node.create_subscription(kind, 'cmd', self._on_command, qos.EVERY)

    @contextlib.contextmanager
    def deaf(self):
        """Take no part in ``cmd``: whoever finds a listener there has found gate or bridge."""
        self.node.destroy_subscription(self.commands_in)
        try:
            yield
        finally:
            self.commands_in = self._hear_commands()

    def _listen(self, topic, into):
        def take(message):
            into.append((time.monotonic(), message))

        self.node.create_subscription(DiagnosticStatus, topic, take, qos.LATCHED)

    def _on_twin(self, message):
        self.twin = np.array(message.position)

    def _on_command(self, message):
        self.commands.append((time.monotonic(), convert.from_command(message, self.spec)))

    def _report(self):
        if not self.plugged:
            return
        axes, buttons = [0.0] * 32, [0] * 16
        axes[1] = self.stick
        buttons[4], buttons[7] = int(self.held), int(self.pressed)  # the xbox map
        header = Header(stamp=self.node.get_clock().now().to_msg())
        self.joy_out.publish(Joy(header=header, axes=axes, buttons=buttons))

    # ------------------------------------------------------------------ what a person does
    def until(self, condition, patience=PATIENCE, why=''):
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f'{why or condition}; {self.story()}'
            time.sleep(0.005)

    def state(self):
        if not self.gate:
            return ''
        message = self.gate[-1][1]
        return next((pair.value for pair in message.values if pair.key == 'state'), '')

    def fallen(self):
        """Tell whether the bridge says that the robot itself is in a fault."""
        values = self.bridge[-1][1].values if self.bridge else ()
        return any((pair.key, pair.value) == ('fault', 'true') for pair in values)

    def story(self):
        now = time.monotonic()
        gate = '; '.join(f'{at - now:.2f} {said.message}' for at, said in self.gate[-5:])
        bridge = self.bridge[-1][1].message if self.bridge else 'silent'
        heard = self.wire.story() if self.wire else ''
        return f'gate {self.state()}: {gate}; bridge: {bridge}; last {self.commands[-1:]}{heard}'

    def call(self, service):
        client = self.node.create_client(Trigger, service)
        try:
            assert client.wait_for_service(PATIENCE), service
            future = client.call_async(Trigger.Request())
            self.until(future.done, why=service)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def drive(self, repair=True):
        """Arm as a person does, and wait until the policy moves the robot."""
        self.plugged, self.held, self.stick = True, False, 0.0
        for name, child in list(self.graph.children.items()):
            child.send(signal.SIGCONT)
            if (
                repair and child.code is not None
            ):  # a test before this one failed before its repair
                self.restart(name)
        self.until(lambda: self.state() in ('DISARMED', 'FAULT'), why='the dead-man is up')
        deadline = time.monotonic() + PATIENCE
        while not (self.state() == 'ACTIVE' and self.moving()):
            assert time.monotonic() < deadline, self.story()
            if self.fallen():
                self.harm('firmware.force 1013')
            if self.state() == 'FAULT':
                self.call('gate/clear_fault')
            if self.state() in ('DISARMED', ''):
                self.held = self.pressed = False
                time.sleep(0.15)
                self.held = True
                time.sleep(0.25)
                self.pressed = True
                time.sleep(0.1)
                self.pressed = False
            time.sleep(0.2)

    # ------------------------------------------------------------------ what is seen
    def moving(self):
        """Tell whether the newest command moves, at the gate and on the wire."""
        now = time.monotonic()
        places = [self.commands] + ([self.wire.heard] if self.wire else [])
        return all(
            place and now - place[-1][0] < 0.5 and any(place[-1][1][:3]) for place in places
        )

    def seconds_to_rest(self, since, wire=True):
        """Wait for a stop that lasts; return the seconds from ``since`` to the first zero."""
        place = self.wire.heard if wire and self.wire else self.commands

        def last_motion():
            # A robot holds what it heard last: a motion counts until the next message.
            for index in range(len(place) - 1, -1, -1):
                if any(place[index][1][:3]):
                    return place[index + 1][0] if index + 1 < len(place) else None
                if place[index][0] < since:
                    return since
            return since

        def rested():
            end = last_motion()
            return end is not None and time.monotonic() - end > SETTLED

        walking = bool(self.wire) and any(since - 0.2 < at <= since for at in self.wire.walked)
        self.until(rested, why='it never stopped')
        heard = max(0.0, last_motion() - since)
        if not walking:
            return heard
        # Requests are best effort and this ear may miss one; the robot that stood had not.
        return min(heard, max(0.0, self.wire.walked[-1] - since))

    def seconds_to_stand(self, since):
        """Wait until the robot says that it stands; return the seconds from ``since`` to that."""

        def stood():
            return time.monotonic() - max(self.wire.walked[-1], since) > SETTLED

        self.until(stood, why='the robot never stood')
        return max(0.0, self.wire.walked[-1] - since)

    # ------------------------------------------------------------------ harm, and repair
    def harm(self, line):
        """Throw a switch of the robot's peer."""
        self.until(self.harm_out.get_subscription_count, why='nobody hears twin/harm')
        self.harm_out.publish(String(data=line))
        return time.monotonic()

    def place(self, state):
        """Put the twin elsewhere and wait until it is there."""
        self.until(self.place_out.get_subscription_count, why='nobody hears twin/place')
        self.place_out.publish(JointState(position=list(map(float, state))))
        self.until(lambda: np.allclose(self.twin, state, atol=0.15), why='it was not placed')

    def let_go(self):
        """Release the dead-man and report it at once."""
        self.held = False
        self._report()
        return time.monotonic()

    @contextlib.contextmanager
    def as_policy(self):
        """Speak on cmd_policy in the policy's place, at 20 Hz."""
        out = self.node.create_publisher(
            convert.command_type(self.spec), 'cmd_policy', qos.COMMAND_OUT
        )
        said = {'values': None, 'ahead': 0}

        def publish():
            if said['values'] is not None:
                stamp = self.node.get_clock().now().nanoseconds + said['ahead']
                out.publish(convert.to_command(said['values'], self.spec, stamp))

        timer = self.node.create_timer(0.05, publish)

        def command(values, ahead=0.0, once=False):
            said.update(values=values, ahead=int(ahead * 1e9))
            publish()
            if once:
                said['values'] = None
            return time.monotonic()

        try:
            yield command
        finally:
            said['values'] = None
            timer.cancel()
            self.node.destroy_timer(timer)
            self.node.destroy_publisher(out)

    def send(self, name, number):
        self.graph.children[name].send(number)
        return time.monotonic()

    def kill(self, name):
        at = self.send(name, signal.SIGKILL)
        self.graph.children[name].popen.wait(10)
        return at

    def restart(self, name):
        process = next(p for p in self.processes if p.name == name)
        child = self.graph.children[name] = Child(process, None)
        assert child.ready.wait(PATIENCE), child.story()

    def close(self):
        for child in self.graph.children.values():
            child.send(signal.SIGCONT)
        self.graph.stop()
        self.ended = True
        self.thread.join(5)
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture(scope='module')
def ros():
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def go2(ros, tmp_path_factory):
    """Return the push_cube graph with its robot's peer, and an ear on the robot's wire."""
    pytest.importorskip('mujoco')
    try:
        unitree.sdk()
    except RobotError as error:
        pytest.skip(str(error))
    policy = write_policy(tmp_path_factory.mktemp('policy') / 'policy.onnx', 'push_cube')
    wire = Wire()
    rig = Rig('push_cube', policy, wire)
    yield rig
    rig.close()
    wire.close()


@pytest.fixture(scope='module')
def pusher(ros, tmp_path_factory):
    """Return the pusher's graph: no bridge, the gate is the last to speak."""
    policy = write_policy(tmp_path_factory.mktemp('policy') / 'policy.onnx', 'pusher')
    rig = Rig('pusher', policy)
    yield rig
    rig.close()
