"""Other labels on the same frames."""

from dmo_ros.core.episode import Episode, EpisodeError, load_dataset, read_meta, write_meta
from dmo_ros.core.tasks import TaskError, TASKS
from dmo_training.relabel import labels, relabel, RelabelConfig
import numpy as np
import pytest

SPEC = TASKS['pusher']
INTENT = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0], dtype=np.uint8)


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / 'data'
    frames = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    Episode(
        frames,
        np.zeros((10, 2), np.float32),
        INTENT,
        np.ones(10, bool),
        np.arange(10) / 5,
        np.zeros((10, 0), np.float32),
        {'task': SPEC.to_dict()},
    ).save(folder / 'episodes' / '000000')
    write_meta(folder, SPEC, totals={'frames': 10, 'labelled': 5, 'milestones': 2, 'valid': 10})
    return folder


def new(**config):
    return labels(INTENT, RelabelConfig(**config))


def test_presses_come_late_so_a_shift_moves_labels_earlier():
    assert new(shift=2)[0].tolist() == [0, 1, 1, 1, 2, 2, 0, 0, 0, 0]
    assert new(shift=-2)[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert new(shift=0)[0].tolist() == INTENT.tolist()
    assert not new(shift=30)[0].any()


def test_a_milestone_may_begin_earlier():
    assert new(reach=2)[0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 0, 0]


def test_frames_around_a_change_are_in_doubt():
    assert np.flatnonzero(new(ignore=1)[1]).tolist() == [2, 3, 5, 6, 7, 8]


def test_a_relabelled_dataset_shares_the_frames_and_leaves_the_old_one(dataset, tmp_path):
    facts = relabel(dataset, tmp_path / 'new', RelabelConfig(shift=1, ignore=1), 'pusher')
    old, fresh = load_dataset(dataset, SPEC)[0], load_dataset(tmp_path / 'new', SPEC)[0]
    np.testing.assert_array_equal(old.frames, fresh.frames)
    np.testing.assert_array_equal(old.intent, INTENT)
    assert fresh.intent.tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 0, 0]
    assert facts['changed'] == 3 and facts['ignored'] == 6 == 10 - fresh.valid.sum()
    assert read_meta(tmp_path / 'new', SPEC)['relabel'] == [
        {'from': 'data', 'shift': 1, 'reach': 0, 'ignore': 1}
    ]
    inode = [
        (folder / 'episodes/000000/frames.npy').stat().st_ino
        for folder in (dataset, tmp_path / 'new')
    ]
    assert inode[0] == inode[1]


def test_refusals(dataset, tmp_path):
    with pytest.raises(EpisodeError, match='exists already'):
        relabel(dataset, dataset, RelabelConfig())
    with pytest.raises(TaskError, match='another task specification'):
        relabel(dataset, tmp_path / 'new', RelabelConfig(), 'push_t')
    with pytest.raises(ValueError, match='cannot be negative'):
        RelabelConfig(ignore=-1)
