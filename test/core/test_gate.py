import math

from dmo_ros.core.gate import (
    Code,
    Command,
    Gate,
    GateConfig,
    POLICY,
    State,
    TELEOP,
)
from dmo_ros.core.intent import Pad
from dmo_ros.core.tasks import get_task
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

CONFIG = GateConfig.of(get_task('push_cube'))  # 5 Hz; 1.5 m/s2, 1.5 m/s2, 3 rad/s2
LIMITS = CONFIG.limits
ZERO = (0.0, 0.0, 0.0)
PERIOD = 200_000_000
anything = st.floats(allow_nan=True, allow_infinity=True)


class Desk:
    """A gate with a person and a clock; the pad is heard at 50 Hz unless it is unplugged."""

    def __init__(self, config=CONFIG):
        self.transitions = []
        self.gate = Gate(config, lambda *transition: self.transitions.append(transition))
        self.now, self.stamp = 100.0, 50 * PERIOD
        self.pad = Pad(ZERO, False, False, False, False)
        self.teleop = ZERO
        self.plugged = self.teleop_runs = True
        self.sent = []

    def hold(self, deadman=True, stick=ZERO, arm=False):
        self.pad, self.teleop = Pad(stick, deadman, False, False, arm), stick
        return self.run(0.1)

    def run(self, seconds, policy=None, every=0.2):
        """Let time pass; ``policy`` sends its command every ``every`` seconds."""
        out, due = [], self.now
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.stamp += 20_000_000
            if self.plugged:
                out.append(self.gate.on_pad(self.now, self.pad, self.stamp))
                if self.teleop_runs:
                    out.append(self.gate.on_command(self.now, TELEOP, self.teleop, self.stamp))
            if policy is not None and self.now >= due:
                due += every
                out.append(self.gate.on_command(self.now, POLICY, policy, self.stamp))
            out.append(self.gate.tick(self.now))
        out = [command for command in out if command is not None]
        self.sent += out
        return out

    def arm(self):
        self.hold(deadman=False)
        self.hold(deadman=True)
        self.run(0.2)
        self.hold(deadman=True, arm=True)
        self.hold(deadman=True)
        assert self.gate.state is State.ARMED, self.gate.reason
        return self

    def reasons(self):
        return [(before.value, after.value) for before, after, _ in self.transitions]


def values(commands):
    return [command.values for command in commands]


# ---------------------------------------------------------------------- limits
@pytest.mark.parametrize('speed', [1, 20, 1000])
def test_a_ramp_takes_v_over_a_of_stamped_time_at_any_speed(speed):
    """Copied from test_speed_limiter's idea: not there before v/a, there at v/a."""
    desk = Desk().arm()
    gate, now, stamp = desk.gate, desk.now, desk.stamp
    reached = []
    for _ in range(4):
        now, stamp = now + 0.2 / speed, stamp + PERIOD
        desk.pad = Pad((0.5, 0.0, 0.0), True, False, False, False)
        gate.on_pad(now, desk.pad, stamp)
        gate.tick(now)
        reached.append(gate.on_command(now, TELEOP, (0.6, 0.0, 0.0), stamp).values[0])
    # 1.5 m/s2 over periods of 0.2 s: 0.3 m/s a period.
    assert reached == pytest.approx([0.3, 0.6, 0.6, 0.6])


def test_what_is_forwarded_does_not_depend_on_ticks_or_wall_time():
    """The law of lockstep: the same stamped commands give the same output at any pace."""

    def play(pace, ticks):
        desk = Desk().arm()
        gate, now, out = desk.gate, desk.now, []
        stick = Pad((0.1, 0.1, 0.1), True, False, False, False)
        for index in range(40):
            stamp = desk.stamp + (index + 1) * PERIOD
            now += pace
            gate.on_pad(now, stick, stamp)
            angle = 0.7 * index
            wanted = (math.sin(angle), math.cos(3 * angle), math.sin(2 * angle))
            out.append(gate.on_command(now, TELEOP, wanted, stamp))
            out_ticks = [gate.tick(now + pace * k / (ticks + 1)) for k in range(1, ticks + 1)]
            assert all(tick == out[-1] for tick in out_ticks), 'a repeat changes nothing'
        return out

    assert play(0.001, 0) == play(0.02, 3) == play(0.15, 8)


