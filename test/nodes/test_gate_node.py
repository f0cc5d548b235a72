"""The gate's promises, kept by real processes: a pad, teleop, the gate, and who disturbs them."""

import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.gate import GateNodeConfig
from geometry_msgs.msg import TwistStamped
import pytest

SLACK = 0.4  # seconds on top of a promise, for a machine shared with other work


class Desk:
    def __init__(self, probe, pad):
        self.probe, self.pad = probe, pad
        probe.listen(TwistStamped, 'cmd')
        probe.listen(DiagnosticStatus, 'gate/status', qos.LATCHED)
        self.policy_out, self.timer = None, None

    @property
    def status(self):
        message = self.probe.last('gate/status')
        return {pair.key: pair.value for pair in message.values} if message else {'state': ''}

    @property
    def reason(self):
        return self.probe.last('gate/status').message

    def wait_state(self, state):
        return self.probe.until(lambda: self.status['state'] == state)

    def arm(self):
        self.pad.plugged = True
        for _ in range(5):
            for gesture in ({}, {'deadman': True}, {'deadman': True, 'arm': True}):
                self.pad.hold(**gesture)
                self.probe.spin(0.15)
            self.pad.hold(deadman=True)
            self.probe.until(lambda: self.status['state'] == 'ARMED', 0.5, strict=False)
            if self.status['state'] == 'ARMED':
                return
        raise AssertionError(self.reason)

    def play_policy(self, velocity):
        """Publish a policy's command ten times a second, with the pad's stamps."""
        self.policy_out = self.probe.publisher(TwistStamped, 'cmd_policy', qos.COMMAND_OUT)
        self.timer = self.probe.node.create_timer(
            0.1,
            lambda: self.policy_out.publish(
                convert.to_command(velocity, self.probe.spec, self.pad.stamp)
            ),
        )

    def stop_policy(self):
        if self.timer is not None:
            self.probe.node.destroy_timer(self.timer)
            self.timer = None

    def moving(self):
        return any(self.probe.velocity() or ())


@pytest.fixture(scope='module')
def table(probe, pad, start_shared):
    start_shared('gate', need_camera=False)
    start_shared('teleop')
    desk = Desk(probe, pad)
    probe.until(lambda: probe.velocity() is not None)
    probe.until(lambda: pad.out.get_subscription_count() == 2)
    return desk


@pytest.fixture
def desk(table):
    """The desk, disarmed, without faults, rivals or a policy."""
    table.pad.plugged = True
    table.pad.hold()
    yield table
    table.stop_policy()
    if table.policy_out is not None:
        table.probe.node.destroy_publisher(table.policy_out)
        table.policy_out = None
    table.pad.hold()
    table.probe.call('gate/disarm')
    deadline = time.monotonic() + 10
    while table.status['state'] == 'FAULT' and time.monotonic() < deadline:
        table.probe.call('gate/clear_fault')
        table.probe.spin(0.1)
    assert table.status['state'] == 'DISARMED'


def test_it_repeats_zero_fifty_times_a_second_while_disarmed(desk):
    desk.probe.heard['cmd'].clear()
    desk.pad.plugged = False
    desk.probe.spin(1.0)
    assert len(desk.probe.heard['cmd']) > 25
    assert not any(
        any(convert.from_command(m, desk.probe.spec)) for _, m in desk.probe.heard['cmd']
    )


def test_the_stick_drives_after_the_gesture_and_stops_with_the_dead_man(desk):
    desk.pad.hold(deadman=True, stick=(0.5, -0.25))
    desk.probe.spin(0.3)
    assert not desk.moving(), 'not armed'
    desk.arm()
    desk.pad.hold(deadman=True, stick=(0.5, -0.25))
    desk.probe.until(desk.moving)
    desk.probe.until(lambda: desk.probe.velocity() == pytest.approx((0.2, -0.1)))
    desk.probe.until(lambda: desk.status['source'] == 'teleop')
    assert desk.status['state'] == 'ACTIVE'
    desk.pad.hold(deadman=False, stick=(0.5, -0.25))
    assert desk.probe.until(lambda: not desk.moving()) < 0.1 + SLACK
    desk.wait_state('DISARMED')
    assert desk.reason == 'dead-man released'


