"""The pusher's graph as `dmo up` starts it: lockstep, stamps, labels, deaths."""

import os
import signal
import subprocess
import sys
import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.actions import to_si
from dmo_ros.core.policy import Policy
from dmo_ros.msg import IntentLabel, PolicyStatus
from dmo_ros.nodes import convert, qos
from dmo_ros.twins.pusher import PusherTwin
from dmo_ros.up import running, UpError
from geometry_msgs.msg import TwistStamped
import numpy as np
import pytest
import rclpy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

PERIOD = 200_000_000
FAST = {'speed': 1000, 'seed': 3}
KINDS = {
    'image_raw': Image,
    'camera_info': CameraInfo,
    'cmd': TwistStamped,
    'joy': Joy,
    'cmd_policy': TwistStamped,
    'cmd_teleop': TwistStamped,
    'intent': IntentLabel,
    'twin/state': JointState,
    'clock': Clock,
}


def stamp(message):
    if isinstance(message, Clock):
        return convert.nanoseconds(message.clock)
    return convert.nanoseconds(getattr(message, 'header', message).stamp)


@pytest.fixture
def listen(new_probe):
    """Return a function that listens to topics with a fresh node, and to the gate's status."""
    rclpy.init()
    ears = []

    def open_ears(*topics):
        ear = new_probe()
        ears.append(ear)
        for topic in topics:
            ear.listen(KINDS[topic], topic)
        ear.listen(DiagnosticStatus, 'gate/status', qos.LATCHED)
        ear.listen(PolicyStatus, 'policy/status', qos.LATCHED)
        return ear

    yield open_ears
    for ear in ears:
        ear.node.destroy_node()
    rclpy.try_shutdown()


def by_stamp(ear, topic):
    """The first message of each stamp."""
    found = {}
    for _, message in ear.heard[topic]:
        found.setdefault(stamp(message), message)
    return found


def state_of(ear):
    message = ear.last('gate/status')
    return next((p.value for p in message.values if p.key == 'state'), '') if message else ''


def test_play_is_causal_complete_and_what_the_simulator_says(listen):
    """Every frame gets one command and one label with its stamp; the twin obeyed just these."""
    ear = listen(*KINDS)
    with running('pusher', {'speed': 20, 'seed': 3, 'operator': 'play'}) as graph:  # we keep up
        heard = [topic for topic in KINDS if topic != 'cmd_policy']
        ear.until(lambda: state_of(ear) == 'ACTIVE' and all(ear.heard[topic] for topic in heard))
        count = len(ear.heard['image_raw'])
        ear.until(lambda: len(ear.heard['image_raw']) > count + 200)
        graph.check()
        ear.spin(0.3)
    images, states, commands, labels, pads = (
        by_stamp(ear, topic) for topic in ('image_raw', 'twin/state', 'cmd', 'intent', 'joy')
    )
    began = max(map(min, (images, states, commands, labels, pads, by_stamp(ear, 'clock'))))
    stamps = [now for now in sorted(images) if now >= began][:-2]
    assert np.all(np.diff(stamps) == PERIOD) and len(stamps) > 150, 'no frame is missing'
    assert set(stamps) <= set(states) & set(commands) & set(labels) & set(pads)
    assert set(stamps) <= set(by_stamp(ear, 'clock'))
    twin = PusherTwin(1)
    for now, later in zip(stamps, stamps[1:]):
        twin.reset(state=np.array(states[now].position)[None])
        np.testing.assert_array_equal(convert.to_rgb(images[now]), twin.render()[0])
        twin.step(np.array([convert.from_command(commands[now], ear.spec)]))
        np.testing.assert_allclose(twin.state[0], states[later].position, atol=1e-12)
    assert {label.label for label in labels.values()} >= {IntentLabel.PLAY}


def test_a_place_is_a_jump_in_time_and_wrong_places_are_ignored(listen):
    ear = listen('twin/state')
    with running('pusher', {**FAST, 'operator': 'expert'}) as graph:
        ear.until(lambda: state_of(ear) == 'ACTIVE')
        out = ear.publisher(JointState, 'twin/place', qos.FEW)
        ear.until(lambda: out.get_subscription_count() == 1)
        for wrong in ([], [0.2, 0.2, 0.7], [0.2, 0.2, 0.7, float('nan')], [0.2, 0.2, 0.7, 1.5]):
            out.publish(JointState(position=wrong))
        out.publish(JointState(position=[0.2, 0.3, 0.7, 0.6]))
        ear.until(
            lambda: [0.2, 0.3, 0.7, 0.6] in [list(m.position) for _, m in ear.heard['twin/state']]
        )
        assert ear.call('twin/reset').success
        ear.spin(0.2)
        graph.check()
    jumps = np.diff(sorted(by_stamp(ear, 'twin/state')))
    assert sorted(jumps[jumps != PERIOD]) == [10 * PERIOD, 10 * PERIOD]


def test_at_speed_one_time_is_real_and_answers_still_fit(listen):
    ear = listen('twin/state')
    with running('pusher', {'operator': 'play', 'speed': 1}) as graph:
        ear.until(lambda: state_of(ear) == 'ACTIVE' and ear.heard['twin/state'])
        first = ear.heard['twin/state'][-1]
        ear.spin(1.5)
        last = ear.heard['twin/state'][-1]
        graph.check()
    assert (stamp(last[1]) - stamp(first[1])) * 1e-9 == pytest.approx(last[0] - first[0], abs=0.15)