def test_equal_or_missing_stamps_are_limited_by_arrival():
    for stamp in (10**12, 0):
        desk = Desk().arm()
        gate, now = desk.gate, desk.now
        gate.on_pad(now, Pad((1.0, 0, 0), True, False, False, False), stamp)
        gate.on_command(now, TELEOP, (0.6, 0.0, 0.0), stamp)
        first = gate.on_command(now + 0.01, TELEOP, (0.6, 0.0, 0.0), stamp)
        second = gate.on_command(now + 0.03, TELEOP, (0.6, 0.0, 0.0), stamp)
        assert 0 < second.values[0] - first.values[0] <= 1.5 * 0.02


def test_a_long_pause_buys_no_more_than_one_period():
    desk = Desk().arm()
    gate, now, stamp = desk.gate, desk.now, desk.stamp
    pad = Pad((1.0, 0, 0), True, False, False, False)
    gate.on_pad(now, pad, stamp)
    gate.on_command(now, TELEOP, ZERO, stamp)
    gate.on_pad(now + 0.01, pad, stamp + 100 * PERIOD)
    command = gate.on_command(now + 0.01, TELEOP, (0.6, 0.0, 0.0), stamp + 100 * PERIOD)
    assert command.values[0] <= 1.5 * 0.2 + 1e-12


# ---------------------------------------------------------------------- arming
def test_it_starts_disarmed_and_sends_zero():
    desk = Desk()
    desk.plugged = False
    assert set(values(desk.run(0.5, policy=(0.6, 0, 0)))) == {ZERO}
    assert desk.gate.state is State.DISARMED


def test_the_gesture_arms_and_the_stick_then_drives():
    desk = Desk().arm()
    assert not any(map(any, values(desk.sent)))
    driven = desk.hold(stick=(0.3, 0.0, 0.0))
    assert desk.gate.state is State.ACTIVE
    assert driven[-1].values[0] > 0


def deny(prepare, text):
    desk = Desk()
    desk.hold(deadman=False)
    desk.hold()
    desk.run(0.2)
    prepare(desk)
    done, reason = desk.gate.arm(desk.now)
    assert not done and text in reason
    assert desk.gate.state is not State.ARMED


def test_each_missing_condition_is_named():
    deny(lambda desk: desk.hold(deadman=False), 'dead-man is not held')
    deny(lambda desk: desk.hold(stick=(0.2, 0, 0)), 'stick is not neutral')
    deny(lambda desk: setattr(desk, 'now', desk.now + 0.3), 'pad is silent')
    deny(lambda desk: desk.gate.disarm(desk.now), 'press it again')
    deny(lambda desk: desk.gate.on_command(desk.now, POLICY, (math.nan, 0, 0), 1), 'FAULT')

    def slow_pad(desk):
        for _ in range(12):
            desk.now += 0.1
            desk.gate.on_pad(desk.now, desk.pad, desk.stamp)
            desk.gate.on_command(desk.now, TELEOP, ZERO, desk.stamp)

    deny(slow_pad, 'less often than 15 times')

    def no_teleop(desk):
        desk.teleop_runs = False
        desk.run(0.6)

    deny(no_teleop, 'no commands come from teleop')


def test_a_dead_man_held_since_before_the_start_does_not_count():
    desk = Desk()
    desk.hold()
    desk.run(0.5)
    desk.hold(arm=True)
    assert desk.gate.state is State.DISARMED and 'press it again' in desk.gate.reason


