"""The policy as a lifecycle process: what it refuses to load, when it answers or is silent."""

from dmo_ros.core.actions import to_si
from dmo_ros.core.policy import Policy
from dmo_ros.msg import PolicyStatus
from dmo_ros.nodes import convert, qos
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

PERIOD = 200_000_000


class Eye:
    """A camera and somebody who manages the policy."""

    def __init__(self, probe):
        self.probe, self.stamp = probe, 10 * PERIOD
        self.images = probe.publisher(Image, 'image_raw')
        self.answers = probe.listen(TwistStamped, 'cmd_policy')
        self.states = probe.listen(PolicyStatus, 'policy/status', qos.LATCHED)
        self.client = probe.node.create_client(ChangeState, 'policy/change_state')
        self.rng = np.random.default_rng(1)

    def change(self, transition):
        assert self.client.wait_for_service(20)
        future = self.client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.probe.until(future.done)
        return future.result().success

    def frame(self):
        return self.rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def show(self, frame, ahead=1, **changes):
        """Show a frame ``ahead`` periods later and return the answer to it, None for silence."""
        self.stamp += ahead * PERIOD
        message = convert.to_image(frame, 'rgb8', Header(stamp=convert.to_time(self.stamp)))
        for name, value in changes.items():
            setattr(message, name, value)
        before = len(self.answers)
        self.images.publish(message)
        patience = 0.4 if changes or ahead <= 0 else 1.5
        self.probe.until(lambda: len(self.answers) > before, patience, strict=False)
        return self.answers[-1][1] if len(self.answers) > before else None

    def meet(self):
        self.probe.until(lambda: self.images.get_subscription_count() == 1)
        self.probe.until(lambda: self.probe.node.count_publishers('cmd_policy') == 1)


@pytest.fixture
def eye(new_probe):
    import rclpy

    rclpy.init()
    probe = new_probe()
    yield Eye(probe)
    probe.node.destroy_node()
    rclpy.try_shutdown()


def test_it_answers_frames_like_the_policy_itself_and_only_while_active(eye, start, policy_file):
    start('policy', path=str(policy_file))
    eye.meet()
    assert eye.change(Transition.TRANSITION_CONFIGURE)
    assert eye.show(eye.frame(), ahead=0) is None, 'inactive'
    assert eye.change(Transition.TRANSITION_ACTIVATE)
    while eye.show(eye.frame()) is None:
        pass
    oracle = Policy.load(policy_file, eye.probe.spec)

    def agree(ahead=1):
        frame = eye.frame()
        answer, expected = eye.show(frame, ahead), to_si(oracle.step(frame), eye.probe.spec.driven)
        assert convert.nanoseconds(answer.header.stamp) == eye.stamp
        assert answer.header.frame_id == 'board'
        np.testing.assert_allclose(
            convert.from_command(answer, eye.probe.spec), expected, atol=1e-6
        )

    agree(ahead=10)  # a gap: an episode's start
    for _ in range(5):
        agree()
    agree(ahead=2)  # one lost frame is bridged
    assert eye.probe.call('policy/reset').success
    oracle.reset()
    agree()
    # Refused frames leave no trace in the history.
    assert eye.show(eye.frame(), ahead=0) is None, 'duplicate'
    assert eye.show(eye.frame(), ahead=-1) is None, 'reordered'
    eye.stamp += PERIOD
    assert eye.show(eye.frame(), height=99) is None, 'too few bytes for its size'
    agree()
    eye.probe.until(lambda: eye.states[-1][1].misses == 2)  # one lost, one malformed
    status = eye.states[-1][1]
    assert status.state == PolicyStatus.ACTIVE and 0 < status.latency < 0.5
    assert eye.change(Transition.TRANSITION_DEACTIVATE)
    assert eye.show(eye.frame(), ahead=0) is None


def test_of_a_fast_camera_one_frame_a_period_is_answered(eye, start, policy_file):
    start('policy', path=str(policy_file), autostart=True)
    eye.meet()
    while eye.show(eye.frame()) is None:
        pass
    eye.stamp += 10 * PERIOD
    first, before = eye.stamp, len(eye.answers)
    for step in range(46):  # 30 Hz, a little uneven, for 1.5 s
        eye.stamp = first + step * 33_333_333 + (step % 3) * 2_000_000
        header = Header(stamp=convert.to_time(eye.stamp))
        eye.images.publish(convert.to_image(eye.frame(), 'rgb8', header))
        eye.probe.spin(0.02)
    eye.probe.until(lambda: len(eye.answers) >= before + 8)
    stamps = [convert.nanoseconds(m.header.stamp) - first for _, m in eye.answers[before:]]
    assert len(stamps) == 8
    np.testing.assert_allclose(np.diff(stamps), PERIOD, atol=0.1 * PERIOD)
    eye.probe.until(lambda: eye.states[-1][1].misses == 0, 5.0)


@pytest.mark.parametrize(
    'damage, text',
    [
        (lambda data: data[:-100], 'export'),
        (lambda data: b'', 'export'),
        (lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:], 'damaged'),
    ],
    ids=['cut', 'empty', 'flipped'],
)
def test_a_damaged_file_is_a_failed_transition_with_the_reason(
    eye, start, policy_file, tmp_path, damage, text
):
    file = tmp_path / 'damaged.onnx'
    file.write_bytes(damage(policy_file.read_bytes()))
    child = start('policy', path=str(file))
    assert not eye.change(Transition.TRANSITION_CONFIGURE)
    eye.probe.until(lambda: eye.states and text in eye.states[-1][1].reason)
    assert eye.states[-1][1].state == PolicyStatus.UNCONFIGURED
    assert child.code is None, 'it lives, unconfigured, and may be given a better file'


def test_a_file_of_another_task_is_refused_with_the_field(start, policy_file):
    child = start('policy', wait=False, path=str(policy_file), task='push_t', autostart=True)
    assert child.popen.wait(20) == 2
    assert 'push_t' in child.story()


def test_an_action_that_is_not_finite_is_a_fault_and_silence(eye, start, tmp_path, spoilt_policy):
    start('policy', path=str(spoilt_policy), autostart=True)
    eye.meet()
    while eye.show(eye.frame()) is None:
        pass
    assert eye.show(np.zeros((32, 32, 3), np.uint8), ahead=10) is None
    eye.probe.until(lambda: eye.states[-1][1].state == PolicyStatus.FAULT)
    assert 'not finite' in eye.states[-1][1].reason
    assert eye.show(eye.frame(), ahead=1) is None, 'until somebody deactivates and activates it'
