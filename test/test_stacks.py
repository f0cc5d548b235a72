from dmo_ros.core.tasks import TASKS
from dmo_ros.stacks import Argument, get_stack, share, StackError, STACKS
from dmo_ros.up import command, main
import pytest


def processes(**given):
    return {process.name: process for process in get_stack('pusher').resolve(given)}


def test_only_what_is_asked_for_is_started():
    assert set(processes()) == {'gate', 'teleop', 'camera', 'twin'}
    assert set(processes(operator='play')) - set(processes()) == {'operator'}
    assert set(processes(record='bag')) - set(processes()) == {'recorder'}


def test_arguments_reach_the_nodes_typed():
    found = processes(operator='expert', speed='100', seed='7', record='bags/x')
    assert found['twin'].parameters == {'task': 'pusher', 'speed': 100.0, 'seed': 7}
    assert found['operator'].parameters == {'task': 'pusher', 'mode': 'expert', 'seed': 7}
    assert found['recorder'].parameters['path'] == 'bags/x'
    assert 'image_raw' in found['recorder'].parameters['topics']
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
    ],
)
def test_a_wrong_argument_is_named_before_anything_starts(given, text):
    with pytest.raises(StackError, match=text):
        get_stack('pusher').resolve(given)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(StackError, match='pusher'):
        get_stack('puscher')


@pytest.mark.parametrize('name', STACKS)
def test_a_stack_agrees_with_its_task_and_its_files(name):
    stack = STACKS[name]
    assert stack.task == name and name in TASKS
    assert share('config', stack.config) and share('launch', f'{name}.launch.py')
    for pad in next(a for a in stack.arguments if a.name == 'pad').choices:
        assert share('config', f'joy_{pad}.yaml')
    used = {
        value[1:-1]
        for node in stack.nodes
        for value in node.parameters.values()
        if isinstance(value, str) and value.startswith('{')
    }
    known = {argument.name for argument in stack.arguments}
    assert used | {node.when for node in stack.nodes if node.when} <= known
    assert all(argument.description for argument in stack.arguments)


def test_an_argument_refuses_what_it_cannot_be():
    assert Argument('n', 1, 'number').parse('5') == 5
    with pytest.raises(StackError, match='not a int'):
        Argument('n', 1, 'number').parse('5.5')


def test_the_command_explains_itself_and_its_refusals(capsys):
    assert main(['--help']) == 0
    assert 'operator:=none|play' in capsys.readouterr().out
    assert main(['pusher', 'spead:=2']) == 2
    assert 'did you mean speed?' in capsys.readouterr().err
    assert main(['pusher', 'play']) == 2
    assert 'name:=value' in capsys.readouterr().err
