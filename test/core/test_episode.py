"""Laws of play data on disk."""

import json

from dmo_ros.core.episode import (
    Episode,
    episode_folders,
    EpisodeError,
    load_dataset,
    read_meta,
    write_meta,
)
from dmo_ros.core.tasks import TaskError, TASKS
import numpy as np
import pytest

SPEC = TASKS['pusher']


def make(length=7, task=SPEC, seed=0):
    rng = np.random.default_rng(seed)
    size = task.frame_size
    return Episode(
        frames=rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (length, len(task.actions))).astype(np.float32),
        intent=rng.integers(0, 3, length).astype(np.uint8),
        valid=rng.random(length) > 0.2,
        stamp=np.arange(length) / task.rate_hz,
        proprio=np.zeros((length, len(task.proprioception)), dtype=np.float32),
        info={'task': task.to_dict(), 'source': 'a bag'},
    )


def dataset(folder, task=SPEC, count=2):
    for number in range(count):
        make(task=task, seed=number).save(folder / 'episodes' / f'{number:06d}')
    folder.mkdir(exist_ok=True)
    write_meta(folder, task, source='a bag')
    return folder


@pytest.mark.parametrize('mmap', [True, False])
@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_a_saved_episode_comes_back_bit_for_bit(tmp_path, task, mmap):
    saved = make(task=task)
    loaded = Episode.load(saved.save(tmp_path / '000000'), mmap=mmap)
    for name in ('frames', 'action', 'intent', 'valid', 'stamp', 'proprio'):
        mine, theirs = getattr(saved, name), getattr(loaded, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert isinstance(loaded.frames, np.memmap) == mmap
    assert loaded.info == saved.info and loaded.spec == task


def test_an_episode_is_never_overwritten(tmp_path):
    make().save(tmp_path / '000000')
    with pytest.raises(EpisodeError, match='never overwritten'):
        make(seed=1).save(tmp_path / '000000')
    np.testing.assert_array_equal(Episode.load(tmp_path / '000000').action, make().action)


def test_what_a_killed_writer_left_is_not_an_episode(tmp_path):
    folder = dataset(tmp_path / 'data')
    half = folder / 'episodes' / '000002.tmp'
    half.mkdir()
    (half / 'frames.npy').write_bytes(b'\x93NUMPY')
    assert [path.name for path in episode_folders(folder)] == ['000000', '000001']
    make().save(folder / 'episodes' / '000002')
    assert len(load_dataset(folder, SPEC)) == 3 and not half.exists()


def test_a_dataset_of_another_task_is_refused_and_the_field_named(tmp_path):
    folder = dataset(tmp_path / 'data')
    with pytest.raises(TaskError, match='another task specification'):
        load_dataset(folder, TASKS['push_t'])


def test_one_episode_of_another_task_is_found_among_the_rest(tmp_path):
    folder = dataset(tmp_path / 'data')
    make(task=TASKS['push_t']).save(folder / 'episodes' / '000002')
    with pytest.raises(TaskError, match='000002'):
        load_dataset(folder, SPEC)


def test_an_empty_dataset_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(EpisodeError, match=r'holds no episode.*record more play'):
        load_dataset(dataset(tmp_path / 'data', count=0), SPEC)


def test_a_folder_without_meta_is_no_dataset(tmp_path):
    with pytest.raises(EpisodeError, match='dmo convert'):
        read_meta(tmp_path)


def test_a_dataset_of_another_format_is_refused(tmp_path):
    folder = dataset(tmp_path / 'data')
    meta = json.loads((folder / 'meta.json').read_text())
    (folder / 'meta.json').write_text(json.dumps({**meta, 'format': 99}))
    with pytest.raises(EpisodeError, match='format 99'):
        load_dataset(folder, SPEC)


@pytest.mark.parametrize('name', ['frames.npy', 'action.npy', 'episode.json'])
@pytest.mark.parametrize('harm', ['missing', 'cut'])
def test_a_damaged_file_is_named(tmp_path, name, harm):
    folder = dataset(tmp_path / 'data')
    path = folder / 'episodes' / '000001' / name
    if harm == 'missing':
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(EpisodeError, match=f'000001/{name} is'):
        load_dataset(folder, SPEC)


@pytest.mark.parametrize(
    'change',
    [
        {'action': np.zeros((7, 3), np.float32)},
        {'action': np.zeros((7, 2), np.float64)},
        {'frames': np.zeros((7, 16, 16, 3), np.uint8)},
        {'intent': np.zeros(6, np.uint8)},
    ],
)
def test_arrays_that_do_not_fit_are_never_written(tmp_path, change):
    fields = {**make().__dict__, **change}
    with pytest.raises(EpisodeError, match='wants'):
        Episode(**fields).save(tmp_path / '000000')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'value', 'what'),
    [
        ('action', np.nan, 'is not finite'),
        ('action', 1.01, 'is outside'),
        ('intent', 3, 'is no label'),
        ('stamp', np.inf, 'is not finite'),
    ],
)
def test_a_value_that_would_spoil_training_is_named_by_file_and_row(tmp_path, name, value, what):
    folder = dataset(tmp_path / 'data')
    path = folder / f'episodes/000001/{name}.npy'
    array = np.load(path)
    array[4] = value
    np.save(path, array)
    with pytest.raises(EpisodeError, match=f'000001/{name}.npy: row 4 {what}'):
        load_dataset(folder, SPEC)


def test_an_object_array_is_never_unpickled(tmp_path):
    folder = dataset(tmp_path / 'data')
    np.save(folder / 'episodes' / '000000' / 'action.npy', np.array([{}], dtype=object))
    with pytest.raises(EpisodeError, match='damaged'):
        load_dataset(folder, SPEC)
