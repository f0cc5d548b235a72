"""What a node's process makes of errors: which end it, which are its end, which it survives."""

import os
import signal
import threading

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
    """Does what a list says, each time it is to spin once; a signal may wake it."""

    def __init__(self, node, *steps):
        self.context, self.steps, self.woken = node, list(steps), threading.Event()

    def spin_once(self):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        step()

    def wake(self):
        self.woken.set()


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
def test_a_signal_ends_the_spinning_after_the_callback_and_wakes_a_waiting_one(ending, number):
    node, done = Node(True), []

    def callback():
        os.kill(os.getpid(), number)
        done.append(executor.woken.wait(10.0))

    executor = Executor(node, callback)
    _spin(ending, executor, node)
    assert done == [True] and ending.asked


def test_a_signal_while_nothing_spins_and_a_second_one_are_an_interrupt(ending):
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert ending.asked
    node = Node(True)
    ending.asked = False
    with pytest.raises(KeyboardInterrupt):
        _spin(ending, Executor(node, lambda: (interrupt(), interrupt())), node)


def test_a_transition_at_the_wrong_time_is_survived(ending):
    node = Node(True)
    executor = Executor(node, pybind.RCLError(WRONG), pybind.RCLError(WRONG), interrupt)
    _spin(ending, executor, node)
    assert not executor.steps and 'transition' in node.logger.text


@pytest.mark.parametrize('error', [RuntimeError('a bug'), pybind.RCLError('x'), Finished(3)])
def test_a_fault_of_a_living_node_ends_it(ending, error):
    node = Node(True)
    with pytest.raises(type(error)):
        _spin(ending, Executor(node, error), node)


def test_a_context_that_somebody_shut_down_is_the_end(ending):
    _spin(ending, Executor(Node(False)), Node(False))
