"""What every bridge does, with the Go2's in a dry run: it needs no robot and no SDK."""

import math
import signal
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.tasks import get_task
from dmo_ros.graph import Process
from dmo_ros.nodes import convert, qos
from dmo_ros.up import Child
import pytest

SPEC = get_task('push_cube')
PATIENCE = 40.0


class Wheel:
    """The gate's place: commands at 50 Hz, and what it says of itself."""

    def __init__(self, probe):
        self.probe, self.values, self.frame, self.stamp = probe, None, '', 0
        self.kind = convert.command_type(SPEC)
        self.out = probe.node.create_publisher(self.kind, 'cmd', qos.COMMAND_OUT)
        self.gate_out = probe.node.create_publisher(DiagnosticStatus, 'gate/status', qos.LATCHED)
        self.timer = probe.node.create_timer(0.02, self._send)
        self.status = probe.listen(DiagnosticStatus, 'bridge/status', qos.LATCHED)
        self.sent = probe.listen(self.kind, 'bridge/sent')
        self.say('DISARMED')

    def _send(self):
        if self.values is not None:
            self.stamp += 20_000_000
            message = convert.to_command(self.values, SPEC, self.stamp)
            message.header.frame_id = self.frame or message.header.frame_id
            self.out.publish(message)

    def say(self, state):
        from dmo_ros.nodes.diagnostics import status

        self.gate_out.publish(status('gate', 0, '', {'state': state}))

    def bridge(self):
        if not self.status:
            return '', ''
        message = self.status[-1][1]
        pairs = {pair.key: pair.value for pair in message.values}
        return pairs.get('state', ''), message.message

    def wait(self, state):
        self.probe.until(lambda: self.bridge()[0] == state, PATIENCE)

    def drive(self):
        """Begin at rest, then move; returns once the bridge has sent a motion."""
        self.values, self.frame = (0.0, 0.0, 0.0), ''
        self.say('DISARMED')
        self.wait('active')
        self.say('ACTIVE')
        self.values = (0.3, 0.0, 0.0)
        self.probe.until(lambda: self.sent and self.sent[-1][1].twist.linear.x > 0, PATIENCE)


@pytest.fixture(scope='module')
def wheel(probe):
    child = Child(
        Process(
            'go2_bridge',
            '/',
            (),
            {'task': SPEC.name, 'sink': 'dry_run', 'autostart': True},
            {},
            True,
        ),
        None,
    )
    assert child.ready.wait(PATIENCE), child.story()
    yield Wheel(probe)
    child.send(signal.SIGINT)
    assert child.popen.wait(20) == 0, child.story()


def test_it_sends_what_it_is_told(wheel):
    wheel.drive()
    wheel.values = (-0.2, 0.1, 0.5)
    wheel.probe.until(lambda: wheel.sent[-1][1].twist.angular.z == 0.5, PATIENCE)
    assert convert.from_command(wheel.sent[-1][1], SPEC) == wheel.values


def test_silence_halts_it_and_only_a_gate_at_rest_releases_it(wheel):
    wheel.drive()
    wheel.values = None
    wheel.wait('halted')
    assert 'no command from the gate' in wheel.bridge()[1]
    wheel.values = (0.3, 0.0, 0.0)  # the gate is back and still says that it drives
    count = len(wheel.sent)
    wheel.probe.spin(1.0)
    assert wheel.bridge()[0] == 'halted' and len(wheel.sent) == count
    wheel.drive()


@pytest.mark.parametrize(
    ('values', 'frame', 'why'),
    [
        ((math.nan, 0.0, 0.0), '', 'outside its range'),
        ((0.0, math.inf, 0.0), '', 'outside its range'),
        ((0.61, 0.0, 0.0), '', 'outside its range'),
        ((0.3, 0.0, 0.0), 'world', 'frame'),
    ],
)
def test_what_the_gate_never_sends_halts_it(wheel, values, frame, why):
    wheel.drive()
    before = len(wheel.sent)
    wheel.values, wheel.frame = values, frame
    wheel.wait('halted')
    assert why in wheel.bridge()[1]
    for _, message in wheel.sent[before:]:
        sent = convert.from_command(message, SPEC)
        assert sent == (0.3, 0.0, 0.0)  # what was in force; never the refused one


def test_a_second_writer_halts_it(wheel):
    wheel.drive()
    before = len(wheel.sent)
    rogue = wheel.probe.node.create_publisher(wheel.kind, 'cmd', qos.COMMAND_OUT)
    try:
        rogue.publish(convert.to_command((-0.5, 0.0, 0.0), SPEC, wheel.stamp))
        wheel.wait('halted')
        assert '2 writers' in wheel.bridge()[1]
    finally:
        wheel.probe.node.destroy_publisher(rogue)
    assert all(message.twist.linear.x >= 0 for _, message in wheel.sent[before:])
    wheel.drive()  # once it is gone


def test_a_person_may_stop_it(wheel):
    wheel.drive()
    assert wheel.probe.call('go2_bridge/stop').success
    wheel.wait('halted')
    assert wheel.bridge()[1] == 'stopped on request'
    answer = wheel.probe.call('go2_bridge/damp')
    assert not answer.success and 'damp' in answer.message


@pytest.mark.parametrize(
    ('parameters', 'why'),
    [
        ({'robot': 'real', 'autostart': True}, 'needs interface'),
        ({'robot': 'twin', 'interface': 'eth0', 'autostart': True}, 'is for robot:=real'),
        ({'watchdog': 2.0}, 'lies outside 0.1 to 0.5'),
        ({'task': 'grab_box', 'autostart': True, 'connect_timeout': 0.0}, 'a Go2 takes vx'),
    ],
)
def test_what_makes_no_sense_is_a_sentence_and_an_end(parameters, why):
    words = [w for name, value in parameters.items() for w in ('-p', f'{name}:={value}')]
    command = [sys.executable, '-m', 'dmo_ros.nodes.go2_bridge', '--ros-args', *words]
    if 'connect_timeout' not in parameters:
        command += ['-p', 'connect_timeout:=0.0']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert why in done.stderr + done.stdout and 'Traceback' not in done.stderr, done.stderr
