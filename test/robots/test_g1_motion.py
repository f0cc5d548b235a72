"""Setpoints between commands: as fast as allowed, never faster, never a step."""

from dmo_ros.robots.base import RobotError
from dmo_ros.robots.g1_motion import Tracker
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

DT, PERIOD, RAMP = 0.02, 0.1, 1.5
SPEED = np.array([1.0, 1.5, 4.0])
numbers = st.tuples(*[st.floats(-2.0, 2.0)] * 3)


def tracker(at=(0.0, 0.0, 0.0)):
    made = Tracker((-1.0,) * 3, (1.0,) * 3, SPEED, PERIOD, RAMP)
    made.place(at)
    return made


def running(at=(0.0, 0.0, 0.0)):
    """Return one that has arrived, so that the next target is no first one."""
    made = tracker(at)
    made.aim(at)
    made.step(DT)
    return made


@given(st.lists(st.tuples(numbers, st.integers(0, 12)), min_size=1, max_size=8), numbers)
@settings(max_examples=60, deadline=None)
def test_no_setpoint_is_faster_than_the_limit_or_outside_the_range(orders, start):
    track = tracker(start)
    before = track.position
    for target, ticks in orders:
        track.aim(target)
        for _ in range(ticks):
            position, velocity = track.step(DT)
            assert np.all(np.abs(position - before) <= SPEED * DT + 1e-12)
            assert np.all(np.abs(position) <= 1.0)
            assert velocity == pytest.approx((position - before) / DT)
            before = position


@given(numbers)
@settings(max_examples=30, deadline=None)
def test_every_target_is_reached_and_kept(target):
    track = tracker()
    track.aim(target)
    for _ in range(400):
        position, _ = track.step(DT)
    assert position == pytest.approx(np.clip(target, -1, 1), abs=1e-9)
    assert not track.step(DT)[1].any() and track.resting


def test_a_command_is_reached_after_one_period_on_a_straight_line():
    track = running()
    track.aim((0.1, -0.05, 0.2))
    seen = [track.step(DT)[0] for _ in range(5)]
    assert np.allclose(seen, np.outer(np.arange(1, 6) / 5, (0.1, -0.05, 0.2)))


def test_a_stream_of_commands_is_followed_without_a_step_and_without_lag():
    track = running()
    for k in range(1, 20):
        track.aim((0.03 * k, 0.02 * k, -0.04 * k))
        for _ in range(5):
            position, velocity = track.step(DT)
            assert velocity == pytest.approx((0.3, 0.2, -0.4))
        assert position == pytest.approx((0.03 * k, 0.02 * k, -0.04 * k))


def test_a_command_that_comes_early_changes_the_way_but_makes_no_step():
    track = running()
    track.aim((0.1, 0.0, 0.0))
    for _ in range(3):
        track.step(DT)
    track.aim((0.0, 0.1, 0.0))
    position, _ = track.step(DT)
    assert position == pytest.approx((0.06 - 0.06 / 5, 0.02, 0.0))


def test_joints_arrive_together_when_one_of_them_needs_longer():
    track = running()
    track.aim((0.4, 0.1, 0.0))  # 0.4 s at 1 rad/s
    seen = np.array([track.step(DT)[0] for _ in range(20)])
    assert np.allclose(seen[:, 1], seen[:, 0] / 4)
    assert np.allclose(seen[-1], (0.4, 0.1, 0.0))


def test_the_first_way_begins_where_the_robot_is_and_is_smooth():
    track = tracker((0.3, -0.2, 0.0))
    track.aim((0.9, 0.4, 1.0))
    positions, velocities = map(np.array, zip(*[track.step(DT) for _ in range(100)]))
    assert np.max(np.abs(positions[0] - (0.3, -0.2, 0.0))) < 0.01
    changes = np.abs(np.diff(velocities, axis=0)) / DT
    assert np.max(changes) < 6.0  # rad/s^2: nothing jerks
    late = np.argmax(np.all(np.isclose(positions, (0.9, 0.4, 1.0)), axis=1))
    assert late * DT == pytest.approx(RAMP, abs=0.05)


def test_a_pause_ends_where_it_began_and_sets_out_smoothly():
    track = running()
    track.aim((0.5, 0.5, 0.5))
    for _ in range(3):
        track.step(DT)
    there = track.position
    track.hold()
    for _ in range(5):
        position, velocity = track.step(DT)
        assert np.array_equal(position, there) and not velocity.any()
    track.aim((0.5, 0.5, 0.5))  # the very command that was in force
    assert np.max(np.abs(track.step(DT)[0] - there)) < 0.01


def test_a_command_to_stay_ends_the_pause_without_a_ramp():
    track = running((0.2, 0.2, 0.2))
    track.hold()
    track.aim((0.2, 0.2, 0.2))
    track.step(DT)
    track.aim((0.3, 0.2, 0.2))
    for _ in range(5):
        track.step(DT)
    assert track.position == pytest.approx((0.3, 0.2, 0.2))


@pytest.mark.parametrize('bad', [(1.0, np.nan, 0.0), (np.inf, 0.0, 0.0), (0.0,) * 2, (0.0,) * 4])
def test_what_is_not_three_finite_numbers_is_refused_and_changes_nothing(bad):
    track = running()
    for take in (track.aim, track.place):
        with pytest.raises(RobotError, match='3 finite numbers'):
            take(bad)
    assert not track.step(DT)[0].any()


def test_targets_outside_the_range_are_counted():
    track = running()
    track.aim((2.0, 0.0, 0.0))
    assert track.clamped == 1
