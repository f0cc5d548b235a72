"""
Which processes make up a task's graph: one description, read by ``launch/*.launch.py`` and ``dmo
up``.

A :class:`Stack` is plain data.  :meth:`Stack.resolve` turns arguments (``operator:=play``) into
:class:`Process` es; :func:`launch_description` hands these to ROS's launch, :mod:`dmo_ros.up`
starts them itself.  So the two cannot drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import difflib
import os
from pathlib import Path
import sys
from typing import Any

from .core.tasks import get_task


class StackError(ValueError):
    """An argument that is unknown, wrong, or does not go with another."""


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` a person may give; the default's type is the argument's type."""

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()

    def parse(self, value: Any) -> Any:
        """Return ``value`` in the argument's type, or raise StackError."""
        try:
            parsed = type(self.default)(value)
        except ValueError as error:
            raise StackError(
                f'{self.name}:={value} is not a {type(self.default).__name__}; {self.description}'
            ) from error
        if self.choices and parsed not in self.choices:
            raise StackError(f'{self.name}:={value} is not one of {", ".join(self.choices)}')
        return parsed


@dataclass(frozen=True)
class NodeSpec:
    """
    One node of a stack.

    ``parameters`` may hold ``'{argument}'``, which is replaced by the argument's value, type and
    all. ``when`` names the argument without which (empty or 'none') the node is left out.  The end
    of a ``required`` node ends the graph.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    when: str = ''
    required: bool = True


@dataclass(frozen=True)
class Process:
    """A node with everything filled in, ready to be started."""

    name: str
    namespace: str
    config: tuple[Path, ...]
    parameters: dict[str, Any]
    remaps: dict[str, str]
    required: bool


@dataclass(frozen=True)
class Stack:
    """A task's graph."""

    task: str
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[NodeSpec, ...]
    config: str
    recorded: tuple[str, ...]

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments with defaults filled in; StackError names a wrong one."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f'did you mean {near[0]}?' if near else f'it takes {", ".join(known)}'
                raise StackError(f'{self.task} has no argument {name!r}; {hint}')
        values = {
            name: argument.parse(given.get(name, argument.default))
            for name, argument in known.items()
        }
        _check_together(self, values)
        return values

    def resolve(
        self, given: Mapping[str, Any], parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[Process]:
        """Return the processes for these arguments; ``parameters`` adds values per node name."""
        values = self.parse(given)
        extra = dict(parameters or {})
        processes = [
            self._process(node, values, extra.pop(node.name, {}))
            for node in self.nodes
            if not node.when or values[node.when] not in ('', 'none')
        ]
        if extra:
            raise StackError(
                f'this graph has no node {", ".join(extra)}; it has '
                f'{", ".join(process.name for process in processes)}'
            )
        return processes

    def _process(
        self, node: NodeSpec, values: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> Process:
        filled = {name: _fill(value, values) for name, value in node.parameters.items()}
        files = [share('config', self.config)]
        if values.get('pad'):
            files.append(share('config', f'joy_{values["pad"]}.yaml'))
        namespace = values.get('namespace', '').strip('/')
        return Process(
            name=node.name,
            namespace=f'/{namespace}',
            config=tuple(files),
            parameters={'task': self.task, **filled, **extra},
            remaps={'/clock': 'clock'} if namespace else {},
            required=node.required,
        )


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith('{') and value.endswith('}'):
        return values[value[1:-1]]
    return value


def _check_together(stack: Stack, values: Mapping[str, Any]) -> None:
    """Refuse what cannot go together, before anything is started."""
    if values['robot'] == 'real' and get_task(stack.task).robot == stack.task:
        raise StackError(f'{stack.task} exists as a twin only; leave robot:=real away')
    if values['robot'] == 'real' and values['speed'] != 1.0:
        raise StackError(f'speed:={values["speed"]:g} is for twins; a real robot runs at speed:=1')
    if values['policy'] and not Path(values['policy']).is_file():
        raise StackError(f'policy:={values["policy"]} is not a file; make one with dmo export')


def share(folder: str, name: str) -> Path:
    """
    Find ``config/name`` or ``launch/name``: beside the package's source, else where it is
    installed.

    :raises StackError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    installed = [*package.parents, *(Path(prefix) for prefix in prefixes if prefix)]
    places = [
        package.parent / folder / name,
        *(prefix / 'share' / 'dmo_ros' / folder / name for prefix in installed),
    ]
    for place in places:
        if place.is_file():
            return place
    raise StackError(
        f'{folder}/{name} was found neither beside {package} nor in an installed '
        'share/dmo_ros; install the package again'
    )


def environment() -> dict[str, str]:
    """
    Return what the graph's processes need on top of the environment, unless it is set already.

    Room for large images in Fast DDS's shared memory, discovery on this machine only (set
    ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET yourself to be seen by others), and prompt output.
    """
    profile = str(share('config', 'fastdds.xml'))
    wanted = {
        'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'PYTHONUNBUFFERED': '1',
    }
    if os.environ.get('ROS_DISTRO') == 'humble':  # knows only the older name
        wanted['ROS_LOCALHOST_ONLY'] = '1'
    return {name: value for name, value in wanted.items() if name not in os.environ}


ARGUMENTS = (
    Argument('robot', 'twin', 'the simulated robot or the real one', ('twin', 'real')),
    Argument(
        'operator',
        'none',
        'scripted person: plays, drives to the goal, drives at random, '
        'watches a policy, or none (a real pad publishes joy)',
        ('none', 'play', 'expert', 'random', 'watch'),
    ),
    Argument('policy', '', 'deployable policy (.onnx); empty for none'),
    Argument('record', '', 'folder of the bag to record; empty for none'),
    Argument('speed', 1.0, 'how many times faster than real time a twin may run'),
    Argument('seed', 0, 'seed of the twin and of the operator'),
    Argument('pad', 'xbox', 'buttons of the pad', ('xbox', 'dualsense')),
    Argument('namespace', '', 'namespace of the whole graph'),
)
RECORDED = (
    'image_raw',
    'camera_info',
    'cmd',
    'cmd_teleop',
    'cmd_policy',
    'intent',
    'joy',
    'gate/status',
    'policy/status',
    'diagnostics',
    'twin/state',
    'clock',
)

STACKS: dict[str, Stack] = {
    'pusher': Stack(
        task='pusher',
        description='a disc tool pushes a disc to a goal (a twin)',
        arguments=ARGUMENTS,
        config='pusher.yaml',
        recorded=RECORDED,
        nodes=(
            NodeSpec(
                'recorder', {'path': '{record}', 'topics': RECORDED}, 'record', required=False
            ),
            NodeSpec('gate'),
            NodeSpec('teleop'),
            NodeSpec('camera'),
            NodeSpec('policy', {'path': '{policy}', 'autostart': True}, 'policy'),
            NodeSpec('operator', {'mode': '{operator}', 'seed': '{seed}'}, 'operator'),
            NodeSpec('twin', {'speed': '{speed}', 'seed': '{seed}'}),
        ),
    ),
}


def get_stack(task: str) -> Stack:
    """Return a task's stack; StackError lists the ones there are."""
    if task not in STACKS:
        raise StackError(f'there is no graph for task {task!r} yet; choose {", ".join(STACKS)}')
    return STACKS[task]


def launch_description(task: str) -> Any:
    """Return ROS's LaunchDescription of a stack, with all its arguments."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    stack = get_stack(task)

    def start(context: Any) -> list[Any]:
        given = {
            argument.name: context.launch_configurations[argument.name]
            for argument in stack.arguments
        }
        return [_launch_node(process) for process in stack.resolve(given)]

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    a.name,
                    default_value=str(a.default),
                    description=a.description,
                    choices=list(a.choices) or None,
                )
                for a in stack.arguments
            ),
            *(SetEnvironmentVariable(name, value) for name, value in environment().items()),
            OpaqueFunction(function=start),
        ]
    )


def _launch_node(process: Process) -> Any:
    from launch.actions import Shutdown
    from launch_ros.actions import Node

    return Node(
        package='dmo_ros',
        executable=process.name,
        name=process.name,
        namespace=process.namespace,
        parameters=[*map(str, process.config), plain(process.parameters)],
        remappings=list(process.remaps.items()),
        output='screen',
        emulate_tty=False,
        on_exit=[Shutdown(reason=f'{process.name} has ended')] if process.required else [],
    )


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with tuples as lists, which is what YAML and launch know."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in parameters.items()
    }
