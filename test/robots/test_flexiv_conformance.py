"""
The stand-in SDK against the real flexivrdk, wherever an interpreter has it.

flexivrdk has wheels for Python 3.10 and 3.12 only.  Name interpreters that have it in
``DMO_FLEXIV_PYTHON`` (colon between them); without it python3.10 and python3.12 on the PATH are
tried.  A script there describes what it imports, another here describes the stand-in, and the two
descriptions must be the same.
"""

import ast
import functools
import importlib.util
import inspect
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import time

from dmo_ros.robots.base import RobotError
from dmo_ros.robots.flexiv_rdk import Limits, MOTION, RdkArm
from dmo_ros.robots.flexiv_worker import WorkerArm
from dmo_ros.twins.flexiv_sdk import _serial, make_module
import pytest

VERBS = (
    'ClearFault',
    'Enable',
    'SendCartesianMotionForce',
    'SetCartesianImpedance',
    'SetForceControlAxis',
    'SetMaxContactWrench',
    'SetNullSpacePosture',
    'Stop',
    'SwitchMode',
    '__init__',
)
GETTERS = (
    'busy',
    'connected',
    'enabling_button_pressed',
    'estop_released',
    'event_log',
    'fault',
    'info',
    'lite',
    'mode',
    'operational',
    'operational_status',
    'recovery',
    'reduced',
    'states',
    'stopped',
)
NEW_GETTERS = ('all_stopped', 'groups')
SERIALS = (  # that are judged at once; others are looked for, for seconds
    'bad',
    '',
    'Rizon10s',
    'Rizon10s 062001',
    'Enlight-L-123456',
    'Rizon99-062001',
    'rizon10s-062001',
)
ABSENT = ('Rizon10s-062001', 'Rizon 10s-062001', 'Rizon10s_062001')
STILL = [0.0] * 6
WRONG = (  # arguments of NrtCartesianCmd
    [[0.0] * 6],
    [['a'] * 7],
    [[0.0] * 7, [0.0] * 5],
    [[0.0] * 7, STILL, STILL, 'fast'],
    [7.0],
)
SCRIPT = Path(__file__).with_name('flexiv_describe.py')
HAS_IT = 'import flexivrdk; print(flexivrdk.__version__)'
NO_SDK = (
    'no interpreter has flexivrdk: make one with Python 3.10 or 3.12 (python3.10 -m venv x; '
    "x/bin/pip install 'flexivrdk<=2.0.0') and name it in DMO_FLEXIV_PYTHON"
)


