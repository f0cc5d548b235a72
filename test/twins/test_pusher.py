import dataclasses

from dmo_ros.core.intent import INTENT, MILESTONE, PLAY
from dmo_ros.twins.pusher import BOARD, GOAL, locate, OBJECT, PusherTwin, TOOL
from dmo_ros.twins.pusher_operator import PusherOperator
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

LIMIT = PusherTwin(1).spec.actions[0].high
G = PusherTwin(1).geometry


def roll(twin, operator, steps):
    """Let an operator play; return states (T + 1, B, 4), actions and labels (T, B, ...)."""
    states, actions, labels = [twin.state], [], []
    for _ in range(steps):
        action, label = operator.act(twin.state)
        twin.step(action)
        states.append(twin.state)
        actions.append(action)
        labels.append(label)
    return np.stack(states), np.stack(actions), np.stack(labels)


def gaps(states):
    return np.linalg.norm(states[..., 2:] - states[..., :2], axis=-1)


def check_laws(states):
    assert (gaps(states) >= G.contact - 1e-9).all()
    for part, margin in ((states[..., :2], G.wall), (states[..., 2:], G.wall + G.contact)):
        assert part.min() >= margin - 1e-9 and part.max() <= 1 - margin + 1e-9


@pytest.mark.parametrize('skill', ['play', 'expert', 'random'])
def test_nothing_overlaps_and_nothing_leaves_the_board(skill):
    states, actions, _ = roll(PusherTwin(64, 1), PusherOperator(64, 2, skill=skill), 300)
    check_laws(states)
    assert np.abs(actions).max() <= LIMIT + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=25),
)
def test_no_sequence_of_commands_breaks_the_laws(seed, commands):
    twin = PusherTwin(1, seed)
    for command in commands:
        before = twin.state
        twin.step(np.array([command]))
        check_laws(twin.state)
        moved = np.linalg.norm(twin.state[:, :2] - before[:, :2], axis=1)
        assert moved <= np.sqrt(2) * LIMIT * twin.spec.period + 1e-9


def test_a_corner_cannot_squeeze_the_object():
    margin = G.wall + G.contact
    for corner in ((margin, margin), (1 - margin, margin), (margin, 1 - margin)):
        twin = PusherTwin(1)
        inward = np.sign(0.5 - np.array(corner))
        twin.reset(state=np.array([[*(corner + inward * 0.2), *corner]]))
        for _ in range(30):
            twin.step(-inward[None] * LIMIT)
            check_laws(twin.state)


def test_contact_pushes_outwards_only_and_free_motion_leaves_the_object():
    twin, rng = PusherTwin(256, 3, dataclasses.replace(G, substeps=1)), np.random.default_rng(4)
    pushes = 0
    for step in range(200):
        if step % 20 == 0:
            heading = rng.uniform(-LIMIT, LIMIT, (256, 2))
        before = twin.state
        twin.step(heading)
        moved = twin.state[:, 2:] - before[:, 2:]
        outwards = twin.state[:, 2:] - twin.state[:, :2]
        still = (moved == 0).all(axis=1)
        touched = gaps(twin.state) < G.contact + 1e-9
        assert touched[~still].all()
        inside = (np.abs(twin.state[:, 2:] - 0.5) < 0.5 - G.wall - G.contact - 1e-9).all(axis=1)
        pushed = ~still & inside
        assert ((moved * outwards).sum(axis=1)[pushed] > 0).all()
        across = moved[:, 0] * outwards[:, 1] - moved[:, 1] * outwards[:, 0]
        np.testing.assert_allclose(across[pushed], 0, atol=1e-9)
        pushes += int(pushed.sum())
    assert pushes > 100


def test_a_head_on_push_carries_the_object_straight_ahead():
    twin = PusherTwin(1)
    twin.reset(state=np.array([[0.3, 0.5, 0.3 + G.contact, 0.5]]))
    twin.step(np.array([[LIMIT, 0.0]]))
    step = LIMIT * twin.spec.period
    np.testing.assert_allclose(
        twin.state[0], [0.3 + step, 0.5, 0.3 + G.contact + step, 0.5], atol=1e-9
    )


def test_a_batch_is_its_rows():
    together = PusherTwin(8, 5)
    starts, rng = together.state.copy(), np.random.default_rng(6)
    actions = rng.uniform(-LIMIT, LIMIT, (60, 8, 2))
    alone = [PusherTwin(1) for _ in range(8)]
    for row, twin in enumerate(alone):
        twin.reset(state=starts[row : row + 1])
    for action in actions:
        together.step(action)
        for row, twin in enumerate(alone):
            twin.step(action[row : row + 1])
            np.testing.assert_array_equal(twin.state[0], together.state[row])
    np.testing.assert_array_equal(
        np.concatenate([twin.render() for twin in alone]), together.render()
    )


def test_one_seed_is_one_play():
    first, again, other = (
        roll(PusherTwin(4, seed), PusherOperator(4, seed), 100) for seed in (7, 7, 8)
    )
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_a_step_does_not_write_into_states_that_were_handed_out():
    twin = PusherTwin(3, 0)
    kept, copy = twin.state, twin.state.copy()
    twin.step(np.full((3, 2), LIMIT))
    np.testing.assert_array_equal(kept, copy)


