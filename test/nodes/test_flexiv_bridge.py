"""The arm's bridge as a process, its peer here: what the gate says is what the arm does."""

import os
import signal
import threading

from dmo_ros.core.tasks import get_task
from dmo_ros.nodes.flexiv_bridge import FlexivBridgeConfig, lead_of, make_arm, make_flexiv
from dmo_ros.robots.base import RobotError
from dmo_ros.robots.flexiv_rdk import address_of, RdkArm
from dmo_ros.robots.flexiv_worker import WorkerArm
from dmo_ros.twins.flexiv_arm import Times
from dmo_ros.twins.flexiv_peer import FlexivPeer
import numpy as np
import pytest
from sensor_msgs.msg import JointState

SPEC = get_task('push_t')


class Board:
    """A twin of the tool alone."""

    names = ('tool_x', 'tool_y')

    def __init__(self):
        self.state = np.zeros((1, 2))

    def advance(self, action, seconds):
        self.state = self.state + action * seconds


class Site:
    """An arm in real time behind the bridge, and a gate in front of it."""

    def __init__(self, probe, gate):
        self.board = Board()
        self.peer = FlexivPeer(
            self.board, int(os.environ['ROS_DOMAIN_ID']), times=Times().scaled(0.1)
        )
        self.peer.start()
        self._ended = threading.Event()
        self._time = threading.Thread(target=self._pass)
        self._time.start()
        self.probe, self.gate = probe, gate
        self.joints = probe.listen(JointState, 'joint_states')

    def _pass(self):
        while not self._ended.wait(0.01):
            self.peer.advance(0.01)

    def ready(self):
        self.gate.values = (0.0, 0.0)
        self.gate.ready()

    def calls(self, name):
        return [at for call, at in self.peer.calls if call == name]

    def close(self):
        self.gate.close()
        self._ended.set()
        self._time.join()
        self.peer.stop()


@pytest.fixture
def site(probe, gate_standin):
    site = Site(probe, gate_standin(probe, SPEC.name))
    yield site
    site.close()


@pytest.mark.parametrize('generation', ['1.9', '2.0'])
def test_a_velocity_moves_the_arm_and_its_end_stops_it(site, start, generation):
    bridge = start('flexiv_bridge', task='push_t', autostart=True, peer_sdk=generation)
    site.ready()
    site.gate.values = (0.1, -0.05)
    site.probe.until(lambda: site.board.state[0, 0] > 0.08)
    x, y = site.board.state[0]
    assert y == pytest.approx(-x / 2, abs=0.005)
    heard = site.joints[-1][1]
    assert heard.name == ['tool_x', 'tool_y'] and heard.velocity[0] == pytest.approx(0.1, abs=0.02)
    site.gate.values, silent = None, site.gate.last  # the gate is gone
    site.probe.until(lambda: site.calls('Stop'))
    assert site.calls('Stop')[0] - silent < 0.5  # 250 ms and what a busy machine adds
    site.probe.until(lambda: site.peer.arm.still and site.peer.arm.mode == 'IDLE')
    site.gate.values = (0.1, 0.0)  # and comes back, still driving: nothing starts again by itself
    at = site.board.state.copy()
    site.probe.spin(0.5)
    assert (site.board.state == at).all()
    site.gate.state = 'DISARMED'
    site.gate.wait('active')
    site.probe.until(lambda: site.board.state[0, 0] > at[0, 0])
    bridge.send(signal.SIGINT)
    assert bridge.popen.wait(20) == 0
    assert site.peer.arm.still and site.peer.arm.mode == 'IDLE'


def test_a_fault_and_an_emergency_stop_stay_until_a_person_clears_them(site, start):
    start('flexiv_bridge', task='push_t', autostart=True)
    site.ready()
    site.gate.values = (0.1, 0.0)
    site.probe.until(lambda: site.board.state[0, 0] > 0.02)
    site.peer.arm.estop = True
    site.gate.wait('halted', 'emergency stop')
    site.peer.arm.estop = False
    site.gate.state = 'DISARMED'
    site.probe.spin(0.5)
    site.gate.wait('halted', 'emergency stop')
    assert len(site.calls('Enable')) == 1
    answer = site.probe.call('flexiv_bridge/clear_fault')
    assert answer.success, answer.message
    site.gate.wait('active')
    assert len(site.calls('Enable')) == 2


def test_a_killed_bridge_leaves_at_most_the_lead_to_go(site, start):
    bridge = start('flexiv_bridge', task='push_t', autostart=True)
    site.ready()
    site.gate.values = (0.25, 0.0)
    site.probe.until(lambda: site.peer.arm.velocity[0] > 0.2)
    at = site.board.state[0, 0]
    bridge.send(signal.SIGKILL)
    site.probe.spin(1.0)
    assert site.board.state[0, 0] - at < 0.09 + 0.05  # and what it moved before it was dead
    assert site.peer.arm.still


# ---------------------------------------------------------------------- what is refused
def test_a_twin_is_reached_on_loopback_and_a_real_arm_by_its_worker():
    twin = make_arm(FlexivBridgeConfig(), 15)
    assert isinstance(twin, RdkArm)
    real = make_arm(FlexivBridgeConfig(robot='real', interface='lo', serial='Rizon10s-1'), 15)
    assert isinstance(real, WorkerArm) and real.command[-2:] == ['Rizon10s-1', '127.0.0.1']


@pytest.mark.parametrize(
    ('config', 'says'),
    [
        ({'robot': 'real', 'serial': 'Rizon10s-1'}, 'interface:='),
        ({'robot': 'real', 'interface': 'lo'}, 'serial:='),
        ({'robot': 'real', 'sdk': 'peer'}, 'does not go with'),
        ({'sdk': 'worker'}, 'does not go with'),
        ({'x_low': 0.3}, 'workspace is empty'),
    ],
)
def test_parameters_that_make_no_sense_together_are_refused(config, says):
    with pytest.raises(RobotError, match=says):
        make_flexiv(FlexivBridgeConfig(**config), SPEC, 15)


def test_another_task_and_an_unknown_interface_are_refused():
    with pytest.raises(RobotError, match='push_cube'):
        make_flexiv(FlexivBridgeConfig(), get_task('push_cube'), 15)
    with pytest.raises(RobotError, match='no IPv4 address'):
        address_of('nowhere0')


def test_the_lead_is_the_watchdog_s_way_and_a_period_more_in_lockstep():
    assert lead_of(FlexivBridgeConfig(), SPEC) == pytest.approx(0.36 * 0.25)
    assert lead_of(FlexivBridgeConfig(lockstep=True), SPEC) == pytest.approx(0.36 * 0.45)
