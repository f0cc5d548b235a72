"""The tokenizer's stage on two processes, killed again and again: it ends as if it had not."""

import os
import random
import time

from dmo_training import engine
from dmo_training.distributed import Team
from dmo_training.models.dreamer4.config import TokenizerConfig, TrunkConfig
from dmo_training.train_tokenizer import Config, train
import pytest
import torch

pytestmark = pytest.mark.slow

KILLS, UPDATES = 10, 120


def config(data, out, sharding):
    trunk = TrunkConfig(16, 4, 2, time_every=2, window=4)
    return Config(
        task='pusher', data=data, out=out, sharding=sharding, updates=UPDATES, batch=4, length=4,
        accumulate=2, model=TokenizerConfig(32, 8, 5, 4, trunk, drop=1, perceptual='none'),
        learning_rate=1e-3, save_every=4, precision='fp32', judge_rows=2, judge_length=4,
        device='cpu', threads=1,
    )  # fmt: skip


def learn(data, out, sharding):
    train(config(data, out, sharding), resume=True)


def ends(processes, seconds=300):
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


def step_of(path):
    """Return the step of a checkpoint, which has to be whole whenever it is looked at."""
    return engine.load_checkpoint(path)['step'] if path.exists() else 0


@pytest.fixture(scope='module', name='data')
def fixture_data(write_play, tmp_path_factory):
    return write_play(tmp_path_factory.mktemp('play') / 'dataset', 40)


def harm(processes, path, luck):
    """
    Kill one or both at a random moment, often just after a save; then nobody is left.

    At the very start both: one alone would wait for the other for minutes, and it is torchrun and
    srun that end it then.
    """
    before = path.stat().st_mtime_ns if path.exists() else 0
    late = luck.random() < 0.8
    if late:
        end = time.monotonic() + 60
        while (path.stat().st_mtime_ns if path.exists() else 0) == before:
            assert time.monotonic() < end and all(process.is_alive() for process in processes)
            time.sleep(0.005)
    time.sleep(luck.uniform(0, 0.3))
    alive = [process.is_alive() for process in processes]
    victims = luck.choice([processes, processes[:1], processes[1:]]) if late else processes
    for process in victims:
        process.kill()
    for process in processes:
        process.join(30)  # the other one notices and ends by itself
    assert not any(process.is_alive() for process in processes), 'a process outlived its peer'
    return all(alive)


@pytest.mark.parametrize('sharding', ['ddp', 'fsdp2'])
def test_killed_ten_times_it_ends_with_the_same_weights(
    start_team, data, tmp_path, sharding, differences
):
    luck, steps = random.Random(sharding), []
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert ends(start_team(__file__, 'learn', data, whole, sharding)) == [0, 0]
    path, kills = cut / 'tokenizer.safetensors', 0
    while kills < KILLS:
        kills += harm(start_team(__file__, 'learn', data, cut, sharding), path, luck)
        steps.append(step_of(path))
        assert steps[-1] < UPDATES, 'it was over before ten kills; let it learn for longer'
    print(f'{sharding}: killed after the checkpoints of steps {steps}')
    assert steps == sorted(steps) and steps[-1] > 0
    assert ends(start_team(__file__, 'learn', data, cut, sharding)) == [0, 0]
    ended = [complete(run / 'tokenizer.safetensors') for run in (whole, cut)]
    assert differences(*(state['trainer'] for state in ended)) == []
    assert differences(*(state['model'] for state in ended)) == []
    left = [p.name for p in cut.iterdir() if 'shards' in p.name]
    assert len(left) == (1 if sharding == 'fsdp2' else 0)


def test_one_process_learns_the_same_tokenizer(start_team, data, tmp_path):
    few = {'updates': 20}
    assert ends(start_team(__file__, 'learn_a_little', data, tmp_path / 'two', few)) == [0, 0]
    train(changed(config(data, tmp_path / 'one', 'ddp'), few))
    one, two = (complete(tmp_path / run / 'tokenizer.safetensors') for run in ('one', 'two'))
    weights = [state['model']['weights'] for state in (one, two)]
    apart = [
        float((weights[0][k].double() - weights[1][k].double()).abs().max())
        for k in weights[0]
        if weights[0][k].numel()
    ]
    assert max(apart) < 1e-3


def learn_a_little(data, out, few):
    train(changed(config(data, out, 'ddp'), few))


def changed(config, fields):
    from dataclasses import replace

    return replace(config, **fields)


def complete(path):
    return Team.alone('cpu').load(path)


if __name__ == 'worker':
    job, arguments, environ = CALL  # noqa: F821
    os.environ.update(environ)
    torch.set_num_threads(1)
    globals()[job](*arguments)
