"""A body that was put elsewhere: its place may be heard before the first command that follows."""

from dmo_ros.core.gate import POLICY
from dmo_ros.core.tasks import get_task
import numpy as np
import pytest

SPEC = get_task('grab_box')
REST = np.array([field.rest for field in SPEC.actions])
WALK = np.array([field.is_velocity for field in SPEC.actions])
AWAY = tuple(np.where(WALK, 0.0, 0.8 * np.array([field.high for field in SPEC.actions])))
LEAP = 1_000_000_000  # ns, ten periods
REACH = np.array(SPEC.limits.speed) * SPEC.period + 1e-9


@pytest.fixture
def driven(make_desk):
    """A body that a policy has driven away from its rest; its own posture says so."""
    desk = make_desk('grab_box', posture=tuple(REST)).arm()
    desk.run(1.0, policy=AWAY)
    assert np.abs(np.array(desk.sent[-1].values) - REST).max() > 0.5
    return desk


def first_command(desk):
    """The first command after a leap in time, which pad and camera have heard of."""
    desk.gate.on_pad(desk.now, desk.pad, desk.stamp)
    return np.array(desk.gate.on_command(desk.now, POLICY, AWAY, desk.stamp).values)


def test_a_posture_that_came_before_the_first_command_after_a_leap_counts(driven):
    driven.stamp += LEAP
    driven.gate.on_posture(driven.now, tuple(REST), driven.stamp)
    sent = first_command(driven)
    assert (np.abs(sent - REST)[~WALK] <= REACH[~WALK]).all(), 'on from where it is now'


def test_a_posture_from_before_the_leap_does_not(driven):
    before = np.array(driven.sent[-1].values)
    driven.gate.on_posture(driven.now, tuple(REST), driven.stamp)
    driven.stamp += LEAP
    sent = first_command(driven)
    assert (np.abs(sent - before)[~WALK] <= REACH[~WALK]).all()
