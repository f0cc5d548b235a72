"""
Laws of a training on several processes: their number changes nothing but the rounding.

The processes are real ones: they are forked from a server that has imported torch once, find each
other through torchrun's variables and talk through gloo on 127.0.0.1.  A worker runs this file
again, by another name, and calls the function that the test names.
"""

from contextlib import contextmanager
import os
from pathlib import Path
import signal
import socket
import time

from dmo_training import engine, sharded
from dmo_training.distributed import Stopped, Team, TeamError
from dmo_training.models.dreamer4.config import DynamicsConfig, HeadConfig, TrunkConfig
from dmo_training.models.dreamer4.dynamics import Dynamics
from dmo_training.models.dreamer4.objective import Batch, Objective
from dmo_training.models.dreamer4.reward import RewardHead
from dmo_training.models.dreamer4.shortcut import ShortcutConfig
from dmo_training.models.dreamer4.trunk import Layer
import pytest
import torch

CONFIG = DynamicsConfig(2, 3, 4, TrunkConfig(16, 3, 2, time_every=2, window=4), 1, levels=8)
ROWS, FRAMES, UPDATES, MICRO = 4, 5, 3, 2
SHARDINGS = ('ddp', 'fsdp2')


class Trainer:
    """A stage in small: the Objective with its reward head, on batches drawn from the step."""

    def __init__(self, team, sharding='ddp', start=0):
        torch.manual_seed(start + team.rank)  # only the first's weights may count
        dynamics = Dynamics(CONFIG)
        torch.nn.init.normal_(dynamics.clean.weight, std=0.3)
        head = RewardHead(HeadConfig(hidden=7, ahead=2), 16)  # seven rows do not halve
        self.team, self.step = team, 0
        self.objective = Objective(dynamics, ShortcutConfig(), head)
        self.module = team.wrap(self.objective, sharding, Layer)
        self.optimiser = torch.optim.AdamW(self.objective.parameters(), 1e-2, eps=1e-3)

    def update(self, sent=None):
        """Take a step; how often gradients were sent in each micro-batch goes to ``sent``."""
        total = {}
        for micro in range(MICRO):
            last = micro == MICRO - 1
            data = self.batch(micro)
            generator = self.team.generator(1, self.step, micro)
            with counted(sent), self.team.accumulate(self.module, last):
                loss, figures = self.module(data, bootstrap=last, generator=generator)
                (loss / MICRO).backward()
            total = {**total, **figures}
        norm = self.team.clip(self.objective, 0.5)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        return {**self.team.mean(total), 'norm': float(norm)}

    def batch(self, micro):
        """Three of four rows are drawn for their label: all of the first process's are."""
        rng, mine = self.team.rng(0, self.step, micro), self.team.share(ROWS)
        latent = rng.standard_normal((ROWS, FRAMES, 3, 4)).astype('float32')
        action = rng.uniform(-1, 1, (ROWS, FRAMES, 2)).astype('float32')
        reward = rng.integers(0, 2, (ROWS, FRAMES)).astype('float32')
        known = torch.ones(ROWS, FRAMES, dtype=torch.bool)
        uniform = torch.tensor([False, False, False, True])
        parts = map(torch.as_tensor, (latent, action, known, reward, uniform))
        return Batch(*(part[mine] for part in parts))

    def save(self, path):
        state = self.team.state(self.objective, self.optimiser)
        self.team.save(path, {'trainer': state, 'step': self.step})

    def load(self, path):
        state = self.team.load(path, self.objective)
        self.team.load_state(self.objective, self.optimiser, state['trainer'])
        self.step = state['step']
        return self

    def weights(self):
        return self.team.whole(self.objective)


@contextmanager
def counted(found):
    """Append how often gradients were sent: exchanges that Python did not ask for."""
    if found is None:  # a profile takes longer than the step
        yield
        return
    asked, ask = [], torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda *args, **kwargs: (asked.append(1), ask(*args, **kwargs))
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            yield
    finally:
        torch.distributed.all_reduce = ask
    names = [event.name for event in profile.events() if event.name.startswith('gloo:')]
    sent = [name for name in names if 'reduce' in name]
    found.append(len(sent) - len(asked))


# What the workers do


def learn(team, folder, sharding):
    """Train, save on the way, and take up again: own checkpoint and that of one process."""
    trainer, logs, sent = Trainer(team, sharding), [], []
    for _ in range(UPDATES):
        if trainer.step == UPDATES - 1:
            trainer.save(folder / f'{sharding}.safetensors')
        logs.append(trainer.update(sent if trainer.step == 0 else None))
    kept = {'logs': logs, 'sent': sent, 'end': trainer.weights()}
    for source in (sharding, 'one'):
        other = Trainer(team, sharding, start=9).load(folder / f'{source}.safetensors')
        other.update()
        kept[f'from {source}'] = other.weights()
    engine.save_checkpoint(folder / f'{sharding}-{team.rank}.safetensors', kept)


