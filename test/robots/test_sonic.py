"""SONIC's bytes, written out from the documented layout, and what the legs are told."""

import json
import math
import struct

from dmo_ros.core.tasks import get_task
from dmo_ros.robots import g1_joints, sonic
from dmo_ros.robots.sonic import Feedback, pack_command, pack_planner, Plan, Walk
from hypothesis import given
from hypothesis import strategies as st
import pytest

# The documented order of the upper body's targets, as motors of the robot (reference, section 7).
ORDER = [12, 13, 14, 15, 22, 16, 23, 17, 24, 18, 25, 19, 26, 20, 27, 21, 28]
TARGETS = [0.01 * k - 0.05 for k in range(17)]
SPEEDS = [0.5 - 0.03 * k for k in range(17)]


def field(name, dtype, count):
    return f'{{"name":"{name}","dtype":"{dtype}","shape":[{count}]}}'


def header(*fields):
    text = '{"v":1,"endian":"le","count":1,"fields":[' + ','.join(fields) + ']}'
    return text.encode() + b'\0' * (1280 - len(text))


PLANNER = header(
    field('mode', 'i32', 1),
    field('movement', 'f32', 3),
    field('facing', 'f32', 3),
    field('speed', 'f32', 1),
    field('height', 'f32', 1),
    field('upper_body_position', 'f32', 17),
    field('upper_body_velocity', 'f32', 17),
)
COMMAND = header(field('start', 'u8', 1), field('stop', 'u8', 1), field('planner', 'u8', 1))


@pytest.mark.parametrize(
    ('arguments', 'payload'),
    [
        ({'start': True}, b'\x01\x00\x01'),
        ({'stop': True}, b'\x00\x01\x01'),
        ({'planner': False}, b'\x00\x00\x00'),
    ],
)
def test_a_command_is_the_documented_bytes(arguments, payload):
    message = pack_command(**arguments)
    assert message == b'command' + COMMAND + payload
    assert len(message) == 1290


def test_a_plan_is_the_documented_bytes():
    plan = Plan(1, (0.6, 0.8), (0.0, 1.0), 0.25)
    message = pack_planner(plan, TARGETS, SPEEDS)
    numbers = (0.6, 0.8, 0.0, 0.0, 1.0, 0.0, 0.25, -1.0, *TARGETS, *SPEEDS)
    assert message == b'planner' + PLANNER + struct.pack('<i42f', 1, *numbers)
    assert len(message) == 1459


def test_the_header_is_compact_json_that_describes_the_payload():
    message = pack_planner(Plan(), TARGETS, SPEEDS)
    described = json.loads(message[7 : 7 + 1280].rstrip(b'\0'))
    count = sum(entry['shape'][0] for entry in described['fields'])
    assert len(message) == 7 + 1280 + 4 * count
    assert b' ' not in message[7 : 7 + 1280]


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('where', ['position', 'velocity', 'movement', 'speed'])
def test_what_is_not_finite_never_becomes_bytes(bad, where):
    plan = Plan(
        1,
        (bad, 0.0) if where == 'movement' else (1.0, 0.0),
        speed=bad if where == 'speed' else 0.2,
    )
    position = [bad, *TARGETS[1:]] if where == 'position' else TARGETS
    velocity = [*SPEEDS[:-1], bad] if where == 'velocity' else SPEEDS
    with pytest.raises(sonic.SonicError, match='finite'):
        pack_planner(plan, position, velocity)


@pytest.mark.parametrize('count', [0, 16, 18, 29])
def test_only_seventeen_joints_become_bytes(count):
    with pytest.raises(sonic.SonicError, match='17'):
        pack_planner(Plan(), [0.0] * count, [0.0] * 17)
    with pytest.raises(sonic.SonicError, match='17'):
        pack_planner(Plan(), [0.0] * 17, [0.0] * count)


# ---------------------------------------------------------------------- the order of the joints
def test_the_task_names_the_joints_in_the_order_that_sonic_expects():
    names = [name.name for name in get_task('grab_box').actions[:17]]
    assert list(g1_joints.UPPER_BODY) == ORDER
    assert names == [g1_joints.MOTORS[motor] for motor in ORDER]


def test_every_motor_has_one_name_and_left_comes_before_right():
    names = g1_joints.MOTORS
    assert len(names) == len(set(names)) == 29
    assert names[0] == 'left_hip_pitch' and names[11] == 'right_ankle_roll'
    assert names[12:15] == ('waist_yaw', 'waist_roll', 'waist_pitch')
    assert names[15] == 'left_shoulder_pitch' and names[28] == 'right_wrist_yaw'
    assert [names[motor] for motor in sorted(g1_joints.WRISTS)] == [*names[19:22], *names[26:29]]


