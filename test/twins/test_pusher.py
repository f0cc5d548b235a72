"""What only the pusher does, beyond the laws of every twin, and how a person plays with it."""

import dataclasses

from dmo_ros.core.intent import INTENT
from dmo_ros.twins.pusher import BOARD, GOAL, locate, OBJECT, PusherTwin, TOOL
from dmo_ros.twins.pusher_operator import PusherOperator
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

LIMIT = PusherTwin(1).spec.actions[0].high
G = PusherTwin(1).geometry


def gaps(states):
    return np.linalg.norm(states[..., 2:] - states[..., :2], axis=-1)


def check_laws(states):
    assert (gaps(states) >= G.contact - 1e-9).all()
    for part, margin in ((states[..., :2], G.wall), (states[..., 2:], G.wall + G.contact)):
        assert part.min() >= margin - 1e-9 and part.max() <= 1 - margin + 1e-9


@pytest.mark.parametrize('skill', ['play', 'expert', 'random'])
def test_nothing_overlaps_and_nothing_leaves_the_board(skill, roll):
    play = roll(PusherTwin(64, 1), PusherOperator(64, 2, skill=skill), 300)
    check_laws(play.states)
    assert np.abs(play.motions).max() <= LIMIT + 1e-12


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


def test_starts_are_fair():
    twin = PusherTwin(2000, 1)
    check_laws(twin.state)
    assert (twin.distance() > G.start_distance).all()
    assert (gaps(twin.state) > G.contact).all()
    # Everywhere on the board: no quarter is left out.
    quarters = (twin.state[:, 2:] > 0.5) @ [1, 2]
    assert (np.bincount(quarters, minlength=4) > 300).all()


def test_play_covers_the_board_and_means_the_object_only_when_near_it(roll):
    play = roll(PusherTwin(32, 15), PusherOperator(32, 16), 600)
    states = play.states
    cells = np.unique((states[..., 2:] * 8).astype(int).reshape(-1, 2), axis=0)
    assert len(cells) >= 30
    moving = np.linalg.norm(np.diff(states[..., 2:], axis=0), axis=-1) > 1e-4
    assert 0.1 < moving.mean() < 0.9
    reached = np.linalg.norm(states[..., 2:] - PusherTwin(1).goal, axis=-1) < 0.08
    assert reached.any(axis=0).mean() > 0.9
    assert (gaps(states[:-1])[play.labels == INTENT] < G.contact + 0.06).all()


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
