"""The whole loop at its smallest size, through real processes: every product is there."""

import json
import subprocess
import sys

from dmo_ros import demo
from dmo_ros.core.tasks import get_task
import pytest

pytestmark = pytest.mark.ros


PRODUCTS = (
    'bag/metadata.yaml',
    'dataset/meta.json',
    'global/global.safetensors',
    'reward/reward.safetensors',
    'local/local.safetensors',
    'policy/policy.safetensors',
    'policy.onnx',
    'rollout_strip.png',
    'learning_curve.png',
)


def run(folder, *words, timeout=400):
    """The demo as a person starts it; a policy of two epochs is bad: 1 is a good end as well."""
    command = [sys.executable, '-m', 'dmo_ros.cli', 'demo', '--preset', 'smoke', *words]
    done = subprocess.run(
        [*command, '--frames', '700', '--graph-episodes', '1', '--out', str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((folder / 'report.json').read_text())
    assert report['play']['frames'] >= 700 and not report['play']['drops']
    assert [row['how'] for row in report['results']] == ['graph', 'batched', 'batched', 'batched']
    for product in PRODUCTS:
        assert (folder / product).stat().st_size > 0, product
    assert 'dmo verify' in done.stdout and '| random |' in done.stdout
    return report, done.stdout


def test_the_demo_turns_every_wheel_and_leaves_its_products(tmp_path):
    report, _ = run(tmp_path / 'run', '--episodes', '20')
    assert report['results'][3]['strict']['rate'] > 0.9  # the operator, on the same starts


@pytest.mark.slow
@pytest.mark.parametrize('task', ['push_cube', 'grab_box'])
def test_the_ego_centric_tasks_turn_every_wheel(task, tmp_path):
    """Play through bridge and peer, five models one on the other, and back through the bridge."""
    report, shown = run(tmp_path / 'run', '--task', task, '--episodes', '3', timeout=1500)
    assert (tmp_path / 'run/tokenizer/tokenizer.safetensors').stat().st_size > 0
    assert {'auroc', 'brier'} <= report['figures']['reward'].keys()
    felt = 'proprio_error_1' in report['figures']['local']
    assert felt == bool(get_task(task).proprioception)
    assert report['results'][3]['strict']['successes'] >= 2 and f'dmo up {task}' in shown


def words_after(words, option):
    return words[words.index(option) + 1] if option in words else None


@pytest.mark.parametrize('task', demo.SIZES)
def test_each_stage_builds_on_runs_that_are_made_before_it(task, tmp_path):
    """Whatever the chains: what a command names exists when its turn comes."""
    chains = demo._learning(task, tmp_path, 3, 'smoke')
    made = set()
    for chain in chains:
        before = set()
        for stage, words in chain:
            assert words[:4] == ['train', stage, '--task', task]
            named = {
                name
                for name in ('tokenizer', 'global', 'reward', 'local')
                if words_after(words, f'--{name}') == f'{tmp_path}/{name}'
            }
            assert named <= before, 'a chain waits for no other one'
            before.add(stage)
        made |= before
    policy = demo._policy(task, tmp_path, 3, 'smoke')
    assert {words_after(policy, f'--{name}') for name in ('global', 'reward', 'local')} == {
        f'{tmp_path}/{name}' for name in ('global', 'reward', 'local')
    }
    kind = get_task(task).global_model
    assert made == {'global', 'reward', 'local'} | ({'tokenizer'} if kind == 'dreamer4' else set())


def test_a_folder_that_exists_is_refused(tmp_path):
    """Nothing is overwritten, and nothing is started first."""
    done = subprocess.run(
        [sys.executable, '-m', 'dmo_ros.cli', 'demo', '--out', str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert 'exists already' in done.stderr and 'Traceback' not in done.stderr