def go_on(team, folder, sharding):
    """Train until a signal comes, save and say at which step."""
    trainer = Trainer(team, sharding)
    while trainer.step < 10_000:
        trainer.update()
        (folder / f'step-{team.rank}').write_text(str(trainer.step))
        if team.stopping:
            trainer.save(folder / 'stopped.safetensors')
            raise Stopped
    raise AssertionError('nobody stopped it')


def die_while_saving(team, folder, sharding, point):
    """Save at step 1, then be killed on the way of saving at step 2."""
    trainer = Trainer(team, sharding)
    trainer.update()
    trainer.save(folder / 'state.safetensors')
    engine.save_checkpoint(folder / f'first-{team.rank}.safetensors', trainer.weights())
    trainer.update()
    owner, name = {'shares': (sharded, 'write'), 'file': (engine, 'save_checkpoint')}[point]

    def half(*args):
        if point == 'shares' and team.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    original = getattr(owner, name)
    setattr(owner, name, half)
    trainer.save(folder / 'state.safetensors')


def lose_a_peer(team, folder, sharding):
    """The second dies; the first has to notice."""
    trainer = Trainer(team, sharding)
    trainer.update()
    if team.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        trainer.update()
    except RuntimeError:
        (folder / 'noticed').touch()


def tell_where_it_listens(team, folder, sharding):
    """Write the addresses at which this process listens, as the kernel has them."""
    team.wait()
    own = {os.readlink(link) for link in Path('/proc/self/fd').iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path('/proc/net/tcp').read_text().splitlines()]
    rows += [line.split() for line in Path('/proc/net/tcp6').read_text().splitlines()]
    listening = [row for row in rows if row[3] == '0A' and f'socket:[{row[9]}]' in own]
    found = [row[1].split(':')[0] for row in listening]
    (folder / f'listens-{team.rank}').write_text('\n'.join(found))
    team.wait()


# The tests


def ends(processes, seconds=120):
    for process in processes:
        process.join(seconds)
    return [process.exitcode for process in processes]


@pytest.fixture(scope='module')
def learned(start_team, tmp_path_factory):
    """Train on one process, then on two with each sharding."""
    folder, team = tmp_path_factory.mktemp('learned'), Team.join('cpu')
    alone, logs = Trainer(team), []
    for _ in range(UPDATES):
        if alone.step == UPDATES - 1:
            alone.save(folder / 'one.safetensors')
        logs.append(alone.update())
    team.close()
    found = {'folder': folder, 'one': {'logs': logs, 'end': alone.weights()}}
    for sharding in SHARDINGS:
        assert ends(start_team(__file__, 'learn', folder, sharding)) == [0, 0]
        found[sharding] = [
            engine.load_checkpoint(folder / f'{sharding}-{rank}.safetensors') for rank in (0, 1)
        ]
    return found


def apart(left, right):
    """Return the largest difference of two states."""
    assert left.keys() == right.keys()
    return max(float((left[k].double() - right[k].double()).abs().max()) for k in left)


@pytest.mark.parametrize('sharding', SHARDINGS)
def test_two_processes_learn_what_one_learns(learned, sharding):
    """The same global batch: the same losses, norms, running RMS and weights."""
    one = learned['one']
    for two in learned[sharding]:
        for own, other in zip(one['logs'], two['logs'], strict=True):
            levels = {name for name in own if 'tau' in name}  # a mean over what a process holds
            assert own.keys() == other.keys()
            for name in own.keys() - levels:
                assert other[name] == pytest.approx(own[name], rel=1e-4), name
        assert apart(one['end'], two['end']) < 1e-5
    moved = apart(Trainer(Team.join('cpu')).weights(), one['end'])
    assert moved > 1e-2


@pytest.mark.parametrize('sharding', SHARDINGS)
def test_gradients_are_sent_once_per_step(learned, sharding):
    for two in learned[sharding]:
        before, last = two['sent']
        assert before == 0 and last > 0


@pytest.mark.parametrize('sharding', SHARDINGS)
def test_a_resumed_training_ends_where_the_other_did(learned, sharding, differences):
    """To the last bit, on as many processes."""
    for two in learned[sharding]:
        assert differences(two['end'], two[f'from {sharding}']) == []


@pytest.mark.parametrize('sharding', SHARDINGS)
def test_one_process_takes_up_what_two_have_saved(learned, sharding):
    team = Team.join('cpu')
    alone = Trainer(team, start=5).load(learned['folder'] / f'{sharding}.safetensors')
    alone.update()
    team.close()
    assert apart(alone.weights(), learned[sharding][0]['end']) < 1e-5


