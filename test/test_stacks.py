from pathlib import Path

from dmo_ros.arguments import PADS, UNITREE
from dmo_ros.core.tasks import get_task, TASKS
from dmo_ros.core.topics import RECORDED
from dmo_ros.graph import foreign
from dmo_ros.stacks import Argument, get_stack, GRAPHS, share, StackError, STACKS
from dmo_ros.up import command, main
import pytest

ROBOTS = ('push_t', 'push_cube', 'grab_box')
BRIDGES = {'push_t': 'flexiv_bridge', 'push_cube': 'go2_bridge', 'grab_box': 'g1_bridge'}
# What has to be said to reach a real robot, beside robot:=real.
REAL = {
    'push_t': {'interface': 'eth0', 'camera': '/dev/video0', 'serial': 'Rizon10s-062001'},
    'push_cube': {'interface': 'eth0'},
    'grab_box': {'interface': 'eth0', 'camera': '/dev/video0'},
}


@pytest.fixture(autouse=True)
def domain(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '42')
    monkeypatch.delenv('ROS_DISTRO', raising=False)


def processes(task='pusher', **given):
    return {process.name: process for process in get_stack(task).resolve(given)}


def test_only_what_is_asked_for_is_started():
    assert set(processes()) == {'gate', 'teleop', 'camera', 'twin'}
    assert set(processes(operator='play')) - set(processes()) == {'operator'}
    assert set(processes(record='bag')) - set(processes()) == {'recorder'}


def test_arguments_reach_the_nodes_typed():
    found = processes(operator='expert', speed='100', seed='7', record='bags/x')
    assert found['twin'].parameters == {'task': 'pusher', 'speed': 100.0, 'seed': 7}
    assert found['operator'].parameters == {'task': 'pusher', 'mode': 'expert', 'seed': 7}
    assert found['recorder'].parameters['path'] == 'bags/x'
    assert found['recorder'].parameters['topics'] == RECORDED
    assert found['recorder'].parameters['use_sim_time'] is True
    assert not found['recorder'].required and found['gate'].required


def test_the_command_line_keeps_types_apart():
    line = ' '.join(command(processes(speed=3, seed=3)['twin']))
    assert '-p speed:=3.0' in line and '-p seed:=3' in line and '-p task:="pusher"' in line
    assert '-r __node:=twin' in line and '-r __ns:=/' in line


def test_a_namespace_takes_the_clock_along():
    twin = processes(namespace='/lab/')['twin']
    assert twin.namespace == '/lab' and twin.remaps == {'/clock': 'clock'}
    assert processes()['twin'].namespace == '/' and not processes()['twin'].remaps


def test_extra_parameters_go_to_the_node_they_name():
    found = get_stack('pusher').resolve({}, {'camera': {'frozen_after': 3}})
    assert {p.name: p for p in found}['camera'].parameters['frozen_after'] == 3
    with pytest.raises(StackError, match='no node recorder'):
        get_stack('pusher').resolve({}, {'recorder': {'limit': 3}})


@pytest.mark.parametrize(
    'given, text',
    [
        ({'oprator': 'play'}, 'mean operator'),
        ({'operator': 'dance'}, 'not one of none, play'),
        ({'speed': 'fast'}, 'not a float'),
        ({'robot': 'real'}, 'twin only'),
        ({'policy': 'no/such.onnx'}, 'dmo export'),
        ({'zzz': 1}, 'it takes robot'),
        ({'joy': 'perhaps'}, 'not a bool'),
        ({'trusted_keys': 'ab'}, 'about a policy'),
        ({'peers': 'a;b'}, 'commas between'),
    ],
)
def test_a_wrong_argument_is_named_before_anything_starts(given, text):
    with pytest.raises(StackError, match=text):
        get_stack('pusher').resolve(given)


# ---------------------------------------------------------------------- real robots' graphs
@pytest.mark.parametrize('task', ROBOTS)
def test_a_twin_and_a_real_robot_have_the_same_nodes_but_the_twin_and_its_operator(task):
    twin = processes(task, operator='play', record='bag')
    real = processes(task, robot='real', record='bag', **REAL[task])
    assert set(twin) - set(real) == {'twin', 'operator'} and set(real) <= set(twin)
    assert {'gate', 'teleop', 'camera', 'recorder', BRIDGES[task]} <= set(real)


