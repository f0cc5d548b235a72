"""DIAMOND on two processes: the same draws, each its rows, one model; resume equals no stop."""

import os

from dmo_training import engine
from dmo_training.distributed import Team
from dmo_training.models.diamond.denoiser import DenoiserConfig
from dmo_training.models.diamond.unet import NetworkConfig
from dmo_training.train_diamond import Config, GlobalTrainer, open_dataset
import pytest
import torch

UPDATES, STOPS = 6, (1, 4)  # among real examples, and in the middle of a pool of own frames


def config(data):
    network = NetworkConfig(
        channels=(8, 8), depths=(1, 1), attention=(False, False), cond_size=16, patch=4
    )
    return Config(
        task='pusher', data=data, out=data, updates=UPDATES, batch=4, accumulate=2,
        denoiser=DenoiserConfig(network=network, precision='fp32'), learning_rate=1e-3,
        average=0.9, context_rollout=2, rollout_from=0.3, device='cpu',
    )  # fmt: skip


def trainer(team, data):
    chosen = config(data)
    return GlobalTrainer(chosen, open_dataset(chosen), engine.seed_everything(0), team)


def learn(team, data, folder):
    """Train, once through and once in three pieces; keep what each process ends with."""
    whole, rows = trainer(team, data), []
    draw = whole._segment
    whole._segment = lambda *args: rows.append(draw(*args)) or rows[-1]
    for _ in range(UPDATES):
        whole.update()
    kept = {'whole': whole.state_dict(), 'rows': [segment.frames for segment in rows]}
    path = folder / 'global.safetensors'
    for number, stop in enumerate((*STOPS, UPDATES)):
        piece = trainer(team, data)
        if number:
            piece.load_state_dict(engine.load_checkpoint(path)['trainer'])
        while piece.step < stop:
            piece.update()
        team.save(path, {'trainer': piece.state_dict()})
    kept['pieces'] = piece.state_dict()
    engine.save_checkpoint(folder / f'{team.rank}.safetensors', kept)


@pytest.fixture(name='found', scope='module')
def fixture_found(start_team, write_play, tmp_path_factory):
    folder = tmp_path_factory.mktemp('team')
    data = write_play(folder / 'dataset', 40)
    processes = start_team(__file__, 'learn', data, folder)
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]
    return data, [engine.load_checkpoint(folder / f'{rank}.safetensors') for rank in (0, 1)]


def without_torch_generator(state):
    """Drop torch's own generator: the processes' differ on purpose, and are set at every step."""
    return {**state, 'rng': state['rng']['numpy']}


def test_both_have_the_same_model(found, differences):
    """Weights, averages, optimiser and the pool: what the first saves holds for both."""
    first, second = (without_torch_generator(one['whole']) for one in found[1])
    assert differences(first, second) == []
    assert len(first['pool']['order']) > 0


def test_resumed_twice_they_end_where_they_would_have(found, differences):
    for one in found[1]:
        assert differences(one['whole'], one['pieces']) == []


def test_each_adds_noise_of_its_own(found):
    first, second = (one['whole']['rng']['torch'] for one in found[1])
    assert not torch.equal(first, second)


def test_they_learn_from_the_batch_that_one_process_would_draw(found):
    data, both = found
    alone = trainer(Team.alone('cpu'), data)
    wanted = alone._segment(6).frames
    shares = [one['rows'][0] for one in both]
    assert [len(share) for share in shares] == [2, 2]
    assert torch.equal(torch.cat(shares), wanted)


if __name__ == 'worker':
    job, arguments, environ = CALL  # noqa: F821
    os.environ.update(environ)
    torch.set_num_threads(1)
    team = Team.join('cpu', patience=60)
    globals()[job](team, *arguments)
    team.close()