@functools.cache
def interpreters():
    """Return (version, interpreter) of every Python at hand that can import flexivrdk."""
    named = os.environ.get('DMO_FLEXIV_PYTHON', '')
    places = (
        named.split(':') if named else [shutil.which('python3.10'), shutil.which('python3.12')]
    )
    found = []
    for place in filter(None, places):
        try:
            asked = subprocess.run(
                [place, '-c', HAS_IT], capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if asked.returncode == 0:
            found.append((asked.stdout.split()[-1], place))
    return found


def known(version):
    return version.startswith(('1.9', '2.0'))


@functools.cache
def described(place):
    """Return what the real SDK of an interpreter is like; once, it takes some seconds."""
    asked = {
        'wrong': WRONG,
        'serials': SERIALS,
        'absent': ABSENT,
        'pose': [0.6, 0.0, 0.12, 0.0, 0.0, 1.0, 0.0],
        'limits': list(vars(Limits()).values()),
    }
    ran = subprocess.run(
        [place, str(SCRIPT)], input=json.dumps(asked), capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    line = next(line for line in ran.stdout.splitlines() if line.startswith('DESCRIBED'))
    return json.loads(line.removeprefix('DESCRIBED'))


@pytest.fixture(params=range(4))
def pair(request):
    """A real SDK's description and the stand-in of its generation."""
    found = [place for version, place in interpreters() if known(version)]
    if request.param >= len(found):
        pytest.skip(NO_SDK if not found else f'only {len(found)} interpreters have flexivrdk')
    real = described(found[request.param])
    return real, make_module(real['version'][:3], ('127.0.0.1', 1), search=0.05)


@functools.cache
def describe():
    """Return the script's function, to describe the stand-in with."""
    found = importlib.util.spec_from_file_location('flexiv_describe', SCRIPT)
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made.describe


# ---------------------------------------------------------------------- reading signatures
def parameters(text):
    """Read (name, default) of each parameter from a pybind11 signature."""
    inside, depth, start, found = text[text.index('(') + 1 :], 0, 0, []
    for at, letter in enumerate(inside):
        depth += (letter in '([{') - (letter in ')]}')
        if depth < 0 or (letter == ',' and depth == 0):
            found.append(inside[start:at].strip())
            start = at + 1
        if depth < 0:
            break
    pairs = []
    for one in found:
        name, _, rest = one.partition(':')
        default = rest.rpartition(' = ')[2] if ' = ' in rest else None
        pairs.append((name.strip(), default))
    return pairs


def real_signature(doc):
    assert 'Overloaded' not in doc, doc
    return [(name, default and ast.literal_eval(default)) for name, default in parameters(doc)]


def own_signature(function):
    found = []
    for name, one in inspect.signature(function).parameters.items():
        default = None if one.default is inspect.Parameter.empty else one.default
        found.append((name, default))
    return found


def test_a_pybind11_signature_is_read():
    text = 'F(self: m.R, a: Annotated[list[float], FixedSize(6)] = [0.7, 0.7], b: int = 3) -> None'
    assert real_signature(text) == [('self', None), ('a', [0.7, 0.7]), ('b', 3)]


# ---------------------------------------------------------------------- the comparison
def test_enumerations_structs_and_their_refusals_are_the_same(pair):
    real, sdk = pair
    ours = json.loads(json.dumps(describe()(sdk, WRONG)))
    theirs = {name: real[name] for name in ours}
    assert ours == theirs
    assert ('JointGroup' in real) == ('JointGroup' in ours)


@pytest.mark.parametrize('verb', VERBS)
def test_signatures_and_defaults_are_the_same(pair, verb):
    real, sdk = pair
    assert own_signature(getattr(sdk.Robot, verb)) == real_signature(real['docs'][verb])


def test_what_is_asked_without_arguments_exists_and_answers_the_same_kind(pair):
    real, sdk = pair
    new = real['version'].startswith('2.0')
    for name in (*GETTERS, *(NEW_GETTERS if new else ())):
        assert real_signature(real['docs'][name]) == own_signature(getattr(sdk.Robot, name))
    kind = real['docs']['stopped'].partition('->')[2].split('\n')[0].strip()
    assert (kind == 'bool') == (not new)
    assert ('dict' in real['docs']['states'].split('\n')[0]) == new


def test_serial_numbers_are_judged_the_same(pair):
    real, _ = pair
    ours = []
    for serial in SERIALS:
        try:
            _serial(serial)
            ours.append('')
        except (ValueError, RuntimeError) as error:
            ours.append(type(error).__name__)
    assert ours == real['serials']
    for serial, (seconds, said) in zip(ABSENT, real['absent']):
        assert 2.0 < seconds < 6.0
        assert said.startswith(f'[flexiv::rdk::Robot] Failed to connect to [{_serial(serial)}]')


def test_the_adapter_s_values_make_a_real_command(pair):
    real, _ = pair
    assert real['command']['pose_d'] == [0.6, 0.0, 0.12, 0.0, 0.0, 1.0, 0.0]
    assert real['command']['max_linear_vel'] == Limits().linear_speed
    assert real['command']['max_angular_vel'] == Limits().angular_speed
    assert real['command']['max_linear_acc'] == Limits().linear_acceleration
    assert real['command']['max_angular_acc'] == Limits().angular_acceleration


@pytest.mark.parametrize('number', range(4))
def test_the_worker_runs_in_that_interpreter_and_says_what_the_sdk_says(number):
    found = [place for version, place in interpreters() if known(version)]
    if number >= len(found):
        pytest.skip(NO_SDK if not found else f'only {len(found)} interpreters have flexivrdk')
    arm = WorkerArm('Rizon10s-062001', ['127.0.0.1'], found[number])
    with pytest.raises(RobotError, match=r'Failed to connect to \[Rizon10s-062001\]'):
        arm.open()
    assert arm.child is None


def test_what_the_adapter_calls_is_compared_above():
    """A verb that flexiv_rdk uses and this file does not compare would be a hole."""
    source = inspect.getsource(RdkArm)
    called = set(re.findall(r'(?:robot|_arm\(\))\.(\w+)\(', source))
    assert called <= {*VERBS, *GETTERS, *NEW_GETTERS}
    assert MOTION == 'NRT_CARTESIAN_MOTION_FORCE'


def test_a_version_that_takes_no_rizon_arm_is_refused():
    places = [place for version, place in interpreters() if version.startswith('2.1')]
    if not places:
        pytest.skip('no interpreter has flexivrdk 2.1')
    with pytest.raises(RobotError, match=r'flexivrdk 2\.1\.\d+ does not accept Rizon arms'):
        WorkerArm('Rizon10s-062001', ['127.0.0.1'], places[0]).open()


def test_the_stand_in_gives_up_as_the_real_one_does():
    began = time.monotonic()
    sdk = make_module('2.0', ('127.0.0.1', 1), search=0.05)
    with pytest.raises(RuntimeError, match=r'Failed to connect to \[Rizon10s-062001\]'):
        sdk.Robot('Rizon 10s_062001')
    assert time.monotonic() - began < 2.0
