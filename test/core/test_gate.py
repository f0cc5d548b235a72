"""Who may drive and what stops it: the gate's states, with a person and a clock."""

import math

from dmo_ros.core.gate import Code, Command, GateConfig, POLICY, State, TELEOP
from dmo_ros.core.intent import Pad
from dmo_ros.core.tasks import get_task
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

CONFIG = GateConfig.of(get_task('push_cube'))
ZERO = (0.0, 0.0, 0.0)


def values(commands):
    return [command.values for command in commands]


@pytest.fixture
def rig(make_desk):
    """Return a desk whose gate needs a bridge and a camera; both speak unless told otherwise."""
    return make_desk(need_bridge=True, need_camera=True)


# ---------------------------------------------------------------------- arming
def test_it_starts_disarmed_and_sends_zero(desk):
    desk.plugged = False
    assert set(values(desk.run(0.5, policy=(0.6, 0, 0)))) == {ZERO}
    assert desk.gate.state is State.DISARMED


def test_the_gesture_arms_and_the_stick_then_drives(desk):
    desk.arm()
    assert not any(map(any, values(desk.sent)))
    driven = desk.hold(stick=(0.3, 0.0, 0.0))
    assert desk.gate.state is State.ACTIVE
    assert driven[-1].values[0] > 0


def slow_pad(desk):
    for _ in range(12):
        desk.now += 0.1
        desk.gate.on_pad(desk.now, desk.pad, desk.stamp)
        desk.gate.on_command(desk.now, TELEOP, ZERO, desk.stamp)


def no_teleop(desk):
    desk.teleop_runs = False
    desk.run(0.6)


@pytest.mark.parametrize(
    ('prepare', 'text'),
    [
        (lambda desk: desk.hold(deadman=False), 'dead-man is not held'),
        (lambda desk: desk.hold(stick=(0.2, 0, 0)), 'stick is not neutral'),
        (lambda desk: setattr(desk, 'now', desk.now + 0.3), 'pad is silent'),
        (lambda desk: desk.gate.disarm(desk.now), 'press it again'),
        (lambda desk: desk.gate.on_command(desk.now, POLICY, (math.nan, 0, 0), 1), 'FAULT'),
        (slow_pad, 'less often than 15 times'),
        (no_teleop, 'no commands come from teleop'),
    ],
)
def test_each_missing_condition_is_named(desk, prepare, text):
    desk.hold(deadman=False)
    desk.hold()
    desk.run(0.2)
    prepare(desk)
    done, reason = desk.gate.arm(desk.now)
    assert not done and text in reason
    assert desk.gate.state is not State.ARMED


def test_a_dead_man_held_since_before_the_start_does_not_count(desk):
    desk.hold()
    desk.run(0.5)
    desk.hold(arm=True)
    assert desk.gate.state is State.DISARMED and 'press it again' in desk.gate.reason


def test_a_stuck_arm_button_does_not_arm_again(desk):
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
def test_nothing_moves_without_a_new_arm_after_any_stop(make_desk, events):
    desk = make_desk().arm()
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
def test_releasing_the_dead_man_is_zero_at_once(desk):
    desk.arm()
    desk.hold(stick=(1.0, 0, 0))
    desk.run(0.5)
    stop = desk.gate.on_pad(desk.now, Pad((1.0, 0, 0), False, False, False, False), desk.stamp + 7)
    assert stop == Command(ZERO, desk.stamp + 7)
    assert desk.transitions[-1] == (State.ACTIVE, State.DISARMED, 'dead-man released')


def test_a_silent_pad_is_zero_after_its_time_out(desk):
    desk.arm()
    desk.hold(stick=(1.0, 0, 0))
    desk.run(0.3)
    last = desk.now
    desk.plugged = False
    while desk.gate.state is State.ACTIVE:
        command = desk.run(0.02)[-1]
    assert command.values == ZERO
    assert 0.2 < desk.now - last <= 0.2 + 0.021
    assert 'pad was silent' in desk.gate.reason


def test_a_silent_policy_is_braked_within_the_limits_and_disarms(desk):
    desk.arm()
    desk.run(2.0, policy=(0.6, 0, 0))
    assert desk.gate.state is State.ACTIVE and desk.gate.following == POLICY
    braking = values(desk.run(1.2))
    speeds = [v[0] for v in braking]
    assert speeds[0] == pytest.approx(0.6) and speeds[-1] == 0
    assert all(before - after <= 1.5 * 0.02 + 1e-9 for before, after in zip(speeds, speeds[1:]))
    assert desk.reasons()[-2:] == [('ACTIVE', 'STOPPING'), ('STOPPING', 'DISARMED')]
    assert 'no command from policy for more than 0.5 s' in desk.gate.reason


def test_the_stop_comes_in_time_and_the_brake_takes_v_over_a(desk):
    desk.arm()
    desk.run(2.0, policy=(0.6, 0, 0))
    began, stopped = desk.now, None
    for _ in range(100):
        command = desk.run(0.02)[-1]
        if not any(command.values):
            stopped = desk.now
            break
    assert stopped - began <= CONFIG.command_timeout + 0.6 / 1.5 + 0.1