def test_a_stuck_arm_button_does_not_arm_again():
    desk = Desk()
    desk.hold(deadman=False)
    desk.hold()
    desk.run(0.2)
    desk.hold(arm=True)
    assert desk.gate.state is State.ARMED
    desk.hold(deadman=False, arm=True)
    desk.hold(deadman=True, arm=True)
    desk.run(1.0)
    assert desk.gate.state is State.DISARMED


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.sampled_from(['policy', 'stick', 'release', 'hold', 'unplug', 'wait', 'nan']),
        max_size=12,
    )
)
def test_nothing_moves_without_a_new_arm_after_any_stop(events):
    desk = Desk().arm()
    stopped = False
    for event in events:
        desk.plugged = event != 'unplug'
        if event in ('release', 'hold'):
            out = desk.hold(deadman=event == 'hold')
        elif event == 'nan':
            desk.gate.on_command(desk.now, POLICY, (math.nan, 0, 0), desk.stamp)
            out = desk.run(0.1)
        elif event == 'stick':
            out = desk.hold(desk.pad.deadman, stick=(0.4, 0.1, 0.0))
        else:
            out = desk.run(0.8, policy=(0.5, 0.2, 0.1) if event == 'policy' else None)
        if stopped:
            assert not any(map(any, values(out)))
        stopped = stopped or desk.gate.state in (State.DISARMED, State.FAULT)


# ---------------------------------------------------------------------- stopping
def test_releasing_the_dead_man_is_zero_at_once():
    desk = Desk().arm()
    desk.hold(stick=(1.0, 0, 0))
    desk.run(0.5)
    stop = desk.gate.on_pad(desk.now, Pad((1.0, 0, 0), False, False, False, False), desk.stamp + 7)
    assert stop == Command(ZERO, desk.stamp + 7)
    assert desk.transitions[-1] == (State.ACTIVE, State.DISARMED, 'dead-man released')


def test_a_silent_pad_is_zero_after_its_time_out():
    desk = Desk().arm()
    desk.hold(stick=(1.0, 0, 0))
    desk.run(0.3)
    last = desk.now
    desk.plugged = False
    while desk.gate.state is State.ACTIVE:
        command = desk.run(0.02)[-1]
    assert command.values == ZERO
    assert 0.2 < desk.now - last <= 0.2 + 0.021
    assert 'pad was silent' in desk.gate.reason


def test_a_silent_policy_is_braked_within_the_limits_and_disarms():
    desk = Desk().arm()
    desk.run(2.0, policy=(0.6, 0, 0))
    assert desk.gate.state is State.ACTIVE and desk.gate.following == POLICY
    braking = values(desk.run(1.2))
    speeds = [v[0] for v in braking]
    assert speeds[0] == pytest.approx(0.6) and speeds[-1] == 0
    assert all(before - after <= 1.5 * 0.02 + 1e-9 for before, after in zip(speeds, speeds[1:]))
    assert desk.reasons()[-2:] == [('ACTIVE', 'STOPPING'), ('STOPPING', 'DISARMED')]
    assert 'no command from policy for more than 0.5 s' in desk.gate.reason


def test_the_stop_comes_in_time_and_the_brake_takes_v_over_a():
    desk = Desk().arm()
    desk.run(2.0, policy=(0.6, 0, 0))
    began, stopped = desk.now, None
    for _ in range(100):
        command = desk.run(0.02)[-1]
        if not any(command.values):
            stopped = desk.now
            break
    assert stopped - began <= CONFIG.command_timeout + 0.6 / 1.5 + 0.1


def test_disarming_on_request_is_zero_at_once():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.6, 0, 0))
    assert desk.gate.disarm(desk.now).values == ZERO
    assert desk.gate.state is State.DISARMED


# ---------------------------------------------------------------------- whose turn
def test_the_stick_takes_over_from_the_policy_and_gives_back():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert desk.sent[-1].values[1] == pytest.approx(0.4)
    desk.pad, desk.teleop = Pad((0.5, 0, 0), True, False, False, False), (0.3, 0.0, 0.0)
    taken = desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert taken[-1].values == pytest.approx((0.3, 0.0, 0.0))
    desk.pad, desk.teleop = Pad(ZERO, True, False, False, False), ZERO
    back = desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert back[-1].values == pytest.approx((0.0, 0.4, 0.0))
    assert desk.gate.state is State.ACTIVE


def test_a_neutral_stick_does_not_disturb_a_live_policy():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.5, 0.0, 0.0))
    assert {v[0] for v in values(desk.run(0.6, policy=(0.5, 0.0, 0.0)))} == {0.5}


def test_a_forwarded_command_keeps_its_stamp():
    desk = Desk().arm()
    command = desk.gate.on_command(desk.now, POLICY, (0.1, 0.0, 0.0), 123_456_789)
    assert command.stamp == 123_456_789 == desk.gate.tick(desk.now + 0.02).stamp


