"""The stage: resume equals no stop, frames read as in a rollout, honest figures, refusals."""

from dataclasses import replace
import json

from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import train_reward
from dmo_training.data import PlayDataset
from dmo_training.engine import CheckpointError, load_checkpoint, save_checkpoint
from dmo_training.models.dreamer4.config import HeadConfig
from dmo_training.models.dreamer4.reward import RewardHead
from dmo_training.models.dreamer4.rollout import Rollout, RolloutConfig
from dmo_training.models.dreamer4.shortcut import ShortcutConfig
from dmo_training.train_head import (
    Config,
    cross_calibrated,
    encoded,
    label_dataset,
    load_model,
    read,
    rewards_of,
    train,
    windows,
)
import numpy as np
import pytest
import torch

SHORTCUT = ShortcutConfig(bootstrap_every=2, bootstrap_from=0, short=6, long=10, long_share=0.5)
SPEC = get_task('push_cube')


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory, write_ego_play):
    return write_ego_play(tmp_path_factory.mktemp('play') / 'dataset', 'push_cube')


@pytest.fixture(name='untrained', scope='module')
def fixture_untrained(tmp_path_factory, write_dreamer4):
    """The checkpoint of a complete model of random weights, with a window of 8 frames."""
    path = tmp_path_factory.mktemp('model') / 'reward.safetensors'
    return write_dreamer4(path, 'push_cube')


@pytest.fixture(name='config')
def fixture_config(data, untrained, tmp_path):
    path = tmp_path / 'global' / 'global.safetensors'
    save_checkpoint(path, {**load_checkpoint(untrained), 'stage': 'global'})
    return Config(
        task='push_cube',
        data=data,
        out=tmp_path / 'run',
        global_model=path,
        head=HeadConfig(hidden=8, ahead=2),
        shortcut=SHORTCUT,
        updates=4,
        batch=4,
        average=0.9,
        log_every=1,
        device='cpu',
    )


@pytest.fixture(name='model', scope='module')
def fixture_model(untrained):
    return load_model(untrained, SPEC)


@pytest.fixture(name='episode', scope='module')
def fixture_episode(data):
    return PlayDataset.open(data, SPEC).train[0]


def test_stopping_and_resuming_equals_not_stopping(config, tmp_path, differences):
    whole = load_checkpoint(train(config))
    cut = replace(config, out=tmp_path / 'cut')
    half = load_checkpoint(train(cut, until=2))
    torch.manual_seed(12345)
    resumed = load_checkpoint(train(cut, resume=True))
    assert whole['step'] == resumed['step'] == 4 and 'model' not in half
    assert differences(whole['trainer'], resumed['trainer']) == []
    assert differences(whole['model'], resumed['model']) == []


def test_a_run_leaves_figures_a_picture_and_the_complete_model(config, differences):
    """The door of the stage finds this script; head and dynamics are the averaged ones."""
    path = train_reward.train(config)
    figures = json.loads((config.out / 'reward_metrics.json').read_text())
    assert {'auroc', 'brier', 'calibration_error', 'auroc_milestone'} <= set(figures)
    assert figures['episodes'] == 1 and figures['frames'] == 60
    assert (config.out / 'reward_reliability.png').stat().st_size > 100
    state, model = load_checkpoint(path), load_model(path, SPEC)
    parts = {'dynamics': model.dynamics, 'head': model.head}
    mine = {
        f'{name}.{key}': tensor
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }
    learned = state['trainer']['average']
    assert differences({name: mine[name] for name in learned}, learned) == []
    assert float(model.head.slope) == pytest.approx(figures['slope'])
    assert any(name.startswith('dynamics.trunk') for name in learned)


def test_a_frozen_base_stays_as_it_is(config, differences):
    path = train(replace(config, freeze_base=True))
    base = load_checkpoint(config.global_model)['model']['weights']
    made = load_checkpoint(path)['model']['weights']
    same = {n: t for n, t in base.items() if n.startswith('dynamics.') and n in made}
    changed = differences(same, {name: made[name] for name in same})
    assert changed == ['.dynamics.agent']
    assert not torch.equal(made['head.hidden.weight'], base['head.hidden.weight'])


def test_latents_of_the_global_run_are_used_where_they_are_of_this_play(config, tmp_path):
    train(replace(config, out=config.global_model.parent, updates=1))
    stamps = {p: p.stat().st_mtime_ns for p in config.global_model.parent.glob('latents/*.npy')}
    train(replace(config, updates=1))
    assert len(stamps) == 3 and not (config.out / 'latents').exists()
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