def test_a_reset_of_rows_leaves_the_others():
    twin = PusherTwin(5, 0)
    before = twin.state.copy()
    rows = np.array([True, False, True, False, False])
    twin.reset(rows)
    np.testing.assert_array_equal(twin.state[~rows], before[~rows])
    assert (twin.state[rows] != before[rows]).all()
    twin.reset(rows, np.array([[0.2, 0.2, 0.7, 0.7], [0.3, 0.3, 0.8, 0.8]]))
    np.testing.assert_array_equal(twin.state[[0, 2], 0], [0.2, 0.3])


def test_a_placed_state_is_not_shared_with_whoever_gave_it():
    twin, given_state = PusherTwin(1), np.array([[0.2, 0.2, 0.7, 0.7]])
    twin.reset(state=given_state)
    given_state[:] = 0
    np.testing.assert_array_equal(twin.state, [[0.2, 0.2, 0.7, 0.7]])


def test_starts_are_fair():
    twin = PusherTwin(2000, 1)
    check_laws(twin.state)
    assert (twin.distance() > G.start_distance).all()
    assert (gaps(twin.state) > G.contact).all()
    # Everywhere on the board: no quarter is left out.
    quarters = (twin.state[:, 2:] > 0.5) @ [1, 2]
    assert (np.bincount(quarters, minlength=4) > 300).all()


def test_the_expert_succeeds_and_chance_does_not():
    twin = PusherTwin(1)
    rates = {}
    for skill in ('expert', 'random'):
        states, _, _ = roll(
            PusherTwin(300, 11),
            PusherOperator(300, 12, skill=skill),
            twin.spec.success.episode_steps,
        )
        inside = (
            np.linalg.norm(states[..., 2:] - twin.goal, axis=-1) <= twin.spec.success.threshold
        )
        run, best = np.zeros(300, int), np.zeros(300, int)
        for row in inside[1:]:
            run = np.where(row, run + 1, 0)
            best = np.maximum(best, run)
        rates[skill] = (best >= twin.spec.success.hold_steps).mean()
    assert rates['expert'] > 0.95 and rates['random'] < 0.15, rates


def test_labels_are_what_the_operator_says_they_are():
    twin, operator = PusherTwin(32, 13), PusherOperator(32, 14)
    states, _, labels = roll(twin, operator, 600)
    inside = np.linalg.norm(states[:-1, :, 2:] - twin.goal, axis=-1) <= twin.spec.success.threshold
    assert set(np.unique(labels)) == {PLAY, INTENT, MILESTONE}
    np.testing.assert_array_equal(labels == MILESTONE, inside)
    # Intent is held while the object is engaged: the tool is near it.
    assert (gaps(states[:-1])[labels == INTENT] < G.contact + 0.06).all()
    shares = np.bincount(labels.ravel(), minlength=3) / labels.size
    assert shares[PLAY] > 0.3 and shares[INTENT] > 0.05 and shares[MILESTONE] > 0.02, shares
    assert labels.dtype == np.uint8


def test_play_covers_the_board_and_moves_the_object():
    states, _, _ = roll(PusherTwin(32, 15), PusherOperator(32, 16), 600)
    cells = np.unique((states[..., 2:] * 8).astype(int).reshape(-1, 2), axis=0)
    assert len(cells) >= 30
    moving = np.linalg.norm(np.diff(states[..., 2:], axis=0), axis=-1) > 1e-4
    assert 0.1 < moving.mean() < 0.9
    reached = np.linalg.norm(states[..., 2:] - PusherTwin(1).goal, axis=-1) < 0.08
    assert reached.any(axis=0).mean() > 0.9


def test_an_unknown_skill_is_refused():
    with pytest.raises(ValueError, match='play, expert or random'):
        PusherOperator(1, skill='lazy')


def test_pictures_are_what_they_show():
    twin = PusherTwin(100, 17)
    frames = twin.render()
    assert frames.shape == (100, 32, 32, 3) and frames.dtype == np.uint8
    seen = locate(frames)
    np.testing.assert_allclose(seen, twin.state, atol=0.5 / 32)
    for x, y, colour in ((0, 1, TOOL), (2, 3, OBJECT)):
        row, column = 31 - (twin.state[:, y] * 32).astype(int), (twin.state[:, x] * 32).astype(int)
        assert np.abs(frames[np.arange(100), row, column] - colour).max() <= 1


def test_the_goal_and_the_board_have_their_colours():
    twin = PusherTwin(1)
    twin.reset(state=np.array([[0.1, 0.1, 0.2, 0.8]]))
    frame = twin.render()[0]
    np.testing.assert_array_equal(frame[16, 16], np.rint(GOAL))
    np.testing.assert_array_equal(frame[0, 31], np.rint(BOARD))


def test_edges_are_anti_aliased_so_that_a_small_motion_shows_by_its_size():
    twin = PusherTwin(5)
    twin.reset(
        state=np.array([[0.3 + pixel / 32, 0.3, 0.7, 0.7] for pixel in (0, 0.05, 0.1, 0.2, 0.4)])
    )
    first, *others = twin.render().astype(int)
    change = [np.abs(other - first).sum() for other in others]
    assert change[0] > 0 and (np.diff(change) > 0).all()
    plain = np.rint([BOARD, GOAL, OBJECT, TOOL])
    edges = [pixel for pixel in first.reshape(-1, 3) if not (plain == pixel).all(axis=1).any()]
    assert 20 < len(edges) < 200


def test_a_disc_out_of_sight_is_located_nowhere():
    assert np.isnan(locate(np.full((1, 32, 32, 3), np.rint(BOARD), np.uint8))).all()
