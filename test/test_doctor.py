import builtins
import importlib
import json
import socket

from dmo_ros import doctor, doctor_robots
import pytest


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (
        'ROS_AUTOMATIC_DISCOVERY_RANGE',
        'ROS_LOCALHOST_ONLY',
        'ROS_DOMAIN_ID',
        'ROS_STATIC_PEERS',
        'FASTDDS_DEFAULT_PROFILES_FILE',
        'FASTRTPS_DEFAULT_PROFILES_FILE',
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without(monkeypatch):
    """Make modules look as if they were not installed."""

    def hide(*hidden):
        real, find = importlib.import_module, importlib.util.find_spec

        def absent(name):
            return name.split('.')[0] in hidden or name in hidden

        def import_module(name, *rest):
            if absent(name):
                raise ModuleNotFoundError(f'No module named {name!r}', name=name)
            return real(name, *rest)

        monkeypatch.setattr(doctor.importlib, 'import_module', import_module)
        monkeypatch.setattr(
            doctor.importlib.util,
            'find_spec',
            lambda name, *rest: None if absent(name) else find(name, *rest),
        )

    return hide


def test_every_check_answers_and_everything_not_ok_has_a_fix():
    result = doctor.examine()
    assert len(result['findings']) == len(doctor.CHECKS)
    assert {found['state'] for found in result['findings']} <= {'ok', 'warn', 'missing', 'broken'}
    for found in result['findings']:
        assert found['detail'] and (found['state'] == 'ok' or found['fix']), found


def test_abilities_stand_on_findings_that_exist():
    names = {found['name'] for found in doctor.examine()['findings']}
    assert {need for needs in doctor.ABILITIES.values() for need in needs} <= names


def test_json_is_the_report(capsys):
    code = doctor.main(['--json'])
    result = json.loads(capsys.readouterr().out)
    assert (code == 1) == bool(result['broken'])
    text = doctor.report(result)
    for found in result['findings']:
        assert found['name'] in text and found['detail'] in text


def test_a_machine_without_ros_can_still_train(without):
    without('rclpy', 'dmo_ros.msg')
    result = doctor.examine()
    state = {found['name']: found for found in result['findings']}
    assert state['rclpy']['state'] == state['messages']['state'] == 'missing'
    assert 'dmo_ros[ros]' in state['rclpy']['fix']
    assert not {'rclpy', 'messages'} & set(result['broken'])
    assert 'rclpy' in result['lacking']['run the nodes and twins (dmo up, dmo demo)']
    assert 'rclpy' not in result['lacking']['train']


def test_a_robot_without_torch_can_still_run_a_policy(without):
    without('torch', 'onnx', 'onnxscript', 'safetensors')
    lacking = doctor.examine()['lacking']
    assert 'torch' not in lacking['run a policy']
    assert lacking['train'][:1] == ['torch'] and 'export' in lacking['export a policy']


def test_a_library_that_does_not_load_is_broken_not_missing(monkeypatch):
    def broken(name):
        raise ImportError('libcudart.so.12: cannot open shared object file')

    monkeypatch.setattr(doctor.importlib, 'import_module', broken)
    assert doctor.check_torch().state == doctor.BROKEN
    assert doctor.check_rclpy().state == doctor.BROKEN
    assert doctor.main([]) == 1


def test_a_check_that_raises_does_not_end_the_report(monkeypatch):
    def check_disk():
        raise PermissionError('no')

    monkeypatch.setattr(doctor, 'CHECKS', (check_disk, doctor.check_python))
    monkeypatch.setattr(doctor, 'ABILITIES', {})
    result = doctor.examine()
    assert result['broken'] == ['disk'] and 'PermissionError' in doctor.report(result)


def test_two_onnxruntimes_are_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, 'version_of', lambda name: '1.0')
    found = doctor.check_onnxruntime()
    assert found.state == doctor.BROKEN and 'overwrite' in found.detail


@pytest.mark.parametrize(
    'reach,old,state',
    [
        ('LOCALHOST', '', 'ok'),
        ('localhost', '', 'ok'),
        ('', '1', 'ok'),
        ('', '', 'warn'),
        ('SUBNET', '', 'warn'),
        ('OFF', '', 'warn'),
        ('LOCALHOST', '1', 'warn'),
    ],
)
def test_discovery(monkeypatch, reach, old, state):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', reach)
    monkeypatch.setenv('ROS_LOCALHOST_ONLY', old)
    assert doctor.check_discovery().state == state


