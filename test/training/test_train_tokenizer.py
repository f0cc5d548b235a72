"""The stage: resume equals no stop, two processes one, the report, and what is refused."""

from dataclasses import replace
import json
import os
import signal

from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import loop
from dmo_training.distributed import Stopped
from dmo_training.engine import CheckpointError, load_checkpoint
from dmo_training.models.dreamer4.config import TokenizerConfig, TrunkConfig
from dmo_training.models.dreamer4.tokenizer import Tokenizer
from dmo_training.picture_metrics import overlap, psnr, ssim, THINGS
from dmo_training.train_tokenizer import (
    Config,
    judge,
    load_tokenizer,
    TokenizerTrainer,
    train,
)
import numpy as np
import pytest
import torch

TRUNK = TrunkConfig(16, 2, 2, time_every=2, window=4)
MODEL = TokenizerConfig(32, 16, 3, 4, TRUNK, drop=1)


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory, write_ego_play):
    return write_ego_play(tmp_path_factory.mktemp('play') / 'dataset', 'push_cube')


@pytest.fixture(name='config')
def fixture_config(data, tmp_path):
    """Four updates of two micro-batches; the perceptual term begins with the third."""
    return Config(
        task='push_cube',
        data=data,
        out=tmp_path / 'run',
        model=MODEL,
        updates=4,
        batch=2,
        accumulate=2,
        length=4,
        average=0.9,
        perceive_from=0.5,
        judge_rows=2,
        judge_length=4,
        log_every=1,
        device='cpu',
    )


@pytest.mark.parametrize('stop', [1, 3])
def test_stopping_and_resuming_equals_not_stopping(config, tmp_path, stop, differences):
    whole = load_checkpoint(train(config))
    cut = replace(config, out=tmp_path / 'cut')
    half = load_checkpoint(train(cut, until=stop))
    torch.manual_seed(12345)  # another process would not have our generator's state
    resumed = load_checkpoint(train(cut, resume=True))
    assert whole['step'] == resumed['step'] == 4 and half['step'] == stop
    assert differences(whole['trainer'], half['trainer'])
    assert differences(whole['trainer'], resumed['trainer']) == []
    assert differences(whole['model'], resumed['model']) == []
    lines = (cut.out / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 2, 3, 4, 4]


def test_a_signal_saves_at_once_and_the_run_goes_on(config, tmp_path, monkeypatch, differences):
    whole = load_checkpoint(train(config))
    cut, update = replace(config, out=tmp_path / 'cut'), TokenizerTrainer.update

    def interrupted(self):
        figures = update(self)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    monkeypatch.setattr(TokenizerTrainer, 'update', interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(cut)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert load_checkpoint(cut.out / 'tokenizer.safetensors')['step'] == 2
    resumed = load_checkpoint(train(cut, resume=True))
    assert differences(whole['trainer'], resumed['trainer']) == []


def test_a_run_leaves_figures_a_strip_and_its_averaged_weights(config, capsys, differences):
    path = train(config)
    figures = json.loads((config.out / 'tokenizer_metrics.json').read_text())
    assert figures['psnr'] == pytest.approx(figures['psnr_mean_image'], abs=3)
    assert figures['faults'] and 'not accepted' in capsys.readouterr().err
    assert 0 < figures['ssim'] <= 1 and figures['latent_deviation'] > 0
    assert (config.out / 'tokenizer_strip.png').stat().st_size > 100
    state, loaded = load_checkpoint(path), load_tokenizer(path, get_task('push_cube'))
    learned = state['trainer']['average']
    mine = {name: tensor for name, tensor in loaded.state_dict().items() if name in learned}
    assert differences(mine, learned) == []
    assert differences(mine, {name: state['trainer']['module'][name] for name in learned})
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_what_is_felt_is_learned_where_the_task_has_it(write_ego_play, config, tmp_path):
    data = write_ego_play(tmp_path / 'play', 'grab_box', 12)
    felt = replace(config, task='grab_box', data=data, updates=1)
    with pytest.raises(TaskError, match='reads 0 proprioceptive numbers.*set proprio_size'):
        train(replace(felt, model=MODEL))
    numbers = len(get_task('grab_box').proprioception)
    train(replace(felt, model=replace(MODEL, proprio_size=numbers)))
    figures = json.loads((felt.out / 'tokenizer_metrics.json').read_text())
    assert 0 < figures['proprio_error'] < 10


def test_an_unfinished_tokenizer_and_one_of_another_task_are_refused(config):
    path = train(config, until=1)
    with pytest.raises(CheckpointError, match='unfinished: 1 of 4 updates'):
        load_tokenizer(path, get_task('push_cube'))
    with pytest.raises(TaskError, match='another task specification'):
        load_tokenizer(path, get_task('grab_box'))
    with pytest.raises(CheckpointError, match='another configuration .batch: 4 here, 2 there'):
        train(replace(config, batch=4), resume=True)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(config, monkeypatch):
    def broken(self, micro):
        return self.tokenizer.centre.sum() * self.tokenizer.encoder.mask.sum() / 0.0, {}

    monkeypatch.setattr(TokenizerTrainer, 'loss', broken)
    state = load_checkpoint(train(replace(config, updates=2), until=1))['trainer']
    assert state['skipped'] == 1
    assert state['module']['encoder.mask'].isfinite().all()


def test_the_learning_rate_warms_up_and_falls(config):
    long = replace(config, updates=1000, warmup=0.01)
    assert loop.rate(long, 0) == pytest.approx(0.1)
    assert loop.rate(long, 9) == pytest.approx(1.0, abs=1e-3)
    assert loop.rate(long, 999) == pytest.approx(0.02, abs=1e-3)


def test_muon_takes_the_matrices_inside_transformers_and_adamw_the_rest(config):
    learned = dict(Tokenizer(config.model).named_parameters())
    adamw, muon = loop.optimisers(replace(config, matrix_rate=1e-3), learned)
    names = {parameter: name for name, parameter in learned.items()}
    inner = {names[p] for group in muon.param_groups for p in group['params']}
    outer = {names[p] for group in adamw.param_groups for p in group['params']}
    assert inner | outer == set(learned) and not inner & outer
    kinds = ('qkv.weight', 'out.weight', 'up.weight', 'down.weight')
    assert all(name.endswith(kinds) for name in inner)
    assert {'encoder.patch.weight', 'encoder.latent', 'decoder.patch.weight'} <= outer
    assert len(loop.optimisers(config, learned)) == 1


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'precision': 'fp8'}, "use 'auto', 'fp32' or 'bf16'"),
        ({'sharding': 'fsdp2'}, 'set average to 0'),
        ({'sharding': 'fsdp2', 'average': 0.0, 'matrix_rate': 1e-3}, 'set matrix_rate to 0'),
    ],
)
def test_settings_that_exclude_each_other_are_refused(config, changes, words):
    with pytest.raises(ValueError, match=words):
        replace(config, **changes)


