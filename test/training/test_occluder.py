"""The occluder's toy world and its judges, and a run of the whole experiment at no size at all."""

from dmo_training.experiments import occluder
from dmo_training.experiments.occluder_judge import JudgeConfig, passages
from dmo_training.experiments.occluder_training import led, OccluderConfig, StageConfig
from dmo_training.experiments.occluder_world import (
    draw,
    find,
    HIDDEN,
    labelled,
    move,
    play,
    PlayConfig,
)
from dmo_training.models.dreamer4.config import TrunkConfig
from dmo_training.models.dreamer4.shortcut import ShortcutConfig
import numpy as np
import pytest


@pytest.fixture(scope='module')
def toy():
    return play(PlayConfig(episodes=24, length=80))


def test_a_hidden_object_leaves_no_trace(toy):
    assert 0.2 < toy.hidden.mean() < 0.8
    assert len(np.unique(toy.frames[toy.hidden], axis=0)) == 1


def test_places_follow_from_actions_alone(toy):
    """The task can be solved: the action that led to a frame moves the object there."""
    action, known = led(toy)
    assert not known[:, 0].any() and known[:, 1:].all()
    again = move(toy.place[:, :-1], action[:, 1:])
    assert np.allclose(again, toy.place[:, 1:])


def test_the_object_moves_while_it_is_hidden(toy):
    """Otherwise the guess that it stays would do."""
    far = [np.ptp(place[hidden][:, 1]) for place, hidden in zip(toy.place, toy.hidden)]
    assert np.median(far) > 8


def test_the_finder_finds_the_centre():
    place = np.array([[5.3, 9.8], [27.0, 20.5], [4.0, 28.2]])
    centre, area = find(draw(place))
    assert np.abs(centre - place).max() < 0.5 and (area > 30).all()
    _, nothing = find(draw(np.array([[np.mean(HIDDEN), 9.0]])))
    assert nothing == 0


def test_the_zone_goes_on_behind_the_wall(toy):
    assert labelled(np.array([[np.mean(HIDDEN), 8.0]])).all()
    assert 0.1 < toy.label[toy.hidden].mean() < 0.9


def test_passages_are_hidden_for_as_long_as_asked(toy):
    config = JudgeConfig()
    for frames in (3, 8):
        at = passages(toy, frames, config)
        assert len(at.row)
        for row, hides, comes, shown in zip(*at):
            assert comes - hides == frames and toy.hidden[row, hides:comes].all()
            assert not toy.hidden[row, hides - 1] and not toy.hidden[row, comes]
            assert comes <= shown < comes + config.after


TINY = OccluderConfig(
    play=PlayConfig(episodes=8, length=64),
    held_out=PlayConfig(episodes=24, length=64, seed=1),
    coder=TrunkConfig(16, 2, 1, time_every=2, window=4),
    dynamics=TrunkConfig(16, 2, 1, time_every=2, window=12),
    tokenizer=StageConfig(2, 2, 1e-3, length=4),
    forcing=StageConfig(4, 2, 1e-3, matrix_rate=1e-3),
    head=StageConfig(2, 2, 1e-3, length=16),
    shortcut=ShortcutConfig(bootstrap_from=2, bootstrap_every=2, short=8, long=16),
    save_every=1,
)
LITTLE = JudgeConfig(
    context=8, hidden_for=(2, 3), passages=3, rows=4, horizon=3, horizons=(1, 3), few=2,
    passes=(1, 2), passes_horizon=2, calibrated_on=8,
)  # fmt: skip


def test_the_whole_experiment_runs_and_goes_on(tmp_path):
    whole = occluder.benchmark(TINY, LITTLE, tmp_path / 'run', tmp_path / 'out')
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'dreamer4_occluder.json', 'dreamer4_occluder.png'} <= names
    assert [point['hidden_for'] for point in whole['memory']] == [2, 3]
    (tmp_path / 'run' / 'head_4.safetensors').unlink()  # as if stopped before it
    again = occluder.benchmark(TINY, LITTLE, tmp_path / 'run', None)
    whole.pop('cpu_s'), again.pop('cpu_s')
    assert occluder.tables(again) == occluder.tables(whole)
