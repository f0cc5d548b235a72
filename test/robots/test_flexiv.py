"""The arm's adapter, against the stand-in SDK of both generations and the arm behind it."""

import math
import threading
import time

from dmo_ros.robots.base import RobotError
from dmo_ros.robots.flexiv import FlexivArm, FlexivConfig, STOP_BUDGET
from dmo_ros.robots.flexiv_motion import SLACK, Target, Workspace, yaw
from dmo_ros.robots.flexiv_rdk import generation, Limits, RdkArm, Setup
from dmo_ros.twins.flexiv_arm import Times
from dmo_ros.twins.flexiv_peer import FlexivPeer, SERIAL
from dmo_ros.twins.flexiv_sdk import make_module
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

PATIENCE = 20.0
QUICK = Times().scaled(0.02)
BOX = Workspace()


class Board:
    """A twin of the tool alone, which nothing stops."""

    names = ('tool_x', 'tool_y')

    def __init__(self, x=0.0, y=0.0):
        self.state = np.array([[x, y]], dtype=float)

    def advance(self, action, seconds):
        self.state = self.state + action * seconds


class World:
    """A board, its arm in real time, and an adapter that drives it."""

    def __init__(self, generation, start=(0.0, 0.0), board=(0.6, 0.0, 0.0), times=QUICK, **config):
        self.board = Board(*start)
        self.peer = FlexivPeer(self.board, 15, times=times, board=board, port=0)
        self.peer.start()
        self._ended = threading.Event()
        self._time = threading.Thread(target=self._pass)
        self._time.start()
        sdk = make_module(generation, self.peer.address, search=0.3)
        self.arm = RdkArm(SERIAL, (), sdk)
        config = {'workspace': Workspace(board=board), **config}
        self.robot = FlexivArm(self.arm, FlexivConfig(**config))

    def _pass(self):
        due = time.monotonic()
        while not self._ended.is_set():
            self.peer.advance(0.01)
            due = max(due + 0.01, time.monotonic() - 0.05)
            self._ended.wait(max(due - time.monotonic(), 0.0))

    @property
    def tool(self):
        return self.board.state[0].copy()

    def begin(self):
        self.robot.connect()
        self.robot.engage()
        return self

    def drive(self, velocity, seconds):
        """Command as the bridge's sender does, a hundred times a second."""
        due = time.monotonic()
        for _ in range(round(seconds * 100)):
            self.robot.command(velocity)
            self.robot.tick(0.01)
            due += 0.01
            time.sleep(max(due - time.monotonic(), 0.0))

    def until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, condition
            time.sleep(0.005)

    def asked(self, name):
        return [at for call, at in self.peer.calls if call == name]

    def close(self):
        self.robot.close()
        self._ended.set()
        self._time.join()
        self.peer.stop()


@pytest.fixture(params=('1.9', '2.0'))
def make(request):
    worlds = []

    def build(**more):
        worlds.append(World(request.param, **more))
        return worlds[-1]

    yield build
    for world in worlds:
        world.close()


# ---------------------------------------------------------------------- the target: pure
velocities = st.tuples(*[st.floats(-2.0, 2.0)] * 2)
places = st.tuples(*[st.floats(-0.25, 0.25)] * 2)


@settings(deadline=None, max_examples=100)
@given(places, st.lists(st.tuples(velocities, st.floats(0.0, 1.0)), max_size=40))
def test_a_target_never_leaves_the_box_nor_runs_away_from_the_tool(start, drive):
    target, tool, stamp = Target(BOX, 0.36, 0.09), start, 0.0
    target.rest(tool, stamp)
    for velocity, follows in drive:
        point = target.advance(velocity, 0.01, tool, stamp)
        assert BOX.misses(point) == 0.0
        assert math.dist(point, tool) <= 0.09 + 1e-9
        stamp += 0.01
        step = min(1.0, 0.0036 / max(math.dist(point, tool), 1e-9)) * follows
        tool = tuple(a + step * (b - a) for a, b in zip(tool, point))


@given(velocities)
def test_a_target_moves_as_commanded_and_a_faster_command_keeps_its_direction(velocity):
    target = Target(BOX, 0.36, 0.09)
    target.rest((0.0, 0.0), 0.0)
    x, y = target.advance(velocity, 0.01, (0.0, 0.0), 0.0)
    size = math.hypot(*velocity)
    share = min(1.0, 0.36 / size) if size else 1.0
    assert (x, y) == pytest.approx((0.01 * share * velocity[0], 0.01 * share * velocity[1]))


