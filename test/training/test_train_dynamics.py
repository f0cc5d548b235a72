"""The stage: resume equals no stop, latents made once, rollouts judged, what is refused."""

from dataclasses import replace
import json

from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import train_dynamics, train_global
from dmo_training.data import PlayDataset
from dmo_training.distributed import Team
from dmo_training.engine import CheckpointError, load_checkpoint, save_checkpoint
from dmo_training.models.dreamer4.config import DynamicsConfig, TokenizerConfig, TrunkConfig
from dmo_training.models.dreamer4.model import Dreamer4
from dmo_training.models.dreamer4.shortcut import ShortcutConfig
from dmo_training.models.dreamer4.tokenizer import Tokenizer
from dmo_training.models.dreamer4.world import load_model
from dmo_training.train_dynamics import Config, encode, judge, open_loop, summary, train
import numpy as np
import pytest
import torch

TRUNK = TrunkConfig(16, 2, 2, time_every=2, window=8)
TOKENIZER = TokenizerConfig(32, 16, 3, 4, TRUNK, drop=1, perceptual='none')
MODEL = DynamicsConfig(3, 3, 4, TRUNK, registers=1, levels=8)
SHORTCUT = ShortcutConfig(bootstrap_every=2, bootstrap_from=1, short=4, long=10, long_share=0.5)
SPEC = get_task('push_cube')


@pytest.fixture(name='data', scope='module')
def fixture_data(tmp_path_factory, write_ego_play):
    return write_ego_play(tmp_path_factory.mktemp('play') / 'dataset', 'push_cube')


