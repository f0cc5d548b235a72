"""The arm's controller, its peer in real time and in lockstep, and the stand-in SDK's errors."""

import threading
import time

from dmo_ros.core.addresses import AddressError
from dmo_ros.twins.base import TWINS
from dmo_ros.twins.flexiv_arm import ArmController, Goal, MOTION, Times
from dmo_ros.twins.flexiv_peer import FlexivPeer, HEIGHT, SERIAL
from dmo_ros.twins.flexiv_sdk import make_module
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

PATIENCE = 20.0
QUICK = Times().scaled(0.02)
DOWN = (0.0, 0.0, 1.0, 0.0)
BOUNDS = (0.3, 0.5, 1.5, 2.0)


class Board:
    """A twin of the tool alone; its columns in another order than one would think."""

    names = ('t_x', 'tool_x', 'tool_y')

    def __init__(self):
        self.state = np.zeros((1, 3))

    def advance(self, action, seconds):
        assert round(seconds * 1e4) % 100 == 0  # the twin wants hundredths of a second
        self.state[:, 1:] += action * seconds


def ready_arm():
    arm = ArmController(QUICK)
    arm.enable(0.0)
    arm.enter(MOTION, 1.0)
    return arm


# ---------------------------------------------------------------------- the motion generator
@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.floats(-0.3, 0.3)] * 3), st.floats(0.05, 0.5), st.floats(0.5, 3.0))
def test_it_reaches_a_target_within_its_limits_and_does_not_overshoot(target, speed, acceleration):
    arm = ready_arm()
    arm.goal = Goal((*target, *DOWN), (speed, 1.0, acceleration, 5.0))
    distance = float(np.linalg.norm(target))
    for _ in range(1200):
        before = arm.velocity.copy()
        velocity = arm.generate(0.01)
        assert np.linalg.norm(velocity) <= speed + 1e-9
        assert np.linalg.norm(velocity - before) <= acceleration * 0.01 + 1e-9
        arm.position += velocity * 0.01
        left = float(np.linalg.norm(np.array(target) - arm.position))
        assert left <= distance + 1e-9
        distance = left
    assert left < 1e-4


def test_a_fault_lets_the_brakes_fall_and_clearing_it_does_not_enable():
    arm = ready_arm()
    arm.velocity[:] = (0.2, 0.0, 0.0)
    arm.fault = 'minor'
    arm.look()
    assert arm.still and arm.mode == 'IDLE' and arm.status(2.0) == 'MINOR_FAULT'
    assert arm.clear_fault() and arm.status(2.0) == 'NOT_ENABLED'


# ---------------------------------------------------------------------- with the SDK
class Site:
    """A peer, and time that passes only when a test says so, or by itself."""

    def __init__(self, lockstep=False, runs=True):
        self.board = Board()
        self.peer = FlexivPeer(self.board, 15, lockstep, QUICK, port=0)
        self.notified = 0
        self.peer.start(self._notice)
        self._ended = threading.Event()
        self._time = threading.Thread(target=self._pass if runs else lambda: None)
        self._time.start()

    def _notice(self):
        self.notified += 1

    def _pass(self):
        while not self._ended.wait(0.01):
            self.peer.advance(0.01)

    def until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, condition
            time.sleep(0.002)

    def close(self):
        self._ended.set()
        self._time.join()
        self.peer.stop()


@pytest.fixture
def make():
    sites = []

    def build(**more):
        sites.append(Site(**more))
        return sites[-1]

    yield build
    for site in sites:
        site.close()


def connect(site, generation='1.9'):
    sdk = make_module(generation, site.peer.address, search=2.0)
    robot = sdk.Robot(SERIAL, [], False)
    site.until(robot.connected)
    return sdk, robot


def operate(site, generation='1.9'):
    sdk, robot = connect(site, generation)
    robot.Enable()
    site.until(robot.operational)
    robot.SwitchMode(sdk.Mode.NRT_CARTESIAN_MOTION_FORCE)
    return sdk, robot


def pose(x, y=0.0):
    return [0.6 + x, y, HEIGHT, *DOWN]


def send(sdk, robot, target, *bounds):
    if hasattr(sdk, 'JointGroup'):
        command = sdk.NrtCartesianCmd(target, [0.0] * 6, [0.0] * 6, *bounds)
        robot.SendCartesianMotionForce({sdk.JointGroup.ARMS: command})
    else:
        robot.SendCartesianMotionForce(target, [0.0] * 6, [0.0] * 6, *bounds)


