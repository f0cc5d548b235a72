"""
Start a task's graph without ros2: one process per node, ended in order.

``dmo up push_cube operator:=play`` on the command line; in Python::

    with running('pusher', {'operator': 'play', 'speed': 100}) as graph:
        graph.wait_ready()
        graph.wait('recorder', timeout=600)

Every node runs in a session of its own, so that a Ctrl-C reaches it only through the runner, and
ends with the runner, however that ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any, TextIO

from .graph import environment, foreign, PACKAGE, plain, Process, Stack, StackError
from .stacks import get_stack, GRAPHS

# A node that still imports dies of SIGTERM in silence; of SIGINT it would tell its life.
GRACE = ((signal.SIGTERM, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
READY = 'ready'


class UpError(RuntimeError):
    """A node that did not come up, or ended when it should not."""


def command(process: Process) -> list[str]:
    """Return the command line of a node; parameters are JSON, which is YAML as well."""
    ours = process.package == PACKAGE
    program = (
        [sys.executable, '-m', f'dmo_ros.nodes.{process.executable or process.name}']
        if ours
        else [str(foreign(process.package, process.executable))]
    )
    line = [*program, '--ros-args']
    for rule in (f'__node:={process.name}', f'__ns:={process.namespace}'):
        line += ['-r', rule]
    if process.enclave:
        line += ['--enclave', process.enclave]
    for file in process.config:
        line += ['--params-file', str(file)]
    for name, value in plain(process.parameters).items():
        line += ['-p', f'{name}:={_yaml(value)}']
    for old, new in process.remaps.items():
        line += ['-r', f'{old}:={new}']
    return line


def _yaml(value: Any) -> str:
    # An empty string has to be quoted, a float keeps its dot: ROS takes the type from the text.
    return json.dumps(float(value) if isinstance(value, float) else value)


class Child:
    """One running node, its output passed on line by line."""

    def __init__(self, process: Process, out: TextIO | None) -> None:
        self.name, self.required = process.name, process.required
        self.ready = threading.Event()
        if process.package != PACKAGE:  # it does not say when it works
            self.ready.set()
        self.lines: deque[str] = deque(maxlen=20)
        self._out = out
        self.popen = subprocess.Popen(
            command(process),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
            env={
                **os.environ,
                **environment(),
                **process.environment,
                'DMO_RUNNER': str(os.getpid()),
            },
        )
        self._pump = threading.Thread(target=self._read, name=process.name, daemon=True)
        self._pump.start()

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return self.popen.poll()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())
            if self._out is not None:
                print(f'[{self.name}] {line.rstrip()}', file=self._out, flush=True)
            if line.rstrip().endswith(f': {READY}'):
                self.ready.set()

    def story(self) -> str:
        """Return how it ended, with its last words."""
        self._pump.join(timeout=1.0)
        last = '\n  '.join(list(self.lines)[-5:])
        return f'node {self.name!r} ended with code {self.code}; its last lines:\n  {last}'

    def send(self, number: int) -> None:
        """Send a signal to the node's whole session."""
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            pass


class Graph:
    """The running processes of a stack."""

    def __init__(self, processes: Sequence[Process], out: TextIO | None) -> None:
        self.children: dict[str, Child] = {}
        try:
            for process in processes:
                self.children[process.name] = Child(process, out)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise UpError when a required node has ended, or any node has failed."""
        for child in self.children.values():
            if child.code is not None and (child.required or child.code != 0):
                raise UpError(child.story())

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every node says that it works."""
        deadline = time.monotonic() + timeout
        for child in self.children.values():
            while not child.ready.wait(0.05):
                self.check()
                if time.monotonic() > deadline:
                    raise UpError(
                        f'node {child.name!r} was not ready within {timeout:g} s; is '
                        'the machine overloaded?'
                    )

    def wait(self, name: str, timeout: float) -> int:
        """Wait for one node's own end and return its exit code; UpError if another one fails."""
        child = self.children[name]
        deadline = time.monotonic() + timeout
        while child.code is None:
            self.check_others(name)
            if time.monotonic() > deadline:
                raise UpError(f'node {name!r} did not end within {timeout:g} s')
            time.sleep(0.05)
        return child.code

    def check_others(self, name: str) -> None:
        """Raise UpError when a node other than ``name`` has ended wrongly."""
        for child in self.children.values():
            if child.name != name and child.code is not None and (child.required or child.code):
                raise UpError(child.story())

    def stop(self) -> None:
        """End all: SIGTERM, once more after 5 s, after 5 more SIGKILL."""
        for number, grace in GRACE:
            alive = [child for child in self.children.values() if child.code is None]
            for child in alive:
                child.send(number)
            deadline = time.monotonic() + grace
            for child in alive:
                try:
                    child.popen.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def running(
    task: str,
    arguments: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    out: TextIO | None = None,
) -> Iterator[Graph]:
    """
    Run a task's graph for the time of a ``with`` block.

    :param arguments: as on the command line, for example ``{'operator': 'play', 'speed': 100}``.
    :param parameters: more parameters per node name.
    :param out: where the nodes' lines go; nowhere when left out (a failure quotes the last ones).
    """
    graph = Graph(get_stack(task).resolve(arguments or {}, parameters), out)
    try:
        yield graph
    finally:
        graph.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dmo up GRAPH [name:=value ...]`` until Ctrl-C or the end of a required node."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or {'-h', '--help'} & set(words):
            print(usage(words))
            return 0 if words else 2
        stack = get_stack(words[0])
        processes = stack.resolve(pairs(words[1:]))
    except StackError as error:
        print(f'dmo up: {error}', file=sys.stderr)
        return 2
    return _supervise(processes)


def pairs(words: Sequence[str]) -> dict[str, str]:
    """Return ``name:=value`` words as a dictionary; StackError for another kind of word."""
    found = dict(word.split(':=', 1) for word in words if ':=' in word)
    other = [word for word in words if ':=' not in word]
    if other:
        raise StackError(f'arguments are written name:=value, {other[0]!r} is not')
    return found


def _supervise(processes: Sequence[Process]) -> int:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    graph = Graph(processes, sys.stdout)
    try:
        while not ended.wait(0.2):
            graph.check()
            if all(child.code is not None for child in graph.children.values()):
                break
    except UpError as error:
        print(f'dmo up: {error}', file=sys.stderr)
        return 1
    finally:
        graph.stop()
    return 0


def usage(words: Sequence[str]) -> str:
    """Return the help text, with a stack's arguments when one is named."""
    named = [GRAPHS[word] for word in words if word in GRAPHS]
    lines = ['usage: dmo up GRAPH [name:=value ...]', '']
    lines += [f'  {name:12} {stack.description}' for name, stack in GRAPHS.items()]
    if not named:
        return '\n'.join([*lines, '', 'dmo up GRAPH --help lists what it takes'])
    shown: Stack = named[0]
    lines += ['', f'arguments of {words[0]}:']
    for a in shown.arguments:
        values = '|'.join(a.choices) or type(a.default).__name__
        lines.append(f'  {a.name + ":=" + values}')
        lines.append(f'      {a.description} (default {a.default!r})')
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
