"""The gate's promises, kept by real processes: a pad, teleop, the gate, and who disturbs them."""

import signal
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from dmo_ros.nodes import convert, qos
from dmo_ros.nodes.diagnostics import ERROR, status
from dmo_ros.nodes.gate import GateNodeConfig
from geometry_msgs.msg import TwistStamped
import pytest
from sensor_msgs.msg import CameraInfo, Joy
from std_msgs.msg import Bool, Header

SLACK = 0.4  # seconds on top of a promise, for a machine shared with other work


class Desk:
    def __init__(self, probe, pad):
        self.probe, self.pad = probe, pad
        probe.listen(TwistStamped, 'cmd')
        probe.listen(DiagnosticStatus, 'gate/status', qos.LATCHED)
        self.policy_out, self.timer = None, None
        self.bridge, self.camera = (0, ''), True
        self.bridge_out = probe.publisher(DiagnosticStatus, 'bridge/status', qos.LATCHED)
        self.camera_out = probe.publisher(CameraInfo, 'camera_info')
        self.estop_out = probe.publisher(Bool, 'estop', qos.LATCHED)
        self.around = probe.node.create_timer(0.05, self._report)
        self.gate = None

    def _report(self):
        """Speak for the bridge and the camera, unless they are silent (None, False)."""
        if self.bridge is not None:
            level, text = self.bridge
            self.bridge_out.publish(status('bridge', level, text, {'fault': 'false'}))
        if self.camera:
            header = Header(stamp=convert.to_time(self.pad.stamp))
            self.camera_out.publish(CameraInfo(header=header))

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
    desk = Desk(probe, pad)
    desk.gate = start_shared('gate', need_bridge=True)
    start_shared('teleop')
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
    table.bridge, table.camera = (0, ''), True
    table.estop_out.publish(Bool(data=False))
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


# ---------------------------------------------------------------------- surroundings
def driven(desk):
    desk.arm()
    desk.play_policy((0.3, 0.1))
    desk.probe.until(desk.moving)
    return desk


@pytest.mark.parametrize(
    'bridge, code', [((ERROR, 'link lost'), 'BRIDGE_FAULT'), (None, 'BRIDGE_SILENT')]
)
def test_a_bridge_that_is_not_well_is_a_fault_until_it_is(desk, bridge, code):
    driven(desk).bridge = bridge
    assert desk.probe.until(lambda: not desk.moving()) < 0.5 + SLACK
    desk.wait_state('FAULT')
    assert desk.status['code'] == code and 'bridge: ' in desk.reason
    refused = desk.probe.call('gate/clear_fault')
    assert not refused.success and 'cause is still there' in refused.message
    desk.bridge = (0, '')
    desk.probe.spin(0.3)
    assert desk.status['state'] == 'FAULT' and not desk.moving()


def test_without_bridge_or_camera_it_is_not_armed(desk):
    desk.bridge = (ERROR, 'the robot lies')
    with pytest.raises(AssertionError, match='the robot lies'):
        desk.arm()
    desk.bridge, desk.camera = (0, ''), False
    desk.probe.spin(0.6)
    with pytest.raises(AssertionError, match='no picture'):
        desk.arm()


def test_a_blind_policy_is_stopped(desk):
    driven(desk).camera = False
    limit = desk.probe.spec.limits.frame_timeout + 0.4 / 8.0
    assert desk.probe.until(lambda: not desk.moving()) < limit + SLACK
    desk.wait_state('DISARMED')
    assert desk.status['code'] == 'CAMERA_STALE'


@pytest.mark.parametrize('by', ['topic', 'service'])
def test_the_emergency_stop_holds_until_released_and_cleared(desk, by):
    desk.probe.listen(Bool, 'gate/estop_engaged', qos.LATCHED)
    driven(desk)
    if by == 'topic':
        desk.estop_out.publish(Bool(data=True))
    else:
        desk.probe.call('gate/estop')
    assert desk.probe.until(lambda: not desk.moving()) < 0.1 + SLACK
    desk.wait_state('FAULT')
    assert desk.status['code'] == 'ESTOP' and desk.status['estop'] == 'true'
    desk.probe.until(lambda: desk.probe.last('gate/estop_engaged').data)
    if by == 'topic':
        assert not desk.probe.call('gate/clear_fault').success
        desk.estop_out.publish(Bool(data=False))
        desk.probe.spin(0.3)
    assert desk.status['state'] == 'FAULT'
    assert desk.probe.call('gate/clear_fault').success
    desk.wait_state('DISARMED')
    desk.probe.spin(0.3)
    assert not desk.moving(), 'cleared, not armed'
    desk.probe.until(lambda: not desk.probe.last('gate/estop_engaged').data)


def test_a_gate_that_hangs_wakes_up_disarmed(desk):
    driven(desk)
    desk.gate.send(signal.SIGSTOP)
    desk.probe.spin(0.6)
    desk.probe.heard['cmd'].clear()
    desk.gate.send(signal.SIGCONT)
    desk.wait_state('DISARMED')
    assert desk.status['code'] == 'GATE_HELD_UP'
    desk.probe.spin(0.5)
    heard = [convert.from_command(m, desk.probe.spec) for _, m in desk.probe.heard['cmd']]
    assert heard and not any(map(any, heard))


def test_a_command_from_the_future_never_passes(desk):
    driven(desk)
    desk.probe.heard['cmd'].clear()
    later = desk.pad.stamp + 10**12
    for _ in range(5):
        desk.policy_out.publish(convert.to_command((-0.4, 0.0), desk.probe.spec, later))
        desk.probe.spin(0.05)
    heard = [convert.from_command(m, desk.probe.spec)[0] for _, m in desk.probe.heard['cmd']]
    assert heard and min(heard) >= 0 and desk.moving()
    assert desk.status['state'] == 'ACTIVE'


def test_a_pad_of_another_quality_is_told_as_an_error(desk):
    """D6: what is not connected is said within two seconds, not silent."""
    told = desk.probe.listen(DiagnosticArray, 'diagnostics')
    deaf = desk.probe.publisher(Joy, 'joy', qos.SENSOR)
    try:
        desk.probe.until(
            lambda: any(
                entry.name == 'gate' and entry.level == bytes([ERROR]) and 'joy' in entry.message
                for _, array in told
                for entry in array.status
            ),
            2.0 + 10 * SLACK,
        )
    finally:
        desk.probe.node.destroy_publisher(deaf)


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
