"""Rows C6, T8, D1 and D2 of the fault table: what is wrong lies in the link or in the robot."""

import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time

from dmo_ros.nodes import convert, qos
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, Joy
from std_msgs.msg import Header

TOLERANCE = 0.1
MUTATIONS = 2000  # of each of five kinds of message
LOSS = 0.3
pytestmark = pytest.mark.faults


def test_t8_a_robot_that_falls(go2, book, run):
    """FAULT, latched: neither the robot's return nor the held dead-man moves it again."""
    go2.drive()
    at = go2.harm('firmware.force 1001')
    book('T8', 'robot falls into damping', 0.25 + TOLERANCE, go2.seconds_to_rest(at))
    go2.until(lambda: go2.state() == 'FAULT', why='a fallen robot is a fault')
    assert not go2.call('gate/clear_fault').success
    go2.harm('firmware.force 1013')
    before = len(go2.wire.heard)
    time.sleep(1.0)
    assert go2.state() == 'FAULT'
    assert not any(any(values) for _, values in go2.wire.heard[before:])
    go2.drive()  # after clear, neutral stick, a new press and arm


def mutated(raw, rng):
    """Return CDR bytes with some changed, some missing or some too many."""
    data = bytearray(raw)
    for _ in range(rng.integers(1, 8)):
        data[rng.integers(0, len(data))] = rng.integers(0, 256)
    cut = rng.integers(0, 3)
    if cut == 0:
        del data[rng.integers(1, len(data)) :]
    return bytes(data) + bytes(rng.integers(0, 256, 7).tolist() if cut == 1 else [])


def test_c6_bytes_that_are_no_message(go2, run):
    rng = np.random.default_rng(run)
    go2.held = False
    go2.until(lambda: go2.state() != 'ACTIVE' and not go2.moving(), why='it goes on driving')
    time.sleep(0.3)
    kind = convert.command_type(go2.spec)
    header = Header(frame_id='base_link')
    messages = {
        'cmd_policy': (kind(header=header), qos.COMMAND_OUT),
        'cmd': (kind(header=header), qos.COMMAND_OUT),
        'joy': (Joy(header=header, axes=[0.0] * 8, buttons=[0] * 12), qos.STREAM),
        'image_raw': (Image(header=header, height=4, width=4, step=12, encoding='rgb8',
                            data=bytes(48)), qos.STREAM),
        'bridge/status': (go2.bridge[-1][1], qos.LATCHED),
    }  # fmt: skip
    outs = {t: go2.node.create_publisher(type(m), t, q) for t, (m, q) in messages.items()}
    before = len(go2.wire.heard)
    for topic, (message, _) in messages.items():
        raw = serialize_message(message)
        for number in range(MUTATIONS):
            outs[topic].publish(mutated(raw, rng))
            if number % 50 == 0:
                time.sleep(0.02)  # a reader keeps few; give it time to choke on each
    for out in outs.values():
        go2.node.destroy_publisher(out)
    time.sleep(0.5)
    dead = [name for name, child in go2.graph.children.items() if child.code is not None]
    assert not dead, [go2.graph.children[name].story() for name in dead]
    assert not any(any(values) for _, values in go2.wire.heard[before:])
    go2.drive()  # all of them still work


def test_d2_a_link_that_loses_messages(go2, book, run):
    """At a loss of 30 % nothing is acted on that is older than T_cmd."""
    go2.drive()
    go2.kill('policy')
    rng, sent = random.Random(run), []
    with go2.as_policy() as command:
        command((0.3, 0.0, 0.0))
        go2.drive(repair=False)
        begun = time.monotonic()
        while time.monotonic() - begun < 10.0:
            if rng.random() > LOSS:
                sent.append(command((0.3, 0.0, 0.0), once=True))
            time.sleep(go2.spec.period)
    moved = [at for at, values in go2.wire.heard if at > begun + 0.5 and any(values)]
    ages = [at - max([s for s in sent if s <= at], default=begun) for at in moved]
    limit = max(2.5 * go2.spec.period, 0.25) + TOLERANCE
    ramp = 0.3 / go2.spec.limits.acceleration[0]
    book('D2', 'oldest command acted on at 30 % loss', limit + ramp, max(ages, default=0.0))
    go2.restart('policy')