# What it is judged by ---------------------------------------------------------------------------


def test_figures_of_pictures_tell_better_from_worse():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    near = np.clip(truth.astype(int) + rng.integers(-9, 10, truth.shape), 0, 255).astype(np.uint8)
    flat = np.full_like(truth, 128)
    assert ssim(truth, truth) == pytest.approx(1)
    assert ssim(truth, truth) > ssim(near, truth) > ssim(flat, truth)
    assert psnr(near, truth) > psnr(flat, truth)
    by_hand = 10 * np.log10(255**2 / np.mean((near.astype(float) - truth) ** 2))
    assert psnr(near, truth) == pytest.approx(by_hand, abs=1e-3)


def test_a_thing_counts_where_it_is_seen():
    marker = THINGS['push_cube'][0]
    truth = np.zeros((3, 32, 32, 3), np.uint8)
    truth[0, :4, :4] = marker.colour  # small; in frame 1 large, in frame 2 not there
    truth[1, :16, :16] = marker.colour
    made = truth.copy()
    made[0] = 0
    found = overlap(made, truth, marker)
    assert found['cube_overlap_small'] == 0
    assert found['cube_overlap'] == pytest.approx(256 / 272)
    assert np.isnan(overlap(made[2:], truth[2:], marker)['cube_overlap'])


def test_a_tokenizer_that_says_nothing_is_not_accepted():
    good = {'psnr': 30.0, 'psnr_mean_image': 20.0, 'latent_deviation': 0.5}
    assert judge(good) == []
    assert 'mean image' in judge({**good, 'psnr': 21.0})[0]
    assert 'deviation is 0.01' in judge({**good, 'latent_deviation': 0.01})[0]
    assert 'deviation is 0.95' in judge({**good, 'latent_deviation': 0.95})[0]


# Several processes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_learn_what_one_does(config, tmp_path, start_team):
    """The same global batch; what differs is the order in which numbers are added."""
    plain = replace(config, model=replace(MODEL, perceptual='none'), precision='fp32')
    both = replace(plain, out=tmp_path / 'both')
    for process in start_team(__file__, 'train_with_others', both):
        process.join(240)
        assert process.exitcode == 0
    one, two = (load_checkpoint(path) for path in (train(plain), both.out / NAME))
    for name, tensor in one['model']['weights'].items():
        torch.testing.assert_close(two['model']['weights'][name], tensor, rtol=1e-3, atol=2e-5)
    assert (both.out / 'tokenizer_strip.png').is_file()


NAME = 'tokenizer.safetensors'


def train_with_others(config):
    train(config)


if __name__ == 'worker':
    job, arguments, environ = CALL  # noqa: F821
    os.environ.update(environ)
    torch.set_num_threads(1)
    globals()[job](*arguments)
