"""The last watchdog before a robot, with a robot that writes down what it is told."""

import threading
import time

from dmo_ros.core.tasks import get_task
from dmo_ros.robots.base import RobotError
from dmo_ros.robots.sender import DryRun, Sender, UNHEARD
import pytest

PATIENCE = 20.0


class Diary(DryRun):
    """A robot that notes every call and when it came."""

    sink_hz = 100.0

    def __init__(self):
        super().__init__(get_task('push_cube'))
        self.calls, self.confirms = [], True
        self.heard = threading.Condition()
        self.trouble = None

    def note(self, what):
        with self.heard:
            self.calls.append((what, time.monotonic()))
            self.heard.notify_all()

    def tick(self, dt):
        if self.trouble:
            raise self.trouble
        self.note(self.values)

    def stop(self):
        self.note('stop')
        return self.confirms

    def count(self, what):
        return sum(call == what for call, _ in self.calls)

    def wait(self, condition):
        with self.heard:
            assert self.heard.wait_for(condition, PATIENCE), self.calls[-5:]


@pytest.fixture
def new():
    """A robot and its sender, before it has heard of a gate."""
    made = []

    def build(watchdog=0.25, burst=0):
        robot = Diary()
        made.append(Sender(robot, watchdog, burst))
        made[-1].start()
        return robot, made[-1]

    yield build
    for sender in made:
        sender.close()


@pytest.fixture
def make(new):
    """The same before a gate at rest."""

    def build(**chosen):
        robot, sender = new(**chosen)
        sender.hear_gate(False)
        assert sender.release()
        return robot, sender

    return build


FORWARD, BACK = (0.3, 0.0, 0.0), (-0.3, 0.0, 0.0)


def test_nothing_is_sent_before_the_first_command(make):
    robot, sender = make()
    sender.close()
    assert [call for call, _ in robot.calls] == ['stop']


def test_the_newest_command_wins_and_is_repeated(make):
    robot, sender = make(watchdog=5.0)
    sender.put(FORWARD, 1)
    sender.put(BACK, 2)
    robot.wait(lambda: robot.count(BACK) >= 3)
    assert robot.count(FORWARD) <= 1 and robot.calls[-1][0] == BACK


def test_silence_stops_the_robot_within_the_watchdog(make):
    robot, sender = make(watchdog=0.25)
    sender.put(FORWARD, 1)
    last = time.monotonic()
    robot.wait(lambda: robot.count('stop'))
    stopped = next(at for call, at in robot.calls if call == 'stop')
    assert 0.25 <= stopped - last < 0.35
    assert 'no command from the gate' in sender.halted
    assert all(call == 'stop' for call, at in robot.calls if at > stopped)


def test_a_stop_is_repeated_until_the_robot_confirms_it(make):
    robot, sender = make()
    robot.confirms = False
    sender.put(FORWARD, 1)
    sender.halt('for a test')
    robot.wait(lambda: robot.count('stop') >= 3)
    assert not sender.release()  # not before it is known to rest
    robot.confirms = True
    robot.wait(lambda: sender.confirmed or robot.count('stop') >= 8)
    count = robot.count('stop')
    sender.close()
    assert robot.count('stop') <= count + 1  # a confirmed stop is not asked for again


def test_it_obeys_again_only_after_the_gate_was_at_rest(make):
    robot, sender = make(watchdog=5.0)
    sender.hear_gate(True)
    sender.put(FORWARD, 1)
    robot.wait(lambda: robot.count(FORWARD))
    sender.halt('for a test')
    robot.wait(lambda: robot.count('stop'))
    assert not sender.release()
    sender.put(BACK, 2)
    sender.hear_gate(False)
    deadline = time.monotonic() + PATIENCE
    while not sender.release():
        assert time.monotonic() < deadline
    moved = robot.count(BACK)
    assert moved == 0  # what was commanded while it stood is not carried out later
    sender.put(BACK, 3)
    robot.wait(lambda: robot.count(BACK))


@pytest.mark.parametrize(
    ('trouble', 'told'),
    [
        (RobotError('the link is down'), 'the link is down'),
        (OSError(19, 'No such device'), 'OSError: [Errno 19] No such device'),  # of an SDK's own
    ],
)
def test_a_refusal_of_the_robot_stops_it_and_is_told(make, trouble, told):
    robot, sender = make(watchdog=5.0)
    robot.trouble = trouble
    sender.put(FORWARD, 1)
    robot.wait(lambda: robot.count('stop'))
    assert sender.halted == told


def test_a_bridge_that_comes_back_while_the_gate_drives_obeys_nothing(new):
    robot, sender = new(watchdog=5.0)
    for drives in (None, True):  # not heard yet, and heard to drive
        if drives is not None:
            sender.hear_gate(drives)
        assert not sender.release() and sender.halted == UNHEARD
        sender.put(FORWARD, 1)
    sender.hear_gate(False)
    assert sender.release()
    sender.put(BACK, 2)
    robot.wait(lambda: robot.count(BACK))
    assert not robot.count(FORWARD)


def test_a_stop_that_fails_again_and_again_is_told_once(make):
    robot, sender = make(watchdog=5.0)

    def refuse():
        robot.note('stop')
        raise RobotError('the link is down')

    robot.stop = refuse
    sender.halt('for a test')
    robot.wait(lambda: robot.count('stop') >= 4)
    assert sender.halted.count('the link is down') == 1 and sender.halted.startswith('for a test')
    robot.stop = lambda: True


def test_in_lockstep_each_stamp_is_a_burst_and_a_repeat_is_none(make):
    robot, sender = make(watchdog=5.0, burst=20)
    for stamp in (1, 1, 1):
        sender.put(FORWARD, stamp)
    robot.wait(lambda: robot.count(FORWARD) >= 20)
    sender.put(FORWARD, 1)
    sender.put(BACK, 2)
    robot.wait(lambda: robot.count(BACK) >= 20)
    assert (robot.count(FORWARD), robot.count(BACK)) == (20, 20)


def test_closing_stops_the_robot_first_and_twice_is_once(make):
    robot, sender = make(watchdog=5.0)
    sender.put(FORWARD, 1)
    robot.wait(lambda: robot.count(FORWARD))
    sender.close()
    assert robot.calls[-1][0] == 'stop'
    sender.close()
    assert robot.count('stop') == 1
