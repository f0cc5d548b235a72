"""One living writer: rivals, ghosts, the hung and the respawned, as real processes."""

import contextlib
import signal
import subprocess
import sys
import time

from dmo_ros.nodes import qos
from dmo_ros.nodes.writers import Writers
from geometry_msgs.msg import TwistStamped
import pytest
import rclpy

GOOD, ROGUE = 0.25, -0.5
PATIENCE = 40.0
WRITER = """
import sys, time, rclpy
from dmo_ros.nodes import qos
from geometry_msgs.msg import TwistStamped
name, value, profile, lives, seconds = sys.argv[1:]
for life in range(int(lives)):
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(name, context=context)
    message = TwistStamped()
    message.twist.linear.x = float(value)
    out = node.create_publisher(TwistStamped, 'cmd', getattr(qos, profile))
    began, left = time.monotonic(), float(seconds)  # of being heard
    while left > 0 and time.monotonic() < began + 600:
        out.publish(message)
        left -= 0.002 * (out.get_subscription_count() > 0 or profile != 'COMMAND_OUT')
        if life == 0:
            print('publishing', flush=True)
            life = -1
        time.sleep(0.002)
    node.destroy_node()
    rclpy.shutdown(context=context)
    time.sleep(0.3)
"""


class Ear:
    """A process that obeys one living writer."""

    def __init__(self, node):
        self.node = node
        self.accepted, self.refused, self.rivals = [], [], set()
        self.writers = Writers(node, 'cmd')
        node.create_subscription(
            TwistStamped, 'cmd', self._hear, qos.COMMAND_IN, event_callbacks=self.writers.events
        )

    def _hear(self, message):
        rival = self.writers.rival()
        self.rivals.add(rival)
        (self.refused if rival else self.accepted).append(message.twist.linear.x)

    def until(self, condition, patience=PATIENCE):
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < patience, (self.rivals, self.writers.rival())
            rclpy.spin_once(self.node, timeout_sec=0.01)
        return time.monotonic() - began

    def accepts_again(self):
        count = len(self.accepted)
        return self.until(lambda: len(self.accepted) > count + 3)


@pytest.fixture
def ear():
    rclpy.init()
    node = rclpy.create_node('ear')
    yield Ear(node)
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def write():
    """Return a function that starts a writer; it has published when the function returns."""
    children = []

    def start(name, value=GOOD, profile='COMMAND_OUT', lives=1, seconds=600, wait=True):
        words = (name, value, profile, lives, seconds)
        child = subprocess.Popen(
            [sys.executable, '-c', WRITER, *map(str, words)], stdout=subprocess.PIPE
        )
        children.append(child)
        if wait:
            assert child.stdout.readline()
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def play_rogue(ear, write, lives):
    write('policy')
    ear.accepts_again()
    rogue = write('rogue', ROGUE, lives=lives, seconds=0.4, wait=False)
    ear.until(lambda: rogue.poll() is not None, PATIENCE + 3 * lives)
    assert rogue.returncode == 0
    ear.accepts_again()
    assert ear.refused.count(ROGUE) >= lives, 'they were heard'
    assert set(ear.accepted) == {GOOD}
    assert any('/rogue' in rival and '/policy' in rival for rival in ear.rivals)


def test_no_value_of_a_second_writer_passes(ear, write):
    play_rogue(ear, write, 3)


@pytest.mark.slow
def test_no_value_of_twenty_second_writers_passes(ear, write):
    play_rogue(ear, write, 25)


@pytest.mark.slow  # its three seconds are counted on a wall clock
@pytest.mark.parametrize('harm', [signal.SIGKILL, signal.SIGSTOP], ids=['killed', 'hung'])
@pytest.mark.parametrize('wait', [0.0, 1.5], ids=['at once', 'later'])
def test_the_respawn_of_a_dead_writer_is_not_blocked_by_its_ghost(ear, write, harm, wait):
    old = write('policy')
    ear.accepts_again()
    old.send_signal(harm)
    until = time.monotonic() + wait
    with contextlib.suppress(AssertionError):
        ear.until(lambda: False, max(0.01, until - time.monotonic()))
    write('policy', 0.5)
    assert ear.until(lambda: 0.5 in ear.accepted) < 3.0
    write('rogue', ROGUE)
    ear.until(lambda: ROGUE in ear.refused)
    assert ROGUE not in ear.accepted, 'the ghost does not make room for another'


def test_one_that_wakes_up_beside_its_successor_is_a_rival(ear, write):
    old = write('policy')
    ear.accepts_again()
    old.send_signal(signal.SIGSTOP)
    write('policy', 0.5)
    ear.until(lambda: 0.5 in ear.accepted)
    old.send_signal(signal.SIGCONT)
    ear.until(ear.writers.rival)
    old.kill()
    ear.accepts_again()


def test_one_who_goes_cleanly_makes_room_at_once(ear, write):
    write('policy', seconds=1.0)
    ear.accepts_again()
    write('policy', 0.5)
    ear.until(lambda: 0.5 in ear.accepted)


def test_a_writer_that_cannot_be_heard_is_named(ear, write):
    write('policy')
    ear.accepts_again()
    write('typist', ROGUE, profile='STREAM')  # as `ros2 topic pub`
    ear.until(lambda: ear.writers.mismatch() and '/typist' in ear.writers.rival())
    told = ear.writers.mismatch()
    assert '/typist' in told and 'liveliness' in told and 'nodes/qos.py' in told
    assert ROGUE not in ear.accepted
