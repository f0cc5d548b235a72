"""Where a process stands: torchrun's and SLURM's words, the batch script, and plain refusals."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from dmo_training import command
from dmo_training.distributed import STOPPED
from dmo_training.rendezvous import find_place, first_host, Place, TeamError
import pytest

SBATCH = Path(__file__).parents[2] / 'docs' / 'slurm' / 'train.sbatch'
TORCHRUN = {
    'RANK': '3', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'm', 'MASTER_PORT': '29500'
}  # fmt: skip
SRUN = {
    'SLURM_PROCID': '9', 'SLURM_STEP_NUM_TASKS': '16', 'SLURM_NTASKS': '16', 'SLURM_LOCALID': '1',
    'SLURM_STEP_NODELIST': 'gpu[07-08]', 'SLURM_STEP_ID': '0', 'SLURM_JOB_ID': '4242',
}  # fmt: skip


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


def test_a_process_that_nobody_started_is_alone():
    assert find_place({}) == find_place({'MASTER_ADDR': 'm', 'SLURM_JOB_ID': '1'}) == Place()


def test_torchrun_is_understood():
    assert find_place(TORCHRUN) == Place(3, 4, 1, 'm', 29500)
    assert find_place({'RANK': '0', 'WORLD_SIZE': '1'}).size == 1


def test_srun_is_understood():
    place = find_place(SRUN)
    assert (place.rank, place.size, place.local, place.host) == (9, 16, 1, 'gpu07')
    assert 1024 < place.port < 32768  # below what the kernel hands out
    others = [find_place({**SRUN, 'SLURM_PROCID': str(rank)}) for rank in range(16)]
    assert {(p.host, p.port) for p in others} == {(place.host, place.port)}
    assert find_place({**SRUN, 'SLURM_JOB_ID': '4243'}).port != place.port
    assert find_place({**SRUN, 'SLURM_STEP_ID': '1'}).port != place.port
    chosen = find_place({**SRUN, 'MASTER_ADDR': 'ib-gpu07', 'MASTER_PORT': '5000'})
    assert (chosen.host, chosen.port) == ('ib-gpu07', 5000)


def test_one_task_of_slurm_is_alone_with_and_without_srun():
    alone = {'SLURM_PROCID': '0', 'SLURM_JOB_ID': '1'}
    assert find_place(alone).size == find_place({**alone, 'SLURM_NTASKS': '1'}).size == 1


@pytest.mark.parametrize(
    ('nodes', 'host'),
    [
        ('gpu07', 'gpu07'),
        ('gpu07,gpu08', 'gpu07'),
        ('gpu[07-08]', 'gpu07'),
        ('gpu[007,009-012],login1', 'gpu007'),
        ('rack1-n[3-4]', 'rack1-n3'),
        ('n[1-2]-ib,m', 'n1-ib'),
        ('r[2-3]n[05,07]', 'r2n05'),
        ('n7.cluster.example,n8.cluster.example', 'n7.cluster.example'),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize('nodes', ['', ',', '[1-2', 'n[', 'n[a-b]', '$(hostname)'])
def test_what_is_no_node_list_is_refused(nodes):
    with pytest.raises(TeamError, match='names no host; set MASTER_ADDR'):
        first_host(nodes)


@pytest.mark.parametrize(
    ('environ', 'says'),
    [
        (without(TORCHRUN, 'WORLD_SIZE'), 'WORLD_SIZE is not set but other variables of torchrun'),
        (without(TORCHRUN, 'RANK'), 'RANK is not set'),
        (without(TORCHRUN, 'LOCAL_RANK'), 'LOCAL_RANK is not set'),
        (without(TORCHRUN, 'MASTER_ADDR'), 'MASTER_ADDR is not set'),
        ({**TORCHRUN, 'WORLD_SIZE': 'two'}, "should be a whole number, not 'two'"),
        ({**TORCHRUN, 'RANK': '4'}, 'number 4 of 4'),
        ({**TORCHRUN, 'MASTER_PORT': '70000'}, '70000 is no port'),
        (without(SRUN, 'SLURM_STEP_ID'), 'not started by srun'),
        (without(SRUN, 'SLURM_LOCALID'), 'SLURM_LOCALID is not set'),
        (without(SRUN, 'SLURM_STEP_NODELIST'), 'SLURM_JOB_NODELIST is not set'),
    ],
)
def test_half_an_environment_is_refused_in_words(environ, says):
    with pytest.raises(TeamError, match=says):
        find_place(environ)


# The batch script, with stand-ins for the scheduler

STUBS = {
    # Two nodes of two tasks, one after the other; the exit code is the highest, as srun's is.
    'srun': r"""
        while [[ $1 == --* ]]; do echo "$1" >> "$TRACE/srun"; shift; done
        worst=0
        for rank in 0 1 2 3; do
            SLURM_PROCID=$rank SLURM_LOCALID=$((rank % 2)) SLURM_NODEID=$((rank / 2)) \
            SLURM_STEP_NUM_TASKS=4 SLURM_STEP_ID=0 SLURM_STEP_NODELIST='gpu[07-08]' "$@"
            code=$?; [ $code -gt $worst ] && worst=$code
        done
        exit $worst
    """,
    'scontrol': 'echo "$@" >> "$TRACE/scontrol"',
    'trained': r"""
        printf '%s\n' "$@" > "$TRACE/words-$SLURM_PROCID"
        env | grep ^SLURM_ > "$TRACE/environ-$SLURM_PROCID"
        [ -n "${SIGNAL:-}" ] && [ "$SLURM_PROCID" = 0 ] && kill -USR1 $BATCH
        exit $CODE
    """,
}


@pytest.fixture
def submit(tmp_path):
    """Return a function that runs the script as the scheduler would; it returns the exit code."""
    (tmp_path / 'bin').mkdir()
    for name, text in STUBS.items():
        stub = tmp_path / 'bin' / name
        stub.write_text(f'#!{shutil.which("bash")}\n{text}')
        stub.chmod(0o755)

    def run(*words, code=0, **environ):
        path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
        given = {
            'PATH': path, 'TRACE': str(tmp_path), 'CODE': str(code), 'PYTHON': 'trained',
            'SLURM_JOB_ID': '4242', 'SLURM_NTASKS': '4', 'SLURM_JOB_NUM_NODES': '2', **environ,
        }  # fmt: skip
        # The shell tells its own number, as the scheduler knows it.
        script = ['bash', '-c', 'BATCH=$$ exec bash "$@"', 'bash', str(SBATCH), *words]
        return subprocess.run(script, env=given, timeout=60, capture_output=True).returncode

    return run


def read(path):
    return path.read_text().splitlines()


def test_the_batch_script_is_bash():
    subprocess.run(['bash', '-n', str(SBATCH)], check=True)
    options = [line.split()[1] for line in read(SBATCH) if line.startswith('#SBATCH ')]
    for wanted in ('--nodes=2', '--requeue', '--signal=USR1@300', '--open-mode=append'):
        assert wanted in options


def test_each_node_runs_the_stage_with_its_own_number(submit, tmp_path):
    words = ['--task', 'push_cube', '--data', 'play set', '--tokenizer', 'run', '--out', 'run']
    assert submit('global', *words) == 0
    for rank in range(4):
        module, *given = read(tmp_path / f'words-{rank}')[1:]
        assert module == 'dmo_training.train_global'
        assert given == [*words, '--resume']
        parsed = command.parser('train_global', 'global').parse_args(given)
        assert parsed.resume and str(parsed.data) == 'play set'
        environ = dict(line.split('=', 1) for line in read(tmp_path / f'environ-{rank}'))
        place = find_place(environ)
        assert (place.rank, place.size, place.local) == (rank, 4, rank % 2)
        assert place.host == 'gpu07'
    assert read(tmp_path / 'srun') == ['--kill-on-bad-exit=0', '--wait=120']
    assert not (tmp_path / 'scontrol').exists()


def test_the_modules_of_all_stages_exist():
    import importlib.util

    for stage in ('tokenizer', 'global', 'reward'):
        assert importlib.util.find_spec(f'dmo_training.train_{stage}')


def test_a_run_that_has_saved_is_queued_again(submit, tmp_path):
    assert submit('global', code=STOPPED) == STOPPED
    assert read(tmp_path / 'scontrol') == ['requeue 4242']


def test_a_signal_does_not_end_the_script_before_the_processes(submit, tmp_path):
    assert submit('global', code=STOPPED, SIGNAL='1') == STOPPED
    assert (tmp_path / 'words-3').exists()
    assert read(tmp_path / 'scontrol') == ['requeue 4242']


def test_it_does_not_start_over_and_over(submit, tmp_path):
    assert submit('global', code=STOPPED, SLURM_RESTART_COUNT='50') == STOPPED
    assert not (tmp_path / 'scontrol').exists()


@pytest.mark.parametrize('code', [1, 2, 137])
def test_a_failure_is_not_repeated(submit, tmp_path, code):
    assert submit('global', code=code) == code
    assert not (tmp_path / 'scontrol').exists()


def test_a_stage_is_asked_for(submit, tmp_path):
    assert submit() != 0
    assert not (tmp_path / 'srun').exists()


@pytest.mark.slow
def test_the_real_torchrun_starts_a_team(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'from dmo_training.rendezvous import find_place\n'
        'import os\n'
        'place = find_place(os.environ)\n'
        f'open({str(tmp_path)!r} + f"/{{place.rank}}", "w").write(str([place.size, place.host]))\n'
    )
    runner = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    subprocess.run([*runner, str(script)], check=True, timeout=300, capture_output=True)
    found = [json.loads((tmp_path / str(rank)).read_text().replace("'", '"')) for rank in (0, 1)]
    assert found[0] == found[1] and found[0][0] == 2
