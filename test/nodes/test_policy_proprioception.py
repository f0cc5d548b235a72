"""The policy process of a task with proprioception: which joint states it acts on, and never."""

import importlib.util
from pathlib import Path

from dmo_ros.core.actions import fill, to_si
from dmo_ros.core.policy import Policy
from dmo_ros.core.tasks import get_task
from dmo_ros.msg import BodyCommand, PolicyStatus
from dmo_ros.nodes import convert, qos
import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

SPEC = get_task('grab_box')
PERIOD = round(SPEC.period * 1e9)
NAMES = [field.name for field in SPEC.proprioception]
LONG_AGO = -3 * PERIOD


@pytest.fixture(scope='module')
def body_file(tmp_path_factory):
    """A policy of a few nodes for the whole body, made as the core's tests make it."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    place = Path(__file__).parent.parent / 'core' / 'conftest.py'
    found = importlib.util.spec_from_file_location('core_pieces', place)
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    file = tmp_path_factory.mktemp('body') / 'policy.onnx'
    file.write_bytes(made.pieces(SPEC).sealed)
    return file


class Robot:
    """A camera and a bridge: each frame comes with the joint states that a test says."""

    def __init__(self, probe):
        self.probe, self.stamp, self.rng = probe, 100 * PERIOD, np.random.default_rng(3)
        self.images = probe.publisher(Image, 'image_raw')
        self.joints = probe.publisher(JointState, 'joint_states')
        self.answers = probe.listen(BodyCommand, 'cmd_policy')
        self.states = probe.listen(PolicyStatus, 'policy/status', qos.LATCHED)

    def meet(self):
        probe = self.probe
        probe.until(lambda: self.images.get_subscription_count() == 1)
        probe.until(lambda: self.joints.get_subscription_count() == 1)
        probe.until(lambda: probe.node.count_publishers('cmd_policy') == 1)
        probe.until(lambda: self.states and self.states[-1][1].state == PolicyStatus.ACTIVE)

    def posture(self):
        return self.rng.uniform(-0.5, 0.5, len(NAMES))

    def feel(self, values, offset=0, names=NAMES):
        """Tell a joint state, stamped ``offset`` (ns) after the frame of now."""
        header = Header(stamp=convert.to_time(self.stamp + offset))
        self.joints.publish(convert.joint_state(names, values, header))

    def step(self, periods=1):
        self.stamp += periods * PERIOD

    def see(self):
        """Show a frame of now; returns it."""
        frame = self.rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        header = Header(stamp=convert.to_time(self.stamp))
        self.images.publish(convert.to_image(frame, 'rgb8', header))
        return frame

    def answer(self):
        """Return the answer to the frame of now; it comes, however long it takes."""

        def come():
            return self.answers and self.answers[-1][1].header.stamp == convert.to_time(self.stamp)

        self.probe.until(come)
        return self.answers[-1][1]

    def refusal(self):
        """Return why the frame of now is not answered; the policy says so itself."""

        def told():
            status = self.states[-1][1]
            return status.reason and status.header.stamp == convert.to_time(self.stamp)

        self.probe.until(told)
        return self.states[-1][1].reason


@pytest.fixture
def robot(new_probe, start, body_file):
    import rclpy

    rclpy.init()
    probe = new_probe()
    # A busy machine may bring a state long after its picture, yet an answer must not be too late.
    start('policy', path=str(body_file), task='grab_box', autostart=True, state_wait=0.1)
    made = Robot(probe)
    made.meet()
    yield made
    probe.node.destroy_node()
    rclpy.try_shutdown()


def expect(robot, oracle, frame, posture):
    """The answer is the policy's own, its undriven fields at rest."""
    command = convert.from_command(robot.answer(), SPEC)
    driven = to_si(oracle.step(frame, posture.astype(np.float32)), SPEC.driven)
    np.testing.assert_allclose(command, fill(driven, SPEC), atol=1e-6)
    for field, value in zip(SPEC.actions, command, strict=True):
        if field.name not in SPEC.policy_actions:
            assert value == field.rest, field.name


def test_a_frame_is_answered_on_the_state_of_its_moment(robot, body_file):
    oracle, spec = Policy.load(body_file, SPEC), SPEC
    assert len(spec.policy_actions) == 11 and len(spec.actions) == 22
    for turn in range(6):
        robot.step(10 if turn == 0 else 1)
        before, now, after = (robot.posture() for _ in range(3))
        order = robot.rng.permutation(len(NAMES))
        robot.feel(before, -PERIOD // 2)
        if turn % 2:  # a camera's picture comes late: newer states are there already
            robot.feel(now[order], -1, [NAMES[number] for number in order])
            robot.feel(after, PERIOD // 4)
            frame = robot.see()
        else:  # a twin's may come before its state
            frame = robot.see()
            robot.feel([0.0, *now[order]], 0, ['knee', *(NAMES[number] for number in order)])
        expect(robot, oracle, frame, now)
    status = robot.states[-1][1]
    assert status.reason == '' and status.misses == 0


def test_no_bad_state_ever_leads_to_a_command(robot, body_file):
    oracle = Policy.load(body_file, SPEC)

    def good():
        posture = robot.posture()
        robot.feel(posture)
        expect(robot, oracle, robot.see(), posture)

    robot.step()
    robot.see()
    assert 'no joint state has come' in robot.refusal()
    robot.step()
    good()
    short, nan = robot.posture()[:-1], robot.posture()
    nan[NAMES.index('right_elbow')] = np.nan
    bad = (
        (lambda: robot.feel(nan), 'not finite in right_elbow'),
        (lambda: robot.feel(short, 0, NAMES[:-1]), 'lacks right_hand'),
        (lambda: robot.feel(short), '19 joints and gives 18'),
        (lambda: (robot.feel(robot.posture(), -1), robot.feel(nan)), 'not finite in right_elbow'),
    )
    for tell, reason in bad:
        count = len(robot.answers)
        robot.step()
        tell()
        robot.see()
        assert reason in robot.refusal()
        robot.probe.spin(0.1)
        assert len(robot.answers) == count
        robot.step()
        good()  # one lost frame is bridged, and the memory is as if it had never come
    robot.step(5)
    robot.feel(robot.posture(), LONG_AGO)
    count = len(robot.answers)
    robot.see()
    assert 'older than the frame' in robot.refusal()
    robot.probe.spin(SPEC.limits.frame_timeout + 0.1)  # the bridge falls silent
    robot.step()
    robot.see()
    assert 'came 0.' in robot.refusal() and len(robot.answers) == count
    assert robot.states[-1][1].state == PolicyStatus.ACTIVE
    assert robot.states[-1][1].misses == 7
    robot.step(5)
    oracle.reset()  # what it did not see was longer than a frame: it begins anew
    good()
