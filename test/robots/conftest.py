"""What the G1's tests share: robots driven as its bridge drives them, and its peer in here."""

import contextlib
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

PATIENCE = 30.0
SPEC = get_task('grab_box')
REST = np.array([field.rest for field in SPEC.actions])
DT = 0.02


class Ticker:
    """Commands at 10 Hz and ticks at 50 Hz from a thread, as the bridge's sender does."""

    def __init__(self, robot, **wanted):
        self.robot = robot
        self.ask(**wanted)
        self.errors = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def ask(self, **wanted):
        self.values = Bench.command(**wanted)

    def run(self):
        while not self.ended.wait(DT):
            try:
                self.robot.command(self.values)
                self.robot.tick(DT)
            except RobotError as error:
                self.errors.append(str(error))
                return

    def end(self):
        self.ended.set()
        self.thread.join(5.0)
        return time.monotonic()


class Bench:
    """Makes robots and drives them; the last one made is ended first."""

    def __init__(self):
        self.ends = contextlib.ExitStack()

    @staticmethod
    def until(condition, patience=PATIENCE):
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < patience, condition
            time.sleep(0.005)

    @staticmethod
    def raised(by):
        """Return the upper body's joints (17,), each so much above its rest."""
        return REST[:17] + by

    @staticmethod
    def command(upper=0.0, hand=0.0, walk=(0.0, 0.0, 0.0)):
        return (*(REST[:17] + upper).tolist(), hand, hand, *walk)

    @staticmethod
    def config(path='sonic', **changed):
        domain = int(os.environ['ROS_DOMAIN_ID'])
        return G1Config(
            **{
                'path': path,
                'commands': f'tcp://127.0.0.1:{twin_port(domain, "sonic_command")}',
                'feedback': f'tcp://127.0.0.1:{twin_port(domain, "sonic_feedback")}',
                'dds_domain': twin_dds_domain(domain),
                'ramp': 0.4,
                **changed,
            }
        )

    def robot(self, engage=True, **changed):
        robot = G1(self.config(**changed), SPEC)
        self.ends.callback(robot.close)
        robot.connect()
        if engage:
            robot.engage()
        return robot

    def drive(self, robot, **wanted):
        ticker = Ticker(robot, **wanted)
        self.ends.callback(ticker.end)
        return ticker

    def close(self):
        self.ends.close()


class World(Bench):
    """A bench with the robot's side on it as well, in this process."""

    def __init__(self, standin):
        from dmo_ros.twins.g1_peer import G1Peer

        super().__init__()
        domain = int(os.environ['ROS_DOMAIN_ID'])
        unitree.open_channel(twin_dds_domain(domain))
        self.twin = standin.Standin()
        self.peer = G1Peer(self.twin, domain)
        self.peer.start()
        self.ends.callback(standin.Running(self.peer).close)

    def plans(self, since=0.0):
        """Return when each plan came that came since, and the plan."""
        records = list(self.peer.records)
        return [(r.at, r.data) for r in records if r.kind == 'planner' and r.at >= since]


@pytest.fixture(scope='session')
def g1_ready():
    """Skip what needs the G1's libraries where they are not installed."""
    pytest.importorskip('zmq')
    pytest.importorskip('msgpack')
    try:
        unitree.sdk()
    except RobotError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def bench(g1_ready):
    """Return a Bench on which nobody plays the robot."""
    with contextlib.closing(Bench()) as bench:
        yield bench


@pytest.fixture
def world(g1_ready, g1_standin):
    """Return a Bench with the G1's peer in this process."""
    with contextlib.closing(World(g1_standin)) as world:
        yield world
