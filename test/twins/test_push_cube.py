"""What only the push-cube twin does, beyond the laws of every twin, and a person's ways in it."""

import math

from dmo_ros.core.images import to_observation
from dmo_ros.core.metrics import SuccessTracker
from dmo_ros.twins.push_cube import PushCubeTwin, sight, STARTS
from dmo_ros.twins.push_cube_routes import BEHIND, Routes
from dmo_ros.twins.push_cube_scene import corners, overlap, Room
import numpy as np
import pytest

pytest.importorskip('mujoco', reason='not installed: mujoco')

ROOM = Room()
OPEN = [-1.5, -1.5, 0.0, 0.5, 0.8, 0.3]  # the robot has room ahead


def red(frame):
    """Count the pixels that are the cube's sides."""
    colour = frame.astype(int)
    return int(((colour[..., 0] > 110) & (colour[..., 1] < 0.4 * colour[..., 0])).sum())


# ---------------------------------------------------------------------- the world
def test_a_commanded_velocity_is_the_distance_it_says_after_the_lag():
    twin = PushCubeTwin(2)
    twin.reset(state=np.array([OPEN, [*OPEN[:2], math.pi / 2, *OPEN[3:]]]))
    action = np.full((2, 3), [0.2, 0.1, 0.0])
    for _ in range(5):
        twin.step(action)
    before = twin.state
    twin.step(action)
    moved = (twin.state - before)[:, :2]
    # x ahead, y to the left of the body, whichever way it looks in the room.
    np.testing.assert_allclose(moved, [[0.04, 0.02], [-0.02, 0.04]], atol=5e-4)


def test_the_first_step_is_the_shorter_for_the_lag_and_a_turn_is_to_the_left():
    twin = PushCubeTwin(1)
    twin.reset(state=np.array([OPEN]))
    twin.step(np.array([[0.4, 0.0, 0.0]]))
    assert 0.01 < twin.state[0, 0] - OPEN[0] < 0.06
    twin.reset(state=np.array([OPEN]))
    for _ in range(5):
        twin.step(np.array([[0.0, 0.0, 0.5]]))
    assert 0.3 < twin.state[0, 2] - OPEN[2] < 0.5


def test_another_controller_walks_another_way_the_same_for_one_seed():
    ends = []
    for response in ('first_order', 'locomotion', 'locomotion'):
        twin = PushCubeTwin(4, 3, response=response)
        twin.reset(state=np.array([OPEN] * 4))
        for _ in range(10):
            twin.step(np.full((4, 3), [0.3, 0.0, 0.0]))
        ends.append(twin.state)
    assert np.ptp(ends[0], axis=0).max() == 0.0
    assert np.ptp(ends[1][:, 0]) > 0.02  # drawn anew for each
    np.testing.assert_array_equal(ends[1], ends[2])
    with pytest.raises(ValueError, match='first_order, locomotion'):
        PushCubeTwin(1, response='moonwalk')


def test_the_cube_is_pushed_ahead_and_stops_with_the_robot():
    twin = PushCubeTwin(1)
    twin.reset(state=np.array([[-1.0, 0.0, 0.0, -0.4, 0.0, 0.0]]))
    for _ in range(6):
        twin.step(np.array([[0.5, 0.0, 0.0]]))
    assert twin.state[0, 3] > -0.1
    np.testing.assert_allclose(twin.state[0, [1, 4, 5]], 0.0, atol=0.02)
    twin.step(np.zeros((1, 3)))
    before = twin.state
    twin.step(np.zeros((1, 3)))
    twin.step(np.zeros((1, 3)))
    np.testing.assert_allclose(twin.state, before, atol=0.03)


def test_the_robot_steps_over_the_kerb_and_the_cube_does_not():
    twin = PushCubeTwin(1)
    twin.reset(state=np.array([[-1.0, -1.2, -math.pi / 2, -1.0, -1.8, 0.0]]))
    for _ in range(15):
        twin.step(np.array([[0.6, 0.0, 0.0]]))
    assert twin.state[0, 4] > -ROOM.kerb + 0.15
    twin.reset(state=np.array([[-1.0, -1.6, -math.pi / 2, 1.0, 0.0, 0.0]]))
    for _ in range(15):
        twin.step(np.array([[0.6, 0.0, 0.0]]))
    assert twin.state[0, 1] < -ROOM.kerb - 0.3


