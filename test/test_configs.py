"""Every file in config/ and launch/ means something to somebody."""

import importlib
import json
from pathlib import Path
import sys
import types
import xml.etree.ElementTree as ElementTree

from dmo_ros.arguments import PADS, REMOTE, UNITREE
from dmo_ros.core.tasks import get_task
from dmo_ros.core.topics import RECORDED
from dmo_ros.stacks import GRAPHS, plain
import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / 'config').glob('*.yaml'))
LAUNCHES = sorted((ROOT / 'launch').glob('*.launch.py'))
NODES = {
    'camera': 'CameraConfig',
    'flexiv_bridge': 'FlexivBridgeConfig',
    'g1_bridge': 'G1BridgeConfig',
    'go2_bridge': 'Go2BridgeConfig',
    'gate': 'GateNodeConfig',
    'operator': 'OperatorConfig',
    'policy': 'PolicyConfig',
    'teleop': 'TeleopConfig',
    'twin': 'TwinConfig',
}


def keys(tree, prefix=''):
    for name, value in tree.items():
        yield from keys(value, f'{prefix}{name}.') if isinstance(value, dict) else [prefix + name]


@pytest.mark.ros
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_every_key_is_a_declared_parameter(path):
    from dmo_ros.nodes.parameters import names

    for pattern, tree in yaml.safe_load(path.read_text()).items():
        node = pattern.rsplit('/', 1)[-1]
        assert pattern == f'/**/{node}' and list(tree) == ['ros__parameters']
        kind = getattr(importlib.import_module(f'dmo_ros.nodes.{node}'), NODES[node])
        assert set(keys(tree['ros__parameters'])) <= set(names(kind)), node


@pytest.mark.ros
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize('namespace', ['/', '/lab'])
def test_ros_reads_the_file_and_the_values_reach_the_node(path, namespace):
    """ROS's own YAML reader takes y and on for booleans, and stops at mixed lists."""
    import rclpy
    from rclpy.context import Context

    for pattern, tree in yaml.safe_load(path.read_text()).items():
        context = Context()
        rclpy.init(args=['--ros-args', '--params-file', str(path)], context=context)
        node = rclpy.create_node(pattern.rsplit('/', 1)[-1], namespace=namespace, context=context)
        assert set(node._parameter_overrides) == set(keys(tree['ros__parameters']))
        node.destroy_node()
        rclpy.shutdown(context=context)


def merged(process):
    """Return the pad map that a process ends up with: later files win."""
    from dmo_ros.core.intent import PadMap

    found = {}
    for path in process.config:
        tree = yaml.safe_load(path.read_text()).get(f'/**/{process.name}', {})
        found |= tree.get('ros__parameters', {}).get('pad', {})
    return PadMap(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})


@pytest.mark.parametrize('task', [name for name in GRAPHS if name != 'record_play'])
@pytest.mark.parametrize('pad', PADS)
@pytest.mark.parametrize('operator', ['none', 'play'])
def test_everybody_who_reads_the_pad_reads_it_alike_and_it_fits_the_task(task, pad, operator):
    if pad == REMOTE and get_task(task).robot not in UNITREE:
        return  # refused: test_stacks
    given = {'pad': pad, 'operator': operator}
    readers = [p for p in GRAPHS[task].resolve(given) if p.name in ('teleop', 'gate', 'operator')]
    maps = [merged(process) for process in readers]
    assert len(maps) == 2 + (operator != 'none') and all(found == maps[0] for found in maps)
    maps[0].check(get_task(task))


def test_the_profile_makes_room_for_large_images():
    profile = ElementTree.parse(ROOT / 'config' / 'fastdds.xml')
    sizes = [int(part.text) for part in profile.iter() if part.tag.endswith('segment_size')]
    assert sizes and min(sizes) >= 4 * 640 * 480 * 3


class Recorded:
    """Stands for any of launch's classes and only remembers how it was made."""

    made: list = []

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        Recorded.made.append(self)


