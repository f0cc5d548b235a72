"""The stage: resume equals no stop, loss falls, the report is written, bad input is refused."""

from dataclasses import replace
import json

from dmo_ros.core.tasks import TaskError
from dmo_training.engine import CheckpointError, load_checkpoint, save_checkpoint
from dmo_training.models.diamond.denoiser import DenoiserConfig
from dmo_training.models.diamond.sampler import SamplerConfig
from dmo_training.models.diamond.unet import NetworkConfig
from dmo_training.train_diamond import (
    Config,
    GlobalTrainer,
    load_denoiser,
    load_world,
    PRESETS,
    rate,
    train,
)
from dmo_training.world import Context
import pytest
import torch

NETWORK = NetworkConfig(
    channels=(8, 8), depths=(1, 1), attention=(False, False), cond_size=16, patch=4
)


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory, write_play):
    """A dataset of four short episodes of the pusher."""
    return write_play(tmp_path_factory.mktemp('play') / 'dataset', 40)


@pytest.fixture(name='config')
def fixture_config(data, tmp_path):
    return Config(
        task='pusher',
        data=data,
        out=tmp_path / 'run',
        denoiser=DenoiserConfig(network=NETWORK, precision='fp32', changed_weight=3.0),
        updates=10,
        batch=3,
        learning_rate=1e-3,
        cosine=True,
        average=0.9,
        autoregressive=1,
        context_rollout=3,
        rollout_from=0.3,
        sampler=SamplerConfig(2, sigma_min=0.3),
        judge_rows=3,
        judge_horizon=6,
        log_every=1,
        device='cpu',
    )


@pytest.mark.parametrize('stop', [2, 5])
def test_stopping_and_resuming_equals_not_stopping(config, tmp_path, stop, differences):
    """Stopped among one-step examples (2) and in the middle of a pool of own frames (5)."""
    whole = load_checkpoint(train(config))['trainer']
    cut = replace(config, out=tmp_path / 'cut')
    train(cut, until=stop)
    resumed = load_checkpoint(train(cut, resume=True))['trainer']
    assert whole['step'] == resumed['step'] == 10
    assert differences(whole, resumed) == []


def test_a_run_leaves_figures_pictures_and_a_world(config):
    path = train(config)
    figures = json.loads((config.out / 'global_metrics.json').read_text())
    assert figures['horizon'] == 6
    assert figures['faults'], 'ten updates cannot be enough'
    for name in ('global_curves.png', 'global_strip.png', 'config.json', 'metrics.jsonl'):
        assert (config.out / name).stat().st_size > 100
    assert load_world(path, 2, torch.clone).sampler == config.sampler
    world = load_world(path, 2, lambda frames: frames.float().mean(dim=(1, 2, 3)), steps=1)
    assert world.sampler == replace(config.sampler, steps=1)
    world.reset(Context(torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, 3, 2)))
    assert world.step(torch.zeros(2, 2)).observation.shape == (2, 32, 32, 3)


def test_the_averaged_weights_are_the_ones_loaded(config, differences):
    path = train(replace(config, average=0.99), until=4)
    state, loaded = load_checkpoint(path)['trainer'], load_denoiser(path).state_dict()
    assert not differences(dict(loaded), state['average'])
    assert differences(dict(loaded), state['denoiser'])


def test_without_averaging_the_weights_are_the_last_ones(config, differences):
    state = load_checkpoint(train(replace(config, average=0.0), until=2))['trainer']
    assert not differences(state['average'], state['denoiser'])


def test_the_loss_falls_on_one_batch(config):
    """Mechanics only: a fixed batch is fitted better and better."""
    from dmo_training.engine import seed_everything
    from dmo_training.train_diamond import open_dataset

    trainer = GlobalTrainer(config, open_dataset(config), seed_everything(0))
    segment = trainer.dataset.sample(trainer.rng, 8, 5)
    optimiser, losses = torch.optim.Adam(trainer.denoiser.parameters(), 3e-3), []
    for _ in range(60):
        loss = trainer.denoiser.segment_loss(
            segment.frames, segment.action, generator=torch.Generator().manual_seed(0)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(config, monkeypatch, differences):
    from dmo_training.engine import seed_everything
    from dmo_training.train_diamond import open_dataset

    trainer = GlobalTrainer(config, open_dataset(config), seed_everything(0))
    before = {name: value.clone() for name, value in trainer.denoiser.state_dict().items()}
    weight = trainer.denoiser.network.conv_out.bias
    monkeypatch.setattr(trainer, '_loss', lambda: weight.sum() * float('nan'))
    figures = trainer.update()
    assert figures['skipped'] == 1
    assert not differences(before, dict(trainer.denoiser.state_dict()))
    monkeypatch.undo()
    assert trainer.update()['skipped'] == 1
    assert differences(before, dict(trainer.denoiser.state_dict()))


def test_the_learning_rate_warms_up_and_falls(config):
    long = replace(config, updates=1000, warmup=10)
    assert rate(long, 0) == pytest.approx(0.1)
    assert rate(long, 9) == pytest.approx(1.0, abs=1e-3)
    assert rate(long, 999) == pytest.approx(0.02, abs=1e-3)
    assert rate(replace(long, cosine=False), 999) == 1


def test_resuming_with_another_configuration_is_refused(config):
    train(config, until=1)
    with pytest.raises(CheckpointError, match='another configuration .batch: 4 here, 3 there'):
        train(replace(config, batch=4), resume=True)


@pytest.mark.parametrize('name', PRESETS)
def test_presets_are_fields_of_the_configuration(name, data, tmp_path):
    config = Config(task='pusher', data=data, out=tmp_path, **PRESETS[name])
    assert config.denoiser.network.action_size == 2


def test_a_network_for_other_actions_is_refused(config):
    wrong = DenoiserConfig(network=replace(NETWORK, action_size=3))
    with pytest.raises(TaskError, match='set action_size'):
        train(replace(config, denoiser=wrong))


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    save_checkpoint(tmp_path / 'x.safetensors', {'stage': 'reward'})
    with pytest.raises(CheckpointError, match=r'stage .reward.*global\.safetensors'):
        load_denoiser(tmp_path / 'x.safetensors')
