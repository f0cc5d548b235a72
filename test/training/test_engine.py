"""Checkpoints: what goes in comes out, a kill leaves a whole one, and nothing else is believed."""

from dataclasses import dataclass, replace
import json
import math
from pathlib import Path
import subprocess
import sys

from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import engine
from dmo_training.engine import CheckpointError, load_checkpoint, pack, save_checkpoint, unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest
import torch

DTYPES = ('float32', 'float64', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')


def same(left, right):
    """Equal in structure, type, shape, dtype and every bit, NaN included."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and left.dtype == right.dtype
            and same(left.numpy(), right.numpy())
        )
    if isinstance(left, np.ndarray):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


def array_strategy():
    return st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
        )
    )


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | array_strategy()
    | array_strategy().map(lambda array: torch.from_numpy(array.copy()))
)
KEYS = st.sampled_from(['a', 'b', 'a.b', '0', '', '@tensor']) | st.integers()
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES)
@settings(max_examples=100, deadline=None)
def test_packing_loses_nothing(tree):
    tensors = {}
    plain = json.loads(json.dumps(pack(tree, tensors)))
    assert same(tree, unpack(plain, tensors))


def test_two_places_that_spell_the_same_path_keep_their_tensors():
    tree, tensors = {'a.b': torch.zeros(1), 'a': {'b': torch.ones(1)}}, {}
    assert same(tree, unpack(pack(tree, tensors), tensors))
    assert len(tensors) == 2


@given(st.dictionaries(st.text(max_size=3), TREES, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_file_loses_nothing(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / 'any.safetensors'
    save_checkpoint(path, tree)
    assert same(tree, load_checkpoint(path))


def test_a_checkpoint_is_a_copy_of_its_moment(tmp_path):
    weight, array = torch.zeros(3), np.zeros(3)
    tensors = {}
    pack({'weight': weight, 'array': array}, tensors)
    weight += 1
    array += 1
    assert all(float(tensor.sum()) == 0 for tensor in tensors.values())


def test_optimisers_and_generators_go_on_as_if_nothing_had_been(tmp_path):
    """Two Adam steps with noise between them, with and without a stop."""

    def run(stop):
        generator = engine.seed_everything(3)
        layer = torch.nn.Linear(2, 2)
        optimiser = torch.optim.Adam(layer.parameters(), 0.1)
        for step in range(4):
            if step == 2 and stop:
                save_checkpoint(
                    tmp_path / 'x.safetensors',
                    {
                        'layer': layer.state_dict(),
                        'optimiser': optimiser.state_dict(),
                        'rng': engine.rng_state(generator),
                    },
                )
                generator = engine.seed_everything(99)
                layer = torch.nn.Linear(2, 2)
                optimiser = torch.optim.Adam(layer.parameters(), 0.7)
                state = load_checkpoint(tmp_path / 'x.safetensors')
                layer.load_state_dict(state['layer'])
                optimiser.load_state_dict(state['optimiser'])
                engine.restore_rng(generator, state['rng'])
            noise = torch.randn(5, 2) * generator.random()
            optimiser.zero_grad()
            layer(noise).square().sum().backward()
            optimiser.step()
        return layer.weight.detach()

    assert torch.equal(run(stop=False), run(stop=True))


@pytest.mark.parametrize(
    ('state', 'words'),
    [
        ({'model': {'path': Path('x')}}, r'\.model\.path is a PosixPath'),
        ({'seen': {1, 2}}, r'\.seen is a set'),
        ({'places': {(1, 2): 3}}, r'\.places has the key \(1, 2\)'),
        ({'names': np.array(['a'])}, r'\.names is an array of <U1'),
        ({'swapped': np.zeros(2, '>f4')}, r'\.swapped is an array of >f4'),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, state, words):
    with pytest.raises(CheckpointError, match=words):
        save_checkpoint(tmp_path / 'x.safetensors', state)
    assert not list(tmp_path.iterdir())


# A writer that never pauses, started and killed by its parent: importing torch once is enough.
SUPERVISOR = """
import os, signal, sys, time
from pathlib import Path
import torch
from dmo_training.engine import save_checkpoint
path = Path(sys.argv[1])
for line in sys.stdin:
    number, seconds = int(line.split()[0]), float(line.split()[1])
    child = os.fork()
    while child == 0:
        number += 1
        state = {'number': number, 'weight': torch.full((400_000,), float(number))}
        save_checkpoint(path, state)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print('killed', flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL hits it 30 times; every time the file is whole and not older than before."""
    path, seen, rng = tmp_path / 'x.safetensors', [0], np.random.default_rng(0)
    save_checkpoint(path, {'number': 0, 'weight': torch.zeros(400_000)})
    with subprocess.Popen(
        [sys.executable, '-c', SUPERVISOR, str(path)],
        text=True,
        bufsize=1,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as supervisor:
        for _ in range(30):
            supervisor.stdin.write(f'{seen[-1]} {rng.uniform(0.005, 0.06)}\n')
            assert supervisor.stdout.readline() == 'killed\n'
            state = load_checkpoint(path)
            assert bool((state['weight'] == state['number']).all())
            assert state['number'] >= seen[-1]
            seen.append(state['number'])
        supervisor.stdin.close()
    assert seen[-1] > 0, 'the writer never got to write'
    assert len(list(tmp_path.iterdir())) <= 2, 'unfinished files pile up'


@pytest.fixture(name='checkpoint')
def fixture_checkpoint(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_checkpoint(
        path,
        {
            'stage': 'reward',
            'task': get_task('pusher').to_dict(),
            'step': 7,
            'config': {'seed': 1},
            'weight': torch.arange(100.0),
        },
    )
    return path


def test_a_disk_that_fills_up_leaves_the_old_checkpoint(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(engine.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        save_checkpoint(checkpoint, {'weight': torch.zeros(5)})
    assert checkpoint.read_bytes() == before


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r'no checkpoint .*x\.safetensors; train that stage'):
        load_checkpoint(tmp_path / 'x.safetensors')
    with pytest.raises(CheckpointError, match='no checkpoint'):
        load_checkpoint(tmp_path)


def test_a_cut_file_is_refused_wherever_it_is_cut(checkpoint):
    whole = checkpoint.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='damaged.*train the stage again'):
            load_checkpoint(checkpoint)


def test_a_flipped_bit_is_refused_wherever_it_is(checkpoint):
    """Most bits make the file unreadable; those within numbers only the checksum sees."""
    whole, rng = checkpoint.read_bytes(), np.random.default_rng(1)
    for place in (*range(0, 16), *rng.integers(16, len(whole), 200).tolist(), len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        checkpoint.write_bytes(damaged)
        try:
            state = load_checkpoint(checkpoint)
        except CheckpointError:
            continue
        assert same(state['weight'], torch.arange(100.0)) and state['step'] == 7, place


def test_files_of_others_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'x.safetensors'
    save_file({'weight': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match='no checkpoint of dmo_ros'):
        load_checkpoint(path)
    for text in (
        '[1, 2]',
        '{"@dict": 3}',
        '{"@tensor": "x"}',
        '{"a": 1, "b": 2}',
        '{"@x": [1]}',
        'null',
        'nonsense',
    ):
        save_file({'weight': torch.zeros(3)}, path, {'dmo_ros': text})
        with pytest.raises(CheckpointError, match='damaged'):
            load_checkpoint(path)
    torch.save({'weight': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match='damaged'):
        load_checkpoint(path)


def test_a_stage_reads_its_own_checkpoints_of_its_own_task(checkpoint):
    assert engine.load_stage(checkpoint, 'reward', get_task('pusher'))['step'] == 7
    with pytest.raises(CheckpointError, match=r"stage 'reward'.*local\.safetensors"):
        engine.load_stage(checkpoint, 'local')
    with pytest.raises(TaskError, match=r'model\.safetensors was made for another task.*push_t'):
        engine.load_stage(checkpoint, 'reward', get_task('push_t'))


@dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclass(frozen=True)
class Config:
    out: Path
    seed: int = 0
    rate: float = 1e-3
    inner: Inner = Inner()
    threads: int = 0


def test_another_configuration_is_refused_by_the_field_that_differs(tmp_path):
    spec, path, config = get_task('pusher'), tmp_path / 'x.safetensors', Config(tmp_path)
    save_checkpoint(
        path, {'stage': 'x', 'task': spec.to_dict(), 'config': engine.plain_config(config)}
    )
    assert engine.load_to_resume(path, 'x', config, spec)['stage'] == 'x'
    moved = replace(config, out=tmp_path / 'elsewhere', threads=4)
    assert engine.load_to_resume(path, 'x', moved, spec)['stage'] == 'x'
    for other, words in (
        (replace(config, seed=1), 'seed: 1 here, 0 there'),
        (replace(config, inner=Inner(4)), r'inner\.width: 4 here, 3 there'),
    ):
        with pytest.raises(CheckpointError, match=words):
            engine.load_to_resume(path, 'x', other, spec)


def test_a_resumed_log_forgets_the_steps_that_are_taken_again(tmp_path):
    def steps():
        lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
        return [json.loads(line)['step'] for line in lines]

    log = engine.RunLog(tmp_path, Config(tmp_path))
    for step in (1, 2, 3, 4):
        log.write(step, {'loss': torch.tensor(1.0)})
    log.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as stream:
        stream.write('{"step": 5, "los')  # killed while it wrote
    log = engine.RunLog(tmp_path, Config(tmp_path), resume=True, start=2)
    assert steps() == [1, 2]
    log.write(3, {'loss': math.nan})
    log.close()
    assert steps() == [1, 2, 3]
    engine.RunLog(tmp_path, Config(tmp_path)).close()
    assert steps() == []


def test_settings_are_stored_as_plain_json(tmp_path):
    plain = engine.plain_config(Config(tmp_path))
    assert plain['out'] == str(tmp_path) and plain['inner'] == {'width': 3}
    with pytest.raises(TypeError, match='dataclass instance, not dict'):
        engine.plain_config({})


def test_seeds_differ_and_repeat():
    def draw(seed):
        return float(engine.seed_everything(seed).random()), float(torch.rand(()))

    assert draw(1) == draw(1) != draw(2)
