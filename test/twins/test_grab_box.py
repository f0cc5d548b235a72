"""What only the G1's room does, beyond the laws of every twin."""

from types import SimpleNamespace

from dmo_ros.core.intent import INTENT
from dmo_ros.core.metrics import SuccessTracker
from dmo_ros.core.tasks import get_task
import numpy as np
import pytest

pytest.importorskip('mujoco', reason='not installed: mujoco')

from dmo_ros.twins import grab_box_scene as room
from dmo_ros.twins.grab_box import GrabBoxTwin, LIFT
from dmo_ros.twins.grab_box_operator import GrabBoxOperator

SPEC = get_task('grab_box')
REST = np.array([field.rest for field in SPEC.actions])
LOW, HIGH = (np.array([getattr(f, end) for f in SPEC.actions]) for end in ('low', 'high'))
INDEX = {name: i for i, name in enumerate(GrabBoxTwin.names)}
BASE = slice(INDEX['base_x'], INDEX['base_yaw'] + 1)
HEIGHT = INDEX['box_z']


def plain(**changed):
    """Return a start: the robot at rest, the box before its right arm; and what is changed."""
    state = np.zeros(len(INDEX))
    state[:19] = REST[:19]
    values = {'box_x': 0.4, 'box_y': -0.1, 'box_z': room.TABLE + room.BOX[2], 'box_qw': 1.0}
    for name, value in {**values, **changed}.items():
        state[INDEX[name]] = value
    return state[None]


@pytest.fixture
def twin():
    twin = GrabBoxTwin(1)
    twin.reset(state=plain())
    return twin


def hold(twin, steps=10, **targets):
    """Command the rest posture, and what else is named, for ``steps`` control periods."""
    action = REST.copy()
    for name, value in targets.items():
        action[[f.name for f in SPEC.actions].index(name)] = value
    for _ in range(steps):
        twin.step(np.tile(action, (len(twin.state), 1)))


# ---------------------------------------------------------------------- the twin
def test_its_state_begins_with_the_proprioception():
    assert GrabBoxTwin.names[:19] == tuple(field.name for field in SPEC.proprioception)
    assert GrabBoxTwin.names[:19] == tuple(field.name for field in SPEC.actions[:19])


def test_a_state_sets_up_the_same_scene_at_rest_even_with_the_box_in_the_hand(twin, roll):
    states = roll(twin, GrabBoxOperator(1, skill='expert'), 40).states
    for state in states[::10]:
        placed, other = GrabBoxTwin(1, 1), GrabBoxTwin(1, 2)
        placed.reset(state=state)
        np.testing.assert_allclose(placed.state, state, rtol=0, atol=1e-12)
        other.reset(state=placed.state)
        assert not placed.joint_velocity.any() and not placed.base_velocity.any()
        hold(placed, 2)
        hold(other, 2)
        np.testing.assert_allclose(placed.state, other.state, rtol=0, atol=1e-6)


def test_starts_stand_still():
    twin = GrabBoxTwin(4, 3)
    assert [twin.check(state) for state in twin.state] == [''] * 4
    before = twin.state
    hold(twin, 10)
    np.testing.assert_allclose(twin.state, before, atol=2e-3)
    assert (twin.distance() > LIFT - 0.002).all()


def test_starts_hide_the_box_at_times():
    starts = GrabBoxTwin(1, 4)._random_starts(500)
    turned = np.abs(starts[:, INDEX['base_yaw']]) > 0.5
    beside = starts[:, INDEX['box_y']] < -0.25
    assert 0.05 < turned.mean() < 0.2 and 0.05 < beside.mean() < 0.2


def test_targets_are_reached_and_only_theirs(twin):
    target = {'right_elbow': -0.6, 'left_shoulder_pitch': -0.5, 'waist_yaw': 0.3, 'left_hand': 1.0}
    hold(twin, 20, **target)
    wanted = dict(zip(SPEC.actions, REST))
    for field in SPEC.actions[:19]:
        wanted = target.get(field.name, field.rest)
        assert twin.state[0, INDEX[field.name]] == pytest.approx(wanted, abs=0.02), field.name