@pytest.fixture(name='tokenizer', scope='module')
def fixture_tokenizer(tmp_path_factory, data):
    """The checkpoint of a tokenizer that has learned nothing, and says something nevertheless."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(TOKENIZER)
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.safetensors'
    model = {'config': dict(vars(TOKENIZER), trunk=vars(TRUNK)), 'weights': tokenizer.state_dict()}
    state = {'stage': 'tokenizer', 'task': SPEC.to_dict(), 'step': 1, 'model': model}
    save_checkpoint(path, state)
    return path


@pytest.fixture(name='config')
def fixture_config(data, tokenizer, tmp_path):
    return Config(
        task='push_cube',
        data=data,
        out=tmp_path / 'run',
        tokenizer=tokenizer,
        model=MODEL,
        shortcut=SHORTCUT,
        updates=6,
        batch=4,
        accumulate=2,
        average=0.9,
        context=6,
        judge_rows=3,
        judge_horizon=5,
        judge_fine=8,
        judge_fine_rows=2,
        log_every=1,
        device='cpu',
    )


@pytest.mark.parametrize('matrix_rate', [0.0, 1e-3])
def test_stopping_and_resuming_equals_not_stopping(config, tmp_path, differences, matrix_rate):
    """Through flow and bootstrap, short and long windows; frames are encoded once."""
    config = replace(config, matrix_rate=matrix_rate)
    whole = load_checkpoint(train(config))
    cut = replace(config, out=tmp_path / 'cut')
    half = load_checkpoint(train(cut, until=3))
    stamps = {path: path.stat().st_mtime_ns for path in (cut.out / 'latents').glob('*.npy')}
    torch.manual_seed(12345)
    resumed = load_checkpoint(train(cut, resume=True))
    assert whole['step'] == resumed['step'] == 6 and 'model' not in half
    assert differences(whole['trainer'], resumed['trainer']) == []
    assert differences(whole['model'], resumed['model']) == []
    assert len(stamps) == 3 and stamps == {path: path.stat().st_mtime_ns for path in stamps}
    logged = [json.loads(line) for line in (cut.out / 'metrics.jsonl').read_text().splitlines()]
    assert {'flow', 'bootstrap'} <= {name for line in logged for name in line}


def test_a_run_leaves_figures_pictures_and_a_model(config, differences):
    """The door of the stage finds this script by the task."""
    path = train_global.train(config)
    figures = json.loads((config.out / 'global_metrics.json').read_text())
    assert figures['horizon'] == 5 and set(figures['psnr']) >= {'model', 'copy', 'decoded_truth'}
    assert all(len(curve) == 5 for curve in figures['psnr'].values())
    assert len(figures['psnr_few_8']) == len(figures['psnr_few_4']) == 5
    for name in ('global_curves.png', 'global_strip.png', 'config.json', 'metrics.jsonl'):
        assert (config.out / name).stat().st_size > 100
    model, learned = load_model(path, spec=SPEC), load_checkpoint(path)['trainer']['average']
    mine = {f'dynamics.{name}': tensor for name, tensor in model.dynamics.state_dict().items()}
    assert differences({name: mine[name] for name in learned}, learned) == []
    encoder = load_checkpoint(config.tokenizer)['model']['weights']
    assert differences(dict(model.tokenizer.state_dict()), dict(encoder)) == []


def test_a_rollout_is_led_by_the_action_between_the_frames(config):
    """Action t leads to frame t + 1: frames before it do not depend on it, that one does."""
    torch.manual_seed(0)
    model = Dreamer4(load_model(train(replace(config, updates=1))).config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    segment = PlayDataset.open(config.data, SPEC).sample(np.random.default_rng(0), 2, 10)
    context, action = segment.frames[:, :6].numpy(), segment.action[:, :9].numpy()
    rollout = open_loop(model.frozen(), segment, 2)
    before = rollout(context, action)
    assert before.shape == (2, 4, 32, 32, 3)
    other = action.copy()
    other[:, 7] = -other[:, 7]  # leads from frame 7 to frame 8, the third of the new ones
    after = rollout(context, other)
    assert np.array_equal(before[:, :2], after[:, :2])
    assert not np.array_equal(before[:, 2], after[:, 2])


def test_processes_share_the_encoding(config, tmp_path, monkeypatch):
    """Each makes the latents of its episodes; who comes last finds all of them."""
    dataset, made = PlayDataset.open(config.data, SPEC), []
    tokenizer = train_dynamics.load_tokenizer(config.tokenizer, SPEC)
    real = train_dynamics.latents.encode

    class Member(Team):
        def __init__(self, rank):
            self.rank, self.size, self.main = rank, 2, rank == 0

        def wait(self):
            """Both would be here."""

    def noted(tokenizer, episodes, folder, own=slice(None)):
        if own != slice(None):
            made.append(own.start)
        elif len(made) < len(episodes):
            return [np.zeros((len(e), 3, 4), np.float16) for e in episodes]
        return real(tokenizer, episodes, folder, own)

    monkeypatch.setattr(train_dynamics.latents, 'encode', noted)
    encode(tokenizer, dataset, tmp_path / 'latents', Member(0))
    assert made == [0, 2]
    play = encode(tokenizer, dataset, tmp_path / 'latents', Member(1))
    assert sorted(made) == [0, 1, 2]
    assert all(np.asarray(array).any() for array in play.latents.values())


def test_inputs_that_do_not_fit_are_refused_before_the_work(config, tmp_path):
    with pytest.raises(TaskError, match='takes 2 actions.*set action_size'):
        train(replace(config, model=replace(MODEL, action_size=2)))
    with pytest.raises(ValueError, match='makes 3 latents of 4, the dynamics takes 5 of 4'):
        train(replace(config, model=replace(MODEL, latents=5)))
    with pytest.raises(CheckpointError, match='train that stage first'):
        train(replace(config, tokenizer=tmp_path / 'nothing'))
    assert not config.out.exists()


def test_an_unfinished_model_and_another_kind_of_config_are_refused(config):
    path = train(config, until=1)
    with pytest.raises(CheckpointError, match='unfinished: 1 of 6 updates'):
        load_model(path)
    with pytest.raises(TaskError, match='trained by dmo_training.train_diamond'):
        train_global.train(replace(config, task='pusher'))


def figures(gain=8.0, ratio=6.0):
    """Curves over 12 frames: ``gain`` dB above a copy, ``ratio`` dB above foreign actions."""
    own = [30.0] * 12
    return {
        'horizon': 12,
        'psnr': {
            'model': own, 'copy': [30 - gain] * 12, 'shuffled_action': [30 - ratio] * 12
        },
        'psnr_few_4': own,
        'psnr_few_8': [30.5] * 12,
        'things': {'cube_overlap_model': [None] + [0.8] * 11},
    }  # fmt: skip


def test_a_summary_names_gain_ratio_and_things(config):
    short = summary(figures(), config)
    assert short['psnr_gain_12'] == 8 and short['fine_gain'] == 0.5
    assert short['shuffled_ratio_10'] == pytest.approx(10**0.6)
    assert short['cube_overlap_model_10'] == 0.8 and 'cube_overlap_model_1' not in short
    assert judge(short) == []


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'gain': 0.5}, '0.5 dB better than the last real one'),
        ({'ratio': 0.1}, 'ignores the action'),
    ],
)
def test_a_model_that_only_copies_or_ignores_actions_is_not_accepted(config, given, words):
    faults = judge(summary(figures(**given), config))
    assert len(faults) == 1 and words in faults[0]
