"""What only the Push-T twin does, beyond the laws of every twin."""

from dmo_ros.core.images import to_observation
from dmo_ros.core.metrics import SuccessTracker
from dmo_ros.twins.push_t import corner_error, Geometry, place, PushTTwin
from dmo_ros.twins.push_t_planner import exponential, Planner
import numpy as np
import pytest

pytest.importorskip('mujoco', reason='not installed: mujoco')

G = Geometry()
SLACK = 0.006  # m that pressed things may overlap


# ---------------------------------------------------------------------- the world
def test_a_commanded_velocity_is_the_distance_it_says():
    twin = PushTTwin(1)
    twin.reset(state=np.array([[-0.2, -0.22, 0.05, 0.1, 0.0]]))
    before = twin.state[0]
    twin.step(np.array([[0.2, 0.1]]))
    np.testing.assert_allclose(twin.state[0, :2] - before[:2], [0.04, 0.02], atol=5e-4)
    twin.advance(np.array([[-0.2, 0.0]]), 0.1)
    np.testing.assert_allclose(twin.state[0, :2] - before[:2], [0.02, 0.02], atol=0.002)


def test_the_tool_stops_at_the_edge_of_its_workspace():
    twin = PushTTwin(1)
    twin.reset(state=np.array([[-0.2, -0.22, 0.05, 0.1, 0.0]]))
    for _ in range(10):
        twin.step(np.array([[-0.25, -0.25]]))
    np.testing.assert_allclose(twin.state[0, :2], [-G.reach, -G.reach], atol=1e-4)


def test_a_push_through_the_middle_goes_straight_and_one_beside_it_turns():
    twin = PushTTwin(3)
    gap = G.tool_radius + 0.002
    below, beside = (0.0, G.outline[:, 1].min() - gap), (-G.unit / 2 - gap, -0.08)
    tools = (below, beside, (-0.2, -0.2))
    twin.reset(state=np.array([[*tool, 0.0, 0.0, 0.0] for tool in tools]))
    for _ in range(2):
        twin.step(np.array([[0.0, 0.1], [0.1, 0.0], [0.0, 0.0]]))
    straight, turned, untouched = twin.state
    assert 0.03 < straight[3] < 0.045 and abs(straight[4]) < 0.02
    assert turned[4] > 0.2  # pushed to the right below its centre: counter-clockwise
    np.testing.assert_array_equal(untouched[2:], 0.0)


def test_the_planner_foresees_what_a_push_does():
    planner, twin, errors = Planner(G), PushTTwin(1), []
    for index in range(0, len(planner.twists), 7):
        contact, twist = planner.contacts[planner.which[index]], planner.twists[index]
        twin.reset(state=np.array([[*contact, 0.0, 0.0, 0.0]]))
        for share in np.linspace(0.002, 0.03, 15):  # keep the tool where it is in the T's frame
            moved = exponential(twist * share)
            goal = place(contact[None], moved)[0]
            twin.advance((goal - twin.state[:, :2]) / 0.05, 0.05)
        twin.advance(np.zeros((1, 2)), 0.1)
        foreseen = exponential(twist * 0.03)
        errors.append(corner_error(twin.state[0, 2:], foreseen, G))
    assert np.median(errors) < 0.006 and max(errors) < 0.02, (np.median(errors), max(errors))


def test_nothing_escapes_or_sinks_in():
    twin, rng = PushTTwin(8, 2), np.random.default_rng(3)
    for step in range(160):
        if step % 4 == 0:  # mostly towards the T, so that it is pushed about
            action = rng.uniform(-0.25, 0.25, (8, 2))
            action += 0.2 * np.sign(twin.state[:, 2:4] - twin.state[:, :2])
        twin.step(action)
        assert np.isfinite(twin.state).all()
        assert (np.abs(twin.state[:, :2]) < G.reach + SLACK).all()
        assert (np.abs(place(G.outline, twin.state[:, 2:])) < G.rail + SLACK).all()
        assert [twin.check(state) for state in twin.state] == [''] * 8


def test_starts_are_fair():
    twin = PushTTwin(300, 1)
    assert all(twin.check(state) == '' for state in twin.state)
    assert (twin.distance() > G.start_error).all()
    assert (np.bincount((twin.state[:, 2:4] > 0) @ [1, 2], minlength=4) > 40).all()
    assert twin.state[:, 4].min() < -2.5 and twin.state[:, 4].max() > 2.5


# ---------------------------------------------------------------------- success
def test_the_distance_is_the_worst_corner_and_turns_with_the_turn():
    twin = PushTTwin(1)
    poses = [(0, 0, 0), (0.03, -0.04, 0), (0, 0, 2 * np.pi), (0, 0, np.pi)]
    states = np.array([[0.2, 0.2, *pose] for pose in poses], dtype=float)
    far = np.linalg.norm(G.outline, axis=1).max()
    np.testing.assert_allclose(twin.distance(states), [0, 0.05, 0, 2 * far], atol=1e-12)


def test_passing_through_is_relaxed_and_staying_is_strict():
    twin = PushTTwin(2)
    twin.reset(state=np.array([[-0.2, 0.2, 0, 0, 0], [-0.2, 0.2, 0.015, 0, 0]], dtype=float))
    spec = twin.spec.success
    tracker = SuccessTracker(spec, 2)
    for step in range(spec.hold_steps):
        if step == 2:
            twin.reset(np.array([False, True]), np.array([[-0.2, 0.2, 0.05, 0, 0.3]]))
        tracker.update(twin.distance())
        twin.step(np.zeros((2, 2)))
    assert tracker.relaxed.tolist() == [True, True]
    assert tracker.strict.tolist() == [True, False]


# ---------------------------------------------------------------------- pictures
def test_x_is_to_the_right_and_y_is_up(pictures):
    twin = PushTTwin(1)
    for x, y in ((0.2, 0.2), (-0.2, 0.1)):
        twin.reset(state=np.array([[x, y, 0.0, -0.1, 0.0]]))
        frame = pictures(twin)[0]
        assert frame.shape == (120, 160, 3) and frame.dtype == np.uint8
        colour = frame.astype(int)
        blue = np.argwhere(colour[..., 2] > colour[..., 0] + 60)
        row, column = blue.mean(axis=0)
        scale = 120 / 0.56  # pixels per metre on the board
        np.testing.assert_allclose((column - 79.5) / scale, x, atol=0.02)
        np.testing.assert_allclose((59.5 - row) / scale, y, atol=0.02)


def test_an_observation_shows_the_whole_board_the_goal_and_the_t(pictures):
    twin = PushTTwin(1)
    twin.reset(state=np.array([[-0.24, -0.24, 0.1, 0.1, 0.7]]))
    seen = to_observation(pictures(twin)[0], twin.spec).astype(int)
    red = (seen[..., 0] > seen[..., 1] + 60).sum()
    green = (seen[..., 1] > seen[..., 0] + 30).sum()
    blue = (seen[..., 2] > seen[..., 0] + 60).sum()
    assert seen.shape == (64, 64, 3)
    assert red > 80 and green > 80 and 8 < blue < 40
