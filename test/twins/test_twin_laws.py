"""
Laws of every twin of the registry, and of every scripted person who plays with one.

What only one world can do stands in the test of its own name.
"""

import math

from dmo_ros.core.images import to_observation
from dmo_ros.core.intent import INTENT, MILESTONE, PLAY
from dmo_ros.core.metrics import SuccessTracker
from dmo_ros.core.tasks import TASKS
from dmo_ros.twins.base import make_operator, make_twin, TWINS
import numpy as np
import pytest

# What the box's unit quaternion costs, and the joints' give under their own weight.
EXACT = {'grab_box': 1e-12}
STILL = {'pusher': 0.0, 'grab_box': 2e-3}
# Worlds and steps of play; how often, at least, success is reached.
PLAYED = {
    'pusher': (32, 600, 32),
    'push_t': (3, 150, 4),
    'push_cube': (3, 300, 4),
    'grab_box': (3, 120, 1),
}
# Worlds (half of them for chance) and steps; an expert's least share of successes, chance's most.
JUDGED = {
    'pusher': (300, 64, 0.95, 0.15),
    'push_t': (6, 140, 5 / 6, 0),
    'push_cube': (8, 115, 6 / 8, 0),
    'grab_box': (4, 60, 3 / 4, 0),
}


@pytest.fixture(params=TWINS)
def task(request):
    if request.param != 'pusher':
        pytest.importorskip('mujoco', reason='not installed: mujoco')
    return request.param


def rest(twin):
    """Return the command (B, A) that asks for nothing."""
    return np.tile([field.rest for field in twin.spec.actions], (len(twin.state), 1))


def limits(spec):
    """Return how fast a stick may ask each field to move."""
    pairs = zip(spec.actions, spec.limits.speed)
    return np.array([field.high if field.is_velocity else speed for field, speed in pairs])


def milestones(twin, play):
    """Return at which states of a play that were answered the success criterion holds."""
    inside = np.stack([twin.distance(state) for state in play.states[:-1]])
    return inside <= twin.spec.success.threshold


# ---------------------------------------------------------------------- the worlds
def test_one_seed_is_one_play(task, roll):
    first, again = (roll(make_twin(task, 2, 7), make_operator(task, 2, 7), 40) for _ in range(2))
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(make_twin(task, 2, 8).state, first.states[0])
    somebody = roll(make_twin(task, 2, 7), make_operator(task, 2, 8), 5)
    assert not np.array_equal(somebody.motions, first.motions[:5])


def test_a_batch_is_its_rows(task, roll, pictures):
    together, alone = make_twin(task, 3, 5), make_twin(task, 1, 9)
    play = roll(together, make_operator(task, 3, 6, skill='expert'), 30)
    for row in range(3):
        alone.reset(state=play.states[0, row : row + 1])
        for command in play.commands[:, row : row + 1]:
            alone.step(command)
        np.testing.assert_array_equal(alone.state[0], together.state[row])
    np.testing.assert_array_equal(pictures(alone)[0], pictures(together)[-1])


def test_a_reset_concerns_its_rows_alone(task):
    twin, rows = make_twin(task, 4, 0), np.array([True, False, True, False])
    before = twin.state
    twin.reset(rows)
    np.testing.assert_array_equal(twin.state[~rows], before[~rows])
    assert (twin.state[rows] != before[rows]).any(axis=1).all()


def test_a_placed_state_is_kept_as_it_was_given(task):
    twin, rows = make_twin(task, 4, 0), np.array([True, False, True, False])
    placed = make_twin(task, 2, 9).state
    joints = {field.name for field in twin.spec.actions}
    free = [name.endswith('_yaw') and name not in joints for name in twin.names]
    placed[:, free] += 4 * math.pi  # is not wrapped
    before, given = twin.state, placed.copy()
    twin.reset(rows, given)
    given[:] = 0  # whoever gave it may use it again
    np.testing.assert_allclose(twin.state[rows], placed, rtol=0, atol=EXACT.get(task, 0.0))
    np.testing.assert_array_equal(twin.state[~rows], before[~rows])
    twin.step(rest(twin))
    np.testing.assert_allclose(twin.state[rows], placed, rtol=0, atol=STILL.get(task, 1e-9))


def test_a_visited_state_can_be_set_up_again_at_rest(task, roll, pictures):
    visited, fresh = make_twin(task, 2, 1), make_twin(task, 2, 2)
    roll(visited, make_operator(task, 2, 3), 50)
    state, seen = visited.state, pictures(visited)
    for twin in (visited, fresh):
        twin.reset(state=state)
        np.testing.assert_allclose(twin.state, state, rtol=0, atol=EXACT.get(task, 0.0))
    np.testing.assert_array_equal(pictures(visited), pictures(fresh))
    if task != 'grab_box':  # the box's handle swings, which is no part of the state
        np.testing.assert_array_equal(pictures(fresh), seen)
    for twin in (visited, fresh):
        twin.step(rest(twin))
    np.testing.assert_allclose(visited.state, fresh.state, rtol=0, atol=1e-6)


