"""The command line: quick, complete, and clear about what is wrong."""

import subprocess
import sys
import time

from dmo_ros import cli
import pytest


def run(*words):
    """Run one command in this process and return its exit code."""
    return cli.main(list(words))


def test_help_lists_every_command(capsys):
    """What exists is named, what is named exists."""
    assert run('--help') == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f' {name} ' in text or f'  {name}\n' in text, name


def test_help_imports_nothing_heavy():
    """The package's own start is what a person waits for."""
    code = (
        'import sys; import dmo_ros.cli as c; c.main(["--help"]);'
        'print(sorted(m for m in ("torch","rclpy","cv2","numpy","onnxruntime") '
        'if m in sys.modules))'
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == '[]'
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    'words, said',
    [
        (['recrod'], "did you mean 'record'"),
        (['verify', 'nothing.onnx'], 'cannot be read'),
        (['recover', 'nothing'], 'nothing'),
        (['record', 'pushr', '-o', 'x'], 'there is no task'),
        (['convert', 'nothing', '-o', 'x'], 'nothing'),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    """Exit code 2, the reason, and no traceback."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip('torch')
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err + captured.out


@pytest.mark.parametrize('stage, missing', [('local', '--reward'), ('policy', '--global')])
def test_a_stage_names_the_run_it_builds_on(stage, missing, capsys, tmp_path):
    """Forgetting a run is a sentence that names the option."""
    pytest.importorskip('torch')
    assert run('train', stage, '--data', str(tmp_path), '--out', str(tmp_path / 'o')) == 2
    assert missing in capsys.readouterr().err


def test_every_stage_has_its_presets(capsys, tmp_path):
    """An unknown preset lists the ones there are."""
    pytest.importorskip('torch')
    from dmo_ros.core.tasks import get_task
    from dmo_training.presets import preset, presets

    for stage in presets(get_task('pusher')):
        assert preset(stage, 'demo')
        with pytest.raises(ValueError, match='demo'):
            preset(stage, 'hugh')