def test_nothing_escapes_or_sinks_in():
    twin, rng = PushCubeTwin(8, 2), np.random.default_rng(3)
    for step in range(160):
        if step % 8 == 0:  # mostly forwards and towards the cube, so that it is pushed about
            action = rng.uniform(-1, 1, (8, 3)) * twin.limits + (0.3, 0, 0)
            action[:, 2] += [sight(state)[0] for state in twin.state]
        twin.step(action)
        assert np.isfinite(twin.state).all()
        assert [twin.check(state) for state in twin.state] == [''] * 8


# ---------------------------------------------------------------------- starts
def test_starts_are_of_the_kinds_and_shares_that_are_promised():
    twin = PushCubeTwin(200, 1)
    assert all(twin.check(state) == '' for state in twin.state)
    assert (twin.distance() > twin.spec.success.threshold).all()
    away = np.array([abs(sight(state)[0]) for state in twin.state]) > math.pi / 2
    assert 0.2 < away.mean() < 0.55  # 'behind', and half of 'anywhere'
    assert sum(STARTS.values()) == pytest.approx(1.0)


def test_a_cube_behind_is_not_in_the_picture_and_a_seen_one_is(pictures):
    twin = PushCubeTwin(12, 4)
    for kind, judge in (('behind', lambda n: n == 0), ('seen', lambda n: n > 15)):
        twin.reset(state=np.array([twin.random_start(kind) for _ in range(12)]))
        counts = [red(frame) for frame in pictures(twin)]
        assert all(map(judge, counts)), (kind, counts)


def test_a_hidden_cube_shows_less_of_itself_than_without_the_pillar(pictures):
    twin, bare = PushCubeTwin(12, 5), PushCubeTwin(12, 5, room=Room(pillar=(-2.9, -2.9)))
    states = np.array([twin.random_start('hidden') for _ in range(12)])
    twin.reset(state=states)
    bare.reset(state=states)
    shown, whole = ([red(frame) for frame in pictures(world)] for world in (twin, bare))
    assert all(part < all_of for part, all_of in zip(shown, whole)), (shown, whole)


def test_overlap_is_the_least_way_out():
    square = corners(np.zeros(3), 2.0, 2.0)
    assert overlap(square, square + np.array([1.5, 0.3])) == pytest.approx(0.5)
    assert overlap(square, square + np.array([2.5, 0.3])) == pytest.approx(-0.5)


# ---------------------------------------------------------------------- success and pictures
def test_success_is_a_cube_past_the_goal_line():
    twin, half = PushCubeTwin(1), ROOM.cube / 2
    states = np.array([[0, 0, 0, ROOM.goal_line + x, 0, 0] for x in (-0.1, half - 0.01, half)])
    tracker = SuccessTracker(twin.spec.success, 3)
    for _ in range(twin.spec.success.hold_steps):
        tracker.update(twin.distance(states) - 1e-9)
    assert tracker.strict.tolist() == [False, False, True]


def test_left_is_left_and_up_is_up(pictures):
    twin = PushCubeTwin(2)
    twin.reset(state=np.array([[-1.0, 0, 0, 0.3, 0.4, 0], [-1.0, 0, 0, 0.3, -0.4, 0]]))
    frames = pictures(twin)
    assert frames.shape == (2, 180, 320, 3) and frames.dtype == np.uint8
    assert red(frames[0][:, :160]) > 100 and red(frames[0][:, 160:]) == 0
    assert red(frames[1][:, 160:]) > 100 and red(frames[1][:, :160]) == 0
    floor, ceiling = frames[0][170, 20].astype(int), frames[0][2, 160].astype(int)
    assert floor[1] > floor[0] + 10 and abs(ceiling[1] - ceiling[0]) < 10
    seen = to_observation(frames[0], twin.spec)
    assert seen.shape == (128, 128, 3) and red(seen) > 50


# ---------------------------------------------------------------------- the person
def test_ways_lead_around_what_stands_there():
    routes, cube = Routes(ROOM), np.array([0.0, 0.0])
    at, end = np.array([1.0, 0.05]), np.array([-BEHIND, 0.0])
    for _ in range(60):
        step = routes.next(at, end, cube) - at
        at = at + step * min(1.0, 0.05 / max(float(np.linalg.norm(step)), 1e-9))
        assert np.linalg.norm(at - cube) > 0.6
    np.testing.assert_allclose(at, end, atol=1e-6)