@pytest.mark.parametrize('task', ROBOTS)
def test_nothing_starts_by_itself_on_a_real_robot(task, tmp_path):
    policy = tmp_path / 'policy.onnx'
    policy.touch()
    for robot, expected in (('twin', True), ('real', False)):
        more = REAL[task] if robot == 'real' else {}
        found = processes(task, robot=robot, policy=str(policy), record='bag', **more)
        for node in ('policy', BRIDGES[task]):
            assert found[node].parameters['autostart'] is expected
        for node in ('recorder', BRIDGES[task]):
            assert found[node].parameters['use_sim_time'] is expected
        assert found[BRIDGES[task]].parameters['robot'] == robot


@pytest.mark.parametrize('task', ROBOTS)
def test_only_a_real_robots_camera_is_asked_for_frozen_pictures(task):
    assert processes(task)['camera'].parameters['frozen_after'] == 0
    real = processes(task, robot='real', **REAL[task])['camera'].parameters
    assert 'frozen_after' not in real and 'future_tolerance' not in real, 'their defaults hold'


@pytest.mark.parametrize(
    'camera, source, topic, path',
    [
        ('', 'go2', 'camera/image', ''),
        ('robot', 'go2', 'camera/image', ''),
        ('multicast', 'multicast', 'camera/image', ''),
        ('/dev/v4l/by-id/usb-a', 'device', 'camera/image', '/dev/v4l/by-id/usb-a'),
        ('/camera/color/image_raw', 'topic', '/camera/color/image_raw', ''),
        (__file__, 'file', 'camera/image', __file__),
    ],
)
def test_the_camera_argument_says_where_pictures_come_from(camera, source, topic, path):
    found = processes('push_cube', robot='real', interface='eth0', camera=camera)['camera']
    given = found.parameters
    assert (given['source'], given['topic'], given['path']) == (source, topic, path)


def test_a_twin_faster_than_time_is_in_lockstep():
    assert processes('push_cube', speed=20)['go2_bridge'].parameters['lockstep'] is True
    assert processes('push_cube')['go2_bridge'].parameters['lockstep'] is False


@pytest.mark.parametrize(
    'task, given, text',
    [
        *((task, {'interface': ''}, 'ip link') for task in ROBOTS),
        *((task, {'speed': 2.0}, 'speed:=1') for task in ROBOTS),
        *((task, {'operator': 'play'}, 'driven by a person') for task in ROBOTS),
        *((task, {'camera': 'robot'}, 'name its device') for task in ('push_t', 'grab_box')),
        *((task, {'camera': ''}, 'camera:= is empty') for task in ('push_t', 'grab_box')),
        ('push_t', {'serial': ''}, 'serial:= is empty'),
    ],
)
def test_what_does_not_go_with_a_real_robot_is_refused(task, given, text):
    with pytest.raises(StackError, match=text):
        get_stack(task).resolve({'robot': 'real', **REAL[task], **given})


@pytest.mark.parametrize('task', ROBOTS)
def test_a_unitree_robots_own_domain_is_refused_for_ros(task, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '0')
    given = {'robot': 'real', **REAL[task]}
    if get_task(task).robot in UNITREE:
        with pytest.raises(StackError, match='ROS_DOMAIN_ID'):
            get_stack(task).resolve(given)
    else:
        assert get_stack(task).resolve(given)
    assert get_stack(task).resolve({}), 'a twin has a domain of its own'


def test_a_domain_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', 'lab')
    with pytest.raises(StackError, match="'lab'"):
        get_stack('push_cube').resolve({'robot': 'real', 'interface': 'eth0'})


def test_a_scripted_person_has_an_axis_for_every_field_and_a_real_one_has_a_pad():
    names = {
        operator: [path.name for path in processes('grab_box', operator=operator)['gate'].config]
        for operator in ('none', 'play')
    }
    assert names['none'] == ['grab_box.yaml', 'joy_xbox.yaml']
    assert names['play'] == [*names['none'], 'grab_box_operator.yaml']


def test_a_twin_speaks_to_nobody_outside():
    with pytest.raises(StackError, match='robot:=real'):
        get_stack('push_cube').resolve({'interface': 'eth0'})


@pytest.mark.parametrize('given', [{'speed': 2.0}, {'operator': 'play'}])
def test_what_needs_the_twins_own_frames_does_not_go_with_the_robots_camera(given):
    with pytest.raises(StackError, match='camera:=robot'):
        get_stack('push_cube').resolve({'camera': 'robot', **given})
    assert processes('push_cube', camera='robot')['camera'].parameters['source'] == 'go2'