GATE = """
import sys, time, rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.tasks import get_task
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.diagnostics import status
rclpy.init()
node, spec = rclpy.create_node('gate'), get_task('push_cube')
out = node.create_publisher(convert.command_type(spec), 'cmd', qos.COMMAND_OUT)
say = node.create_publisher(DiagnosticStatus, 'gate/status', qos.LATCHED)
state = ['ACTIVE']
def hear(message):
    state[0] = 'FAULT' if message.level == bytes([2]) else 'ACTIVE'
node.create_subscription(DiagnosticStatus, 'bridge/status', hear, qos.LATCHED)
def send():
    now = node.get_clock().now().nanoseconds
    out.publish(convert.to_command((0.3, 0.0, 0.0), spec, now))
node.create_timer(0.02, send)
node.create_timer(0.1, lambda: say.publish(status('gate', 0, '', {'state': state[0]})))
rclpy.spin(node)
"""
EAR = """
import sys, time, rclpy
from dmo_ros.core.tasks import get_task
from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.nodes import convert, qos
rclpy.init()
node, last = rclpy.create_node('ear'), ['']
def hear(message):
    state = next((pair.value for pair in message.values if pair.key == 'state'), '')
    if state != last[0] and (state, last[0]) != ('active', 'driven'):
        last[0] = state
        print(state, time.monotonic(), flush=True)
def hear_sent(message):
    if last[0] == 'active':
        last[0] = 'driven'
        print('driven', time.monotonic(), flush=True)
node.create_subscription(DiagnosticStatus, 'bridge/status', hear, qos.LATCHED)
node.create_subscription(
    convert.command_type(get_task('push_cube')), 'bridge/sent', hear_sent, qos.FEW
)
rclpy.spin(node)
"""


def ip(*words):
    return subprocess.run(['ip', *words], capture_output=True, text=True)


@pytest.fixture
def cable():
    """Return two network namespaces and the cable between them."""
    if os.geteuid() != 0 or shutil.which('ip') is None:
        pytest.skip('two network namespaces need root and iproute2')
    names = [f'dmof{os.getpid()}{end}' for end in 'ab']
    ends = [f'df{os.getpid() % 10**6}{end}' for end in 'ab']
    try:
        if any(ip('netns', 'add', name).returncode for name in names):
            pytest.skip('network namespaces are not allowed here')
        link = ('link', 'add', ends[0], 'netns', names[0], 'type', 'veth')
        if ip(*link, 'peer', 'name', ends[1], 'netns', names[1]).returncode:
            pytest.skip('this kernel has no veth')
        for number, (name, end) in enumerate(zip(names, ends)):
            ip('-n', name, 'link', 'set', 'lo', 'up')
            ip('-n', name, 'link', 'set', end, 'up')
            ip('-n', name, 'addr', 'add', f'10.213.8.{number + 1}/24', 'dev', end)
        yield names, ends
    finally:
        for name in names:
            ip('netns', 'del', name)


def test_d1_a_cable_that_is_pulled(cable, book, run):
    """The bridge halts with the link, and obeys again once it hears a gate at rest."""
    names, ends = cable
    peers = dict(zip(names, ('10.213.8.2', '10.213.8.1')))
    bridge = [sys.executable, '-m', 'dmo_ros.nodes.go2_bridge', '--ros-args']
    for word in ('sink:=dry_run', 'autostart:=true', 'task:=push_cube'):
        bridge += ['-p', word]
    commands = (
        (names[0], [sys.executable, '-c', GATE]),
        (names[1], bridge),
        (names[1], [sys.executable, '-c', EAR]),
    )
    running = [
        subprocess.Popen(
            ['ip', 'netns', 'exec', name, *command],
            env={
                **os.environ,
                'ROS_STATIC_PEERS': peers[name],
                'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4',  # shared memory knows no cable
            },
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE if command[-1] is EAR else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name, command in commands
    ]
    try:
        ear = running[-1].stdout

        def wait_for(state):
            for line in ear:
                said, at = line.split()
                if said == state:
                    return float(at)
            raise AssertionError(f'the bridge was never {state}')

        wait_for('driven')
        time.sleep(1.0)
        ip('-n', names[0], 'link', 'set', ends[0], 'down')
        down = time.monotonic()
        book('D1', 'cable pulled: bridge halted', 0.35 + TOLERANCE, wait_for('halted') - down)
        time.sleep(2.0)
        ip('-n', names[0], 'link', 'set', ends[0], 'up')
        up = time.monotonic()
        book('D1', 'cable back: obeys a gate at rest', 1.0 + TOLERANCE, wait_for('driven') - up)
    finally:
        for popen in running:
            popen.send_signal(signal.SIGINT)
        for popen in running:
            try:
                popen.wait(20)
            except subprocess.TimeoutExpired:
                popen.kill()
        running[-1].stdout.close()