# ---------------------------------------------------------------------- velocities to directions
def test_no_velocity_is_idle_and_stays_where_it_faces():
    walk = Walk()
    assert walk.plan((0.0, 0.0, 0.0), 0.02, 0.3) == Plan(
        0, (0.0, 0.0), (math.cos(0.3), math.sin(0.3)), -1.0
    )
    assert walk.plan((0.0, 0.0, 0.0), 0.02, 0.5).facing == (math.cos(0.3), math.sin(0.3))


def test_a_sideways_velocity_is_a_direction_turned_by_the_heading():
    walk = Walk()
    walk.heading = math.pi / 2
    plan = walk.plan((0.0, 0.3, 0.0), 0.02)
    assert plan.mode == 1
    assert plan.movement == pytest.approx((-1.0, 0.0))
    assert plan.facing == pytest.approx((0.0, 1.0))
    assert plan.speed == pytest.approx(0.3)


def test_turning_on_the_spot_moves_nowhere():
    plan = Walk().plan((0.0, 0.0, 0.3), 0.02)
    assert (plan.mode, plan.movement, plan.speed) == (1, (0.0, 0.0), 0.0)
    assert plan.facing == pytest.approx((math.cos(0.006), math.sin(0.006)))


def test_the_heading_is_the_integral_of_the_yaw_rate():
    walk = Walk()
    for _ in range(50):
        plan = walk.plan((0.2, 0.0, 0.3), 0.02)
    assert walk.heading == pytest.approx(0.3)
    assert plan.movement == pytest.approx((math.cos(0.3), math.sin(0.3)))


def test_the_heading_never_runs_far_ahead_of_the_robot_and_a_stop_ends_the_turn():
    walk = Walk()
    for _ in range(500):
        walk.plan((0.0, 0.0, 0.3), 0.02, 0.1)
    assert walk.heading == pytest.approx(0.1 + sonic.LEAD)
    walk.plan((0.0, 0.0, 0.0), 0.02, 0.1)
    assert walk.heading == pytest.approx(0.1)


@given(st.tuples(*[st.floats(-0.3, 0.3)] * 3), st.floats(-3, 3))
def test_directions_are_unit_vectors_and_the_speed_is_within_the_mode(velocity, measured):
    walk = Walk()
    walk.heading = measured
    plan = walk.plan(velocity, 0.02, measured)
    assert math.hypot(*plan.facing) == pytest.approx(1.0)
    if math.hypot(*velocity[:2]) >= sonic.STILL:
        assert math.hypot(*plan.movement) == pytest.approx(1.0)
        assert sonic.SLOWEST <= plan.speed <= sonic.FASTEST
    else:
        assert plan.movement == (0.0, 0.0) and plan.speed in (-1.0, 0.0)


# ---------------------------------------------------------------------- feedback
def feedback(**changed):
    fields = {
        'index': 7,
        'body_q': [0.1] * 29,
        'body_dq': [0.0] * 29,
        'base_quat': [math.cos(0.2), 0.0, 0.0, math.sin(0.2)],
        'init_base_quat': [math.cos(0.1), 0.0, 0.0, math.sin(0.1)],
        'base_ang_vel': [0.0, 0.0, 0.25],
        'motor_temperature': [30.0] * 57 + [44.0],
    }
    return {key: value for key, value in {**fields, **changed}.items() if value is not ...}


def test_feedback_tells_the_heading_from_where_control_began():
    found = sonic.read_feedback(feedback())
    assert found == Feedback(7, (0.1,) * 29, (0.0,) * 29, pytest.approx(0.2), 0.25, 44.0)


@pytest.mark.parametrize('key', ['index', 'body_q', 'body_dq', 'base_quat', 'base_ang_vel'])
@pytest.mark.parametrize('value', [..., None, 'x', [math.nan] * 29, [0.0] * 2])
def test_garbled_feedback_is_refused(key, value):
    with pytest.raises(sonic.SonicError):
        sonic.read_feedback(feedback(**{key: value}))


@pytest.mark.parametrize('fields', [None, [], 3, 'g1_debug'])
def test_feedback_that_is_no_map_is_refused(fields):
    with pytest.raises(sonic.SonicError):
        sonic.read_feedback(fields)
