"""The twin moved through SONIC's protocol and the peer, against the same twin stepped itself."""

import os
import threading
import time

from dmo_ros.core.addresses import twin_dds_domain, twin_port
from dmo_ros.core.tasks import get_task
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from dmo_ros.robots.g1 import G1, G1Config
import numpy as np
import pytest

for module in ('zmq', 'msgpack', 'mujoco', 'dmo_ros.twins.grab_box'):
    pytest.importorskip(module)
try:
    unitree.sdk()
except RobotError as missing:
    pytest.skip(str(missing), allow_module_level=True)

from dmo_ros.twins.base import make_twin
from dmo_ros.twins.g1_peer import G1Peer

# At the end of the whole suite a burst is at times one message short, for a reason not yet known;
# alone they pass.
pytestmark = pytest.mark.slow
SPEC = get_task('grab_box')
PATIENCE = 30.0


def meet(robot, peer):
    """Let the two find each other, the peer's time passing meanwhile."""
    ended = threading.Event()

    def pass_time():
        while not ended.wait(0.01):
            peer.advance(0.02)

    thread = threading.Thread(target=pass_time)
    thread.start()
    try:
        robot.connect()
        robot.engage()
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def pair():
    """Return a robot in lockstep with the peer of a real twin, both engaged."""
    domain = int(os.environ['ROS_DOMAIN_ID'])
    peer = G1Peer(make_twin('grab_box', 1, 3), domain, lockstep=True)
    peer.start()
    addresses = (
        f'tcp://127.0.0.1:{twin_port(domain, name)}'
        for name in ('sonic_command', 'sonic_feedback')
    )
    robot = G1(G1Config('sonic', *addresses, twin_dds_domain(domain), lockstep=True), SPEC)
    meet(robot, peer)
    yield robot, peer
    robot.close()
    peer.stop()


def drive(robot, peer, command):
    """Send one command and let one control period pass, as bridge and twin node do."""
    robot.command(tuple(command.tolist()))
    for _ in range(peer.burst):
        robot.tick(SPEC.period / peer.burst)
    until = time.monotonic() + PATIENCE
    while peer.pending < peer.burst:
        assert time.monotonic() < until
        time.sleep(0.001)
    time.sleep(0.005)  # for the hands, whose DDS promises nothing
    peer.advance(SPEC.period)


def play(twin, steps, seed):
    """Return commands (steps, 22) as the gate lets them through: small changes, slow walking."""
    rng = np.random.default_rng(seed)
    low, high = np.array([(field.low, field.high) for field in SPEC.actions]).T
    command = np.concatenate([twin.state[0, :19], np.zeros(3)])
    speed, commands = np.array(SPEC.limits.speed), []
    rates = np.zeros(22)
    for _ in range(steps):
        rates = 0.8 * rates + 0.1 * rng.uniform(-1, 1, 22) * speed
        command = np.clip(command + rates * SPEC.period, low + 0.02, high - 0.02)
        command[17:19] = np.clip(command[17:19], 0.05, 0.95)
        command[19:] = (0.15, 0.0, 0.2)
        commands.append(command.copy())
    return commands


def test_what_arrives_through_the_protocol_is_what_was_commanded(pair):
    robot, peer = pair
    direct = make_twin('grab_box', 1, 3)
    direct.reset(state=peer.twin.state.copy())
    peer.twin.reset(state=peer.twin.state.copy())
    peer.reset()
    for command in play(direct, 30, 0):
        direct.step(command[None])
        drive(robot, peer, command)
        apart = np.abs(peer.twin.joint_position - direct.joint_position)[0]
        assert np.max(apart[:17]) < 0.05 and np.max(apart[17:]) < 0.15
    assert np.allclose(peer.twin.base, direct.base, atol=0.05)
    assert peer.sonic.counts['planner'] == 30 * peer.burst
    assert not peer.sonic.counts['violations'] and not peer.sonic.counts['refused']
    assert peer.sonic.counts['timeouts'] == 0


def test_after_a_new_start_the_arms_stay_where_the_twin_was_put(pair):
    robot, peer = pair
    for command in play(peer.twin, 20, 1):
        drive(robot, peer, command)
    peer.twin.reset()
    peer.reset()
    start = peer.twin.joint_position.copy()
    until = time.monotonic() + PATIENCE
    while not np.allclose(robot._measured(), start[0, :17], atol=1e-3):
        assert time.monotonic() < until
        time.sleep(0.005)
    for _ in range(5):
        drive(robot, peer, np.concatenate([start[0], np.zeros(3)]))
    assert np.allclose(peer.twin.joint_position[0, :17], start[0, :17], atol=0.05)