@pytest.mark.parametrize(
    'domain,state',
    [
        ('', 'ok'),
        ('0', 'ok'),
        ('101', 'ok'),
        ('102', 'warn'),
        ('232', 'warn'),
        ('x', 'broken'),
        ('-1', 'broken'),
        ('1.5', 'broken'),
    ],
)
def test_domains(monkeypatch, domain, state):
    monkeypatch.setenv('ROS_DOMAIN_ID', domain)
    assert doctor.check_domain().state == state


def test_a_profile_that_is_no_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', str(tmp_path / 'none.xml'))
    found = doctor.check_fastdds()
    assert found.state == doctor.BROKEN and 'none.xml' in found.detail


@pytest.mark.parametrize('free,state', [(1, 'warn'), (3, 'ok')])
def test_disk(monkeypatch, free, state):
    usage = type('Usage', (), {'free': free * 2**30})
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: usage)
    assert doctor.check_disk().state == state


def test_a_taken_port_is_noticed(monkeypatch):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        monkeypatch.setattr(doctor, 'TENSORBOARD_PORT', other.getsockname()[1])
        assert doctor.check_ports().state == doctor.WARN


def test_the_doctor_needs_nothing_but_python(monkeypatch):
    real = builtins.__import__

    def only_standard(name, *rest):
        if name.split('.')[0] in ('numpy', 'torch', 'rclpy', 'onnxruntime', 'cv2', 'yaml'):
            raise ModuleNotFoundError(name, name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', only_standard)
    importlib.reload(doctor)


# ---------------------------------------------------------------------- robots
@pytest.mark.parametrize('robot', sorted(doctor_robots.ROBOTS))
def test_a_robots_report_has_its_findings_and_its_abilities(robot, capsys):
    doctor.main(['--json', '--robot', robot])
    result = json.loads(capsys.readouterr().out)
    names = {found['name'] for found in result['findings']}
    assert names == set(doctor_robots.ROBOTS[robot])
    assert 'torch' not in names and result['lacking']
    others = {'go2': 'flexiv', 'g1': 'flexiv', 'flexiv': 'unitree'}
    assert others[robot] not in names


@pytest.mark.parametrize(
    'version, python, state, text',
    [
        (None, (3, 11), 'missing', 'worker_python'),
        (None, (3, 12), 'missing', 'dmo_ros[flexiv]'),
        ('1.9.4', (3, 12), 'ok', ''),
        ('2.0.0', (3, 10), 'ok', ''),
        ('2.1.0', (3, 12), 'broken', '<=2.0.0'),
    ],
)
def test_a_flexiv_sdk_is_judged_by_what_it_accepts(monkeypatch, version, python, state, text):
    monkeypatch.setattr(doctor_robots, 'version_of', lambda name: version)
    monkeypatch.setattr(doctor_robots.sys, 'version_info', python)
    found = doctor_robots.check_flexiv()
    assert found.state == state and text in found.fix


@pytest.mark.parametrize(
    'domain, state', [('', 'warn'), ('0', 'warn'), ('42', 'ok'), ('lab', 'broken')]
)
def test_the_robots_own_domain_is_told(monkeypatch, domain, state):
    monkeypatch.setenv('ROS_DOMAIN_ID', domain)
    assert doctor_robots.check_robot_domain().state == state
    doctor_robots.check_robot_ports()


def test_a_missing_opengl_names_the_packages(monkeypatch):
    pytest.importorskip('mujoco')
    monkeypatch.setattr(doctor_robots, '_DRAW', "raise SystemExit('no EGL')")
    found = doctor_robots.check_gl()
    assert found.state == 'missing' and 'libegl1' in found.fix and 'no EGL' in found.detail


def test_a_camera_that_may_not_be_read_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_robots, 'CAMERAS', tmp_path)
    assert doctor_robots.check_cameras().detail == 'none is plugged in'
    (tmp_path / 'usb-top-camera').touch()
    assert 'usb-top-camera' in doctor_robots.check_cameras().detail
    monkeypatch.setattr(doctor_robots.os, 'access', lambda path, mode: False)
    assert doctor_robots.check_cameras().state == 'warn'


def test_a_port_in_use_is_told(monkeypatch):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        monkeypatch.setattr(doctor_robots, 'SONIC_PORT', other.getsockname()[1])
        assert doctor_robots.check_robot_ports().state == 'warn'


def test_a_machine_without_the_unitree_sdk_is_told_how_to_get_it(without, monkeypatch):
    from dmo_ros.robots import unitree

    unitree.sdk.cache_clear()
    without('unitree_sdk2py')
    found = doctor_robots.check_unitree()
    unitree.sdk.cache_clear()
    assert found.state == 'missing' and 'dmo_ros[go2]' in found.fix
