"""
Measure the Flexiv arm's link, for docs/results/flexiv_link.md.

    python docs/flexiv_link.py 20

The adapter drives the peer through both generations of the stand-in SDK, and through the worker
process, whose parent is then killed or stopped.  No robot, no ROS.
"""

from __future__ import annotations

from collections.abc import Callable
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from dmo_ros.robots.base import RobotError
from dmo_ros.robots.flexiv import FlexivArm, FlexivConfig
from dmo_ros.robots.flexiv_rdk import RdkArm
from dmo_ros.twins.flexiv_arm import Times
from dmo_ros.twins.flexiv_peer import FlexivPeer, SERIAL
from dmo_ros.twins.flexiv_sdk import make_module
import numpy as np

PARENT = """
import time
from dmo_ros.robots.flexiv import FlexivArm, FlexivConfig
from dmo_ros.robots.flexiv_worker import WorkerArm
robot = FlexivArm(WorkerArm({serial!r}, environment={{'PYTHONPATH': {folder!r}}}), FlexivConfig())
robot.connect()
robot.engage()
while True:
    robot.command((0.1, 0.0))
    robot.tick(0.01)
    time.sleep(0.01)
"""
MODULE = """
from dmo_ros.twins.flexiv_sdk import make_module
globals().update(vars(make_module({generation!r}, {address!r})))
"""


class Board:
    """A twin of the tool alone."""

    names = ('tool_x', 'tool_y')

    def __init__(self) -> None:
        self.state = np.zeros((1, 2))

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Move the tool."""
        self.state = self.state + action * seconds


class Site:
    """An arm in real time."""

    def __init__(self, generation: str) -> None:
        self.generation, self.board = generation, Board()
        twin: Any = self.board
        self.peer = FlexivPeer(twin, 0, times=Times().scaled(0.02), port=0)
        self.peer.start()
        self._ended = threading.Event()
        self._time = threading.Thread(target=self._pass)
        self._time.start()

    def _pass(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self.peer.advance(0.01)
            due = max(due + 0.01, time.monotonic() - 0.05)
            self._ended.wait(max(due - time.monotonic(), 0.0))

    def robot(self) -> FlexivArm:
        """Return an adapter that is ready to drive."""
        sdk = make_module(self.generation, self.peer.address)
        robot = FlexivArm(RdkArm(SERIAL, (), sdk), FlexivConfig())
        robot.connect()
        robot.engage()
        return robot

    def stopped_at(self) -> float:
        """Wait for Stop() and return when it came."""
        while True:
            for call, at in list(self.peer.calls):
                if call == 'Stop':
                    return at
            time.sleep(0.001)

    def close(self) -> None:
        """End."""
        self._ended.set()
        self._time.join()
        self.peer.stop()


def drive(robot: FlexivArm, velocity: tuple[float, float], seconds: float) -> None:
    """Send as the bridge does."""
    due = time.monotonic()
    for _ in range(round(100 * seconds)):
        robot.command(velocity)
        robot.tick(0.01)
        due += 0.01
        time.sleep(max(due - time.monotonic(), 0.0))


def way(site: Site) -> float:
    """0.1 m/s for a second, then zero: mm away from 0.1 m."""
    robot = site.robot()
    drive(robot, (0.1, 0.0), 1.0)
    drive(robot, (0.0, 0.0), 0.3)
    robot.close()
    return 1e3 * abs(float(site.board.state[0, 0]) - 0.1)


def stopping(site: Site) -> float:
    """stop() at 0.25 m/s until the arm has confirmed it: ms."""
    robot = site.robot()
    drive(robot, (0.25, 0.0), 0.4)
    began = time.monotonic()
    while not robot.stop():
        pass
    took = 1e3 * (time.monotonic() - began)
    robot.close()
    return took


def left(site: Site) -> float:
    """Nobody sends any more at 0.25 m/s, and nobody stops it: mm it still goes."""
    robot = site.robot()
    drive(robot, (0.25, 0.0), 0.4)
    at = float(site.board.state[0, 0])
    time.sleep(0.6)
    robot.close()
    return 1e3 * (float(site.board.state[0, 0]) - at)


def contact(site: Site) -> float:
    """From a contact of 12.7 N to the arm's Stop(): ms."""
    robot = site.robot()
    drive(robot, (0.1, 0.0), 0.2)
    site.peer.arm.wrench = [9.0, 9.0, 0.0, 0.0, 0.0, 0.0]
    touched = time.monotonic()
    try:
        drive(robot, (0.1, 0.0), 5.0)
    except RobotError:
        robot.stop()
    took = 1e3 * (site.stopped_at() - touched)
    robot.close()
    return took


def left_alone(site: Site, harm: int) -> float:
    """Harm the process that drives through a worker: ms until the worker's Stop()."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f'{folder}/flexivrdk.py', 'w') as file:
            file.write(MODULE.format(generation=site.generation, address=site.peer.address))
        text = PARENT.format(serial=SERIAL, folder=folder)
        parent = subprocess.Popen([sys.executable, '-c', text])
        while site.board.state[0, 0] < 0.03:
            time.sleep(0.005)
        harmed = time.monotonic()
        parent.send_signal(harm)
        took = 1e3 * (site.stopped_at() - harmed)
        parent.kill()
        parent.wait()
    return took


ROWS: tuple[tuple[str, str, Callable[[Site], float]], ...] = (
    ('0.1 m/s for 1 s: away from 0.1 m', 'mm', way),
    ('stop() at 0.25 m/s, until confirmed', 'ms', stopping),
    ('way still gone at 0.25 m/s when all is silent', 'mm', left),
    ('contact of 12.7 N until Stop()', 'ms', contact),
    ('parent of the worker: kill -9 until Stop()', 'ms', lambda s: left_alone(s, signal.SIGKILL)),
    ('parent of the worker: hangs until Stop()', 'ms', lambda s: left_alone(s, signal.SIGSTOP)),
)


def main() -> int:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print('| what | unit | median | worst | runs |\n|---|---|---|---|---|', flush=True)
    for name, unit, measure in ROWS:
        found = []
        for run in range(runs):
            site = Site(('1.9', '2.0')[run % 2])
            found.append(measure(site))
            site.close()
        found.sort()
        middle = found[len(found) // 2]
        print(f'| {name} | {unit} | {middle:.1f} | {found[-1]:.1f} | {runs} |', flush=True)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