def test_at_an_edge_the_target_slides_along_as_fast_as_commanded():
    target = Target(BOX, 0.36, 0.09)
    target.rest((0.25, 0.0), 0.0)
    for tick in range(1, 20):
        point = target.advance((0.2, 0.1), 0.01, (0.25, 0.001 * (tick - 1)), 0.01 * tick)
        assert point == pytest.approx((0.25, 0.001 * tick))
    assert target.limited['box'] == 19


def test_a_tool_that_was_put_elsewhere_is_not_driven_back():
    target = Target(BOX, 0.36, 0.09)
    target.rest((0.2, 0.2), 0.0)
    assert target.advance((0.0, 0.0), 0.01, (-0.2, -0.1), 0.01) == (-0.2, -0.1)
    assert target.limited['jump'] == 1


@given(places, st.floats(-math.pi, math.pi))
def test_task_frame_and_arm_frame_are_each_others_inverse(point, angle):
    workspace = Workspace(board=(0.6, -0.2, angle))
    assert workspace.to_task(workspace.to_arm(point)) == pytest.approx(point)


@pytest.mark.parametrize(
    'wrong',
    [{'low': (0.3, 0.0)}, {'high': (math.nan, 0.1)}, {'low': (0.245, -0.2)}],
)
def test_a_workspace_without_room_is_refused_at_load(wrong):
    with pytest.raises(RobotError, match='workspace'):
        Workspace(**wrong)


@pytest.mark.parametrize('value', [0.0, -1.0, math.nan, math.inf])
def test_limits_must_be_above_zero(value):
    with pytest.raises(RobotError, match='linear_speed'):
        Limits(linear_speed=value)


def test_yaw_of_a_turned_tool():
    assert yaw((math.cos(0.2), 0.0, 0.0, math.sin(0.2))) == pytest.approx(0.4)


# ---------------------------------------------------------------------- to where it obeys
def test_it_connects_enables_and_enters_the_mode_without_moving(make):
    world = make(start=(0.1, -0.05)).begin()
    world.until(lambda: world.arm.snapshot().mode == 'NRT_CARTESIAN_MOTION_FORCE')
    assert [name for name, _ in world.peer.calls] == [
        'hello',
        'Enable',
        'SwitchMode',
        'SetForceControlAxis',
        'SetCartesianImpedance',
        'SetMaxContactWrench',
        'SetNullSpacePosture',
    ]
    assert tuple(world.tool) == (0.1, -0.05) and not world.peer.targets
    assert world.robot.health().ok
    state = world.robot.state()
    assert state.joints == {'tool_x': (pytest.approx(0.1), 0.0), 'tool_y': (-0.05, 0.0)}


def test_a_tool_outside_the_workspace_is_not_engaged(make):
    world = make(start=(0.25 + 2 * SLACK, 0.0))
    world.robot.connect()
    with pytest.raises(RobotError, match='outside the workspace'):
        world.robot.engage()
    assert not world.asked('SwitchMode')


def test_a_fault_at_connect_is_told_and_kept(make):
    world = make()
    world.peer.arm.fault = 'minor'
    with pytest.raises(RobotError, match='MINOR_FAULT'):
        world.robot.connect()
    assert world.peer.arm.fault == 'minor'
    assert not world.asked('ClearFault') and not world.asked('Enable')


def test_a_pressed_emergency_stop_is_named(make):
    world = make()
    world.peer.arm.estop = True
    with pytest.raises(RobotError, match='emergency stop is pressed'):
        world.robot.connect()


def test_an_arm_that_does_not_get_ready_is_given_up(make):
    world = make(ready_timeout=0.3)
    world.peer.arm.manual = True
    with pytest.raises(RobotError, match=r'not operational after 0.3 s: IN_MANUAL_MODE'):
        world.robot.connect()


def test_nobody_there_and_a_wrong_serial_are_sentences():
    sdk = make_module('1.9', ('127.0.0.1', 1), search=0.1)
    with pytest.raises(RobotError, match='Failed to connect'):
        RdkArm(SERIAL, (), sdk).open()
    with pytest.raises(RobotError, match='is invalid'):
        RdkArm('Rizon10s', (), sdk).open()