def test_without_anybody_the_twin_waits_then_goes_on_standing_still(listen):
    ear = listen('twin/state')
    with running('pusher', FAST, {'twin': {'lockstep_timeout': 0.1}}) as graph:
        ear.until(lambda: len(ear.heard['twin/state']) > 4)
        graph.check()
    places = {tuple(message.position) for _, message in ear.heard['twin/state']}
    assert len(places) == 1


def test_a_policy_drives_and_each_episode_begins_anew(listen, policy_file):
    ear = listen('image_raw', 'cmd_policy', 'cmd')
    arguments = {'speed': 20, 'operator': 'watch', 'policy': policy_file}
    with running('pusher', arguments) as graph:
        ear.until(lambda: len(ear.heard['cmd_policy']) > 30 and state_of(ear) == 'ACTIVE')
        ear.call('twin/reset')

        def since_the_reset():
            stamps = sorted(by_stamp(ear, 'image_raw'))
            jumps = np.flatnonzero(np.diff(stamps) > 2.5 * PERIOD)
            return len(stamps) - 1 - int(jumps[-1]) if len(jumps) else 0

        ear.until(lambda: since_the_reset() > 20)
        graph.check()
        ear.spin(0.3)
    images, answers = by_stamp(ear, 'image_raw'), by_stamp(ear, 'cmd_policy')
    stamps = sorted(images)
    start = len(stamps) - since_the_reset()
    policy = Policy.load(policy_file, ear.spec)
    for now in (stamp for stamp in stamps[start:] if stamp <= max(answers)):
        expected = to_si(policy.step(convert.to_rgb(images[now])), ear.spec.driven)
        np.testing.assert_allclose(
            convert.from_command(answers[now], ear.spec), expected, atol=1e-6
        )
    forwarded = by_stamp(ear, 'cmd')
    assert any(any(convert.from_command(m, ear.spec)) for m in forwarded.values())
    assert ear.last('policy/status').state == PolicyStatus.ACTIVE


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP], ids=['kill', 'hang'])
def test_a_policy_that_dies_is_a_stop_and_the_next_may_drive(listen, start, policy_file, number):
    """Killed or hanging: zero in time. Started again: not blocked by the ghost of the old one."""
    ear = listen('cmd')
    arguments = {**FAST, 'operator': 'watch', 'policy': policy_file}
    with running('pusher', arguments, {'twin': {'lockstep_timeout': 0.1}}) as graph:
        ear.until(lambda: any(ear.velocity() or ()))
        graph.children['policy'].send(number)
        limit = ear.spec.limits.command_timeout + 0.4 / 8.0
        assert ear.until(lambda: not any(ear.velocity())) < limit + 0.5
        graph.children['policy'].send(signal.SIGKILL)
        ear.spin(1.5)  # the ghost's lease: until then a second writer counts as a rival
        count = len(ear.heard['cmd'])
        start('policy', path=str(policy_file), autostart=True)
        ear.until(
            lambda: any(
                any(convert.from_command(m, ear.spec)) for _, m in ear.heard['cmd'][count:]
            )
        )
    assert state_of(ear) != 'FAULT', ear.last('gate/status').message


def test_a_policy_file_that_is_none_ends_the_graph_with_the_reason(tmp_path):
    wrong = tmp_path / 'policy.onnx'
    wrong.write_bytes(b'not a policy')
    with running('pusher', {'policy': wrong}) as graph, pytest.raises(UpError, match='dmo export'):
        graph.wait_ready()
        graph.wait('policy', 20)
        graph.check()


def run_up(*words):
    return subprocess.Popen(
        [sys.executable, '-m', 'dmo_ros.up', *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def read_until(popen, text):
    lines = []
    for line in popen.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(''.join(lines))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_runner_ends_all_on_a_signal(number):
    up = run_up('pusher')
    read_until(up, '[twin]')
    began = time.monotonic()
    up.send_signal(number)
    assert up.wait(10) == 0
    assert time.monotonic() - began < 5


def test_the_runner_ends_with_a_required_node_and_says_which():
    up = run_up('pusher')
    lines = []
    while not any('twin]: ready' in line for line in lines):
        lines += read_until(up, 'ready')
    victims = [pid for pid in children(up.pid) if 'dmo_ros.nodes.camera' in command_line(pid)]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    output = up.stdout.read()
    assert up.wait(15) == 1
    assert "node 'camera' ended with code -9" in output


def test_no_node_outlives_a_killed_runner():
    up = run_up('pusher')
    lines = []
    while not any('twin]: ready' in line for line in lines):
        lines += read_until(up, 'ready')
    nodes = children(up.pid)
    assert len(nodes) == 4
    up.kill()
    up.wait()
    deadline = time.monotonic() + 10
    while any('dmo_ros.nodes' in command_line(pid) for pid in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        return [int(word) for word in file.read().split()]


def command_line(pid):
    try:
        with open(f'/proc/{pid}/cmdline') as file:
            return file.read().replace('\0', ' ')
    except FileNotFoundError:
        return ''
