"""How the stand-in for a Go2's controller behaves: pure, in its own time."""

import json
import math

from dmo_ros.twins.go2_firmware import Firmware, HOLD, RANGES
import pytest

MOVE, STOP, STAND_UP, BALANCE, DAMP, RECOVER = 1008, 1003, 1004, 1002, 1001, 1006


def move(firmware, vx, vy=0.0, wz=0.0):
    return firmware.serve(MOVE, json.dumps({'x': vx, 'y': vy, 'z': wz}))


def walked(firmware, seconds):
    """Return how far (m or rad) each of the three velocities went."""
    parts = firmware.advance(seconds)
    assert sum(duration for _, duration in parts) == pytest.approx(seconds)
    return tuple(sum(v[i] * duration for v, duration in parts) for i in range(3))


@pytest.mark.parametrize('step', [0.01, 0.05, 0.2, 3.0])
def test_a_move_is_held_for_exactly_one_second_of_its_time(step):
    firmware = Firmware(1013)
    assert move(firmware, 0.5) == (0, '')
    distance = sum(walked(firmware, step)[0] for _ in range(round(3.0 / step)))
    assert distance == pytest.approx(0.5 * HOLD)
    assert firmware.velocity == (0.0, 0.0, 0.0) and firmware.posture == 1013


def test_a_repeated_move_goes_on():
    firmware = Firmware(1013)
    for _ in range(10):
        move(firmware, 0.5)
        assert walked(firmware, 0.2)[0] == pytest.approx(0.1)


def test_moves_are_clamped_to_the_vendors_ranges():
    firmware = Firmware(1013)
    move(firmware, 99.0, -99.0, 99.0)
    firmware.advance(0.01)
    assert firmware.velocity == (RANGES[0][1], RANGES[1][0], RANGES[2][1])


@pytest.mark.parametrize(
    'parameter',
    [
        '{"x": NaN, "y": 0, "z": 0}',
        '{"x": 1e400, "y": 0, "z": 0}',
        '{"x": 1}',
        '{"x": "1", "y": 0, "z": 0}',
        '{"x": true, "y": 0, "z": 0}',
        '[]',
        'x',
        '',
    ],
)
def test_a_move_that_is_none_is_a_parameter_error(parameter):
    firmware = Firmware(1013)
    assert firmware.serve(MOVE, parameter)[0] == 3204
    assert not firmware.moves


@pytest.mark.parametrize('api_id', [1030, 1031, 1032, 2041, 2043, 2044, 2047, 1016, 1022, 999, 0])
def test_flips_and_dances_are_not_there(api_id):
    assert Firmware(1013).serve(api_id, '{}')[0] == 3203


def test_it_stands_up_in_steps_and_ignores_moves_meanwhile():
    firmware = Firmware(1001, stand_time=0.5, dead_time=2.0)
    assert firmware.serve(BALANCE, '{}')[0] == 4206  # it lies
    assert firmware.serve(STAND_UP, '{}')[0] == 0
    seen = []
    for _ in range(40):
        assert move(firmware, 0.5)[0] == 0  # it answers 0 all the while
        firmware.serve(BALANCE, '{}')
        assert walked(firmware, 0.1)[0] == 0.0 or firmware.posture == 1015
        seen.append(firmware.posture)
    assert seen[:5] == [1001] * 4 + [1002]
    assert seen[5:24] == [1002] * 19  # locked through the dead time
    assert seen[-1] == 1015


def test_a_locked_stand_stays_locked_until_it_is_asked_to_balance():
    firmware = Firmware(1001, stand_time=0.1, dead_time=0.1)
    firmware.serve(STAND_UP, '{}')
    firmware.advance(5.0)
    assert firmware.posture == 1002
    move(firmware, 0.5)
    assert walked(firmware, 0.5)[0] == 0.0
    firmware.serve(BALANCE, '{}')
    move(firmware, 0.5)
    assert walked(firmware, 0.5)[0] == pytest.approx(0.25)


def test_recovery_ends_balanced():
    firmware = Firmware(1001, stand_time=0.2)
    firmware.serve(RECOVER, '{}')
    firmware.advance(0.3)
    assert firmware.posture == 1013


@pytest.mark.parametrize('api_id', [STOP, DAMP, STAND_UP])
def test_what_ends_a_walk_ends_it_now_and_forgets_what_was_asked(api_id):
    firmware = Firmware(1013)
    move(firmware, 0.5)
    firmware.advance(0.1)
    assert firmware.posture == 1015
    move(firmware, 0.5)
    assert firmware.serve(api_id, '{}')[0] == 0
    assert walked(firmware, 1.0) == (0.0, 0.0, 0.0)


def test_a_fall_makes_it_deaf():
    firmware = Firmware(1013)
    firmware.force(1001)
    move(firmware, 0.5)
    assert walked(firmware, 0.5) == (0.0, 0.0, 0.0) and firmware.posture == 1001


def test_gaits_settings_and_their_errors():
    firmware = Firmware(1013)
    assert firmware.serve(1015, '{"data": 1}')[0] == 0 and firmware.speed_level == 1
    assert firmware.serve(1015, '{"data": 2}')[0] == 3204
    assert firmware.serve(1027, '{"data": true}')[0] == 0
    assert firmware.serve(1027, '{"data": 3}')[0] == 3204
    assert firmware.serve(1007, '{"x": 0.5, "y": 0, "z": 0}')[0] == 0
    assert firmware.serve(1007, '{"x": 0.8, "y": 0, "z": 0}')[0] == 3204
    assert firmware.serve(2054, '{"data": true}')[0] == 0
    assert json.loads(firmware.serve(2055, '{}')[1]) == {'data': True}
    for api_id, posture in ((1062, 1016), (1063, 1017), (2045, 100), (1061, 1015)):
        assert firmware.serve(api_id, '{}')[0] == 0 and firmware.posture == posture
    assert firmware.serve(2049, '{"data": true}')[0] == 0 and firmware.posture == 2010


def test_in_real_time_the_newest_move_counts():
    firmware = Firmware(1013)
    for value in (0.1, 0.2, 0.3):
        move(firmware, value)
    assert walked(firmware, 0.1)[0] == pytest.approx(0.03)
    assert not firmware.moves


def test_in_lockstep_each_move_has_its_turn():
    firmware = Firmware(1013, lockstep=True)
    for value in (0.1, 0.2, 0.3):
        move(firmware, value)
    for value in (0.1, 0.2, 0.3):
        assert walked(firmware, 0.2)[0] == pytest.approx(0.2 * value)
    assert math.isclose(walked(firmware, 1.0)[0], 0.3 * 0.8)  # and the last is held
