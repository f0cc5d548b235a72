"""The package agrees with itself: one version, every message, every node, every export."""

import ast
import importlib.util
from pathlib import Path
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = Path(__file__).parents[1]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
CMAKE = (ROOT / 'CMakeLists.txt').read_text()
MESSAGES = sorted(path.stem for path in (ROOT / 'msg').glob('*.msg'))
# Imported by the sources, brought by Python packages that rosdep need not know.
NOT_IN_ROSDEP = {'rosidl_runtime_py', 'ament_index_python'}


def sources(folder):
    """Return the Python files below a folder, without generated ones."""
    return [p for p in sorted((ROOT / folder).rglob('*.py')) if p.parent != ROOT / 'dmo_ros/msg']


def imported(path):
    """Return the top-level names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    return names


def test_setup_takes_its_version_from_the_manifest():
    command = [sys.executable, 'setup.py', '--quiet', '--version']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-1] == MANIFEST.findtext('version'), done.stderr


def test_the_changelog_knows_the_version():
    titles = re.findall(r'^(.+)\n-+$', (ROOT / 'CHANGELOG.rst').read_text(), re.MULTILINE)
    assert titles[0] == 'Forthcoming' or titles[0].startswith(MANIFEST.findtext('version'))


def test_the_licence_is_the_one_declared():
    assert MANIFEST.findtext('license') == 'Apache-2.0'
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()


def test_every_message_is_generated():
    assert sorted(re.findall(r'"msg/(\w+)\.msg"', CMAKE)) == MESSAGES


@pytest.mark.parametrize('message', MESSAGES)
def test_every_field_of_a_message_is_commented(message):
    lines = (ROOT / f'msg/{message}.msg').read_text().splitlines()
    fields = [line for line in lines if line.strip() and not line.lstrip().startswith('#')]
    bare = [line for line in fields if '#' not in line]
    assert fields and not bare, f'{message}.msg: no unit, frame or meaning given: {bare}'


@pytest.mark.ros
@pytest.mark.parametrize('message', MESSAGES)
def test_messages_survive_serialisation(message):
    import dmo_ros.msg
    from rclpy.serialization import deserialize_message, serialize_message

    kind = getattr(dmo_ros.msg, message)
    assert deserialize_message(serialize_message(kind()), kind) == kind()


def test_ros_packages_in_use_are_declared():
    declared = {e.text for e in MANIFEST if e.tag in ('depend', 'exec_depend', 'build_depend')}
    used = set()
    for path in [*sources('dmo_ros'), *sources('launch')]:
        names = imported(path)
        used |= {n for n in names if n.endswith(('_msgs', '_srvs', '_interfaces'))}
        used |= names & {'rclpy', 'cv_bridge', 'launch', 'launch_ros', 'ament_index_python'}
    assert not used - declared - NOT_IN_ROSDEP, 'add them to package.xml as exec_depend'


def test_libraries_in_use_are_in_an_extra():
    """Every third-party import of ours can be installed by naming an extra."""
    text = (ROOT / 'setup.py').read_text().lower()
    distribution = {
        'cv2': 'opencv-python-headless',
        'flexivrdk': 'flexivrdk',
        'PIL': 'pillow',
        'stable_baselines3': 'stable-baselines3',
        'unitree_sdk2py': 'unitree-sdk2',
        'yaml': 'pyyaml',
        'zmq': 'pyzmq',
    }
    ros = {e.text for e in MANIFEST if e.tag in ('depend', 'exec_depend')} | NOT_IN_ROSDEP
    known = set(sys.stdlib_module_names) | {'dmo_ros', 'dmo_training'} | ros
    for path in [*sources('dmo_ros'), *sources('training')]:
        for name in imported(path) - known:
            wanted = distribution.get(name, name).lower()
            assert f"'{wanted}" in text, f'{path.relative_to(ROOT)}: {name} is in no extra'


def test_the_installed_package_is_this_one():
    """A stale install beside the sources would be tested instead of them."""
    for name, folder in (('dmo_ros', 'dmo_ros'), ('dmo_training', 'training')):
        spec = importlib.util.find_spec(name)
        assert spec is not None, f'{name} is not installed: make setup'
        place = Path(spec.origin).resolve()
        if 'site-packages' not in place.parts and 'install' not in place.parts:
            assert place == ROOT / folder / '__init__.py'


def test_nothing_that_executes_is_ever_loaded():
    """No pickle, no torch.load, no eval: a file from elsewhere must not run code here."""
    for path in [*sources('dmo_ros'), *sources('training')]:
        for node in ast.walk(ast.parse(path.read_text())):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
            bad = ('pickle.load', 'pickle.loads', 'torch.load', 'eval', 'exec')
            assert call not in bad, f'{path.relative_to(ROOT)}:{node.lineno}: {call}'
        assert 'pickle' not in imported(path), f'{path.relative_to(ROOT)}: imports pickle'