def test_an_sdk_that_takes_no_rizon_is_refused():
    class Robot:
        def ServoOn(self):  # noqa: N802
            """Version 2.1 says so instead of Enable."""

    class Sdk:
        __version__ = '2.1.0'

    Sdk.Robot = Robot
    with pytest.raises(RobotError, match=r'flexivrdk 2\.1\.0 does not accept Rizon arms'):
        generation(Sdk)


def test_a_missing_sdk_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'flexivrdk', None)
    with pytest.raises(RobotError, match=r'dmo_ros\[flexiv\]'):
        RdkArm(SERIAL).open()


# ---------------------------------------------------------------------- motion
@pytest.mark.parametrize('angle', [0.0, 2.0])
def test_a_tenth_of_a_metre_a_second_for_a_second_is_a_tenth_of_a_metre(make, angle):
    world = make(board=(0.5, 0.1, angle)).begin()
    world.drive((0.1, 0.0), 1.0)
    world.drive((0.0, 0.0), 0.5)
    assert world.tool == pytest.approx((0.1, 0.0), abs=0.004)
    heights = {(pose[2], *pose[3:]) for pose in world.peer.targets}
    assert len(heights) == 1  # height and orientation are held


def test_it_stays_in_the_box_and_slides_along_its_edge(make):
    world = make(start=(0.22, -0.2)).begin()
    world.drive((0.25, 0.1), 1.5)
    assert world.tool[0] == pytest.approx(0.25, abs=1e-3)
    assert world.tool[1] == pytest.approx(-0.05, abs=0.02)
    inside = [BOX.misses(BOX.to_task(pose[:2])) < 1e-9 for pose in world.peer.targets]
    assert all(inside)


def test_a_bounded_lead_is_all_that_is_left_when_nobody_sends_any_more(make):
    world = make().begin()
    world.drive((0.25, 0.0), 0.5)
    at = world.tool[0]
    time.sleep(0.6)
    assert world.tool[0] - at <= FlexivConfig().lead + 1e-6
    assert world.peer.arm.still


@pytest.mark.parametrize(
    'values', [(math.nan, 0.0), (0.0, math.inf), (0.1,), (0.1, 0.0, 0.0)], ids=str
)
def test_what_is_no_velocity_is_refused(make, values):
    world = make()
    with pytest.raises(RobotError, match='no tool velocity'):
        world.robot.command(values)


# ---------------------------------------------------------------------- stopping
def test_a_stop_ends_at_rest_in_idle_within_its_budget_and_can_be_repeated(make):
    world = make().begin()
    world.drive((0.25, 0.0), 0.4)
    began = time.monotonic()
    while not world.robot.stop():
        assert time.monotonic() - began < PATIENCE
    assert time.monotonic() - began < STOP_BUDGET + 0.3
    assert world.peer.arm.still and world.peer.arm.mode == 'IDLE'
    stops = len(world.asked('Stop'))
    assert world.robot.stop() and len(world.asked('Stop')) == stops


def test_a_slow_stop_is_answered_in_time_and_confirmed_later(make):
    world = make().begin()
    world.peer.slow_stop = 1.0
    world.drive((0.1, 0.0), 0.2)
    began = time.monotonic()
    assert not world.robot.stop()
    assert time.monotonic() - began < 0.7  # 0.4 s and what a busy machine adds
    world.until(world.robot.stop)
    assert len(world.asked('Stop')) == 1  # one is enough


def test_after_a_stop_it_enters_the_mode_again_but_never_enables(make):
    world = make().begin()
    world.drive((0.1, 0.0), 0.1)
    world.until(world.robot.stop)
    world.drive((-0.1, 0.0), 0.3)
    assert world.tool[0] < 0.0
    assert len(world.asked('SwitchMode')) == 2 and len(world.asked('Enable')) == 1