@pytest.mark.parametrize('generation', ['1.9', '2.0'])
def test_the_sdk_raises_what_the_real_one_says_it_raises(make, generation):
    site = make()
    sdk, robot = connect(site, generation)
    group = (sdk.JointGroup.ARMS,) if generation == '2.0' else ()
    assert robot.mode() is sdk.Mode.IDLE and robot.mode() != 1
    assert robot.operational_status() is sdk.OperationalStatus.NOT_ENABLED
    with pytest.raises(RuntimeError, match='not operational'):
        robot.SwitchMode(sdk.Mode.NRT_CARTESIAN_MOTION_FORCE)
    with pytest.raises(RuntimeError, match='mode'):
        send(sdk, robot, pose(0.0))
    robot.Enable()
    site.until(robot.operational)
    with pytest.raises(RuntimeError, match='applicable mode'):
        robot.SetMaxContactWrench(*group, [10.0] * 6)
    with pytest.raises(TypeError):
        robot.SwitchMode(10)
    robot.SwitchMode(sdk.Mode.NRT_CARTESIAN_MOTION_FORCE)
    with pytest.raises(ValueError, match='outside the valid range'):
        robot.SetMaxContactWrench(*group, [-1.0] * 6)
    with pytest.raises(ValueError, match='Z_x'):
        robot.SetCartesianImpedance(*group, [1.0] * 6, [0.1] * 6)
    with pytest.raises(ValueError, match='DoF'):
        robot.SetNullSpacePosture(*group, [0.0] * 6)
    for wrong in ([10.0] * 5, 'abcdef', [None] * 6):
        with pytest.raises(TypeError):
            robot.SetMaxContactWrench(*group, wrong)
    with pytest.raises(ValueError, match='positive'):
        send(sdk, robot, pose(0.0), 0.3, 0.5, 0.0, 2.0)
    with pytest.raises(TypeError):
        send(sdk, robot, [0.0] * 6)
    site.peer.arm.estop = True
    site.until(lambda: not robot.estop_released())
    with pytest.raises(RuntimeError, match='E-stop'):
        robot.Enable()


def test_a_robot_that_is_not_there_is_given_up_after_its_time():
    sdk = make_module('2.0', ('127.0.0.1', 1), search=0.3)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r'Failed to connect to \[Rizon10s-062001\]'):
        sdk.Robot('Rizon 10s-062001')
    assert 0.3 <= time.monotonic() - began < 2.0


def test_stop_blocks_until_still_and_ends_in_idle(make):
    site = make()
    sdk, robot = operate(site)
    send(sdk, robot, pose(0.2), *BOUNDS)
    site.until(lambda: site.peer.arm.velocity[0] > 0.2)
    robot.Stop()
    assert robot.stopped() and robot.mode() is sdk.Mode.IDLE
    at = site.board.state[0, 1]
    time.sleep(0.05)
    assert site.board.state[0, 1] == at > 0.0


def test_a_lost_connection_is_noticed_by_the_sdk(make):
    site = make()
    _, robot = connect(site)
    site.peer.cut = True
    site.until(lambda: not robot.connected())
    with pytest.raises(RuntimeError):
        site.peer.stop()
        robot.Enable()


# ---------------------------------------------------------------------- lockstep
def burst(site, sdk, robot, x, count=20):
    before = site.notified
    for index in range(count):
        send(sdk, robot, pose(x * (index + 1) / count), *BOUNDS)
    site.until(lambda: site.notified == before + count)


def test_in_lockstep_a_period_is_its_targets_one_after_the_other(make):
    site = make(lockstep=True, runs=False)
    sdk, robot = operate(site)
    burst(site, sdk, robot, 0.02)
    assert site.peer.pending == site.peer.burst == 20
    assert site.board.state[0, 1] == 0.0  # time stands still
    site.peer.advance(0.2)
    assert site.peer.pending == 0
    assert 0.01 < site.board.state[0, 1] <= 0.02
    site.until(lambda: robot.states().tcp_pose[0] == pytest.approx(0.6 + site.board.state[0, 1]))


def test_the_answer_to_a_frame_that_was_given_up_does_not_shift_the_next_ones(make):
    site = make(lockstep=True, runs=False)
    sdk, robot = operate(site)
    site.peer.advance(0.2)  # nobody answered in time
    burst(site, sdk, robot, 0.02)
    assert site.peer.pending == 0  # the late answer
    burst(site, sdk, robot, -0.02)
    assert site.peer.pending == 20
    site.peer.advance(0.2)
    assert site.board.state[0, 1] < 0.0
    burst(site, sdk, robot, -0.02)
    assert site.peer.pending == 20


def test_a_target_for_a_scene_that_is_gone_is_not_obeyed(make):
    site = make(lockstep=True, runs=False)
    sdk, robot = operate(site)
    site.until(lambda: robot.connected())
    burst(site, sdk, robot, 0.02)
    stale = dict(robot._link.state)
    site.board.state[0, 1] = -0.2
    site.peer.reset()
    site.until(lambda: robot.states().tcp_pose[0] == pytest.approx(0.4))
    robot._link.state = stale
    send(sdk, robot, pose(0.02), *BOUNDS)
    site.peer.advance(0.2)
    assert site.board.state[0, 1] == -0.2 and site.peer.pending == 0


def test_in_lockstep_the_state_is_told_while_time_stands_still(make):
    site = make(lockstep=True, runs=False)
    _, robot = connect(site)
    stamp = robot.states().timestamp
    site.until(lambda: robot.states().timestamp > stamp)
    assert robot.states().timestamp[0] == 0  # by next to nothing


# ---------------------------------------------------------------------- its end
def test_it_ends_all_threads_and_frees_its_port(make):
    before = set(threading.enumerate())
    board = Board()
    peer = FlexivPeer(board, 15, times=QUICK, port=0)
    peer.start()
    robot = make_module('1.9', peer.address).Robot(SERIAL)
    peer.stop()
    peer.stop()
    robot._link.close()
    assert set(threading.enumerate()) <= before
    again = FlexivPeer(board, 15, times=QUICK, port=peer.address[1])
    again.start()
    again.stop()


def test_a_second_twin_in_a_domain_is_told_so(make):
    port = make().peer.address[1]
    with pytest.raises(AddressError, match='another twin runs'):
        FlexivPeer(Board(), 15, port=port).start()


def test_the_registry_names_it():
    assert TWINS['push_t'][2] == 'flexiv_peer:FlexivPeer'
