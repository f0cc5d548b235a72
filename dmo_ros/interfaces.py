"""
What a graph's nodes say, hear and serve: each is made once, in this process, and asked.

Nothing is connected to, opened or recorded by that: devices, files and recordings are left out,
and what would have been heard because of them is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
import importlib
import time
from typing import Any

from .graph import PACKAGE, parse, Process, Stack

PATIENCE = 10.0  # s until the middleware has told a node of itself
SETTLED = 0.3  # s without anything new
ELSEWHERE = 'camera/image'  # the camera hears it only while it is being asked
# What a camera, a policy and a recorder are made with here instead of what they would run with.
_HARMLESS: dict[str, dict[str, Any]] = {
    'camera': {'source': 'topic', 'calibration': ''},
    'recorder': {'autostart': False},
}


@dataclass(frozen=True)
class Interfaces:
    """Full names (``/gate/status``) by what a node does with them."""

    publishes: frozenset[str]
    subscribes: frozenset[str]
    serves: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()


def real_processes(stack: Stack, given: Mapping[str, Any]) -> list[Process]:
    """Return a stack's processes for a real robot, with everything that can be asked for."""
    everything = {'robot': 'real', 'policy': 'policy.onnx', 'record': 'bag', 'joy': True}
    values = {**parse(stack.launch, stack.arguments, given), **everything}
    return stack.processes(values)


def interfaces(process: Process) -> Interfaces:
    """Make a process's node, ask it, and end it again; needs ROS."""
    if process.package != PACKAGE:
        return _of_a_pad('joy', process.namespace.rstrip('/'), {'joy/set_feedback'})
    if process.name == 'remote':  # it listens to the robot from the start
        return _of_a_pad('remote', process.namespace.rstrip('/'), set())
    parameters = {**process.parameters, **_HARMLESS.get(process.name, {})}
    with _node(replace(process, parameters=parameters)) as node:
        found = _ask(node)
    here = process.namespace.rstrip('/')
    heard = set(found.subscribes)
    if process.parameters.get('source', 'topic') != 'topic':
        heard.discard(f'{here}/{process.parameters.get("topic", ELSEWHERE)}')
    heard |= {f'{here}/{topic}' for topic in process.parameters.get('topics', ())}
    return replace(found, subscribes=frozenset(heard))


@contextmanager
def _node(process: Process) -> Iterator[Any]:
    import rclpy

    from .up import command

    line = command(process)
    rclpy.init(args=[*line[line.index('--ros-args') :], '--log-level', 'fatal'])
    try:
        node = make_node(process.name)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def make_node(name: str) -> Any:
    """Make the node of a module: what its main() would spin; rclpy must have been initialised."""
    module = importlib.import_module(f'{PACKAGE}.nodes.{name}')
    if hasattr(module, 'make_node'):  # a bridge: one class for all, its own config
        return module.make_node()
    return node_class(module)()


def node_class(module: Any) -> Any:
    """Return the node class that a module defines."""
    return next(
        kind
        for key, kind in vars(module).items()
        if key.endswith('Node') and getattr(kind, '__module__', '') == module.__name__
    )


def _ask(node: Any) -> Interfaces:
    name, namespace = node.get_name(), node.get_namespace()

    def names(kind: str) -> frozenset[str]:
        by_node = getattr(node, f'get_{kind}_names_and_types_by_node')
        return frozenset(found for found, _ in by_node(name, namespace))

    def look() -> Interfaces:
        return Interfaces(
            names('publisher'), names('subscriber'), names('service'), names('client')
        )

    # The middleware tells a node of its own ends one by one: wait until nothing comes any more.
    until, before, found = time.monotonic() + PATIENCE, None, look()
    while time.monotonic() < until and (
        found != before or '/parameter_events' not in found.publishes
    ):
        time.sleep(SETTLED)
        before, found = found, look()
    return found


def _of_a_pad(name: str, here: str, heard: set[str]) -> Interfaces:
    """Return what a node has that publishes joy, and is not made here."""
    services = ('describe_parameters', 'get_parameter_types', 'get_parameters', 'list_parameters')
    setters = ('set_parameters', 'set_parameters_atomically', 'get_type_description')
    return Interfaces(
        frozenset({f'{here}/joy', '/rosout', '/parameter_events'}),
        frozenset({*(f'{here}/{topic}' for topic in heard), '/parameter_events'}),
        frozenset(f'{here}/{name}/{service}' for service in (*services, *setters)),
    )