def test_commands_outside_the_ranges_end_at_them(twin):
    hold(twin, 30, waist_pitch=9.0, left_wrist_yaw=-9.0, left_hand=9.0)
    assert twin.state[0, INDEX['waist_pitch']] == pytest.approx(0.52, abs=0.02)
    assert twin.state[0, INDEX['left_wrist_yaw']] == pytest.approx(-1.614, abs=0.02)
    assert twin.state[0, INDEX['left_hand']] == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match='not finite'):
        twin.step(np.full((1, 22), np.nan))


def test_a_hand_takes_its_time_and_its_own_linkage(twin):
    action = REST.copy()
    action[18] = 1.0
    twin.advance(action[None], 0.1)
    assert 0.05 < twin.state[0, 18] < 0.45
    twin.advance(action[None], 0.9)
    data = twin.scene.data[0]
    assert twin.state[0, 18] > 0.97 and abs(twin.state[0, 17]) < 0.01
    assert data.joint('right_tip').qpos[0] == pytest.approx(room.TIP, abs=0.05)
    assert data.joint('right_thumb').qpos[0] == pytest.approx(room.THUMB, abs=0.05)


def test_the_base_goes_where_its_body_frame_says():
    twin = GrabBoxTwin(1)
    twin.reset(state=plain(base_x=-0.6, base_yaw=2.0))  # away from the table
    hold(twin, 1, vx=0.3)
    assert 0.0 < twin.base_velocity[0, 0] < 0.2  # it lags
    hold(twin, 14, vx=0.3)
    np.testing.assert_allclose(twin.base_velocity[0], (0.3, 0.0, 0.0), atol=0.01)
    way = twin.base[0] - (-0.6, 0.0, 2.0)
    along = way[:2] @ (np.cos(2.0), np.sin(2.0))
    assert along == pytest.approx(0.3 * (1.5 - 0.25), abs=0.03)
    np.testing.assert_allclose(way[:2], along * np.array([np.cos(2.0), np.sin(2.0)]), atol=0.01)
    hold(twin, 20, vy=-0.2, wz=0.3)
    np.testing.assert_allclose(twin.base_velocity[0], (0.0, -0.2, 0.3), atol=0.02)
    hold(twin, 20)
    np.testing.assert_allclose(twin.base_velocity[0], 0.0, atol=1e-3)


def test_the_table_stops_the_robot(twin):
    hold(twin, 40, vx=0.3)
    assert twin.base[0, 0] < room.TABLE_X - room.TABLE_SIZE[0]
    assert np.isfinite(twin.state).all()


def test_a_box_that_is_let_go_falls_and_comes_to_rest():
    twin = GrabBoxTwin(1)
    twin.reset(state=plain(box_x=0.55, box_z=room.TABLE + 0.3))
    assert twin.distance()[0] == 0.0
    hold(twin, 1)
    assert twin.state[0, HEIGHT] == pytest.approx(room.TABLE + 0.3 - 0.5 * 9.81 * 0.01, abs=0.003)
    hold(twin, 19)
    assert twin.state[0, HEIGHT] == pytest.approx(room.TABLE + room.BOX[2], abs=0.003)
    np.testing.assert_allclose(twin.scene.data[0].joint('box').qvel, 0.0, atol=0.02)
    assert twin.distance()[0] == pytest.approx(LIFT, abs=0.003)


def test_the_handle_bends_and_stands_up_again(twin):
    data = twin.scene.data[0]
    data.joint('handle_swing').qpos[0] = 0.8
    hold(twin, 20)
    assert abs(data.joint('handle_swing').qpos[0]) < 0.05


