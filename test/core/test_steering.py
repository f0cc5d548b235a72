from dmo_ros.core.steering import Steering
from dmo_ros.core.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

BODY = TASKS['grab_box']
REST = np.array([field.rest for field in BODY.actions])
WALK = np.array([field.is_velocity for field in BODY.actions])
PERIOD = 100_000_000


def stick(**fields):
    return [fields.get(field.name, 0.0) for field in BODY.actions]


def begun():
    steering = Steering(BODY)
    steering.hear_command(REST)
    np.testing.assert_array_equal(steering.steer(stick(), PERIOD, True, False), REST)
    return steering


@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_a_velocity_is_the_stick_times_its_limit(wanted):
    values = Steering(TASKS['push_cube']).steer(wanted, 1, True, True)
    assert values == pytest.approx(np.multiply(wanted, (0.6, 0.4, 1.0)))


def test_without_the_dead_man_nothing_is_wanted():
    assert not any(Steering(TASKS['push_cube']).steer((1, 1, 1), 1, False, True))
    steering = begun()
    values = steering.steer([1.0] * 22, 2 * PERIOD, False, True)
    np.testing.assert_array_equal(values, REST)


def test_a_body_is_not_driven_before_it_is_known():
    assert Steering(BODY).steer(stick(waist_yaw=1.0), PERIOD, True, True) is None


def test_a_position_moves_at_the_rate_of_the_stick_over_stamps():
    steering = begun()
    for step in range(5):
        values = steering.steer(stick(waist_yaw=0.5, vx=1.0), (2 + step) * PERIOD, True, True)
    assert values[0] == pytest.approx(5 * 0.1 * 0.5 * BODY.limits.speed[0])
    assert values[19] == 0.3
    assert steering.steer(stick(waist_yaw=1.0), 6 * PERIOD, True, True)[0] == values[0]


def test_the_target_stays_in_the_range_and_a_pause_buys_one_period():
    steering = begun()
    values = steering.steer(stick(right_hand=-1.0), 4 * PERIOD, True, True)
    assert values[18] == 0.0
    assert steering.steer(stick(waist_yaw=1.0), 8 * PERIOD, True, True)[0] == pytest.approx(0.1)


def test_taking_over_from_a_policy_begins_where_the_policy_was():
    steering = begun()
    for step in range(10):
        elsewhere = np.where(WALK, 0.2, REST * 0.5 + 0.01 * step)
        steering.hear_command(elsewhere)
        values = steering.steer(stick(), (2 + step) * PERIOD, True, False)
        np.testing.assert_array_equal(values, np.where(WALK, 0.0, elsewhere))
    taken = steering.steer(stick(waist_yaw=0.1), 12 * PERIOD, True, False)
    assert np.abs(np.subtract(taken, np.where(WALK, 0, elsewhere))).max() <= 0.011


def test_letting_the_stick_go_keeps_the_target_while_the_person_leads():
    steering = begun()
    target = steering.steer(stick(waist_yaw=1.0), 2 * PERIOD, True, True)
    steering.hear_command(np.add(REST, 0.01))  # on its way
    assert steering.steer(stick(), 3 * PERIOD, True, True) == target


def test_after_a_jump_in_time_the_target_is_where_the_robot_says():
    steering = begun()
    steering.steer(stick(waist_yaw=1.0), 2 * PERIOD, True, True)
    steering.hear_posture(REST + 1, 2 * PERIOD)
    assert steering.steer(stick(), 3 * PERIOD, True, True)[0] == pytest.approx(0.1)
    steering.steer(stick(), 20 * PERIOD, True, True)
    steering.hear_posture(np.zeros(22), 3 * PERIOD)  # from before the jump
    steering.hear_posture(REST, 20 * PERIOD)
    np.testing.assert_array_equal(steering.steer(stick(), 21 * PERIOD, True, True), REST)


def test_a_command_of_another_width_is_not_taken():
    steering = Steering(BODY)
    steering.hear_command(())
    assert steering.steer(stick(), PERIOD, True, True) is None
