"""What a node's process makes of errors: which end it, which are its end, which it survives."""

from dmo_ros.nodes import _spin, Finished
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
    """Raises what a list says, then ends."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def spin(self):
        if self.errors:
            raise self.errors.pop(0)


WRONG = 'Failed to trigger lifecycle state machine transition: not registered'


def test_a_transition_at_the_wrong_time_is_survived():
    node, executor = Node(True), Executor(pybind.RCLError(WRONG), pybind.RCLError(WRONG))
    _spin(executor, node)
    assert not executor.errors and 'transition' in node.logger.text


def test_a_signal_in_the_middle_of_something_is_the_end_and_no_fault():
    for error in (RuntimeError('Unable to convert call argument'), pybind.RCLError('invalid')):
        _spin(Executor(error), Node(False))


@pytest.mark.parametrize('error', [RuntimeError('a bug'), pybind.RCLError('x'), Finished(3)])
def test_a_fault_of_a_living_node_ends_it(error):
    with pytest.raises(type(error)):
        _spin(Executor(error), Node(True))


def test_a_node_that_is_done_says_so_also_when_a_signal_comes():
    with pytest.raises(Finished):
        _spin(Executor(Finished(1)), Node(False))