def fake_launch(monkeypatch):
    Recorded.made = []
    kinds = {
        'launch': ['LaunchDescription'],
        'launch_ros': [],
        'launch_ros.actions': ['Node'],
        'launch.actions': [
            'DeclareLaunchArgument',
            'OpaqueFunction',
            'Shutdown',
            'SetEnvironmentVariable',
        ],
    }
    for name, classes in kinds.items():
        module = types.ModuleType(name)
        for kind in classes:
            setattr(module, kind, type(kind, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)


def load(path):
    spec = importlib.util.spec_from_file_location('launched', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize('path', LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_starts_what_the_runner_starts(path, monkeypatch):
    fake_launch(monkeypatch)
    actions = load(path).args[0]
    name = path.name.removesuffix('.launch.py')
    stack = next(graph for graph in GRAPHS.values() if graph.launch == name)
    of_kind = {}
    for action in actions:
        of_kind.setdefault(type(action).__name__, []).append(action)
    declared = of_kind['DeclareLaunchArgument']
    assert [a.args[0] for a in declared] == [a.name for a in stack.arguments]
    assert all(a.kwargs['description'] for a in declared)
    given = {a.args[0]: a.kwargs['default_value'] for a in declared}
    given |= {'operator': 'play', 'speed': '50'}
    context = types.SimpleNamespace(launch_configurations=given)
    nodes = of_kind['OpaqueFunction'][0].kwargs['function'](context)
    processes = stack.resolve({'operator': 'play', 'speed': 50})
    assert [node.kwargs['executable'] for node in nodes] == [p.name for p in processes]
    for node, process in zip(nodes, processes):
        assert node.kwargs['parameters'][-1] == plain(process.parameters)
        assert node.kwargs['package'] == 'dmo_ros' and node.kwargs['namespace'] == '/'
        assert node.kwargs['additional_env'] == process.environment
        assert bool(node.kwargs['on_exit']) == process.required


@pytest.mark.parametrize('path', LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_loads_in_the_real_launch(path):
    pytest.importorskip('launch.actions')
    pytest.importorskip('launch_ros.actions')
    assert load(path).entities


LAYOUTS = sorted((ROOT / 'config').glob('foxglove_*.json'))


def named(tree):
    """Return every value of a layout that starts with a slash: topics, services, paths."""
    if isinstance(tree, dict):
        return [found for value in tree.values() for found in named(value)]
    if isinstance(tree, list):
        return [found for value in tree for found in named(value)]
    return [tree] if isinstance(tree, str) and tree.startswith('/') else []


def panels(tree):
    return panels(tree['first']) + panels(tree['second']) if isinstance(tree, dict) else [tree]


def test_every_robots_task_has_a_layout():
    names = {path.stem.removeprefix('foxglove_') for path in LAYOUTS}
    assert names == {name for name in GRAPHS if name not in ('pusher', 'record_play')}


@pytest.mark.parametrize('path', LAYOUTS, ids=lambda path: path.name)
def test_a_layout_shows_panels_it_has_and_topics_that_are_recorded(path):
    layout = json.loads(path.read_text())
    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    assert not any(name.startswith('3D!') for name in layout['configById'])
    topics = {f'/{topic}' for topic in RECORDED}
    shown = [name.split('.')[0] for name in named(layout['configById'])]
    assert set(shown) <= topics | {'/gate/disarm'}
    assert {'/image_raw', '/gate/status', '/cmd', '/bridge/status', '/diagnostics'} <= set(shown)


@pytest.mark.ros
@pytest.mark.parametrize('path', LAYOUTS, ids=lambda path: path.name)
def test_what_a_layout_plots_is_in_the_messages(path):
    from dmo_ros.msg import IntentLabel, PolicyStatus
    from dmo_ros.nodes.convert import command_type
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import JointState

    command = command_type(get_task(path.stem.removeprefix('foxglove_')))
    kinds = dict.fromkeys(('/cmd', '/cmd_teleop', '/cmd_policy', '/bridge/sent'), command)
    kinds |= {'/odom': Odometry, '/joint_states': JointState}
    kinds |= {'/intent': IntentLabel, '/policy/status': PolicyStatus}
    for name in named(json.loads(path.read_text())):
        topic, *fields = name.split('.')
        value = kinds[topic]() if fields else None
        for field in fields:
            word, _, index = field.partition('[')
            value = getattr(value, word)
            assert not index or index == ':]' or int(index[:-1]) < len(value), name