def test_reported_velocities_are_those_of_the_motion(twin):
    action = REST.copy()
    action[[3, 9, 18]] += (-0.4, 0.3, 0.8)
    before, way = twin.joint_position, np.zeros((1, 19))
    for _ in range(60):
        last = twin.joint_velocity
        twin.advance(action[None], 0.01)
        way += (last + twin.joint_velocity) * 0.005
    np.testing.assert_allclose(twin.joint_position - before, way, atol=0.01)
    assert np.abs(way).max() > 0.3
    assert twin.joint_position.shape == twin.joint_velocity.shape == (1, 19)
    assert twin.base.shape == twin.base_velocity.shape == (1, 3)


def test_wild_commands_break_nothing():
    twin, rng = GrabBoxTwin(2, 7), np.random.default_rng(8)
    for step in range(250):
        if step % 4 == 0:
            action = rng.uniform(LOW - 0.5, HIGH + 0.5, (2, 22))
        twin.step(action)
        assert np.isfinite(twin.state).all() and np.isfinite(twin.joint_velocity).all()
        beyond = np.maximum(LOW[:19] - twin.state[:, :19], twin.state[:, :19] - HIGH[:19])
        assert beyond.max() < 0.1, SPEC.actions[beyond.max(axis=0).argmax()].name
        assert np.abs(twin.joint_velocity[:, :17]).max() < 80
        speed = [np.linalg.norm(data.joint('box').qvel[:3]) for data in twin.scene.data]
        assert max(speed) < 12
    assert np.abs(twin.state[:, BASE][:, :2]).max() < room.ROAM + 0.1


@pytest.mark.parametrize(
    'changed, sentence',
    [
        ({'waist_roll': 1.0}, 'waist_roll lies outside'),
        ({'box_x': 2.0}, 'not over the table'),
        ({'box_qx': 1.0}, 'no unit quaternion'),
        ({'base_y': 3.0}, 'outside its room'),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_a_sentence(twin, changed, sentence):
    assert sentence in twin.check(plain(**changed)[0])
    assert twin.check(plain()[0]) == ''


def test_the_picture_shows_the_handle_unless_the_robot_looks_away(pictures):
    twin = GrabBoxTwin(2)
    twin.reset(state=np.concatenate([plain(), plain(base_yaw=2.5)]))
    seen = pictures(twin)
    assert seen.shape == (2, 288, 384, 3)
    red, green, blue = seen.astype(int).transpose(3, 0, 1, 2)
    handle = ((red > 2 * green) & (red > 2 * blue) & (red > 90)).sum(axis=(1, 2))
    card = ((red > green + 25) & (green > blue + 25) & (red < 230)).sum(axis=(1, 2))
    assert handle[0] > 300 and card[0] > 2000
    assert handle[1] == 0
    hold(twin, 10, waist_yaw=0.3)
    assert (pictures(twin)[0] != seen[0]).mean() > 0.2  # the camera turns with the waist


# ---------------------------------------------------------------------- the person
def test_an_expert_means_it_from_the_start():
    _, labels = GrabBoxOperator(3, 22, skill='expert').act(GrabBoxTwin(3, 21).state)
    assert (labels == INTENT).all()


def test_no_box_is_lifted_by_an_open_hand(roll):
    twin, person = GrabBoxTwin(2, 21), GrabBoxOperator(2, 22, skill='expert')

    def act(state):
        motion, label = person.act(state)
        motion[:, 17:19] = 0.0
        return motion, label

    tracker = SuccessTracker(SPEC.success, 2)
    for state in roll(twin, SimpleNamespace(act=act), 60).states:
        tracker.update(twin.distance(state))
    assert not tracker.strict.any()


def test_a_box_falls_when_the_hand_opens(twin, roll):
    states = roll(twin, GrabBoxOperator(1, skill='expert'), 45).states
    assert twin.distance()[0] < SPEC.success.threshold
    action = np.concatenate([states[-1, 0, :18], np.zeros(4)])
    for _ in range(15):
        twin.step(action[None])
    assert twin.distance()[0] > LIFT - 0.05
