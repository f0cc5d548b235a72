"""Real processes on one side, a listening node in the test on the other."""

from collections import defaultdict
import contextlib
import importlib.util
import os
from pathlib import Path
import time

from dmo_ros.core.tasks import get_task
from dmo_ros.stacks import environment, Process, share
from dmo_ros.up import Child
import pytest

os.environ.update(environment())  # before rclpy is initialised in any test

with contextlib.suppress(ImportError):  # without ROS every test in this folder is skipped
    from diagnostic_msgs.msg import DiagnosticStatus
    from dmo_ros.nodes import convert, qos
    from dmo_ros.nodes.diagnostics import status
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Joy
    from std_msgs.msg import Header
    from std_srvs.srv import Trigger

PATIENCE = 40.0  # seconds; a busy machine is slow, a broken graph never comes


class Probe:
    """A node in the test: what it heard, by topic, with the steady time of arrival."""

    def __init__(self):
        self.node = rclpy.create_node('probe')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.heard = defaultdict(list)
        self.spec = get_task('pusher')

    def listen(self, kind, topic, profile=None):
        def take(message):
            self.heard[topic].append((time.monotonic(), message))

        self.node.create_subscription(kind, topic, take, profile or qos.EVERY)
        return self.heard[topic]

    def publisher(self, kind, topic, profile=None):
        return self.node.create_publisher(kind, topic, profile or qos.STREAM)

    def spin(self, seconds):
        self.until(lambda: False, seconds, strict=False)

    def until(self, condition, patience=PATIENCE, strict=True):
        """Spin until the condition holds; the time it took."""
        began = time.monotonic()
        while not condition():
            self.executor.spin_once(timeout_sec=0.01)
            if time.monotonic() - began > patience:
                assert not strict, f'not within {patience} s: {condition}'
                break
        return time.monotonic() - began

    def call(self, service):
        client = self.node.create_client(Trigger, service)
        assert client.wait_for_service(PATIENCE), service
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def last(self, topic):
        return self.heard[topic][-1][1] if self.heard[topic] else None

    def velocity(self, topic='cmd'):
        message = self.last(topic)
        return None if message is None else convert.from_command(message, self.spec)


class Pad:
    """A person's pad, heard 50 times a second for as long as it is plugged in."""

    def __init__(self, probe):
        self.probe, self.out = probe, probe.publisher(Joy, 'joy')
        self.plugged, self.stamp = True, 1_000_000_000
        self.hold()
        self.timer = probe.node.create_timer(0.02, self._report)

    def hold(self, deadman=False, stick=(0.0, 0.0), arm=False, intent=False, milestone=False):
        """Set the pad; the map is config/pusher.yaml's with the xbox buttons."""
        self.axes = [-float(stick[0]), float(stick[1])]
        self.buttons = [int(milestone), 0, 0, 0, int(deadman), int(intent), 0, int(arm)]

    def _report(self):
        self.stamp += 20_000_000
        if self.plugged:
            header = Header(stamp=convert.to_time(self.stamp))
            self.out.publish(Joy(header=header, axes=self.axes, buttons=self.buttons))


class GateStandin:
    """
    The gate's place before a bridge: its state and commands, 50 times a second, as a test says.

    ``values`` None is silence.  What the bridge says of itself is heard from now on only: an
    earlier bridge on the topic said things of its own.
    """

    def __init__(self, probe, task):
        self.probe, self.spec = probe, get_task(task)
        self.values, self.state, self.frame, self.stamp, self.last = None, 'DISARMED', '', 0, 0.0
        self.status, node = [], probe.node
        self.commands = node.create_publisher(
            convert.command_type(self.spec), 'cmd', qos.COMMAND_OUT
        )
        self.states = node.create_publisher(DiagnosticStatus, 'gate/status', qos.LATCHED)
        self.heard = node.create_subscription(
            DiagnosticStatus, 'bridge/status', self.status.append, qos.LATCHED
        )
        self.timer = node.create_timer(0.02, self._tick)

    def _tick(self):
        self.states.publish(status('gate', 0, '', {'state': self.state}))
        if self.values is not None:
            self.send(20_000_000)

    def send(self, later):
        """Publish the command once, stamped ``later`` nanoseconds after the one before."""
        self.stamp += later
        self.last = time.monotonic()
        message = convert.to_command(self.values, self.spec, self.stamp)
        message.header.frame_id = self.frame or message.header.frame_id
        self.commands.publish(message)

    def bridge(self):
        """What the bridge last said: its values, its sentence as ``why``, its ``level``."""
        if not self.status:
            return {'state': '', 'why': '', 'level': None}
        last = self.status[-1]
        values = {pair.key: pair.value for pair in last.values}
        return {**values, 'why': last.message, 'level': last.level}

    def wait(self, state, why=''):
        def said():
            bridge = self.bridge()
            return bridge['state'] == state and why in bridge['why']

        self.probe.until(said)

    def ready(self, state='ACTIVE'):
        """Begin at rest; returns once the bridge obeys, with the gate in another state."""
        self.state, self.frame = 'DISARMED', ''
        self.wait('active')
        self.state = state

    def close(self):
        node = self.probe.node
        node.destroy_timer(self.timer)
        node.destroy_subscription(self.heard)
        for publisher in (self.commands, self.states):
            node.destroy_publisher(publisher)


@pytest.fixture(scope='session')
def gate_standin():
    """The class, for tests of the bridges."""
    return GateStandin


@pytest.fixture(scope='session')
def new_probe():
    """The class, for tests that want a fresh node each."""
    return Probe


@pytest.fixture(scope='module')
def probe():
    rclpy.init()
    probe = Probe()
    yield probe
    probe.node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture(scope='module')
def pad(probe):
    return Pad(probe)


def process(name, **parameters):
    """One node as the pusher's stack would start it, with other parameters."""
    config = (share('config', 'pusher.yaml'), share('config', 'joy_xbox.yaml'))
    return Process(name, '/', config, {'task': 'pusher', **parameters}, {}, True)


def begin(name, wait=True, **parameters):
    child = Child(process(name, **parameters), None)
    if wait and not child.ready.wait(PATIENCE):
        end(child)
        raise AssertionError(child.story())
    return child


def end(child):
    child.send(9)
    child.popen.wait(5)


@pytest.fixture(scope='module')
def start_shared():
    """Start nodes that live as long as the module's tests."""
    children = []
    yield lambda name, **parameters: children.append(begin(name, **parameters)) or children[-1]
    for child in children:
        end(child)


@pytest.fixture
def start():
    """Start nodes that live as long as the test; ``wait=False`` for ones that should refuse."""
    children = []

    def start_one(name, wait=True, **parameters):
        children.append(begin(name, wait, **parameters))
        return children[-1]

    yield start_one
    for child in children:
        end(child)


def write_policy(file, **build):
    """Write a policy of a few nodes that passes every check, made as the core's tests make it."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    from dmo_ros.core.seal import seal

    place = Path(__file__).parent.parent / 'core' / 'conftest.py'
    found = importlib.util.spec_from_file_location('core_conftest', place)
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    spec = get_task('pusher')
    promise = made.contract(spec, spec.frame_stack)
    file.write_bytes(seal(made.graph(spec.frame_stack, **build), promise.to_json()))
    return file


@pytest.fixture(scope='session')
def policy_file(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp('policy') / 'policy.onnx')


@pytest.fixture(scope='session')
def spoilt_policy(tmp_path_factory):
    """One that answers a stack of black frames with what is not a number."""
    return write_policy(tmp_path_factory.mktemp('spoilt') / 'policy.onnx', nan_on_black=True)
