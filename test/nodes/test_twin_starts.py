"""A new start of a robot with a peer: what was on its way to the old place moves nothing."""

from dmo_ros.nodes import twin as module
import pytest
import rclpy


class Peer:
    """A robot's side that only counts; setpoints come when a test says so."""

    burst = 1

    def __init__(self):
        self.pending = self.resets = self.moved = 0

    def start(self, notify=None):
        pass

    def advance(self, seconds):
        self.moved += 1
        self.pending = 0

    def show(self, picture):
        pass

    def reset(self):
        self.resets += 1
        self.pending = 0

    def stop(self):
        pass


@pytest.fixture
def twin(monkeypatch):
    peer = Peer()
    monkeypatch.setattr(module, 'make_peer', lambda *_, **__: peer)
    rclpy.init(args=['--ros-args', '-p', 'task:=pusher', '-p', 'speed:=1000.0'])
    node = module.TwinNode()
    yield node, peer
    node.destroy_node()
    rclpy.try_shutdown()


def spin_until(node, condition):
    for _ in range(4000):
        rclpy.spin_once(node, timeout_sec=0.01)
        if condition():
            return
    raise AssertionError('it never came')


def answer(node, peer):
    peer.pending = 1
    node._on_peer()


def test_setpoints_that_come_late_do_not_move_a_robot_that_was_put_elsewhere(twin):
    node, peer = twin
    answer(node, peer)
    spin_until(node, lambda: peer.moved == 1)
    before, moved = node.stamp, peer.moved
    response = node._on_reset(None, module.Trigger.Response())
    answer(node, peer)  # to the frame before
    assert node.stamp == before and peer.moved == moved, 'it stands, and so does its time'
    spin_until(node, lambda: node.stamp > before)
    assert node.stamp == before + module.RESET_PERIODS * node.period
    assert f'{node.stamp * 1e-9:.1f} s' in response.message
    assert peer.pending == 0 and peer.resets == 2 and peer.moved == moved
    answer(node, peer)
    spin_until(node, lambda: peer.moved == moved + 1)
    assert node.stamp == before + (module.RESET_PERIODS + 1) * node.period