@pytest.mark.parametrize('sharding', SHARDINGS)
def test_two_processes_take_up_what_one_has_saved(learned, sharding):
    for two in learned[sharding]:
        assert apart(learned['one']['end'], two['from one']) < 1e-5


def test_shares_are_stored_once_and_without_a_pickle(learned):
    folder = learned['folder']
    names = sorted(p.name for p in folder.glob('*/*'))
    assert [n for n in names if not n.endswith('.safetensors')] == []
    (shares,) = [p for p in folder.iterdir() if p.is_dir()]
    held = sum(p.stat().st_size for p in shares.iterdir())
    whole = (folder / 'one.safetensors').stat().st_size
    assert held + (folder / 'fsdp2.safetensors').stat().st_size < 1.5 * whole


def test_a_flipped_bit_in_a_share_is_found(learned, tmp_path):
    import shutil

    shutil.copytree(learned['folder'], tmp_path / 'copy')
    share = min((tmp_path / 'copy').glob('*/*'))
    content = bytearray(share.read_bytes())
    content[-3] ^= 1
    share.write_bytes(content)
    team = Team.join('cpu')
    with pytest.raises(engine.CheckpointError, match='not what was written'):
        Trainer(team).load(tmp_path / 'copy' / 'fsdp2.safetensors')
    share.unlink()
    with pytest.raises(engine.CheckpointError, match='is missing'):
        Trainer(team).load(tmp_path / 'copy' / 'fsdp2.safetensors')
    team.close()


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_one_stops_both_at_the_same_step(start_team, tmp_path, number):
    sharding = 'fsdp2' if number == signal.SIGTERM else 'ddp'
    processes = start_team(__file__, 'go_on', tmp_path, sharding)
    wait_for(tmp_path / 'step-1', processes)
    os.kill(processes[1].pid, number)
    assert ends(processes) == [75, 75]
    steps = [int((tmp_path / f'step-{rank}').read_text()) for rank in (0, 1)]
    team = Team.join('cpu')
    assert Trainer(team).load(tmp_path / 'stopped.safetensors').step == steps[0] == steps[1]
    team.close()


@pytest.mark.parametrize(('point', 'step'), [('shares', 1), ('file', 2)])
def test_a_kill_during_a_save_leaves_a_checkpoint(start_team, tmp_path, point, step):
    """While the shares are written it is the old one; once the file is renamed, the new one."""
    processes = start_team(__file__, 'die_while_saving', tmp_path, 'fsdp2', point)
    processes[0].join(120)
    time.sleep(0.2)
    processes[1].kill()
    team = Team.join('cpu')
    found = Trainer(team).load(tmp_path / 'state.safetensors')
    assert found.step == step
    first = engine.load_checkpoint(tmp_path / 'first-0.safetensors')
    assert (apart(first, found.weights()) == 0) == (step == 1)
    assert len(sharded.folders(tmp_path / 'state.safetensors')) == 2
    found.save(tmp_path / 'state.safetensors')
    assert sharded.folders(tmp_path / 'state.safetensors') == []  # one process has no shares
    team.close()


def test_the_death_of_a_peer_is_noticed(start_team, tmp_path):
    processes = start_team(__file__, 'lose_a_peer', tmp_path, 'ddp')
    assert ends(processes, 60)[1] == -signal.SIGKILL
    assert (tmp_path / 'noticed').exists()


@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='asks the kernel through /proc')
def test_processes_of_one_machine_listen_to_nobody_else(start_team, tmp_path):
    assert ends(start_team(__file__, 'tell_where_it_listens', tmp_path, 'ddp')) == [0, 0]
    found = [(tmp_path / f'listens-{rank}').read_text().split() for rank in (0, 1)]
    assert len(found[0]) >= 2 and len(found[1]) >= 1
    assert {address for one in found for address in one} == {'0100007F'}


def test_a_peer_that_does_not_come_is_named(monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    place = {'RANK': 0, 'LOCAL_RANK': 0, 'WORLD_SIZE': 2, 'MASTER_PORT': port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    began = time.monotonic()
    with pytest.raises(TeamError, match='process 0 of 2 did not meet the others at 127.0.0.1'):
        Team.join('cpu', patience=1)
    assert time.monotonic() - began < 20


def wait_for(path, processes, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and all(p.is_alive() for p in processes)
        time.sleep(0.01)


if __name__ == 'worker':
    job, arguments, environ = CALL  # noqa: F821
    os.environ.update(environ)
    torch.set_num_threads(1)
    team = Team.join('cpu', patience=60)
    globals()[job](team, *arguments)
    team.close()
