"""The process that holds the SDK: it does what the SDK does, and stops the arm when left alone."""

import signal
import subprocess
import sys
import threading
import time

from dmo_ros.robots.base import RobotError
from dmo_ros.robots.flexiv import FlexivArm, FlexivConfig, STOP_BUDGET
from dmo_ros.robots.flexiv_rdk import Limits, Setup
from dmo_ros.robots.flexiv_worker import HEARTBEAT, Worker, WorkerArm
from dmo_ros.twins.flexiv_arm import Times
from dmo_ros.twins.flexiv_peer import FlexivPeer, SERIAL
import numpy as np
import pytest

PATIENCE = 30.0
LATE = 0.3  # s, what a busy machine may add to the heartbeat
SDK = """
from dmo_ros.twins.flexiv_sdk import make_module
globals().update(vars(make_module({generation!r}, {address!r}, search=2.0)))
"""
PARENT = """
import time
from dmo_ros.robots.flexiv import FlexivArm, FlexivConfig
from dmo_ros.robots.flexiv_worker import WorkerArm
robot = FlexivArm(WorkerArm({serial!r}, environment={env!r}), FlexivConfig())
robot.connect()
robot.engage()
while True:
    robot.command((0.1, 0.0))
    robot.tick(0.01)
    time.sleep(0.01)
"""


class Board:
    """A twin of the tool alone."""

    names = ('tool_x', 'tool_y')

    def __init__(self):
        self.state = np.zeros((1, 2))

    def advance(self, action, seconds):
        self.state = self.state + action * seconds


class Site:
    """An arm in real time, and a folder in which ``import flexivrdk`` finds its stand-in."""

    def __init__(self, generation, folder):
        self.board = Board()
        self.peer = FlexivPeer(self.board, 15, times=Times().scaled(0.02), port=0)
        self.peer.start()
        self._ended = threading.Event()
        self._time = threading.Thread(target=self._pass)
        self._time.start()
        module = SDK.format(generation=generation, address=self.peer.address)
        (folder / 'flexivrdk.py').write_text(module)
        self.environment = {'PYTHONPATH': str(folder)}

    def _pass(self):
        while not self._ended.wait(0.01):
            self.peer.advance(0.01)

    def stops(self):
        return [at for call, at in self.peer.calls if call == 'Stop']

    def until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, condition
            time.sleep(0.005)

    def close(self):
        self._ended.set()
        self._time.join()
        self.peer.stop()


@pytest.fixture(params=('1.9', '2.0'))
def site(request, tmp_path):
    site = Site(request.param, tmp_path)
    yield site
    site.close()


@pytest.fixture
def robot(site):
    robot = FlexivArm(WorkerArm(SERIAL, environment=site.environment), FlexivConfig())
    yield robot
    robot.close()


@pytest.fixture
def parent(site):
    """A process of its own that drives the arm through a worker."""
    text = PARENT.format(serial=SERIAL, env=site.environment)
    child = subprocess.Popen([sys.executable, '-c', text])
    yield child
    child.kill()
    child.wait()


def drive(robot, velocity, seconds):
    for _ in range(round(seconds * 100)):
        robot.command(velocity)
        robot.tick(0.01)
        time.sleep(0.01)


def test_it_drives_stops_and_goes(site, robot):
    robot.connect()
    robot.engage()
    drive(robot, (0.1, 0.05), 1.0)
    x, y = site.board.state[0]
    assert x > 0.05 and y == pytest.approx(x / 2, abs=0.002)
    began = time.monotonic()
    while not robot.stop():
        assert time.monotonic() - began < PATIENCE
    assert time.monotonic() - began < STOP_BUDGET + 0.4
    assert site.peer.arm.still and site.peer.arm.mode == 'IDLE'
    child = robot.arm.child
    robot.close()
    assert child.returncode == 0


def test_errors_of_the_sdk_come_through_as_sentences(site, robot):
    site.peer.arm.fault = 'critical'
    with pytest.raises(RobotError, match='CRITICAL_FAULT'):
        robot.connect()


@pytest.mark.parametrize('harm', ['kill', 'stop'])
def test_when_its_parent_is_gone_or_hangs_the_arm_is_stopped(site, parent, harm):
    site.until(lambda: site.board.state[0, 0] > 0.03)
    parent.send_signal(signal.SIGKILL if harm == 'kill' else signal.SIGSTOP)
    harmed = time.monotonic()
    site.until(site.stops)
    assert site.stops()[0] - harmed < HEARTBEAT + LATE
    site.until(lambda: site.peer.arm.mode == 'IDLE')
    at = site.board.state.copy()
    if harm == 'stop':  # it wakes up with targets in hand, and none of them is obeyed
        parent.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    assert (site.board.state == at).all() and len(site.stops()) >= 1


def test_a_killed_worker_is_noticed_and_not_driven(site, robot):
    robot.connect()
    robot.engage()
    drive(robot, (0.1, 0.0), 0.2)
    robot.arm.child.kill()
    with pytest.raises(RobotError, match='worker of the arm has ended|no new state'):
        drive(robot, (0.1, 0.0), PATIENCE)
    assert not robot.health().ok and not robot.stop()


def test_an_interpreter_that_is_not_there_or_has_no_sdk_is_named(tmp_path):
    with pytest.raises(RobotError, match='worker_python cannot be started'):
        WorkerArm(SERIAL, python=str(tmp_path / 'python')).open()
    (tmp_path / 'flexivrdk.py').write_text("raise ImportError('none here')")
    arm = WorkerArm(SERIAL, environment={'PYTHONPATH': str(tmp_path)})
    with pytest.raises(RobotError, match='none here'):
        arm.open()
    assert arm.child is None


class Recorder:
    """An arm that writes down what it is told."""

    robot = None

    def __init__(self):
        self.told = []

    def stop(self):
        self.told.append('stop')

    def send(self, pose, limits):
        self.told.append(tuple(pose))

    def enter(self, setup):
        self.told.append('enter')

    def snapshot(self):
        return None


def test_silence_stops_once_and_no_target_is_taken_until_the_mode_is_entered_again():
    now, arm, said = [0.0], Recorder(), []
    worker = Worker(arm, said.append, lambda: now[0])
    target = {'pose': [0.0] * 7, 'limits': vars(Limits())}

    def enter(number):
        worker.hear({'id': number, 'do': 'enter', 'args': vars(Setup())})
        worker.thread.join()

    worker.hear(target)
    assert arm.told == []  # not before the mode is entered
    enter(1)
    worker.hear(target)
    now[0] = HEARTBEAT
    worker.watch()
    assert arm.told == ['enter', (0.0,) * 7]
    now[0] += 0.01
    worker.watch()
    worker.watch()
    worker.hear(target)
    assert arm.told == ['enter', (0.0,) * 7, 'stop']
    enter(2)
    worker.hear(target)
    assert arm.told[-2:] == ['enter', (0.0,) * 7]
