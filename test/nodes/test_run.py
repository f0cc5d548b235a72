"""What a node's process makes of errors: which end it, which are its end, which it survives."""

import os
import signal
import subprocess
import sys
import threading
import time

from dmo_ros.nodes import _spin, Ending, Finished
import pytest

pybind = pytest.importorskip('rclpy._rclpy_pybind11')


class Logger:
    def error(self, text):
        self.text = text


class Node:
    """A node whose context is alive or already shut down by a signal."""

    def __init__(self, alive):
        self.context, self.logger = self, Logger()
        self.ok = lambda: alive
        self.get_logger = lambda: self.logger


class Executor:
    """Does what a list says, then waits for its end."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def spin_until_future_complete(self, end):
        ended = threading.Event()
        end.add_done_callback(lambda end: ended.set())
        for _ in list(self.steps):
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            step()
        assert ended.wait(10.0)


@pytest.fixture
def ending():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Ending()
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


WRONG = 'Failed to trigger lifecycle state machine transition: not registered'


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_spinning_after_the_callback(ending, number):
    done = []

    def callback():
        os.kill(os.getpid(), number)
        time.sleep(0.1)
        done.append('to its end')

    _spin(ending, Executor(callback), Node(True))
    assert done and ending.asked


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_waits_for_nothing_ends_as_well(number):
    """Without a timer on the steady clock no callback would ever come."""
    script = (
        'from dmo_ros.nodes import run\n'
        'import rclpy.node\n'
        "raise SystemExit(run(lambda: rclpy.node.Node('idle')))\n"
    )
    idle = subprocess.Popen(
        [sys.executable, '-c', script],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert 'ready' in idle.stderr.readline()
        time.sleep(0.2)
        idle.send_signal(number)
        assert idle.wait(20) == 0 and not idle.stderr.read()
    finally:
        idle.kill()
        idle.stderr.close()


def test_a_signal_while_nothing_spins_and_a_second_one_are_an_interrupt(ending):
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert ending.asked
    node = Node(True)
    ending.asked = False
    with pytest.raises(KeyboardInterrupt):
        _spin(ending, Executor(lambda: (interrupt(), interrupt())), node)


def test_a_transition_at_the_wrong_time_is_survived(ending):
    node = Node(True)
    executor = Executor(pybind.RCLError(WRONG), pybind.RCLError(WRONG), interrupt)
    _spin(ending, executor, node)
    assert not executor.steps and 'transition' in node.logger.text


@pytest.mark.parametrize('error', [RuntimeError('a bug'), pybind.RCLError('x'), Finished(3)])
def test_a_fault_of_a_living_node_ends_it(ending, error):
    node = Node(True)
    with pytest.raises(type(error)):
        _spin(ending, Executor(error), node)
