"""The policy of the ego-centric tasks in a DreamerV4-type world: resume equals no stop."""

from dataclasses import replace
import json

from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import train_local, train_policy
from dmo_training.engine import load_checkpoint
from dmo_training.models.rssm import RssmConfig
from dmo_training.rl.agent import DmoSapoConfig
import numpy as np
import pytest
import torch

LOCAL = RssmConfig(
    frame_size=64,
    recurrent=8,
    groups=2,
    classes=4,
    units=8,
    multiplier=1,
    mlp_layers=1,
    reward_bins=11,
)
AGENT = DmoSapoConfig(
    actors=3,
    horizon=2,
    episode_length=3,
    epochs=6,
    mini_epochs=1,
    mini_batch=6,
    actor_hidden=(8,),
    critic_hidden=(8,),
)


@pytest.fixture(name='stage', scope='module', params=['push_cube', 'grab_box'])
def fixture_stage(request, tmp_path_factory, write_ego_play, write_dreamer4):
    """The configurations of local model and policy on an untrained global model."""
    spec, folder = get_task(request.param), tmp_path_factory.mktemp(request.param)
    data = write_ego_play(folder / 'play', spec.name)
    reward = write_dreamer4(folder / 'reward.safetensors', spec.name)
    model = replace(LOCAL, actions=len(spec.actions), proprio=len(spec.proprioception))
    local = train_local.Config(
        spec.name, data, reward, folder / 'local', model=model, updates=4, batch=2, length=4
    )
    policy = train_policy.Config(
        spec.name,
        data,
        folder / 'global.safetensors',
        reward,
        train_local.train(local),
        folder / 'policy',
        agent=AGENT,
        denoising_steps=2,
        model_updates=1,
        model_batch=2,
        model_length=4,
        replay=60,
    )
    return spec, local, policy


def test_three_and_three_epochs_are_six(stage, tmp_path, differences):
    """Bit for bit: worlds, memories, latents, replay with its joints, weights, optimisers."""
    spec, _, config = stage
    config, cut = replace(config, out=tmp_path / 'whole'), replace(config, out=tmp_path / 'cut')
    whole = load_checkpoint(train_policy.train(config))
    half = load_checkpoint(train_policy.train(cut, until=3))
    torch.manual_seed(12345)  # another process would not have our generator's state
    resumed = load_checkpoint(train_policy.train(cut, resume=True))
    assert differences(whole.pop('config'), resumed.pop('config')) == ['.out']
    assert differences(whole, half), 'the second half changed nothing'
    assert differences(whole, resumed) == []
    replay = whole['training']['replay']
    assert ('proprio' in replay) == bool(spec.proprioception)
    assert replay['frames'].shape[2:] == (64, 64, 3)


def test_worlds_too_large_to_store_begin_their_episodes_anew(stage, tmp_path, monkeypatch):
    """And nothing else: weights and replay are carried on."""
    monkeypatch.setattr(train_policy, 'MEMORY', 1000)
    config = replace(stage[2], out=tmp_path / 'cut')
    half = load_checkpoint(train_policy.train(config, until=3))['training']
    assert half['world'] is None and half['actors'] is None
    whole = load_checkpoint(train_policy.train(config, resume=True))['training']
    assert whole['replay']['filled'] == 2 * AGENT.epochs and whole['agent']['epoch'] == 6


def test_the_replay_holds_whole_actions_with_the_others_at_rest(stage):
    spec, _, config = stage
    training = train_policy.Training(config)
    for _ in range(3):
        training.epoch()
    segment, first = training.replay.sample(np.random.default_rng(0), 16, 4)
    undriven = [i for i, f in enumerate(spec.actions) if f.name not in spec.policy_actions]
    assert segment.action.shape[-1] == len(spec.actions)
    rest = training.driven.rest
    assert torch.equal(segment.action[..., undriven], rest.expand(16, 4, -1)) and len(
        undriven
    ) == len(rest)
    driven = [i for i in range(len(spec.actions)) if i not in undriven]
    assert float(segment.action[..., driven].std(dim=(0, 1)).min()) > 0
    assert torch.equal(segment.reward.isnan(), first)
    assert (segment.proprio is None) == (not spec.proprioception)


def test_play_and_dreams_go_into_one_batch(stage):
    spec, _, config = stage
    training = train_policy.Training(config)
    for _ in range(3):
        training.epoch()
    segment, _ = training._model_batch()
    assert segment.frames.shape == (2, 4, 64, 64, 3)
    assert segment.action.shape == (2, 4, len(spec.actions))
    if spec.proprioception:
        assert segment.proprio.shape == (2, 4, len(spec.proprioception))


def test_an_episode_begins_with_the_plays_own_joints(stage):
    """What waits in the recorder after a reset is the last moment of the context."""
    spec, _, config = stage
    training = train_policy.Training(config)
    heard = []
    sample = training.contexts.sample
    training.contexts.sample = lambda count: heard.append(sample(count)) or heard[-1]
    training.actors.start()
    assert torch.equal(training.recorder.frame, heard[0].seen[:, -1])
    if spec.proprioception:
        assert torch.equal(training.recorder.proprio, heard[0].proprio[:, -1])


def test_the_local_models_figures_say_how_well_it_feels(stage):
    spec, config, _ = stage
    lines = (config.out / 'metrics.jsonl').read_text().splitlines()
    last = json.loads(lines[-1])
    assert last['frame_error_15'] > 0
    assert ('proprio_error_1' in last) == bool(spec.proprioception)


def test_a_local_model_of_the_world_models_size_is_refused(stage, tmp_path):
    """Its own frames are the policy's, and so is what it feels."""
    spec, config, _ = stage
    wrong = replace(config, out=tmp_path, model=replace(config.model, frame_size=spec.frame_size))
    with pytest.raises(TaskError, match=f'takes frames of {spec.frame_size} pixels.* has 64 pix'):
        train_local.train(wrong)
    with pytest.raises(TaskError, match='7 proprioceptive numbers'):
        train_local.train(replace(wrong, model=replace(config.model, proprio=7)))


def test_statistics_of_the_joints_are_the_plays(stage):
    spec, config, _ = stage
    if not spec.proprioception:
        pytest.skip('this task has none')
    model = train_local.load_local(config.out / 'local.safetensors', spec)
    play = train_local.PlayDataset.open(config.data, spec)
    joints = np.concatenate([episode.proprio for episode in play.train])
    assert np.allclose(model.proprio_mean, joints.mean(0), atol=1e-5)
    floor = [0.01 * (field.high - field.low) for field in spec.proprioception]
    assert np.allclose(model.proprio_spread, np.maximum(joints.std(0, ddof=1), floor), atol=1e-5)