# ---------------------------------------------------------------------- faults
@given(st.lists(st.lists(anything, min_size=0, max_size=5), max_size=8))
@settings(max_examples=100, deadline=None)
def test_whatever_comes_the_output_is_finite_inside_the_box_and_of_the_right_width(commands):
    desk = Desk().arm()
    for command in commands:
        out = [desk.gate.on_command(desk.now, POLICY, command, desk.stamp), *desk.run(0.04)]
        for sent in filter(None, out):
            assert len(sent.values) == 3
            assert all(
                low <= value <= high
                for value, low, high in zip(sent.values, LIMITS.low, LIMITS.high)
            )


@pytest.mark.parametrize(
    'command, frame, text',
    [
        ((math.nan, 0, 0), '', 'not finite'),
        ((0, math.inf, 0), '', 'not finite'),
        ((0.1, 0.1), '', '2 values'),
        ((0.1, 0.1, 0.1), 'map', "frame 'map'"),
    ],
)
def test_a_malformed_command_is_a_latched_fault(command, frame, text):
    desk = Desk().arm()
    desk.run(1.0, policy=(0.5, 0, 0))
    stop = desk.gate.on_command(desk.now, POLICY, command, desk.stamp, frame)
    assert stop.values == ZERO and desk.gate.state is State.FAULT and text in desk.gate.reason
    assert not any(map(any, values(desk.run(1.0, policy=(0.5, 0, 0)))))
    desk.hold(deadman=False)
    desk.hold()
    desk.hold(arm=True)
    assert desk.gate.state is State.FAULT, 'only clear_fault leads out'
    assert desk.gate.clear_fault(desk.now)[0] and desk.gate.state is State.DISARMED
    desk.run(1.0, policy=(0.5, 0, 0))
    assert desk.gate.state is State.DISARMED, 'cleared is not armed'
    desk.arm()


def test_a_rival_is_a_fault_until_it_is_gone():
    desk = Desk().arm()
    stop = desk.gate.set_rival(desk.now, 'cmd_policy', '/policy, /rogue')
    assert stop.values == ZERO and desk.gate.state is State.FAULT and '/rogue' in desk.gate.reason
    assert not desk.gate.clear_fault(desk.now)[0]
    desk.gate.set_rival(desk.now, 'cmd_policy', '')
    assert desk.gate.clear_fault(desk.now)[0]


def test_there_is_nothing_to_clear_without_a_fault():
    assert 'no fault' in Desk().gate.clear_fault(0.0)[1]


# ---------------------------------------------------------------------- stamps
def test_reordered_commands_are_dropped_and_counted():
    desk = Desk().arm()
    desk.gate.on_command(desk.now, POLICY, (0.1, 0, 0), 10 * PERIOD)
    assert desk.gate.on_command(desk.now, POLICY, (0.5, 0, 0), 9 * PERIOD) is None
    assert desk.gate.counts['reordered'] == 1


def test_a_clock_that_jumps_back_costs_a_stop_not_a_deaf_gate():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.5, 0, 0))
    desk.stamp = PERIOD
    desk.run(1.2, policy=(0.5, 0, 0))
    assert desk.gate.state is State.DISARMED
    desk.arm()
    desk.run(1.0, policy=(0.5, 0, 0))
    assert desk.gate.state is State.ACTIVE


@given(st.integers(51_000_000, 2**62))
@settings(max_examples=30, deadline=None)
def test_a_command_from_the_future_is_refused_and_blocks_nobody(ahead):
    desk = Desk().arm()
    desk.run(0.4, policy=(0.3, 0, 0))
    assert desk.gate.state is State.ACTIVE
    assert desk.gate.on_command(desk.now, POLICY, (-0.5, 0, 0), desk.stamp + ahead) is None
    assert desk.gate.counts['future'] == 1
    sent = desk.run(1.0, policy=(0.3, 0, 0))
    assert desk.gate.state is State.ACTIVE, 'those on time are still heard'
    assert all(command.values[0] > 0 for command in sent)