def test_disarming_on_request_is_zero_at_once(desk):
    desk.arm()
    desk.run(1.0, policy=(0.6, 0, 0))
    assert desk.gate.disarm(desk.now).values == ZERO
    assert desk.gate.state is State.DISARMED


# ---------------------------------------------------------------------- whose turn
def test_the_stick_takes_over_from_the_policy_and_gives_back(desk):
    desk.arm()
    desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert desk.sent[-1].values[1] == pytest.approx(0.4)
    desk.pad, desk.teleop = Pad((0.5, 0, 0), True, False, False, False), (0.3, 0.0, 0.0)
    taken = desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert taken[-1].values == pytest.approx((0.3, 0.0, 0.0))
    desk.pad, desk.teleop = Pad(ZERO, True, False, False, False), ZERO
    back = desk.run(1.0, policy=(0.0, 0.4, 0.0))
    assert back[-1].values == pytest.approx((0.0, 0.4, 0.0))
    assert desk.gate.state is State.ACTIVE


def test_a_neutral_stick_does_not_disturb_a_live_policy(desk):
    desk.arm()
    desk.run(1.0, policy=(0.5, 0.0, 0.0))
    assert {v[0] for v in values(desk.run(0.6, policy=(0.5, 0.0, 0.0)))} == {0.5}


# ---------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    'command, frame, text',
    [
        ((math.nan, 0, 0), '', 'not finite'),
        ((0, math.inf, 0), '', 'not finite'),
        ((0.1, 0.1), '', '2 values'),
        ((0.1, 0.1, 0.1), 'map', "frame 'map'"),
    ],
)
def test_a_malformed_command_is_a_latched_fault(desk, command, frame, text):
    desk.arm()
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


def test_a_rival_is_a_fault_until_it_is_gone(desk):
    desk.arm()
    stop = desk.gate.set_rival(desk.now, 'cmd_policy', '/policy, /rogue')
    assert stop.values == ZERO and desk.gate.state is State.FAULT and '/rogue' in desk.gate.reason
    assert not desk.gate.clear_fault(desk.now)[0]
    desk.gate.set_rival(desk.now, 'cmd_policy', '')
    assert desk.gate.clear_fault(desk.now)[0]


def test_there_is_nothing_to_clear_without_a_fault(desk):
    assert 'no fault' in desk.gate.clear_fault(0.0)[1]


# ---------------------------------------------------------------------- surroundings
@pytest.mark.parametrize(
    ('harm', 'text'),
    [
        ({'bridge': None}, 'no bridge/status has come'),
        ({'bridge': (False, 'the robot lies')}, 'bridge: the robot lies'),
        ({'camera': False}, 'no picture'),
    ],
)
def test_arming_needs_bridge_and_camera_and_names_them(rig, harm, text):
    vars(rig).update(harm)
    with pytest.raises(AssertionError, match=text):
        rig.arm()
    assert rig.gate.code is Code.NOT_ARMED


@pytest.mark.parametrize(
    'bridge, code', [((False, 'link lost'), Code.BRIDGE_FAULT), (None, Code.BRIDGE_SILENT)]
)
def test_a_bridge_that_fails_or_falls_silent_is_a_latched_fault(rig, bridge, code):
    rig.arm()
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


def test_a_blind_policy_is_braked_and_a_seeing_person_drives_on(rig):
    rig.arm()
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


def test_the_emergency_stop_latches_from_any_state(desk):
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


def test_a_gate_that_was_held_up_does_not_believe_the_queue(desk):
    desk.arm()
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


def test_a_rival_while_nothing_moves_forbids_to_arm_and_is_no_fault(desk):
    """A respawned policy beside its ghost: for a second it looks like two."""
    desk.gate.set_rival(desk.now, 'cmd_policy', 'cmd_policy has 2 writers')
    with pytest.raises(AssertionError, match='2 writers'):
        desk.arm()
    assert desk.gate.state is State.DISARMED
    desk.gate.set_rival(desk.now, 'cmd_policy', '')
    desk.arm()


def test_a_rival_who_stays_is_a_fault_although_nothing_moves(desk):
    for _ in range(10):
        assert desk.gate.state is State.DISARMED
        desk.gate.set_rival(desk.now, 'cmd', 'cmd has 2 writers')
        desk.run(0.16)
    desk.gate.set_rival(desk.now, 'cmd', 'cmd has 2 writers')
    assert desk.gate.state is State.FAULT and desk.gate.code is Code.RIVAL_WRITER


def test_every_stop_has_a_code_of_its_own(desk):
    desk.arm()
    desk.gate.on_command(desk.now, POLICY, (math.nan, 0, 0), desk.stamp)
    assert desk.gate.code is Code.NOT_FINITE
    desk.gate.clear_fault(desk.now)
    assert desk.gate.code is Code.FAULT_CLEARED
    desk.arm()
    assert desk.gate.code is Code.ARMED
    desk.hold(deadman=False)
    assert desk.gate.code is Code.DEADMAN_RELEASED
