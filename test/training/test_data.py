"""Segments of play: whole stretches of valid frames, validation apart, refusals with reasons."""

from dmo_ros.core.episode import Episode, EpisodeError, write_meta
from dmo_ros.core.tasks import get_task, TaskError
from dmo_training.data import DataError, PlayDataset, valid_runs
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

SPEC = get_task('pusher')


def episode(valid, number=0):
    """Every frame tells where it is from: its episode in red, its time in green."""
    valid = np.asarray(valid, bool)
    length = len(valid)
    frames = np.zeros((length, 32, 32, 3), np.uint8)
    frames[..., 0], frames[..., 1] = number, np.arange(length)[:, None, None]
    action = np.stack([np.full(length, number / 100), np.arange(length) / 1000], -1)
    return Episode(
        frames=frames,
        action=action.astype(np.float32),
        intent=(np.arange(length) % 3).astype(np.uint8),
        valid=valid,
        stamp=np.arange(length) * SPEC.period,
        proprio=np.zeros((length, 0), np.float32),
        info={'task': SPEC.to_dict()},
    )


def starts_seen(segment):
    return {(int(row[0, 0, 0, 0]), int(row[0, 0, 0, 1])) for row in segment.frames}


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_segments_are_the_stretches_without_an_invalid_frame(valids, length):
    """Drawn are exactly the starts that a plain search finds, and frames in their order."""
    episodes = [episode(valid, number) for number, valid in enumerate(valids)]
    dataset = PlayDataset(episodes, holdout=0.1)
    expected = {
        (number, t)
        for number, valid in enumerate(valids[: len(dataset.train)])
        for t in range(len(valid) - length + 1)
        if all(valid[t : t + length])
    }
    rng = np.random.default_rng(0)
    if not expected:
        with pytest.raises(DataError, match=f'no stretch of {length} valid frames in'):
            dataset.sample(rng, 1, length)
        return
    assert {tuple(place) for place in dataset.starts(length).tolist()} == expected
    segment = dataset.sample(rng, 300, length)
    assert starts_seen(segment) <= expected
    time = segment.frames[..., 0, 0, 1].long()
    assert bool((time == time[:, :1] + torch.arange(length)).all())
    assert np.allclose(segment.action[..., 1], time / 1000)
    assert bool((segment.intent == time % 3).all())


def test_every_start_is_equally_likely():
    dataset = PlayDataset([episode(np.ones(n), i) for i, n in enumerate((12, 4, 4))])
    segment = dataset.sample(np.random.default_rng(0), 4000, 3)
    counts = [(segment.frames[:, 0, 0, 0, 0] == number).sum() / 4000 for number in (0, 1)]
    assert np.allclose(counts, [10 / 12, 2 / 12], atol=0.02)


@pytest.mark.parametrize(('count', 'kept'), [(1, 1), (2, 1), (4, 3), (10, 9), (30, 27)])
def test_validation_has_whole_episodes_of_its_own(count, kept):
    """No episode serves as both, except a single one."""
    dataset = PlayDataset([episode(np.ones(3), number) for number in range(count)])
    assert len(dataset.train) == kept
    assert dataset.frames() == 3 * count == sum(len(e.action) for e in dataset.episodes())
    rng = np.random.default_rng(0)
    train, held = (dataset.sample(rng, 400, 2, held_out=apart) for apart in (False, True))
    shared = {number for number, _ in starts_seen(train)} & {n for n, _ in starts_seen(held)}
    assert bool(shared) == (count == 1)


def test_rewards_stay_with_their_frames():
    dataset = PlayDataset([episode(np.ones(9), number) for number in range(3)])
    assert dataset.sample(np.random.default_rng(0), 2, 3).reward is None
    dataset.label([10 * number + np.arange(9.0) for number in range(3)])
    for held_out in (False, True):
        segment = dataset.sample(np.random.default_rng(0), 50, 4, held_out)
        where = segment.frames[..., 0, 0, :].long()
        assert bool((segment.reward == 10 * where[..., 0] + where[..., 1]).all())


def test_rewards_of_other_lengths_are_refused():
    dataset = PlayDataset([episode(np.ones(9), number) for number in range(2)])
    for rewards in ([np.zeros(9)], [np.zeros(9), np.zeros(8)]):
        with pytest.raises(DataError, match='score every frame of every episode once'):
            dataset.label(rewards)


def test_too_short_a_stretch_is_named_with_the_longest_there_is():
    dataset = PlayDataset([episode([1, 1, 0, 1, 1, 1, 0, 1])])
    with pytest.raises(DataError, match=r'4 valid frames in 1 episodes \(the longest has 3\)'):
        dataset.starts(4)


def test_nothing_and_other_tasks_are_refused(tmp_path):
    with pytest.raises(DataError, match='holds no episode; record more play'):
        PlayDataset([])
    with pytest.raises(EpisodeError, match='is no dataset'):
        PlayDataset.open(tmp_path, SPEC)
    write_meta(tmp_path, SPEC)
    with pytest.raises(EpisodeError, match='holds no episode; record more play'):
        PlayDataset.open(tmp_path, SPEC)
    with pytest.raises(TaskError, match=r'dataset .* was made for another task .*push_t'):
        PlayDataset.open(tmp_path, get_task('push_t'))


def test_a_dataset_on_disk_is_not_read_into_memory(tmp_path):
    episode(np.ones(5)).save(tmp_path / 'episodes' / '000000')
    write_meta(tmp_path, SPEC)
    dataset = PlayDataset.open(tmp_path, SPEC)
    assert isinstance(dataset.train[0].frames, np.memmap)
    segment = dataset.sample(np.random.default_rng(0), 2, 5)
    segment.frames.add_(1)  # a copy: the file stays as it is
    assert dataset.sample(np.random.default_rng(0), 2, 5).frames.max() == 4


@given(st.lists(st.booleans(), max_size=20))
def test_valid_runs_are_maximal(valid):
    runs = valid_runs(np.array(valid, bool))
    inside = np.zeros(len(valid), bool)
    for run in runs:
        inside[run] = True
    assert inside.tolist() == valid
    assert all(a.stop < b.start for a, b in zip(runs, runs[1:]))
