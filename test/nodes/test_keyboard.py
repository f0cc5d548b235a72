"""A terminal (a pseudo one) in front of the keyboard node, and a missing one."""

import os
import pty
import signal
import subprocess
import sys
import termios

from dmo_ros.core.intent import PadMap, read_pad
import pytest
from sensor_msgs.msg import Joy

MAP = PadMap()


class Desk:
    def __init__(self, probe):
        self.probe = probe
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.child = subprocess.Popen(
            [sys.executable, '-m', 'dmo_ros.nodes.keyboard'],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.theirs = theirs
        probe.until(lambda: probe.heard['joy'])

    def type(self, keys):
        os.write(self.ours, keys)

    def pad(self):
        message = self.probe.last('joy')
        return read_pad(message.axes, message.buttons, MAP)

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def desk(probe):
    if 'joy' not in probe.heard:
        probe.listen(Joy, 'joy')
    probe.spin(0.3)  # what the one before has said
    probe.heard['joy'].clear()
    desk = Desk(probe)
    yield desk
    desk.close()


def test_keys_are_a_pad_and_the_terminal_is_given_back(desk):
    assert desk.pad().neutral and not desk.pad().deadman
    desk.type(b'h\x1b[A')
    desk.probe.until(lambda: desk.pad().deadman and desk.pad().stick == (0.0, 0.5))
    desk.type(b' ')
    desk.probe.until(lambda: not desk.pad().deadman and desk.pad().neutral)
    count = len(desk.probe.heard['joy'])
    desk.probe.spin(0.5)
    assert len(desk.probe.heard['joy']) - count > 10, 'often enough for the gate'
    desk.type(b'x')
    assert desk.child.wait(20) == 0
    assert termios.tcgetattr(desk.theirs) == desk.before
    assert not desk.pad().deadman


def test_an_interrupt_gives_the_terminal_back_as_well(desk):
    desk.child.send_signal(signal.SIGINT)
    assert desk.child.wait(20) == 0
    assert termios.tcgetattr(desk.theirs) == desk.before


def test_without_a_terminal_it_says_so():
    done = subprocess.run(
        [sys.executable, '-m', 'dmo_ros.nodes.keyboard'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and 'terminal of its own' in done.stderr
