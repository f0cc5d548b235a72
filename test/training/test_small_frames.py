"""What the local model is trained on is what the robot's policy sees of the same moment."""

import os

from dmo_ros.core.episode import Episode, write_meta
from dmo_ros.core.images import to_observation, to_policy_observation
from dmo_ros.core.tasks import get_task
from dmo_training import small_frames
from dmo_training.data import PlayDataset
from dmo_training.models.dreamer4.pixels import resize
from dmo_training.small_frames import at_policy_size
import numpy as np
import pytest
import torch


def camera(spec, count, seed=0):
    """Pictures of the task's camera with coarse and fine structure."""
    rng = np.random.default_rng(seed)
    height, width = spec.camera.height, spec.camera.width
    coarse = rng.integers(0, 256, (count, height // 40, width // 40, 3))
    fine = rng.integers(-40, 40, (count, height, width, 3))
    return np.clip(coarse.repeat(40, 1).repeat(40, 2) + fine, 0, 255).astype(np.uint8)


def write(folder, spec, pictures, proprio=0.0):
    """Three episodes as the converter writes them."""
    for row, part in enumerate(np.array_split(pictures, 3)):
        length = len(part)
        Episode(
            frames=np.stack([to_observation(picture, spec) for picture in part]),
            action=np.full((length, len(spec.actions)), row / 10, np.float32),
            intent=np.zeros(length, np.uint8),
            valid=np.ones(length, bool),
            stamp=np.arange(length) * spec.period,
            proprio=np.full((length, len(spec.proprioception)), proprio, np.float32),
            info={'task': spec.to_dict()},
        ).save(folder / 'episodes' / f'{row:06d}')
    write_meta(folder, spec)
    return folder


@pytest.mark.parametrize('task', ['push_cube', 'grab_box'])
def test_a_small_frame_is_what_the_robots_policy_sees(task, tmp_path):
    """To the last bit: both halve the world model's view with the same function."""
    spec, pictures = get_task(task), camera(get_task(task), 6)
    dataset = PlayDataset.open(write(tmp_path / 'play', spec, pictures), spec)
    small = at_policy_size(dataset, spec)
    seen = np.concatenate([episode.frames for episode in small.episodes()])
    robot = np.stack([to_policy_observation(picture, spec) for picture in pictures])
    assert seen.shape == (6, spec.policy_size, spec.policy_size, 3)
    assert np.array_equal(seen, robot)


@pytest.mark.parametrize('task', ['push_cube', 'grab_box'])
def test_a_worlds_frames_are_made_small_alike(task):
    """Torch's area mean and OpenCV's round a half differently: one level of 256 at most."""
    spec = get_task(task)
    frames = np.stack([to_observation(picture, spec) for picture in camera(spec, 3)])
    ours = resize(torch.from_numpy(frames), spec.policy_size).numpy()
    robot = np.stack([to_observation(frame, spec, spec.policy_size) for frame in frames])
    assert np.abs(ours.astype(int) - robot).max() <= 1


def test_small_play_keeps_split_labels_and_everything_else(tmp_path):
    spec = get_task('grab_box')
    dataset = PlayDataset.open(write(tmp_path / 'play', spec, camera(spec, 9), 0.25), spec)
    dataset.label([np.arange(3) + 10.0 * row for row in range(3)])
    small = at_policy_size(dataset, spec)
    for held_out in (False, True):
        picks = dataset.draw(np.random.default_rng(0), 8, 2, held_out)
        one, two = dataset.at(picks, 2, held_out), small.at(picks, 2, held_out)
        assert torch.equal(one.action, two.action) and torch.equal(one.reward, two.reward)
        assert torch.equal(one.proprio, two.proprio) and float(one.proprio.min()) == 0.25
        made = [to_observation(x, spec, 64) for x in one.frames.flatten(0, 1).numpy()]
        assert np.array_equal(np.stack(made), two.frames.flatten(0, 1).numpy())


def test_the_second_time_nothing_is_resized(tmp_path, monkeypatch):
    spec = get_task('push_cube')
    folder = write(tmp_path / 'play', spec, camera(spec, 3))
    first = at_policy_size(PlayDataset.open(folder, spec), spec)
    monkeypatch.setattr(small_frames, 'to_observation', None)
    second = at_policy_size(PlayDataset.open(folder, spec), spec)
    for one, two in zip(first.episodes(), second.episodes(), strict=True):
        assert isinstance(two.frames, np.memmap) and np.array_equal(one.frames, two.frames)


def test_other_frames_under_the_same_name_are_resized_anew(tmp_path):
    """A dataset that was converted again must not meet the cache of its predecessor."""
    spec = get_task('push_cube')
    folder = write(tmp_path / 'play', spec, camera(spec, 3))
    at_policy_size(PlayDataset.open(folder, spec), spec)
    path = folder / 'episodes' / '000000' / 'frames.npy'
    np.save(path, np.full((1, 128, 128, 3), 7, np.uint8))
    os.utime(path, ns=(1, 1))
    small = at_policy_size(PlayDataset.open(folder, spec), spec)
    assert (small.train[0].frames == 7).all()


def test_where_nothing_can_be_written_frames_stay_in_memory(tmp_path, monkeypatch):
    spec = get_task('push_cube')
    folder = write(tmp_path / 'play', spec, camera(spec, 3))
    (folder / 'cache').write_text('a file is in the way')
    small = at_policy_size(PlayDataset.open(folder, spec), spec)
    assert small.train[0].frames.shape == (1, 64, 64, 3)
    assert (folder / 'cache').is_file()


def test_a_task_whose_policy_sees_the_same_gets_its_play_unchanged(tmp_path, write_play):
    spec = get_task('pusher')
    dataset = PlayDataset.open(write_play(tmp_path / 'play', 10), spec)
    assert at_policy_size(dataset, spec) is dataset
    assert dataset.sample(np.random.default_rng(0), 2, 3).proprio is None
