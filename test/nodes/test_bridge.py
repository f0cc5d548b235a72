"""What every bridge does, with the Go2's in a dry run: it needs no robot and no SDK."""

import math
import signal
import subprocess
import sys

from dmo_ros.core.tasks import get_task
from dmo_ros.graph import Process
from dmo_ros.nodes import convert, qos
from dmo_ros.up import Child
import pytest

SPEC = get_task('push_cube')
PATIENCE = 40.0


@pytest.fixture(scope='module')
def wheel(probe, gate_standin):
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
    gate = gate_standin(probe, SPEC.name)
    gate.sent = probe.listen(convert.command_type(SPEC), 'bridge/sent')
    yield gate
    gate.close()
    child.send(signal.SIGINT)
    assert child.popen.wait(20) == 0, child.story()


def drive(wheel):
    """Begin at rest, then move; returns once the bridge has sent a motion."""
    wheel.values = (0.0, 0.0, 0.0)
    wheel.ready()
    wheel.values = (0.3, 0.0, 0.0)
    wheel.probe.until(lambda: wheel.sent and wheel.sent[-1][1].twist.linear.x > 0)


def test_it_sends_what_it_is_told(wheel):
    drive(wheel)
    wheel.values = (-0.2, 0.1, 0.5)
    wheel.probe.until(lambda: wheel.sent[-1][1].twist.angular.z == 0.5)
    assert convert.from_command(wheel.sent[-1][1], SPEC) == wheel.values


def test_silence_halts_it_and_only_a_gate_at_rest_releases_it(wheel):
    drive(wheel)
    wheel.values = None
    wheel.wait('halted')
    assert 'no command from the gate' in wheel.bridge()['why']
    wheel.values = (0.3, 0.0, 0.0)  # the gate is back and still says that it drives
    count = len(wheel.sent)
    wheel.probe.spin(1.0)
    assert wheel.bridge()['state'] == 'halted' and len(wheel.sent) == count
    drive(wheel)


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
    drive(wheel)
    before = len(wheel.sent)
    wheel.values, wheel.frame = values, frame
    wheel.wait('halted')
    assert why in wheel.bridge()['why']
    for _, message in wheel.sent[before:]:
        sent = convert.from_command(message, SPEC)
        assert sent == (0.3, 0.0, 0.0)  # what was in force; never the refused one


def test_a_second_writer_halts_it(wheel):
    drive(wheel)
    before = len(wheel.sent)
    rogue = wheel.probe.node.create_publisher(convert.command_type(SPEC), 'cmd', qos.COMMAND_OUT)
    try:
        rogue.publish(convert.to_command((-0.5, 0.0, 0.0), SPEC, wheel.stamp))
        wheel.wait('halted')
        assert '2 writers' in wheel.bridge()['why']
    finally:
        wheel.probe.node.destroy_publisher(rogue)
    assert all(message.twist.linear.x >= 0 for _, message in wheel.sent[before:])
    drive(wheel)  # once it is gone


def test_a_person_may_stop_it(wheel):
    drive(wheel)
    assert wheel.probe.call('go2_bridge/stop').success
    wheel.wait('halted')
    assert wheel.bridge()['why'] == 'stopped on request'
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
