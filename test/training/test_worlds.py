"""A task's global model behind one door: what it shows, what it scores, what it refuses."""

from dataclasses import replace

from dmo_ros.core.images import to_observation
from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import train_head
from dmo_training.data import PlayDataset
from dmo_training.engine import CheckpointError
from dmo_training.small_frames import at_policy_size
from dmo_training.train_policy import PlayContexts
from dmo_training.worlds import label, load_world
import numpy as np
import pytest
import torch

EGO = ('push_cube', 'grab_box')


@pytest.fixture(name='play', scope='module', params=EGO)
def fixture_play(request, tmp_path_factory, write_ego_play, write_dreamer4):
    """Task, dataset and the checkpoint of a complete, untrained model."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write_ego_play(folder / 'play', request.param)
    path = write_dreamer4(folder / 'reward.safetensors', request.param)
    return get_task(request.param), data, path


def contexts(spec, data, count, seed=0):
    dataset = PlayDataset.open(data, spec)
    small = at_policy_size(dataset, spec)
    return PlayContexts(dataset, spec.context_length, seed, small).sample(count)


def test_a_world_takes_the_datasets_frames_and_shows_the_policys(play):
    spec, data, path = play
    context = contexts(spec, data, 2)
    assert context.observation.shape[1:3] == (spec.context_length, spec.frame_size)
    assert context.seen.shape[1:3] == (spec.context_length, spec.policy_size)
    world = load_world(path.parent / 'nowhere', path, 2, spec, 2, seed=1)
    world.reset(context)
    step = world.step(torch.zeros(2, len(spec.actions)))
    side = spec.policy_size
    assert step.observation.shape == (2, side, side, 3) and step.observation.dtype == torch.uint8
    assert step.reward.shape == (2,) and bool(((step.reward >= 0) & (step.reward <= 1)).all())
    if spec.proprioception:
        assert step.proprio.shape == (2, len(spec.proprioception))
    else:
        assert step.proprio is None


def test_both_models_start_from_the_same_moments(play):
    """The view is the observation made small, joints and actions are of those frames."""
    spec, data, _ = play
    context = contexts(spec, data, 3, seed=5)
    frames = context.observation.flatten(0, 1).numpy()
    small = np.stack([to_observation(frame, spec, spec.policy_size) for frame in frames])
    assert np.array_equal(context.seen.flatten(0, 1).numpy(), small)
    assert context.action.shape == (3, spec.context_length - 1, len(spec.actions))
    if spec.proprioception:
        whole = np.concatenate([e.proprio for e in PlayDataset.open(data, spec).episodes()])
        rows = {row.tobytes() for row in whole}
        assert all(row.tobytes() in rows for row in context.proprio.flatten(0, 1).numpy())


def test_a_world_is_saved_and_carried_on(play):
    spec, data, path = play
    worlds = [load_world(path, path, 2, spec, 2, seed=seed) for seed in (1, 2)]
    for world in worlds:
        world.reset(contexts(spec, data, 2))
    action = torch.full((2, len(spec.actions)), 0.3)
    worlds[0].step(action)
    worlds[1].load_state_dict(worlds[0].state_dict())
    for _ in range(2):
        one, two = (world.step(action) for world in worlds)
        assert torch.equal(one.observation, two.observation)
        assert torch.equal(one.reward, two.reward)


def test_every_frame_of_the_play_gets_a_probability(play):
    spec, data, path = play
    dataset = PlayDataset.open(data, spec)
    label(path, dataset, spec)
    small = at_policy_size(dataset, spec)
    reward = small.sample(np.random.default_rng(0), 8, 20).reward
    assert reward.shape == (8, 20) and bool(reward.isfinite().all())
    assert float(reward.min()) >= 0 and float(reward.max()) <= 1 and float(reward.std()) > 0


def test_the_play_is_scored_once_for_a_model_and_again_for_another(play, tmp_path, monkeypatch):
    """Also where labels or valid frames of the same play were changed since."""
    spec, data, path = play
    dataset, counted = PlayDataset.open(data, spec), []
    score = train_head.label_dataset

    def count(model, play):
        counted.append(len(play.episodes()))
        score(model, play)

    monkeypatch.setattr(train_head, 'label_dataset', count)
    label(path, dataset, spec)
    counted.clear()
    label(path, dataset, spec)
    assert not counted
    kept = [np.array(dataset.rewards[id(e)]) for e in dataset.episodes()]
    alone = PlayDataset.open(data, spec)
    score(train_head.load_model(path, spec), alone)
    assert all(
        np.array_equal(one, alone.rewards[id(e)])
        for one, e in zip(kept, alone.episodes(), strict=True)
    )
    other = tmp_path / 'reward.safetensors'
    other.write_bytes(path.read_bytes())
    label(other, dataset, spec)
    assert len(counted) == 3
    episode = dataset.episodes()[0]
    label(path, PlayDataset([replace(episode, valid=np.arange(len(episode)) > 3)]), spec)
    assert len(counted) == 4


def test_steps_that_are_no_power_of_two_are_refused(play):
    spec, _, path = play
    with pytest.raises(ValueError, match='steps is 3; shortcuts halve, so give a power of two'):
        load_world(path, path, 2, spec, 3)


def test_the_reward_of_another_task_or_none_is_refused(play, tmp_path):
    spec, data, path = play
    other = get_task(next(name for name in EGO if name != spec.name))
    with pytest.raises(TaskError, match='was made for another task'):
        load_world(path, path, 2, other, 4)
    with pytest.raises(CheckpointError, match='train that stage first'):
        label(tmp_path / 'reward.safetensors', PlayDataset.open(data, spec), spec)
