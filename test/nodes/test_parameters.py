from dataclasses import dataclass, field
import importlib

from dmo_ros.nodes.parameters import declare, names, parameter, ParameterError
import pytest
import rclpy
from rclpy.parameter import Parameter

NODES = {
    'camera': 'CameraConfig',
    'gate': 'GateNodeConfig',
    'operator': 'OperatorConfig',
    'policy': 'PolicyConfig',
    'teleop': 'TeleopConfig',
    'twin': 'TwinConfig',
}


@dataclass(frozen=True)
class Inner:
    axes: tuple[int, ...] = field(default=(0, 1), metadata={'description': 'axes'})


@dataclass(frozen=True)
class Config:
    timeout: float = parameter(0.2, 'seconds', 0.1, 0.5)
    count: int = parameter(3, 'how many', 0, 5)
    mode: str = parameter('a', 'which', choices=('a', 'b'))
    inner: Inner = field(default=Inner())


@pytest.fixture(scope='module', autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def make():
    nodes = []

    def build(**overrides):
        given = [
            Parameter(name.replace('__', '.'), value=value) for name, value in overrides.items()
        ]
        nodes.append(rclpy.create_node('tested', parameter_overrides=given))
        return nodes[-1], declare(nodes[-1], Config)

    yield build
    for node in nodes:
        node.destroy_node()


def test_defaults_and_overrides_arrive_typed(make):
    assert make()[1] == Config()
    node, config = make(timeout=0.3, mode='b', inner__axes=[2, 3])
    assert config == Config(0.3, 3, 'b', Inner((2, 3)))
    described = node.describe_parameter('timeout')
    assert described.description == 'seconds' and described.read_only
    assert described.floating_point_range[0].to_value == 0.5
    assert 'one of a, b' in node.describe_parameter('mode').additional_constraints


@pytest.mark.parametrize(
    'wrong, text',
    [
        ({'timeout': 0.6}, '0.1 to 0.5'),
        ({'timeout': 0.0}, '0.1 to 0.5'),
        ({'timeout': float('nan')}, 'timeout'),
        ({'timeout': 1}, 'like 0.2'),
        ({'timeout': 'fast'}, 'like 0.2'),
        ({'count': 6}, '0 to 5'),
        ({'count': 1.0}, 'like 3'),
        ({'mode': 'c'}, 'one of a, b'),
        ({'timeot': 0.2}, "mean 'timeout'"),
        ({'inner__axis': [1, 2]}, "mean 'inner.axes'"),
        ({'zzz': 1}, 'it has timeout, count'),
    ],
)
def test_each_wrong_override_is_refused_with_what_to_write(make, wrong, text):
    with pytest.raises(ParameterError, match=text):
        make(**wrong)


def test_what_rclpy_itself_understands_is_left_alone(make):
    assert make(use_sim_time=False)[1] == Config()


@pytest.mark.parametrize('node', NODES)
def test_every_parameter_of_every_node_is_described_and_numbers_have_a_range(node):
    kind = getattr(importlib.import_module(f'dmo_ros.nodes.{node}'), NODES[node])
    tested = rclpy.create_node(f'describes_{node}')
    declare(tested, kind)
    for name in names(kind):
        described = tested.describe_parameter(name)
        assert described.description, name
        if '.' not in name and isinstance(tested.get_parameter(name).value, (int, float)):
            ranged = described.floating_point_range or described.integer_range
            assert ranged or isinstance(tested.get_parameter(name).value, bool), name
    tested.destroy_node()