# Reading ----------------------------------------------------------------------------------------


def test_a_frame_is_read_as_a_rollout_reads_its_context(model, episode):
    latent = encoded(model, episode)[:8]
    clip = replace(
        episode, **{n: getattr(episode, n)[:8] for n in ('action', 'intent', 'valid', 'stamp')}
    )
    raw = torch.from_numpy(read(model, clip, latent, seed=3))
    rollout = Rollout(model, 1, RolloutConfig(steps=1, decode=False), seed=3)
    led = np.concatenate((np.zeros((1, 3), np.float32), episode.action[:7]))
    known = torch.arange(8)[None] > 0
    given = (torch.from_numpy(x)[None].float() for x in (latent, led))
    expected = rollout.begin(*given, known)[0]
    torch.testing.assert_close(model.head.calibrated(raw), expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize('length', [1, 2, 7, 8])
@pytest.mark.parametrize('run', [slice(0, 3), slice(5, 13), slice(2, 40), slice(0, 1)])
def test_windows_read_every_frame_once_and_with_a_past(run, length):
    found = list(windows(run, length))
    read_at = [t for w in found for t in range(w.kept, w.stop)]
    assert read_at == list(range(run.start, run.stop))
    for window in found:
        assert run.start <= window.start <= window.kept < window.stop <= run.stop
        assert window.stop - window.start <= length
        if window.start > run.start:
            assert window.kept - window.start >= length // 2


def test_a_reward_depends_on_the_past_and_not_on_the_future(model, episode):
    latent = encoded(model, episode)
    before = read(model, episode, latent)
    other = latent.copy()
    other[30:] = -other[30:]
    after = read(model, episode, other)
    changed = np.abs(after - before) > 1e-6
    assert not changed[:30].any() and changed[30:].mean() > 0.9


def test_frames_that_are_not_valid_get_no_reward_and_lend_no_past(model, episode):
    broken = replace(episode, valid=np.arange(60) != 20)
    dataset = PlayDataset([broken])
    label_dataset(model, dataset)
    reward = dataset.rewards[id(broken)]
    assert reward.shape == (60,) and reward.dtype == np.float32 and reward[20] == 0
    alone = replace(
        episode,
        **{
            n: getattr(episode, n)[21:] for n in ('frames', 'action', 'intent', 'stamp', 'proprio')
        },
        valid=np.ones(39, bool),
    )
    assert np.array_equal(encoded(model, broken)[21:], encoded(model, alone))


# Figures ----------------------------------------------------------------------------------------


def test_labels_are_worth_what_the_configuration_says():
    assert rewards_of(torch.tensor([0, 1, 2], dtype=torch.uint8), 0.25).tolist() == [0, 0.25, 1]


def test_a_reward_is_calibrated_without_its_own_labels():
    """Turning the labels of one half of the episodes leaves that half's rewards as they are."""
    rng, head = np.random.default_rng(0), RewardHead(HeadConfig(hidden=4), 4)
    label = [rng.integers(0, 2, 50) for _ in range(4)]
    raw = [(2 * x - 1 + rng.normal(0, 2, 50)).astype(np.float32) for x in label]
    reward, truth, kinds = cross_calibrated(head, raw, label, 1.0)
    assert np.array_equal(kinds, np.concatenate(label)) and np.array_equal(truth, kinds)
    assert np.mean((reward - truth) ** 2) < 0.25
    turned = [1 - x if n % 2 == 0 else x for n, x in enumerate(label)]
    other, _, _ = cross_calibrated(head, raw, turned, 1.0)
    halves = [x.reshape(4, 50) for x in (reward, other)]
    assert np.array_equal(halves[0][::2], halves[1][::2])
    assert not np.array_equal(halves[0][1::2], halves[1][1::2])
    assert float(head.slope) == 1 and float(head.offset) == 0


def test_what_is_unfinished_or_not_of_this_kind_is_refused(config, data):
    path = train(config, until=1)
    with pytest.raises(CheckpointError, match='unfinished: 1 of 4 updates'):
        load_model(path)
    frames = train_reward.Config('push_cube', data, config.out)
    with pytest.raises(TaskError, match='trained by dmo_training.train_head'):
        train_reward.train(frames)