def test_a_pad_that_dies_with_the_button_held_is_zero(desk):
    desk.arm()
    desk.pad.hold(deadman=True, stick=(1.0, 0.0))
    desk.probe.until(desk.moving)
    desk.pad.plugged = False
    assert desk.probe.until(lambda: not desk.moving()) < 0.2 + SLACK
    desk.wait_state('DISARMED')
    assert 'pad was silent' in desk.reason
    desk.pad.plugged = True
    desk.probe.spin(0.5)
    assert not desk.moving(), 'back again, but not armed again'


def test_a_silent_policy_is_stopped_in_time(desk):
    desk.arm()
    desk.play_policy((0.3, 0.1))
    desk.probe.until(desk.moving)
    desk.probe.until(lambda: desk.status['source'] == 'policy')
    desk.stop_policy()
    taken = desk.probe.until(lambda: not desk.moving())
    assert taken < desk.probe.spec.limits.command_timeout + 0.4 / 8.0 + SLACK
    desk.wait_state('DISARMED')
    assert 'no command from policy' in desk.reason


def test_a_command_that_is_not_finite_is_a_latched_fault(desk):
    desk.arm()
    desk.play_policy((0.3, 0.1))
    desk.probe.until(desk.moving)
    desk.policy_out.publish(
        convert.to_command((float('nan'), 0.0), desk.probe.spec, desk.pad.stamp)
    )
    assert desk.probe.until(lambda: not desk.moving()) < 0.1 + SLACK
    desk.wait_state('FAULT')
    desk.probe.spin(0.5)
    assert desk.status['state'] == 'FAULT' and not desk.moving()
    refusal = desk.probe.call('gate/arm')
    assert not refusal.success and 'FAULT' in refusal.message


def test_a_second_publisher_is_a_fault_and_its_values_never_pass(desk):
    desk.arm()
    desk.play_policy((0.1, 0.1))
    desk.probe.until(desk.moving)
    desk.probe.heard['cmd'].clear()
    import rclpy

    rogue = rclpy.create_node('rogue')
    out = rogue.create_publisher(TwistStamped, 'cmd_policy', qos.STREAM)  # as `ros2 topic pub`
    try:
        for _ in range(10):
            out.publish(convert.to_command((-0.4, -0.4), desk.probe.spec, desk.pad.stamp))
            desk.probe.spin(0.05)
        desk.wait_state('FAULT')
        assert '/rogue' in desk.reason
        assert all(
            convert.from_command(message, desk.probe.spec)[0] >= 0
            for _, message in desk.probe.heard['cmd']
        )
        assert not desk.probe.call('gate/clear_fault').success, 'it is still there'
    finally:
        rogue.destroy_node()


def test_two_live_senders_of_one_name_are_a_fault(desk):
    desk.arm()
    desk.play_policy((0.1, 0.1))
    desk.probe.until(desk.moving)
    second = desk.probe.publisher(TwistStamped, 'cmd_policy', qos.COMMAND_OUT)
    desk.wait_state('FAULT')
    assert '2 writers' in desk.reason
    desk.probe.node.destroy_publisher(second)


def test_the_arm_service_says_what_is_missing(desk):
    refusal = desk.probe.call('gate/arm')
    assert not refusal.success and 'dead-man' in refusal.message


def test_the_wrong_frame_is_refused(desk):
    desk.arm()
    desk.play_policy((0.1, 0.1))
    desk.probe.until(desk.moving)
    message = convert.to_command((0.1, 0.1), desk.probe.spec, desk.pad.stamp)
    message.header.frame_id = 'base_link'
    desk.policy_out.publish(message)
    desk.wait_state('FAULT')
    assert 'base_link' in desk.reason and 'board' in desk.reason


def test_a_gate_that_cannot_keep_its_promise_does_not_start(start):
    for parameters, text in (
        ({'publish_hz': 20.0}, 'publish_hz'),
        ({'joy_timout': 0.1}, 'joy_timeout'),
        ({'task': 'grab_box'}, '22 fields'),
    ):
        child = start('gate', wait=False, **parameters)
        assert child.popen.wait(20) == 2
        assert text in child.story()
    assert GateNodeConfig().joy_timeout == 0.2