def test_only_commands_from_the_future_are_silence_and_the_reason_says_so():
    desk = Desk().arm()
    desk.run(0.4, policy=(0.3, 0, 0))
    for _ in range(80):
        desk.gate.on_command(desk.now, POLICY, (0.5, 0, 0), desk.stamp + PERIOD)
        desk.run(0.02)
    assert desk.gate.state is State.DISARMED and desk.gate.code is Code.COMMAND_STALE
    assert 'stamped ahead' in desk.gate.reason


def test_a_frame_vouches_for_the_stamps_that_are_copied_from_it():
    """A camera's clock may be ahead of the pad's; a twin's time may jump."""
    desk = Desk().arm()
    later = desk.stamp + 10**12
    assert desk.gate.on_command(desk.now, POLICY, (0.3, 0, 0), later) is None
    desk.gate.on_frame(desk.now, later)
    assert desk.gate.on_command(desk.now, POLICY, (0.3, 0, 0), later).stamp == later


def test_a_command_may_overtake_the_frame_it_answers_by_a_little():
    """Two topics keep no order between them; a twin in lockstep answers in a millisecond."""
    desk = Desk().arm()
    later = desk.stamp + 10**12
    assert desk.gate.on_command(desk.now, POLICY, (0.3, 0, 0), later) is None
    assert desk.gate.on_frame(desk.now + 0.001, later - PERIOD) is None
    assert desk.gate.on_frame(desk.now + 0.002, later).stamp == later
    assert desk.gate.counts['future'] == 0
    assert desk.gate.on_command(desk.now, POLICY, (0.3, 0, 0), 2 * later) is None
    assert desk.gate.on_frame(desk.now + 0.1, 2 * later) is None  # too late: it is forgotten


def test_own_decisions_are_stamped_with_the_time_that_was_heard():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.5, 0, 0))
    heard, began = desk.stamp, desk.now
    desk.plugged = False
    stop = desk.run(0.3)[-1]
    assert stop.values == ZERO
    assert heard <= stop.stamp <= heard + (desk.now - began) * 1e9


# ---------------------------------------------------------------------- surroundings


class Rig(Desk):
    """A desk whose gate needs a bridge and a camera; both speak unless told otherwise."""

    def __init__(self):
        super().__init__(GateConfig.of(get_task('push_cube'), need_bridge=True, need_camera=True))
        self.bridge, self.camera = (True, ''), True

    def run(self, seconds, policy=None, every=0.2):
        out = []
        for _ in range(round(seconds / 0.02)):
            if self.bridge is not None:
                ok, reason = self.bridge
                out.append(self.gate.on_health(self.now + 0.01, ok, not ok, reason))
            if self.camera:
                self.gate.on_frame(self.now + 0.01, self.stamp)
            out += super().run(0.02, policy, every)
        return [command for command in out if command is not None]


def test_arming_needs_bridge_and_camera_and_names_them():
    for harm, text in (
        ({'bridge': None}, 'no bridge/status has come'),
        ({'bridge': (False, 'the robot lies')}, 'bridge: the robot lies'),
        ({'camera': False}, 'no picture'),
    ):
        rig = Rig()
        vars(rig).update(harm)
        with pytest.raises(AssertionError, match=text):
            rig.arm()
        assert rig.gate.code is Code.NOT_ARMED


@pytest.mark.parametrize(
    'bridge, code', [((False, 'link lost'), Code.BRIDGE_FAULT), (None, Code.BRIDGE_SILENT)]
)
def test_a_bridge_that_fails_or_falls_silent_is_a_latched_fault(bridge, code):
    rig = Rig().arm()
    rig.run(1.0, policy=(0.5, 0, 0))
    assert rig.gate.state is State.ACTIVE
    rig.bridge = bridge
    rig.run(0.6, policy=(0.5, 0, 0))
    assert rig.gate.state is State.FAULT and rig.gate.code is code
    assert not rig.gate.clear_fault(rig.now)[0], 'its cause is still there'
    rig.bridge = (True, '')
    rig.run(0.5, policy=(0.5, 0, 0))
    assert rig.gate.state is State.FAULT and not any(rig.sent[-1].values)
    assert rig.gate.clear_fault(rig.now)[0]


