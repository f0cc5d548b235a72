"""
What the graph needs of a simulated world and of the peer that speaks a robot's protocol for it.

Names instead of classes in :data:`TWINS`, so that a task's simulator is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ..core.actions import bounds
from ..core.tasks import get_task, TaskError, TaskSpec


class Twin(Protocol):
    """A batch of worlds of one task, SI units; PusherTwin is the shortest example."""

    spec: TaskSpec
    names: tuple[str, ...]  # of the state's columns; known to the class
    state: np.ndarray  # (B, S) float64; reset(state=s) sets up the same scene, at rest, exactly

    def reset(self, rows: np.ndarray | None = None, state: np.ndarray | None = None) -> None:
        """Put ``rows`` (B,) bool (all, when left out) at ``state`` (n, S) or at random starts."""

    def check(self, state: np.ndarray) -> str:
        """Say what is wrong with a start (S,), in a sentence; '' when it can be set up."""

    def step(self, action: np.ndarray) -> None:
        """Apply the task's action (B, A), SI units, for one control period."""

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Apply it for another time, a multiple of 0.01 s."""

    def distance(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return the distance (B,) that the task's success criterion speaks of."""

    def render(self) -> np.ndarray:
        """Return the camera's pictures (B, h, w, 3) uint8 RGB, shaped like the task's camera."""


class Operator(Protocol):
    """A scripted person: skill 'play', 'expert' (to the goal, no noise) or 'random'."""

    def act(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Answer states (B, S) with motions (B, A) and labels (B,) uint8.

        A motion is what the stick says: of a velocity field the velocity, of a position field
        the rate at which it should change; SI units, within the task's ranges and speed limits.
        """


class Peer(Protocol):
    """
    The robot's side of its protocol, moving a Twin of batch 1; see each peer for its switches.

    ``advance`` and ``show`` are called from one thread, the protocol runs in others.  In real
    time the newest command is in force; in lockstep (``lockstep=True``) commands are obeyed one
    after the other, ``burst`` of them in each control period, spread evenly.
    """

    burst: int

    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Begin to serve; ``notify`` is called (from any thread) when a motion command came."""

    @property
    def pending(self) -> int:
        """Return how many motion commands have come that ``advance`` has not obeyed yet."""

    def advance(self, seconds: float) -> None:
        """Let the robot's own time pass: obey, move the twin, publish the robot's state."""

    def show(self, picture: np.ndarray) -> None:
        """Take the newest picture (h, w, 3) uint8 RGB, for robots that serve their camera."""

    def reset(self) -> None:
        """Forget pending commands and come to rest: the twin was put at another start."""

    def stop(self) -> None:
        """End all threads and close all sockets; idempotent."""


# task -> (twin, operator, peer or '')
TWINS = {
    'pusher': ('pusher:PusherTwin', 'pusher_operator:PusherOperator', ''),
    'push_t': ('push_t:PushTTwin', 'push_t_operator:PushTOperator', 'flexiv_peer:FlexivPeer'),
    'push_cube': (
        'push_cube:PushCubeTwin',
        'push_cube_operator:PushCubeOperator',
        'go2_peer:Go2Peer',
    ),
    'grab_box': ('grab_box:GrabBoxTwin', 'grab_box_operator:GrabBoxOperator', 'g1_peer:G1Peer'),
}


def make_twin(task: str, batch: int = 1, seed: int = 0) -> Twin:
    """Make a task's simulator; TaskError when it has none."""
    twin: Twin = _load(task, 0)(batch, seed)
    return twin


def state_names(task: str) -> tuple[str, ...]:
    """Return the names of the columns of a task's states."""
    names: tuple[str, ...] = _load(task, 0).names
    return names


def make_operator(task: str, batch: int = 1, seed: int = 0, skill: str = 'play') -> Operator:
    """Make a task's scripted person."""
    operator: Operator = _load(task, 1)(batch, seed, skill=skill)
    return operator


def make_peer(task: str, twin: Twin, ros_domain: int, lockstep: bool = False) -> Peer | None:
    """Make the peer that moves ``twin``; None for a task whose twin is driven directly."""
    if not _names(task)[2]:
        return None
    peer: Peer = _load(task, 2)(twin, ros_domain, lockstep=lockstep)
    return peer


def moved(command: np.ndarray, motion: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """
    Return the commands (B, A) that an operator's motions (B, A) make in one control period.

    A velocity field takes the motion itself, a position field moves on at that rate; both within
    their ranges.
    """
    low, high = bounds(spec.actions)
    velocity = np.array([field.is_velocity for field in spec.actions])
    return np.clip(np.where(velocity, motion, command + motion * spec.period), low, high)


def harm(peer: Peer, line: str) -> str:
    """
    Throw one of a peer's switches by name, for practice and for tests.

    ``'faults.mute 1'`` sets an attribute in its own type, ``'firmware.force 1001'`` calls a method
    with numbers.  Each peer's text lists its switches.

    :returns: '' when it was done, else a sentence.
    """
    name, *words = line.split() or ['']
    *path, last = name.split('.')
    try:
        numbers = [float(word) for word in words]
        if any(not part.isidentifier() or part.startswith('_') for part in (*path, last)):
            raise AttributeError(f'{name!r} is no name of a switch')
        owner: Any = peer
        for part in path:
            owner = getattr(owner, part)
        found = getattr(owner, last)
        if callable(found):
            found(*(int(number) if number.is_integer() else number for number in numbers))
        else:
            setattr(owner, last, type(found)(*numbers))
    except (AttributeError, TypeError, ValueError) as error:
        return f'the peer has no switch for {line!r}: {error}'
    return ''


def _names(task: str) -> tuple[str, str, str]:
    get_task(task)
    if task not in TWINS:
        raise TaskError(f'task {task!r} has no twin; choose one of {", ".join(TWINS)}')
    return TWINS[task]


def _load(task: str, which: int) -> Any:
    module, name = _names(task)[which].split(':')
    return getattr(import_module(f'.{module}', __package__), name)
