"""The G1's bridge as a process, between a gate in the test and the peer in a third process."""

import importlib.util
import time

from dmo_ros.core.tasks import get_task
from dmo_ros.nodes.g1_bridge import FIELDS, G1BridgeConfig, make_g1, real_addresses
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

for name in ('zmq', 'msgpack'):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'not installed: {name}', allow_module_level=True)
try:
    unitree.sdk()
except RobotError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.ros

SPEC = get_task('grab_box')
REST = np.array([field.rest for field in SPEC.actions])
PATIENCE = 40.0


@pytest.fixture
def peer(start_g1_peer):
    return start_g1_peer()


@pytest.fixture
def gate(probe, gate_standin):
    made = gate_standin(probe, SPEC.name)
    yield made
    made.close()


def bridge(start, **changed):
    return start('g1_bridge', task='grab_box', autostart=True, ramp=0.3, **changed)


def drive(gate, vx=0.2):
    """Command rest, and once the bridge obeys, an active gate that walks; returns the command."""
    gate.values = REST.copy()
    gate.ready()
    gate.values[19] = vx
    return gate.values


@pytest.mark.parametrize('path', ['sonic', 'arm_sdk'])
def test_commands_move_the_robot_and_silence_of_the_gate_stops_it(probe, gate, peer, start, path):
    joints = probe.listen(JointState, 'joint_states')
    bridge(start, path=path)
    command = drive(gate)
    command[:17] = REST[:17] + 0.1
    command[17:19] = 0.5
    probe.until(lambda: peer.tell()['base'][0] > 0.05)
    wanted = command[:19].copy()
    probe.until(lambda: np.allclose(peer.tell()['joints'], wanted, atol=0.02))
    probe.until(
        lambda: joints and np.allclose(joints[-1][1].position, wanted, atol=0.02), PATIENCE
    )
    assert list(joints[-1][1].name) == [field.name for field in SPEC.proprioception]
    gate.values = None
    gate.wait('halted', 'no command from the gate')
    probe.until(lambda: not any(peer.tell()['velocity']))
    probe.spin(1.3)  # longer than SONIC waits: the arms are held all the same
    told = peer.tell()
    assert np.allclose(told['joints'], wanted, atol=0.02)
    assert not told['counts'].get('timeouts') and not told['counts'].get('refused')
    assert all(asked['duration'] <= 0.3 for api, asked in told['loco'] if api == 7105)


def test_after_a_stop_it_obeys_again_only_when_the_gate_was_at_rest(probe, gate, peer, start):
    bridge(start)
    drive(gate)
    probe.until(lambda: peer.tell()['velocity'][0] > 0.1)
    peer.say('mute 1')
    gate.wait('halted', 'silent')
    peer.say('mute 0')
    probe.spin(1.0)
    assert gate.bridge()['state'] == 'halted' and not any(peer.tell()['velocity'])
    gate.state = 'DISARMED'
    gate.wait('active')


@pytest.mark.slow
def test_damp_is_a_service_and_sonic_is_not_started_again(probe, gate, peer, start):
    bridge(start)
    gate.wait('active')
    client = probe.node.create_client(Trigger, 'g1_bridge/damp')
    assert client.wait_for_service(PATIENCE)
    answers = []

    def answered():  # a request may go to the ghost of the test before's bridge alone: ask again
        answers.append(client.call_async(Trigger.Request()))
        probe.until(answers[-1].done, 2.0, strict=False)
        return any(answer.done() for answer in answers)

    probe.until(answered)
    result = next(answer.result() for answer in answers if answer.done())
    assert result.success, result.message
    probe.until(lambda: peer.tell()['state'] == 'ENDED')
    gate.wait('halted')
    peer.say('boot')
    probe.spin(1.5)
    assert peer.tell()['state'] == 'WAIT_FOR_CONTROL'


def test_an_interrupt_hands_the_arms_back_and_ends_with_zero(probe, gate, peer, start):
    child = bridge(start)
    gate.wait('active')
    home = np.array(peer.tell()['joints'][:17])
    command = drive(gate)
    command[:17] = REST[:17] + 0.1
    probe.until(lambda: np.allclose(peer.tell()['joints'][:17], command[:17], atol=0.02))
    child.send(2)
    probe.until(lambda: child.popen.poll() is not None)
    assert child.popen.returncode == 0, child.story()
    told = peer.tell()
    assert told['state'] == 'CONTROL' and not any(told['velocity'])
    assert np.allclose(told['joints'][:17], home, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(('path', 'expiry'), [('sonic', 1.0), ('arm_sdk', 0.3)])
def test_a_killed_bridge_leaves_a_robot_that_stops_by_itself(
    probe, gate, peer, start, path, expiry
):
    child = bridge(start, path=path)
    drive(gate)
    probe.until(lambda: peer.tell()['velocity'][0] > 0.1)
    child.send(9)
    killed = time.monotonic()
    probe.until(lambda: not any(peer.tell()['velocity']))
    assert peer.tell()['moved'] - killed < expiry + 0.5


@pytest.mark.slow
def test_in_lockstep_a_command_is_five_plans(probe, gate, start, start_g1_peer):
    peer = start_g1_peer('lockstep')
    bridge(start, lockstep=True)
    gate.ready()
    before = peer.tell()['counts'].get('planner', 0)
    for sent in range(1, 11):
        gate.values = REST.copy()
        gate.values[0] = 0.01 * sent
        gate.send(100_000_000)
        gate.values = None
        probe.until(
            lambda: peer.tell()['counts'].get('planner', 0) >= before + 5 * sent  # noqa: B023
        )
    assert peer.tell()['counts']['planner'] == before + 50


# ---------------------------------------------------------------------- its parameters
def test_its_fields_are_the_tasks():
    assert tuple(field.name for field in SPEC.actions) == FIELDS
    with pytest.raises(RobotError, match='push_cube'):
        make_g1(G1BridgeConfig(), get_task('push_cube'), 14)


def test_a_real_robot_needs_an_interface_and_is_bound_to_it():
    with pytest.raises(RobotError, match='interface:='):
        make_g1(G1BridgeConfig(robot='real'), SPEC, 14)
    here = G1BridgeConfig(robot='real', interface='eth0')
    assert real_addresses(here) == ('tcp://127.0.0.1:5556', 'tcp://127.0.0.1:5557')
    there = G1BridgeConfig(robot='real', interface='eth0', sonic_host='192.168.123.164')
    assert real_addresses(there) == ('tcp://eth0:5556', 'tcp://192.168.123.164:5557')


def test_twins_of_two_ros_domains_do_not_meet():
    one, other = (make_g1(G1BridgeConfig(), SPEC, domain).config for domain in (14, 15))
    assert not {one.commands, one.feedback} & {other.commands, other.feedback}
    assert one.dds_domain != other.dds_domain and one.interface == other.interface == 'lo'


@pytest.mark.slow
def test_no_odometry_is_invented(probe, gate, peer, start):
    heard = probe.listen(Odometry, 'odom')
    bridge(start)
    gate.wait('active')
    probe.spin(0.5)
    assert not heard
