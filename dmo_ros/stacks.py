"""
Which processes make up a task's graph: one description, read by ``launch/*.launch.py`` and ``dmo
up``.

:func:`launch_description` hands a stack's processes to ROS's launch, :mod:`dmo_ros.up` starts them
itself.  So the two cannot drift.  The vocabulary is in :mod:`dmo_ros.graph`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .arguments import ARGUMENTS, check, COMMON, derive, FLEXIV, G1, REAL, ROBOT, TASK, UNITREE
from .core.tasks import get_task
from .core.topics import RECORDED
from .graph import (
    Argument,
    environment,
    NodeSpec,
    parse,
    plain,
    Process,
    share,
    Stack,
    StackError,
)

__all__ = [
    'Argument',
    'environment',
    'get_stack',
    'launch_description',
    'NodeSpec',
    'plain',
    'Process',
    'share',
    'Stack',
    'STACKS',
    'StackError',
]


def _nodes(task: str, bridge: str, own: Mapping[str, Any]) -> tuple[NodeSpec, ...]:
    """Return a real robot's graph; ``own`` are its bridge's further parameters."""
    remote = (_REMOTE,) if get_task(task).robot in UNITREE else ()
    camera = {
        'source': '{source}',
        'topic': '{topic}',
        'path': '{camera_path}',
        'robot': '{robot}',
        'interface': '{interface}',
    }
    return (
        NodeSpec(
            'recorder',
            {'path': '{record}', 'topics': RECORDED, 'use_sim_time': '{twin}'},
            'record',
            required=False,
        ),
        NodeSpec('gate', _GATE),
        NodeSpec('teleop'),
        _JOY,
        *remote,
        # A simulated scene may stand still, its stamps are the twin's time, its rate the task's.
        NodeSpec(
            'camera',
            {
                **camera,
                'rate_hz': '{rate}',
                'frozen_after': 0,
                'future_tolerance': 0.0,
                'use_sim_time': True,
            },
            only='twin',
        ),
        NodeSpec('camera', camera, only='real'),
        _POLICY,
        NodeSpec(
            bridge,
            {
                'robot': '{robot}',
                'sink': '{sink}',
                'interface': '{interface}',
                'lockstep': '{lockstep}',
                'autostart': '{twin}',
                'use_sim_time': '{twin}',
                **own,
            },
        ),
        replace(_OPERATOR, only='twin'),
        replace(_TWIN, only='twin'),
    )


_JOY = NodeSpec(
    'joy',
    {'autorepeat_rate': 50.0, 'deadzone': 0.0},  # the gate wants to hear it; teleop has the zone
    'joy',
    package='joy',
    executable='joy_node',
)
_REMOTE = NodeSpec(
    'remote', {'robot': '{robot}', 'interface': '{interface}'}, 'remote', general=True
)
_GATE = {'joy_timeout': '{joy_timeout}', 'held_up': '{held_up}'}
_POLICY = NodeSpec(
    'policy',
    {'path': '{policy}', 'trusted_keys': '{trusted_keys}', 'autostart': '{twin}'},
    'policy',
)
_OPERATOR = NodeSpec('operator', {'mode': '{operator}', 'seed': '{seed}'}, 'operator')
_TWIN = NodeSpec('twin', {'speed': '{speed}', 'seed': '{seed}'})


# ---------------------------------------------------------------------- the graphs
@dataclass(frozen=True)
class PlayStack(Stack):
    """The graph of whichever task is named with ``task:=``, recording."""

    def resolve(
        self, given: Mapping[str, Any], parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[Process]:
        """Return the processes of the named task's own graph."""
        values = parse(self.launch, self.arguments, given)
        stack = get_stack(values['task'])
        known = {argument.name for argument in stack.arguments}
        passed = {
            argument.name: values[argument.name]
            for argument in self.arguments[1:]
            if argument.name in known or values[argument.name] != argument.default
        }
        return stack.resolve(passed, parameters)


def _stack(
    task: str, launch: str, description: str, bridge: str, *more: Argument, scripted: str = ''
) -> Stack:
    own = {argument.name: f'{{{argument.name}}}' for argument in more}
    return Stack(
        task=task,
        launch=launch,
        description=description,
        arguments=(ROBOT, *REAL, *more, *COMMON),
        config=f'{task}.yaml',
        scripted=scripted,
        nodes=_nodes(task, bridge, own),
        check=check,
        derive=derive,
    )


STACKS: dict[str, Stack] = {
    'pusher': Stack(
        task='pusher',
        launch='pusher',
        description='a disc tool pushes a disc to a goal (a twin)',
        arguments=ARGUMENTS,
        config='pusher.yaml',
        check=check,
        derive=derive,
        nodes=(
            NodeSpec(
                'recorder',
                {'path': '{record}', 'topics': RECORDED, 'use_sim_time': True},
                'record',
                required=False,
            ),
            NodeSpec('gate', _GATE),
            NodeSpec('teleop'),
            _JOY,
            NodeSpec('camera'),
            _POLICY,
            _OPERATOR,
            _TWIN,
        ),
    ),
    'push_t': _stack(
        'push_t',
        'flexiv_push_t',
        'a Flexiv Rizon pushes a T into its outline',
        'flexiv_bridge',
        *FLEXIV,
    ),
    'push_cube': _stack(
        'push_cube', 'go2_push_cube', 'a Unitree Go2 pushes a cube into a goal', 'go2_bridge'
    ),
    'grab_box': _stack(
        'grab_box',
        'g1_grab_box',
        'a Unitree G1 takes a box by its handle',
        'g1_bridge',
        *G1,
        scripted='grab_box_operator.yaml',
    ),
}
RECORD_PLAY = PlayStack(
    task='',
    launch='record_play',
    description='the graph of any task, recording play data',
    arguments=(
        replace(TASK, choices=tuple(STACKS)),
        ROBOT,
        *REAL,
        *FLEXIV,
        *G1,
        *(replace(a, default='play_{n}') if a.name == 'record' else a for a in COMMON),
    ),
    nodes=(),
    config='',
    check=check,
    derive=derive,
)
GRAPHS: dict[str, Stack] = {**STACKS, 'record_play': RECORD_PLAY}


def get_stack(name: str) -> Stack:
    """Return the graph of a task, or 'record_play'; StackError lists the ones there are."""
    if name not in GRAPHS:
        raise StackError(f'there is no graph {name!r}; choose {", ".join(GRAPHS)}')
    return GRAPHS[name]


# ---------------------------------------------------------------------- ROS's launch
def launch_description(name: str) -> Any:
    """Return ROS's LaunchDescription of a stack, with all its arguments."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    stack = get_stack(name)

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
        package=process.package,
        executable=process.executable,
        name=process.name,
        namespace=process.namespace,
        parameters=[*map(str, process.config), plain(process.parameters)],
        remappings=list(process.remaps.items()),
        ros_arguments=['--enclave', process.enclave] if process.enclave else [],
        output='screen',
        emulate_tty=False,
        additional_env=process.environment,
        on_exit=[Shutdown(reason=f'{process.name} has ended')] if process.required else None,
    )
