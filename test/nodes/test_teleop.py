"""Teleop for a whole body: rates from the stick, on top of what the gate sends."""

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.tasks import TASKS
from dmo_ros.msg import BodyCommand, IntentLabel
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.diagnostics import status
from dmo_ros.stacks import Process, share
from dmo_ros.up import Child
import numpy as np
import pytest
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Header

SPEC = TASKS['grab_box']
REST = np.array([field.rest for field in SPEC.actions])
NAMES = [field.name for field in SPEC.actions]
PERIOD = 100_000_000


class Desk:
    """A pad, and a gate that sends the rest posture."""

    def __init__(self, probe):
        self.probe, self.stamp = probe, PERIOD
        self.joy = probe.publisher(Joy, 'joy')
        self.cmd = probe.publisher(BodyCommand, 'cmd', qos.COMMAND_OUT)
        self.gate = probe.publisher(DiagnosticStatus, 'gate/status', qos.LATCHED)
        self.heard = probe.listen(BodyCommand, 'cmd_teleop')
        self.labels = probe.listen(IntentLabel, 'intent')

    def press(self, *buttons, axes=(0.0,) * 8, step=PERIOD):
        """Report the pad and return teleop's answer."""
        self.stamp += step
        held = [int(index in buttons) for index in range(10)]
        header = Header(stamp=convert.to_time(self.stamp))
        self.joy.publish(Joy(header=header, axes=list(axes), buttons=held))
        self.probe.until(lambda: self.labels and self.at(self.labels[-1][1].stamp))
        self.probe.spin(0.05)
        message = self.probe.last('cmd_teleop')
        if message is None or not self.at(message.header.stamp):
            return None
        return dict(zip(NAMES, convert.from_command(message, SPEC)))

    def matched(self):
        heard = [out.get_subscription_count() for out in (self.joy, self.cmd, self.gate)]
        return all(heard) and self.probe.node.count_publishers('intent')

    def at(self, stamp):
        return convert.nanoseconds(stamp) == self.stamp


@pytest.fixture(scope='module')
def desk(probe):
    files = tuple(share('config', name) for name in ('grab_box.yaml', 'joy_xbox.yaml'))
    child = Child(Process('teleop', '/', files, {'task': 'grab_box'}, {}, True), None)
    try:
        desk = Desk(probe)
        assert child.ready.wait(40), child.story()
        probe.until(lambda: desk.matched())
        yield desk
    finally:
        child.send(9)
        child.popen.wait(5)


def test_it_speaks_as_the_layers_say_once_it_knows_where_the_robot_is(desk):
    assert desk.press() is None, 'nobody knows where the robot is'
    desk.cmd.publish(convert.to_command(REST, SPEC, PERIOD))
    desk.gate.publish(status('gate', 0, '', {'state': 'ACTIVE', 'source': 'teleop'}))
    desk.probe.spin(0.5)
    answer = desk.press()
    np.testing.assert_allclose(list(answer.values()), REST)
    up = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    raised = desk.press(4, axes=up)
    speed = SPEC.limits.speed[NAMES.index('right_shoulder_pitch')]
    change = raised['right_shoulder_pitch'] - answer['right_shoulder_pitch']
    assert abs(change) == pytest.approx(0.1 * speed)
    again = desk.press(4, axes=up, step=PERIOD // 2)
    change = again['right_shoulder_pitch'] - raised['right_shoulder_pitch']
    assert abs(change) == pytest.approx(0.05 * speed)
    walking = desk.press(4, 2, axes=up)
    assert walking['vx'] == pytest.approx(0.3)
    assert walking['right_shoulder_pitch'] == again['right_shoulder_pitch'], 'it is held'
    let_go = desk.press(axes=up)
    np.testing.assert_allclose(list(let_go.values()), REST)


def test_after_a_jump_in_time_it_goes_on_from_the_joints(desk):
    up = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    desk.press(4, axes=up, step=20 * PERIOD)
    elsewhere = REST + 0.01
    joints = desk.probe.publisher(JointState, 'joint_states')
    desk.probe.until(joints.get_subscription_count)
    header = Header(stamp=convert.to_time(desk.stamp))
    joints.publish(JointState(header=header, name=NAMES[:19], position=elsewhere[:19].tolist()))
    desk.probe.spin(0.5)
    answer = desk.press(4)
    np.testing.assert_allclose(list(answer.values())[:19], elsewhere[:19], atol=1e-9)