def test_a_step_does_not_write_into_states_that_were_handed_out(task):
    twin = make_twin(task, 2, 0)
    kept, copy = twin.state, twin.state.copy()
    twin.step(np.tile([field.high for field in twin.spec.actions], (2, 1)))
    np.testing.assert_array_equal(kept, copy)
    assert not np.array_equal(twin.state, copy)


def test_starts_can_be_and_are_not_yet_a_success(task):
    twin = make_twin(task, 16, 1)
    assert [twin.check(state) for state in twin.state] == [''] * 16
    assert (twin.distance() > twin.spec.success.threshold).all()


@pytest.mark.parametrize(
    ('task', 'state', 'said'),
    [
        ('pusher', (0.2, 0.2, 1.3, 0.7), 'outside the board'),
        ('pusher', (0.2, 0.2, 0.7, 0.7), ''),
        ('push_t', (0.3, 0, 0, 0, 0), 'tool lies outside'),
        ('push_t', (-0.2, 0, 0.2, 0, 0), 'T sticks out'),
        ('push_t', (0, 0, 0, 0, 0), 'tool stands in the T'),
        ('push_t', (-0.2, 0, 0, 0, 0), ''),
        ('push_cube', (-2.9, 0, 0, 0, 0, 0), 'wall'),
        ('push_cube', (-1.5, 0, 0, 2.2, 0, 0), 'kerb'),
        ('push_cube', (1.7, 0.7, 0, 0, 0, 0), 'robot stands in the goal'),
        ('push_cube', (-1.5, 0, 0, 1.7, -0.7, 0), 'cube stands in the goal'),
        ('push_cube', (-0.7, 1.3, 0, 0, 0, 0), 'robot stands in the pillar'),
        ('push_cube', (0.1, 0, 0, 0, 0, 0), 'robot stands in the cube'),
        ('push_cube', (1.7, 0, 0, 0, 0, 0), ''),  # in the goal, under the net
    ],
    indirect=['task'],
)
def test_a_start_that_cannot_be_is_refused_by_name(task, state, said):
    wrong = make_twin(task).check(np.array(state, dtype=float))
    assert said in wrong and bool(wrong) == bool(said)


def test_pictures_are_shaped_like_the_camera(task, pictures):
    twin = make_twin(task, 2)
    frames, camera = pictures(twin), twin.spec.camera
    count, height, width, colours = frames.shape
    assert (count, colours) == (2, 3) and frames.dtype == np.uint8
    assert width * camera.height == height * camera.width
    side = twin.spec.frame_size
    assert to_observation(frames[0], twin.spec).shape == (side, side, 3)


# ---------------------------------------------------------------------- the persons
def test_the_expert_succeeds_and_chance_does_not(task, roll):
    (batch, steps, least, most), spec = JUDGED[task], TASKS[task]
    idle = [field.name not in spec.policy_actions for field in spec.actions]
    rates = {}
    for skill in ('expert', 'random'):
        count = batch if skill == 'expert' else batch // 2
        twin, tracker = make_twin(task, count, 11), SuccessTracker(spec.success, count)
        play = roll(twin, make_operator(task, count, 12, skill), steps)
        for state in play.states[1:]:
            tracker.update(twin.distance(state))
        rates[skill] = tracker.strict.mean()
        assert (np.abs(play.motions) <= limits(spec) + 1e-12).all(), skill
        if skill == 'expert':  # what it shows, a policy could do
            assert not play.motions[..., idle].any()
            np.testing.assert_array_equal(play.labels == MILESTONE, milestones(twin, play))
        else:
            assert (play.motions.std(axis=(0, 1)) > 0).all()
    assert rates['expert'] >= least and rates['random'] <= most, rates


def test_play_moves_everything_says_what_it_does_and_goes_on_after_success(task, roll):
    batch, steps, returns = PLAYED[task]
    twin = make_twin(task, batch, 13)
    play = roll(twin, make_operator(task, batch, 14), steps)
    limit, done = limits(twin.spec), milestones(twin, play)
    assert (np.abs(play.motions) <= limit + 1e-12).all()
    assert (play.motions.std(axis=(0, 1)) > 0.05 * limit).all()
    np.testing.assert_array_equal(play.labels == MILESTONE, done)
    shares = np.bincount(play.labels.ravel(), minlength=3) / done.size
    least = 0.05 if task == 'pusher' else 0.08  # a disc is soon engaged and soon there
    assert shares[PLAY] > 0.3 and least < shares[INTENT] < 0.6, shares
    again = (done[1:] & ~done[:-1]).sum()  # more than worlds: somebody began anew
    assert again >= returns, again
    assert play.labels.dtype == np.uint8 and np.isfinite(play.states).all()


def test_an_unknown_skill_is_refused(task):
    with pytest.raises(ValueError, match='play, expert or random'):
        make_operator(task, 1, skill='lazy')
