"""
Puts the twin at one start after another and writes down what becomes of each.

It drives nothing: an operator or a policy does, through the gate.  An episode begins once the gate
is armed and the twin's clock has jumped to the new start; its states are the twin's own, by their
stamps, so that a message that was lost is a hole and never a shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import time

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState

from . import Finished, qos, run
from .convert import nanoseconds
from .parameters import declare, parameter, ParameterError
from ..core.tasks import get_task
from ..twins.base import state_names

GAP_PERIODS = 2.5
RETRY = 2.0  # seconds after which a start that was not taken is sent again


@dataclass(frozen=True)
class EvaluatorConfig:
    """Parameters of the evaluator node."""

    task: str = parameter('pusher', 'task whose twin is watched')
    starts: str = parameter('', 'file (.npy) with the starts, (N, S) as in twin/state')
    out: str = parameter('', 'file (.npy) for the states (N, steps + 1, S), NaN where lost')
    steps: int = parameter(0, 'control steps of an episode; 0 takes those of the task', 0, 10**6)
    patience: float = parameter(30.0, 'seconds without progress until it gives up', 1.0, 3600.0)


class EvaluatorNode(Node):
    """One episode after the other."""

    def __init__(self) -> None:
        super().__init__('evaluator')
        self.config = config = declare(self, EvaluatorConfig)
        spec = get_task(config.task)
        self.steps = config.steps or spec.success.episode_steps
        self.period = spec.period * 1e9
        self.names = state_names(config.task)
        self.starts = _read(config.starts, config.out, self.names)
        self.states = np.full((len(self.starts), self.steps + 1, self.starts.shape[1]), np.nan)
        self.episode, self.begun = 0, False
        self.origin = self.newest = 0
        self.gate, self.reason = '', 'the gate says nothing'
        self.progress_at = self.placed_at = time.monotonic()
        self.waiting = False
        self.place_out = self.create_publisher(JointState, 'twin/place', qos.FEW)
        self.create_subscription(JointState, 'twin/state', self._on_state, qos.EVERY)
        self.create_subscription(DiagnosticStatus, 'gate/status', self._on_gate, qos.LATCHED)
        self.create_timer(0.05, self._look_after, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_gate(self, message: DiagnosticStatus) -> None:
        self.gate = next((pair.value for pair in message.values if pair.key == 'state'), '')
        self.reason = f'the gate is {self.gate}: {message.message}'

    def _on_state(self, message: JointState) -> None:
        stamp = nanoseconds(message.header.stamp)
        jumped = stamp - self.newest > GAP_PERIODS * self.period
        self.newest = stamp
        state = np.array(message.position)
        if self.waiting and jumped and np.allclose(state, self.starts[self.episode], atol=1e-6):
            self.waiting, self.begun, self.origin = False, True, stamp
        if not self.begun:
            return
        step = round((stamp - self.origin) / self.period)
        self.progress_at = time.monotonic()
        if step <= self.steps:
            self.states[self.episode, step] = state
        if step >= self.steps:
            self._next()

    def _next(self) -> None:
        self.begun = False
        self.episode += 1
        if self.episode == len(self.starts):
            _write(Path(self.config.out), self.states)
            raise Finished(0)
        self._place()

    def _place(self) -> None:
        if self.gate not in ('ARMED', 'ACTIVE') or not self.place_out.get_subscription_count():
            return
        message = JointState(name=list(self.names), position=self.starts[self.episode].tolist())
        self.place_out.publish(message)
        self.waiting, self.placed_at = True, time.monotonic()

    def _look_after(self) -> None:
        """Send a start that nobody took once more, and give up when nothing goes on."""
        now = time.monotonic()
        if not self.begun and (not self.waiting or now - self.placed_at > RETRY):
            self._place()
        if now - self.progress_at > self.config.patience:
            self.get_logger().error(
                f'no progress for {self.config.patience:g} s in episode {self.episode + 1} of '
                f'{len(self.starts)}: {self.reason}'
            )
            raise Finished(1)


def _read(starts: str, out: str, names: Sequence[str]) -> np.ndarray:
    try:
        found = np.load(starts, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ParameterError(f'starts:={starts} is no file of starts ({error})') from error
    if found.ndim != 2 or found.shape[1] != len(names) or not len(found):
        raise ParameterError(f'starts:={starts} holds {found.shape}, not (N, {len(names)})')
    if not out:
        raise ParameterError('out:=FILE is needed: where the states are to be written')
    return found


def _write(path: Path, states: np.ndarray) -> None:
    part = path.with_name(path.name + '.part')
    with open(part, 'wb') as file:
        np.save(file, states)
    os.replace(part, path)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(EvaluatorNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