def test_a_dry_run_needs_no_interface_unless_pictures_come_from_the_robot():
    dry = {'robot': 'real', 'sink': 'dry_run'}
    assert processes('push_cube', camera='/dev/video0', **dry)
    with pytest.raises(StackError, match='interface'):
        get_stack('push_cube').resolve(dry)


def test_other_machines_take_part_only_when_named():
    found = processes('push_cube', peers='10.0.0.2, 10.0.0.3')
    wanted = {'ROS_STATIC_PEERS': '10.0.0.2;10.0.0.3'}
    assert all(process.environment == wanted for process in found.values())
    assert not any(process.environment for process in processes('push_cube').values())


def test_joy_is_ros_own_node_and_a_missing_package_is_named(monkeypatch, tmp_path):
    joy = processes('push_cube', joy='true')['joy']
    assert (joy.package, joy.executable) == ('joy', 'joy_node')
    assert 'task' not in joy.parameters and not joy.config
    assert joy.parameters['autorepeat_rate'] >= 20.0
    assert 'joy' not in processes('push_cube', joy='false')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    with pytest.raises(StackError, match='ros-<distro>-joy'):
        foreign('joy', 'joy_node')
    program = tmp_path / 'lib/joy/joy_node'
    program.parent.mkdir(parents=True)
    program.touch()
    assert command(joy)[0] == str(program)


def test_the_robots_own_remote_is_listened_to_when_it_is_the_pad():
    remote = processes('push_cube', robot='real', interface='eth0', pad='unitree')['remote']
    assert remote.parameters == {'robot': 'real', 'interface': 'eth0'}
    assert 'remote' not in processes('push_cube')
    assert 'remote' not in processes('push_cube', pad='unitree', operator='play')
    with pytest.raises(StackError, match='remote of a Go2 or G1'):
        get_stack('push_t').resolve({'pad': 'unitree'})


def test_record_play_is_the_tasks_own_graph_recording():
    given = {'operator': 'play', 'seed': '3'}
    same = get_stack('push_t').resolve({**given, 'record': 'play_{n}'})
    assert get_stack('record_play').resolve({'task': 'push_t', **given}) == same
    assert any(process.name == 'recorder' for process in same)
    with pytest.raises(StackError, match='push_cube has no argument .serial'):
        get_stack('record_play').resolve({'task': 'push_cube', 'serial': 'Rizon10s-1'})


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(StackError, match='pusher, push_t'):
        get_stack('puscher')


@pytest.mark.parametrize('name', STACKS)
def test_a_stack_agrees_with_its_task_and_its_files(name):
    stack = STACKS[name]
    assert stack.task == name and name in TASKS
    assert share('config', stack.config) and share('launch', f'{stack.launch}.launch.py')
    for pad in next(a for a in stack.arguments if a.name == 'pad').choices:
        assert share('config', f'joy_{pad}.yaml')
    used = {
        value[1:-1]
        for node in stack.nodes
        for value in node.parameters.values()
        if isinstance(value, str) and value.startswith('{')
    }
    known = {argument.name for argument in stack.arguments}
    known |= set(stack.derive(stack, stack.parse({})))
    assert used | {node.when for node in stack.nodes if node.when} <= known
    assert {p.stem for p in Path(share('config', stack.config)).parent.glob('joy_*')} == {
        f'joy_{pad}' for pad in PADS
    }
    assert all(argument.description for argument in stack.arguments)


def test_every_graph_has_its_launch_file_and_every_task_its_graph():
    assert len({graph.launch for graph in GRAPHS.values()}) == len(GRAPHS)
    assert all(share('launch', f'{graph.launch}.launch.py') for graph in GRAPHS.values())
    assert set(STACKS) == set(TASKS)


def test_an_argument_refuses_what_it_cannot_be():
    assert Argument('n', 1, 'number').parse('5') == 5
    with pytest.raises(StackError, match='not a int'):
        Argument('n', 1, 'number').parse('5.5')


def test_the_command_explains_itself_and_its_refusals(capsys):
    assert main(['--help']) == 0
    assert 'record_play' in capsys.readouterr().out
    assert main(['push_t', '--help']) == 0
    told = capsys.readouterr().out
    assert 'operator:=none|play' in told and 'serial:=str' in told
    assert main(['pusher', 'spead:=2']) == 2
    assert 'did you mean speed?' in capsys.readouterr().err
    assert main(['pusher', 'play']) == 2
    assert 'name:=value' in capsys.readouterr().err
