"""The judge of global models: a perfect model passes, each kind of bad one is caught by name."""

from dmo_ros.twins.pusher import OBJECT, PusherTwin, TOOL
from dmo_ros.twins.pusher_operator import PusherOperator
from dmo_training.global_metrics import (
    draw_curves,
    draw_strip,
    evaluate,
    find,
    followed,
    judge,
    MARKERS,
    psnr,
)
import numpy as np
import pytest

CONTEXT, HORIZON, ROWS = 4, 16, 24
PUSHER = MARKERS['pusher']
LIMIT = PusherTwin().spec.actions[0].high


@pytest.fixture(name='segments', scope='module')
def fixture_segments():
    """Play of ROWS boards: frames (B, L, 32, 32, 3), actions in [-1, 1], states."""
    twin, operator = PusherTwin(ROWS, seed=1), PusherOperator(ROWS, seed=2)
    frames, actions, states = [], [], []
    for _ in range(CONTEXT + HORIZON):
        action, _ = operator.act(twin.state)
        frames.append(twin.render())
        states.append(twin.state.copy())
        actions.append(action / LIMIT)
        twin.step(action)
    return tuple(np.stack(part, axis=1) for part in (frames, actions, states))


def perfect(states):
    """Return a model that is the twin itself, started from the true states."""

    def rollout(context, action):
        twin = PusherTwin(ROWS)
        twin.reset(state=states[:, CONTEXT - 1].copy())
        frames = []
        for t in range(CONTEXT - 1, action.shape[1]):
            twin.step(action[:, t] * LIMIT)
            frames.append(twin.render())
        return np.stack(frames, axis=1)

    return rollout


def test_the_colours_are_the_twins():
    assert [marker.colour for marker in PUSHER] == [tuple(TOOL), tuple(OBJECT)]


def test_centroids_find_what_the_twin_drew(segments):
    frames, _, states = segments
    for marker, columns in zip(PUSHER, (slice(0, 2), slice(2, 4))):
        centre, size = find(frames, marker)
        assert (size > 0).all()
        assert np.abs(centre - states[..., columns]).max() < 0.5 / 32


def test_a_perfect_model_is_accepted(segments):
    frames, action, states = segments
    figures, own = evaluate(perfect(states), frames, action, CONTEXT, PUSHER)
    assert np.array_equal(own, frames[:, CONTEXT:])
    assert judge(figures, PUSHER) == []
    assert figures['tool']['follows_foreign_action'] > 0.85
    assert figures['psnr']['model'][9] > figures['psnr']['shuffled_action'][9]
    assert len(figures['object']['vanished']) == HORIZON


def test_copying_the_last_frame_is_refused_for_error_and_action(segments):
    frames, action, _ = segments

    def copy(context, action):
        return np.repeat(context[:, -1:], action.shape[1] - CONTEXT + 1, axis=1)

    figures, _ = evaluate(copy, frames, action, CONTEXT, PUSHER)
    assert figures['psnr']['model'] == figures['psnr']['copy']
    faults = ' '.join(judge(figures, PUSHER))
    assert 'tool follows foreign actions with correlation 0.00' in faults
    assert 'object is' in faults
    assert 'vanished' not in faults


def test_a_model_that_loses_the_object_is_refused(segments):
    frames, action, states = segments

    def forgetful(context, action):
        imagined = perfect(states)(context, action)
        red = np.linalg.norm(imagined.astype(float) - OBJECT, axis=-1) < 90
        red[:, :10] = False
        imagined[red] = 220
        return imagined

    figures, _ = evaluate(forgetful, frames, action, CONTEXT, PUSHER)
    assert figures['object']['vanished'][9] == 0
    assert figures['object']['vanished'][10] == 1
    assert any('object vanished in 100%' in fault for fault in judge(figures, PUSHER))


def test_figures_are_plain_json_even_when_nothing_is_found(segments, tmp_path):
    import json

    frames, action, _ = segments

    def black(context, action):
        return np.zeros((ROWS, HORIZON, 32, 32, 3), np.uint8)

    figures, own = evaluate(black, frames, action, CONTEXT, PUSHER)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert judge(figures, PUSHER)
    draw_curves(figures, PUSHER, tmp_path / 'curves.png')
    draw_strip(frames[:, CONTEXT:], own, tmp_path / 'strip.png')
    for name in ('curves.png', 'strip.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')


def test_psnr_of_one_level_off_everywhere(segments):
    frames = segments[0][:, CONTEXT:].clip(1, 254)
    assert psnr(frames + 1, frames) == pytest.approx(20 * np.log10(255), abs=1e-3)


def test_motion_against_the_action_counts_as_negative(segments):
    frames, action, _ = segments
    moved = np.concatenate((frames[:, CONTEXT - 1 : CONTEXT], frames[:, CONTEXT:]), axis=1)
    own = action[:, CONTEXT - 1 : -1]
    assert followed(moved, own, PUSHER[0]) > 0.8
    assert followed(moved, -own, PUSHER[0]) < -0.8