def test_a_blind_policy_is_braked_and_a_seeing_person_drives_on():
    rig = Rig().arm()
    rig.run(1.0, policy=(0.5, 0, 0))
    rig.camera = False
    rig.run(1.2, policy=(0.5, 0, 0))
    assert rig.gate.state is State.DISARMED and rig.gate.code is Code.CAMERA_STALE
    assert rig.reasons()[-2:] == [('ACTIVE', 'STOPPING'), ('STOPPING', 'DISARMED')]
    rig.camera = True
    rig.arm()
    rig.camera = False
    rig.hold(stick=(0.3, 0.0, 0.0))
    rig.run(1.0)
    assert rig.gate.state is State.ACTIVE


def test_the_emergency_stop_latches_from_any_state():
    desk = Desk()
    desk.run(0.1)
    desk.gate.on_estop(desk.now, False)
    assert desk.gate.state is State.DISARMED
    desk.gate.on_estop(desk.now, True)
    assert desk.gate.state is State.FAULT and desk.gate.code is Code.ESTOP
    assert not desk.gate.clear_fault(desk.now)[0]
    desk.gate.on_estop(desk.now, False)
    assert desk.gate.state is State.FAULT, 'to release it is not to clear it'
    assert desk.gate.clear_fault(desk.now)[0]
    desk.arm()
    desk.run(1.0, policy=(0.6, 0, 0))
    assert desk.gate.estop(desk.now).values == ZERO
    assert desk.gate.state is State.FAULT
    desk.run(1.0, policy=(0.6, 0, 0))
    assert not any(desk.sent[-1].values)
    assert desk.gate.clear_fault(desk.now)[0] and desk.gate.state is State.DISARMED


def test_a_gate_that_was_held_up_does_not_believe_the_queue():
    desk = Desk().arm()
    desk.run(1.0, policy=(0.6, 0, 0))
    desk.now += 0.3
    held = Pad(ZERO, True, False, False, True)
    stop = desk.gate.on_pad(desk.now, held, desk.stamp)
    assert stop.values == ZERO and desk.gate.code is Code.GATE_HELD_UP
    for _ in range(20):  # what was queued
        desk.stamp += 20_000_000
        desk.gate.on_pad(desk.now, held, desk.stamp)
        assert desk.gate.on_command(desk.now, POLICY, (0.6, 0, 0), desk.stamp) is None
    assert desk.gate.state is State.DISARMED
    assert desk.gate.tick(desk.now).values == ZERO


def test_a_rival_while_nothing_moves_forbids_to_arm_and_is_no_fault():
    """A respawned policy beside its ghost: for a second it looks like two."""
    desk = Desk()
    desk.gate.set_rival(desk.now, 'cmd_policy', 'cmd_policy has 2 writers')
    with pytest.raises(AssertionError, match='2 writers'):
        desk.arm()
    assert desk.gate.state is State.DISARMED
    desk.gate.set_rival(desk.now, 'cmd_policy', '')
    desk.arm()


def test_a_rival_who_stays_is_a_fault_although_nothing_moves():
    desk = Desk()
    for _ in range(10):
        assert desk.gate.state is State.DISARMED
        desk.gate.set_rival(desk.now, 'cmd', 'cmd has 2 writers')
        desk.run(0.16)
    desk.gate.set_rival(desk.now, 'cmd', 'cmd has 2 writers')
    assert desk.gate.state is State.FAULT and desk.gate.code is Code.RIVAL_WRITER


def test_every_stop_has_a_code_of_its_own():
    desk = Desk().arm()
    desk.gate.on_command(desk.now, POLICY, (math.nan, 0, 0), desk.stamp)
    assert desk.gate.code is Code.NOT_FINITE
    desk.gate.clear_fault(desk.now)
    assert desk.gate.code is Code.FAULT_CLEARED
    desk.arm()
    assert desk.gate.code is Code.ARMED
    desk.hold(deadman=False)
    assert desk.gate.code is Code.DEADMAN_RELEASED


# ---------------------------------------------------------------------- a whole body
BODY = get_task('grab_box')
LOW, HIGH = (np.array([getattr(f, side) for f in BODY.actions]) for side in ('low', 'high'))
REST = np.array([field.rest for field in BODY.actions])
WALK = np.array([field.is_velocity for field in BODY.actions])


