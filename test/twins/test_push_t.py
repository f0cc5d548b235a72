"""Laws of the Push-T twin and of the person who plays with it."""

from dmo_ros.core.images import to_observation
from dmo_ros.core.intent import INTENT, MILESTONE, PLAY
from dmo_ros.core.metrics import SuccessTracker
from dmo_ros.twins.mujoco_scene import TwinError  # before MuJoCo: it says which OpenGL
from dmo_ros.twins.push_t import corner_error, Geometry, place, PushTTwin
from dmo_ros.twins.push_t_operator import PushTOperator
from dmo_ros.twins.push_t_planner import exponential, Planner
import numpy as np
import pytest

pytest.importorskip('mujoco', reason='not installed: mujoco')

G = Geometry()
SLACK = 0.006  # m that pressed things may overlap


def pictures(twin):
    try:
        return twin.render()
    except TwinError as error:
        pytest.skip(str(error))


def roll(twin, operator, steps):
    """Return states (steps + 1, B, 5), actions and labels."""
    states, actions, labels = [twin.state], [], []
    for _ in range(steps):
        action, label = operator.act(twin.state)
        twin.step(action)
        states.append(twin.state)
        actions.append(action)
        labels.append(label)
    return np.array(states), np.array(actions), np.array(labels)


# ---------------------------------------------------------------------- the world
def test_one_seed_is_one_play():
    first, again, other = (
        roll(PushTTwin(2, seed), PushTOperator(2, seed), 60) for seed in (7, 7, 8)
    )
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_a_batch_is_its_rows():
    together, alone = PushTTwin(3, 5), PushTTwin(1)
    actions = np.random.default_rng(6).uniform(-0.25, 0.25, (20, 3, 2))
    starts = together.state
    for action in actions:
        together.step(action)
    for row in range(3):
        alone.reset(state=starts[row : row + 1])
        for action in actions:
            alone.step(action[row : row + 1])
        np.testing.assert_array_equal(alone.state[0], together.state[row])


def test_a_placed_state_is_kept_exactly_and_the_rest_is_left_alone():
    twin = PushTTwin(3, 0)
    before = twin.state
    placed = np.array([[-0.2, 0.2, 0.03, -0.04, 7.5]])  # more than a turn: not wrapped
    twin.reset(np.array([False, True, False]), placed)
    np.testing.assert_array_equal(twin.state[1], placed[0])
    np.testing.assert_array_equal(twin.state[[0, 2]], before[[0, 2]])
    placed[:] = 0
    twin.step(np.zeros((3, 2)))
    np.testing.assert_allclose(twin.state[1], [-0.2, 0.2, 0.03, -0.04, 7.5], atol=1e-9)


def test_a_visited_state_can_be_set_up_again():
    twin, again = PushTTwin(2, 1), PushTTwin(2, 2)
    roll(twin, PushTOperator(2, 3), 50)
    again.reset(state=twin.state)
    np.testing.assert_array_equal(again.state, twin.state)
    np.testing.assert_array_equal(pictures(again), pictures(twin))


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
    for step in range(400):
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


@pytest.mark.parametrize(
    ('state', 'said'),
    [
        ((0.3, 0, 0, 0, 0), 'tool lies outside'),
        ((-0.2, 0, 0.2, 0, 0), 'T sticks out'),
        ((0, 0, 0, 0, 0), 'tool stands in the T'),
        ((-0.2, 0, 0, 0, 0), ''),
    ],
)
def test_a_start_that_cannot_be_is_refused_by_name(state, said):
    wrong = PushTTwin(1).check(np.array(state, dtype=float))
    assert said in wrong and bool(wrong) == bool(said)


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
def test_x_is_to_the_right_and_y_is_up():
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


def test_an_observation_shows_the_whole_board_the_goal_and_the_t():
    twin = PushTTwin(1)
    twin.reset(state=np.array([[-0.24, -0.24, 0.1, 0.1, 0.7]]))
    seen = to_observation(pictures(twin)[0], twin.spec).astype(int)
    red = (seen[..., 0] > seen[..., 1] + 60).sum()
    green = (seen[..., 1] > seen[..., 0] + 30).sum()
    blue = (seen[..., 2] > seen[..., 0] + 60).sum()
    assert seen.shape == (64, 64, 3)
    assert red > 80 and green > 80 and 8 < blue < 40


# ---------------------------------------------------------------------- the person
def test_the_expert_succeeds_and_chance_does_not():
    rates = {}
    for skill, count in (('expert', 6), ('random', 6)):
        twin, operator = PushTTwin(count, 11), PushTOperator(count, 12, skill=skill)
        tracker = SuccessTracker(twin.spec.success, count)
        for _ in range(140):
            twin.step(operator.act(twin.state)[0])
            tracker.update(twin.distance())
            if tracker.strict.all():
                break
        rates[skill] = tracker.strict.mean()
    assert rates['expert'] >= 5 / 6 and rates['random'] == 0, rates


def test_labels_are_what_the_person_says_they_are():
    twin = PushTTwin(4, 13)
    states, actions, labels = roll(twin, PushTOperator(4, 14), 300)
    reached = corner_error(states[:-1, :, 2:], np.zeros(3), G) <= twin.spec.success.threshold
    np.testing.assert_array_equal(labels == MILESTONE, reached)
    shares = np.bincount(labels.ravel(), minlength=3) / labels.size
    assert shares[PLAY] > 0.3 and 0.08 < shares[INTENT] < 0.6 and reached.any(), shares
    assert labels.dtype == np.uint8 and np.abs(actions).max() <= 0.25


def test_an_unknown_skill_is_refused():
    with pytest.raises(ValueError, match='play, expert or random'):
        PushTOperator(1, skill='lazy')
