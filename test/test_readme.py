"""The guide says what is there: tables, links, commands, flags, and an example that runs."""

from pathlib import Path
import re
import subprocess
import sys

from dmo_ros import cli
from dmo_ros.stacks import GRAPHS
import pytest

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
README = GUIDES[0].read_text()
WITH_TORCH = {'check', 'convert', 'relabel', 'export', 'eval'}


def name(path):
    return str(path.relative_to(ROOT))


def blocks(text, kind):
    """Return the fenced blocks of a kind ('': any)."""
    return re.findall(rf'^```{kind}\w*\n(.*?)^```', text, re.MULTILINE | re.DOTALL)


def commands():
    """Return every `dmo ...` line of the guide, split into words, without its comment."""
    lines = [
        line.split('#')[0].strip()
        for path in GUIDES
        for block in blocks(path.read_text(), '')
        for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.startswith('dmo ')})


def test_tables_are_those_of_the_sources():
    command = [sys.executable, str(ROOT / 'docs/generate.py'), '--check']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_stale_table_is_noticed():
    sys.path.insert(0, str(ROOT / 'docs'))
    try:
        from generate import render, TABLES
    finally:
        sys.path.pop(0)
    assert render(README, 'tasks', TABLES['tasks']()) == README
    assert render(README, 'arguments', 'other') != README


@pytest.mark.parametrize('path', GUIDES, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)#\s]+)', path.read_text()):
        assert target.startswith('https://') or (path.parent / target).exists(), target


def test_the_two_commands_come_first():
    assert re.findall(r'^make \w+', blocks(README, 'bash')[0], re.M) == ['make demo', 'make test']


def test_the_lead_may_fill_in_the_measured_table():
    assert README.count('<!-- demo -->') == README.count('<!-- end demo -->') == 1


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    named = {
        word
        for path in GUIDES
        for word in re.findall(r'(?:^|`)make ([a-z-]+)(?:`|\s)', path.read_text(), re.M)
    }
    assert {'demo', 'test', 'check'} <= named <= targets


@pytest.mark.parametrize('line', commands())
def test_commands_and_their_flags_exist(line, capsys):
    _, command, *words = line.split()
    assert command in cli.COMMANDS
    if command == 'up':
        given = {word.split(':=')[0] for word in words[1:]}
        assert given <= {argument.name for argument in GRAPHS[words[0]].arguments}
        return
    if command in WITH_TORCH:
        pytest.importorskip('torch')
    try:
        cli.main([command, '--help'])
    except SystemExit as end:
        assert end.code == 0
    known = set(re.findall(r'(?<![\w-])--?[a-z][\w-]*', capsys.readouterr().out))
    assert {word for word in words if word.startswith('-')} <= known


def test_the_example_runs_and_is_short(tmp_path):
    torch = pytest.importorskip('torch')
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(module)
    from dmo_ros.core.tasks import get_task
    from dmo_training.deploy import RssmPolicy
    from dmo_training.export import export
    from dmo_training.models.actor_critic import Actor
    from dmo_training.models.rssm import Rssm, RssmConfig

    torch.manual_seed(0)
    rssm = Rssm(
        RssmConfig(
            frame_size=32, recurrent=16, groups=4, classes=4, units=16, multiplier=4, mlp_layers=1
        )
    )
    actor = Actor(rssm.features_width, rssm.config.actions, (16,))
    export(RssmPolicy(rssm, actor), get_task('pusher'), tmp_path / 'policy.onnx', parity_steps=8)
    (example,) = blocks(README, 'python')
    assert len(example.splitlines()) <= 20
    alone = "\nimport sys\nprint({'torch', 'rclpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, '-c', example + alone], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith('object [') and done.stdout.endswith('set()\n'), done.stderr


@pytest.mark.parametrize('path', GUIDES, ids=name)
def test_no_machine_is_named(path):
    assert not re.search(r'(?<![\w.~/])/(work|tmp|opt/(?!ros/)|root|home)\b', path.read_text())