def test_states_that_cease_while_the_sdk_waits_for_the_arm_are_no_lost_link(make):
    world = make(times=Times(mode=0.9, brakes=0.02))
    world.begin()
    world.until(world.robot.stop)
    said = []
    world.robot.command((0.1, 0.0))
    ticking = threading.Thread(target=world.robot.tick, args=(0.01,))
    world.peer.mute = True  # the real SDK keeps Python's lock in its process
    ticking.start()
    until = time.monotonic() + 0.75
    while time.monotonic() < until:
        said.append(world.robot.health().reason)
        time.sleep(0.02)
    world.peer.mute = False
    ticking.join()
    assert set(said) == {''}


def test_closing_stops_the_arm(make):
    world = make().begin()
    world.drive((0.25, 0.0), 0.3)
    world.robot.close()
    assert world.asked('Stop') and world.peer.arm.mode == 'IDLE' and world.peer.arm.still


# ---------------------------------------------------------------------- faults
def press(world):
    world.peer.arm.estop = True


def fault(world):
    world.peer.arm.fault = 'minor'


def collide(world):
    world.peer.arm.wrench = [0.0, 9.0, 9.0, 0.0, 0.0, 0.0]


def twist_joint(world):
    world.peer.arm.torques[3] = -6.0


@pytest.mark.parametrize(
    ('harm', 'says'),
    [
        (press, 'emergency stop'),
        (fault, 'a minor fault was switched on'),
        (collide, 'contact of 13 N'),
        (twist_joint, 'contact of 6 Nm'),
    ],
)
def test_what_a_person_must_see_to_is_latched_until_a_person_clears_it(make, harm, says):
    world = make().begin()
    world.drive((0.1, 0.0), 0.2)
    harm(world)
    with pytest.raises(RobotError, match=says):
        world.drive((0.1, 0.0), PATIENCE)
    world.until(world.robot.stop)
    at = world.tool
    world.peer.arm.estop, world.peer.arm.wrench = False, [0.0] * 6
    world.peer.arm.torques = [0.0] * 7
    time.sleep(0.1)  # whatever pressed has gone
    health = world.robot.health()
    assert health.fault and not health.ok and says.split(' of ')[0] in health.reason
    for attempt in (world.robot.engage, lambda: world.drive((0.1, 0.0), 0.1)):
        with pytest.raises(RobotError, match='clear_fault'):
            attempt()
    assert len(world.asked('Enable')) == 1 and not world.asked('ClearFault')
    assert (world.tool == at).all()
    world.robot.clear_fault()
    assert world.robot.health().ok
    world.drive((0.1, 0.0), 0.3)
    assert world.tool[0] > at[0]


def test_a_fault_that_cannot_be_cleared_stays(make):
    world = make().begin()
    world.peer.arm.fault, world.peer.arm.fault_clears = 'minor', False
    world.until(lambda: world.robot.health().fault)
    with pytest.raises(RobotError, match='kept its fault'):
        world.robot.clear_fault()
    assert world.robot.health().fault


@pytest.mark.parametrize(('state', 'says'), [('reduced', 'REDUCED'), ('manual', 'MANUAL')])
def test_a_state_in_which_it_does_not_obey_is_named_and_passes(make, state, says):
    world = make().begin()
    setattr(world.peer.arm, state, True)
    world.until(lambda: says in world.robot.health().reason)
    assert not world.robot.health().fault
    setattr(world.peer.arm, state, False)
    world.until(lambda: world.robot.health().ok)


@pytest.mark.parametrize('switch', ['cut', 'mute'])
def test_a_silent_arm_is_not_driven(make, switch):
    world = make().begin()
    world.drive((0.1, 0.0), 0.1)
    setattr(world.peer, switch, True)
    began = time.monotonic()
    with pytest.raises(RobotError, match='no new state|connection'):
        world.drive((0.1, 0.0), PATIENCE)
    assert 0.3 < time.monotonic() - began < 1.5
    assert not world.robot.health().ok and not world.robot.stop()  # it cannot confirm
    setattr(world.peer, switch, False)
    world.until(lambda: world.robot.health().ok)


def test_setup_reaches_the_arm(make):
    setup = Setup(stiffness=0.5, damping=0.8, contact_force=12.0, contact_moment=3.0)
    world = make(setup=setup).begin()
    world.until(lambda: len(world.peer.arm.setup) == 4)
    assert world.peer.arm.setup['SetMaxContactWrench'] == [12.0] * 3 + [3.0] * 3
    assert world.peer.arm.setup['SetCartesianImpedance'][:2] == [5000.0, 5000.0]