class Body(Desk):
    """A gate before a G1, which says where it is."""

    def __init__(self, posture=REST):
        super().__init__(GateConfig.of(BODY))
        self.pad = Pad((0.0,) * 22, False, False, False, False)
        self.teleop, self.posture = tuple(REST), posture

    def hold(self, deadman=True, stick=0.0, arm=False):
        self.pad = Pad((stick,) + (0.0,) * 21, deadman, False, False, arm)
        return self.run(0.1)

    def run(self, seconds, policy=None, every=0.1):
        out = []
        for _ in range(round(seconds / 0.02)):
            if self.posture is not None:
                self.gate.on_posture(self.now, self.posture, self.stamp)
            out += super().run(0.02, policy, every)
        return out


def test_nothing_is_sent_before_the_posture_is_known():
    body = Body(posture=None)
    assert body.run(0.5, policy=tuple(HIGH)) == []
    assert body.gate.on_command(body.now, POLICY, (math.nan,) * 22, body.stamp) is None
    assert body.gate.state is State.FAULT
    body.gate.clear_fault(body.now)
    with pytest.raises(AssertionError, match='posture of the robot is not known'):
        body.arm()
    body.posture = REST
    np.testing.assert_allclose(body.run(0.1)[-1].values, REST)


def test_arming_holds_where_the_robot_is_and_not_where_it_was():
    body = Body()
    body.run(0.5)
    body.posture = REST + 0.05 * ~WALK * (REST < HIGH - 0.05)
    np.testing.assert_allclose(body.run(0.1)[-1].values, REST)
    body.arm()
    np.testing.assert_allclose(body.run(0.1)[-1].values, body.posture)


def test_a_halt_stops_the_legs_and_holds_the_arms():
    body = Body().arm()
    target = np.where(WALK, 0.3, 0.5 * (REST + HIGH))
    moving = body.run(0.5, policy=tuple(target))[-1]
    assert np.array(moving.values)[WALK].min() > 0.2
    body.pad = Pad((0.0,) * 22, False, False, False, False)
    stop = body.gate.on_pad(body.now, body.pad, body.stamp)
    np.testing.assert_array_equal(stop.values, np.where(WALK, 0.0, moving.values))
    later = body.run(1.0, policy=tuple(target))
    assert {command.values for command in later} == {stop.values}


def test_a_silent_policy_lets_the_arms_come_to_rest_within_the_limits():
    body = Body().arm()
    body.run(0.6, policy=tuple(np.where(WALK, 0.3, HIGH)))
    sent = np.array(values(body.run(1.5)))
    assert body.gate.state is State.DISARMED and body.gate.code is Code.COMMAND_STALE
    speed = np.abs(np.diff(sent, axis=0)[:, ~WALK]) / 0.02
    assert (speed <= np.array(BODY.limits.speed)[~WALK] * 1.001).all()
    assert not speed[-10:].any() and not sent[-1][WALK].any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_a_body_is_told_it_is_sent_what_its_range_and_speed_allow(seed):
    rng = np.random.default_rng(seed)
    body = Body().arm()
    sent = [command.values for command in body.run(0.02)]
    for _ in range(20):
        sent += values(body.run(0.1, policy=tuple(rng.uniform(3 * LOW - 1, 3 * HIGH + 1))))
    sent = np.array(sent)
    assert np.isfinite(sent).all() and (sent >= LOW).all() and (sent <= HIGH).all()
    step = np.abs(np.diff(sent, axis=0))
    bound = np.where(WALK, BODY.limits.acceleration, BODY.limits.speed)
    assert (step <= bound * BODY.period * 1.001).all()


def test_after_a_jump_in_time_the_body_is_where_it_says():
    """A twin that begins anew: its arms are at rest, not where they were sent before."""
    body = Body().arm()
    body.run(1.0, policy=tuple(np.where(WALK, 0.0, 0.8 * HIGH)))
    assert body.gate.state is State.ACTIVE
    assert np.abs(np.array(body.sent[-1].values) - REST).max() > 0.5
    body.stamp += 10 * 100_000_000
    sent = body.run(0.3, policy=tuple(REST))
    np.testing.assert_allclose(sent[-1].values, REST)
