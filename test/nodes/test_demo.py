"""The whole loop at its smallest size, through real processes: every product is there."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros


def test_the_demo_turns_every_wheel_and_leaves_its_products(tmp_path):
    """The policy of two epochs is bad, so the exit code may say so; the loop must be whole."""
    folder = tmp_path / 'run'
    command = [
        sys.executable,
        '-m',
        'dmo_ros.cli',
        'demo',
        '--preset',
        'smoke',
        '--frames',
        '700',
        '--episodes',
        '20',
        '--graph-episodes',
        '1',
        '--out',
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((folder / 'report.json').read_text())
    assert report['play']['frames'] >= 700 and not report['play']['drops']
    assert [row['how'] for row in report['results']] == ['graph', 'batched', 'batched', 'batched']
    assert report['results'][3]['strict']['rate'] > 0.9  # the operator, on the same starts
    for product in (
        'bag/metadata.yaml',
        'dataset/meta.json',
        'global/global.safetensors',
        'reward/reward.safetensors',
        'local/local.safetensors',
        'policy/policy.safetensors',
        'policy.onnx',
        'rollout_strip.png',
        'learning_curve.png',
    ):
        assert (folder / product).stat().st_size > 0, product
    assert 'dmo verify' in done.stdout and '| random |' in done.stdout


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
