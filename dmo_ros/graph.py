"""
What a graph of processes is made of: arguments, nodes, and how the one fills in the other.

A :class:`Stack` is plain data.  :meth:`Stack.resolve` turns arguments (``operator:=play``) into
:class:`Process` es.  The graphs themselves are in :mod:`dmo_ros.stacks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
import difflib
import os
from pathlib import Path
import sys
from typing import Any

PACKAGE = 'dmo_ros'
NOTHING: tuple[Any, ...] = ('', 'none', False)  # an argument that asks for nothing
_TRUTH = {'true': True, '1': True, 'false': False, '0': False}


class StackError(ValueError):
    """An argument that is unknown, wrong, or does not go with another."""


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` a person may give; the default's type is the argument's type."""

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()

    @property
    def values(self) -> str:
        """What may be given, for help texts and tables."""
        return ', '.join(self.choices) or type(self.default).__name__

    def parse(self, value: Any) -> Any:
        """Return ``value`` in the argument's type, or raise StackError."""
        try:
            parsed = self._convert(value)
        except (ValueError, KeyError) as error:
            raise StackError(
                f'{self.name}:={value} is not a {type(self.default).__name__}; {self.description}'
            ) from error
        if self.choices and parsed not in self.choices:
            raise StackError(f'{self.name}:={value} is not one of {", ".join(self.choices)}')
        return parsed

    def _convert(self, value: Any) -> Any:
        if isinstance(self.default, bool):  # bool('false') would be True
            return _TRUTH[str(value).lower()]
        return type(self.default)(value)


@dataclass(frozen=True)
class NodeSpec:
    """
    One node of a stack.

    ``parameters`` may hold ``'{argument}'``, which is replaced by the argument's value, type and
    all.  ``when`` names the argument without which (empty, 'none', false) the node is left out;
    ``only`` keeps it to ``robot:=twin`` or ``robot:=real``.  The end of a ``required`` node ends
    the graph.  ``general`` nodes have no parameter ``task``; ``package`` and ``executable`` are
    for nodes of others.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    when: str = ''
    only: str = ''
    required: bool = True
    general: bool = False
    package: str = PACKAGE
    executable: str = ''

    def wanted(self, values: Mapping[str, Any]) -> bool:
        """Tell whether these arguments ask for the node."""
        if self.only and values['robot'] != self.only:
            return False
        return not self.when or values[self.when] not in NOTHING


@dataclass(frozen=True)
class Process:
    """A node with everything filled in, ready to be started."""

    name: str
    namespace: str
    config: tuple[Path, ...]
    parameters: dict[str, Any]
    remaps: dict[str, str]
    required: bool
    package: str = PACKAGE
    executable: str = ''
    environment: dict[str, str] = field(default_factory=dict)
    enclave: str = ''


@dataclass(frozen=True)
class Stack:
    """
    A task's graph.

    ``launch`` names its launch file, ``scripted`` a config file that is read last when a scripted
    person drives.  ``check`` refuses arguments that do not go together;
    ``derive`` adds values that nodes' parameters may name and nobody gives.
    """

    task: str
    launch: str
    description: str
    arguments: tuple[Argument, ...]
    nodes: tuple[NodeSpec, ...]
    config: str
    check: Callable[[Stack, Mapping[str, Any]], None]
    derive: Callable[[Stack, Mapping[str, Any]], dict[str, Any]]
    scripted: str = ''

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments with defaults filled in; StackError names a wrong one."""
        values = parse(self.task, self.arguments, given)
        self.check(self, values)
        return values

    def resolve(
        self, given: Mapping[str, Any], parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[Process]:
        """Return the processes for these arguments; ``parameters`` adds values per node name."""
        return self.processes(self.parse(given), parameters)

    def processes(
        self, values: Mapping[str, Any], parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[Process]:
        """Return the processes for all arguments' values, unchecked."""
        filled = {**values, **self.derive(self, values)}
        extra = dict(parameters or {})
        processes = [
            self._process(node, filled, extra.pop(node.name, {}))
            for node in self.nodes
            if node.wanted(filled)
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
        ours = node.package == PACKAGE
        filled = {name: _fill(value, values) for name, value in node.parameters.items()}
        filled = {name: value for name, value in filled.items() if value is not None}
        namespace = values.get('namespace', '').strip('/')
        return Process(
            name=node.name,
            namespace=f'/{namespace}',
            config=self._config(values) if ours else (),
            parameters={
                **({'task': self.task} if ours and not node.general else {}),
                **filled,
                **extra,
            },
            remaps={'/clock': 'clock'} if namespace else {},
            required=node.required,
            package=node.package,
            executable=node.executable or node.name,
            environment=dict(values.get('environment', {})),
            enclave=f'/{self.task}/{node.name}' if values.get('keystore') else '',
        )

    def _config(self, values: Mapping[str, Any]) -> tuple[Path, ...]:
        names = [self.config]
        if values.get('pad'):
            names.append(f'joy_{values["pad"]}.yaml')
        if self.scripted and values['operator'] != 'none':
            names.append(self.scripted)
        return tuple(share('config', name) for name in names)


def parse(name: str, arguments: Iterable[Argument], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of ``name``'s arguments with defaults filled in; StackError for a wrong one."""
    known = {argument.name: argument for argument in arguments}
    for word in given:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = f'did you mean {near[0]}?' if near else f'it takes {", ".join(known)}'
            raise StackError(f'{name} has no argument {word!r}; {hint}')
    return {
        word: argument.parse(given.get(word, argument.default)) for word, argument in known.items()
    }


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return an argument's value for '{argument}'; None leaves the parameter to its file."""
    if isinstance(value, str) and value.startswith('{') and value.endswith('}'):
        return values[value[1:-1]]
    return value


def prefixes() -> list[Path]:
    """Return where ROS packages may be installed: sourced ones, then this Python's own."""
    sourced = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    return [Path(prefix) for prefix in (*sourced, sys.prefix) if prefix]


def share(folder: str, name: str) -> Path:
    """
    Find ``config/name`` or ``launch/name``: beside the package's source, else where it is
    installed.

    :raises StackError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    places = [
        package.parent / folder / name,
        *(at / 'share' / PACKAGE / folder / name for at in (*package.parents, *prefixes())),
    ]
    for place in places:
        if place.is_file():
            return place
    raise StackError(
        f'{folder}/{name} was found neither beside {package} nor in an installed '
        f'share/{PACKAGE}; install the package again'
    )


def foreign(package: str, executable: str) -> Path:
    """Return the program of somebody else's ROS package; StackError when it is not installed."""
    for prefix in prefixes():
        program = prefix / 'lib' / package / executable
        if program.is_file():
            return program
    raise StackError(
        f"{package}'s {executable} is not installed here (pip has no such package); install "
        f'ros-<distro>-{package} and source it, or start one yourself on another machine'
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


def ros_domain() -> int:
    """Return the ROS domain that nodes started from here will use; StackError for no number."""
    text = os.environ.get('ROS_DOMAIN_ID', '') or '0'
    if not (text.isascii() and text.isdigit() and int(text) <= 232):
        raise StackError(f'ROS_DOMAIN_ID={text!r} is no domain; export a number from 0 to 101')
    return int(text)


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with tuples as lists, which is what YAML and launch know."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in parameters.items()
    }
