"""
The thread that sends to a robot, and the last watchdog before it.

Commands come in through a slot that keeps the newest one; a thread of its own sends, because a
robot's call may block for as long as its time-out.  When commands cease, when the robot is not
well or when somebody says so, the robot is stopped and stays stopped until the gate is heard to be
at rest: nothing starts again by itself.  So it is at the beginning: a bridge that is started again
while the gate drives obeys nothing before the gate has rested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import threading
import time

from .base import Health, Robot, RobotError, RobotState
from ..core.tasks import TaskSpec

LAST_WORD = 1.0  # seconds for it when the bridge ends
UNCONFIRMED = '; and it did not confirm its stop: '
UNHEARD = 'the gate has not been heard yet'
RETRY = 0.1  # seconds between two attempts to stop a robot that has not confirmed it


@dataclass(frozen=True)
class Order:
    """A checked command of the task, its stamp (ns) and when it came (s, steady clock)."""

    values: tuple[float, ...]
    stamp: int
    arrived: float


class Sender:
    """
    Sends to one robot; :meth:`put` is called by the bridge, the rest happens in its thread.

    :param burst: 0 sends at the robot's own rate; n sends n setpoints for each newly stamped
        command, at once: a twin in lockstep obeys them one after the other.
    """

    def __init__(
        self,
        robot: Robot,
        watchdog: float,
        burst: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.robot, self.watchdog, self.burst, self.clock = robot, watchdog, burst, clock
        self.halted = UNHEARD  # why it does not obey; '' while it does
        self.confirmed = True  # the robot has said that it rests
        self.sent: Order | None = None
        self.count = self.late = 0
        self._order: Order | None = None
        self._gate_drives = True  # for all that is known
        self._asked_at = -math.inf  # to stop
        self._ended = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='sender', daemon=True)

    # ------------------------------------------------------------------ from other threads
    def start(self) -> None:
        """Begin to send; nothing is sent before the first command."""
        self._thread.start()

    def put(self, values: Sequence[float], stamp: int) -> None:
        """Take the newest command."""
        with self._wake:
            self._order = Order(tuple(values), stamp, self.clock())
            self._wake.notify()

    def halt(self, reason: str) -> None:
        """Stop the robot now and stay stopped; the first reason is kept."""
        with self._wake:
            if not self.halted:
                self.halted, self.confirmed, self._asked_at = reason, False, -math.inf
            self._wake.notify()

    def hear_gate(self, drives: bool) -> None:
        """Take what the gate says of itself: whether it may be driving."""
        self._gate_drives = drives

    def release(self) -> bool:
        """Obey again, if the gate is at rest and the robot has stopped; tells whether it does."""
        with self._wake:
            if self.halted and self.confirmed and not self._gate_drives:
                self.halted, self._order = '', None
        return not self.halted

    def close(self) -> None:
        """Stop the robot and end the thread; idempotent."""
        self.halt('the bridge is being stopped')
        with self._wake:
            self._ended = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=3.0)

    # ------------------------------------------------------------------ the thread
    def _run(self) -> None:
        period = 1.0 / self.robot.sink_hz
        due = self.clock()
        while not self._ended:
            began = self.clock()
            self._step(period)
            due = max(due + period, began)
            self._wait(due)
        until = self.clock() + LAST_WORD
        self._stop()
        while not self.confirmed and self.clock() < until:
            time.sleep(RETRY / 2)
            self._stop()

    def _wait(self, due: float) -> None:
        """Sleep until the next setpoint is due; a halt, and in lockstep a command, ends it."""
        with self._wake:
            while not self._ended and (left := due - self.clock()) > 0:
                urgent = self.halted and not self.confirmed and self._asked_at == -math.inf
                if urgent or (self.burst and self._fresh()):
                    return
                self._wake.wait(left)

    def _fresh(self) -> bool:
        order, sent = self._order, self.sent
        return order is not None and (sent is None or order.stamp > sent.stamp)

    def _step(self, period: float) -> None:
        order = self._order
        if not self.halted and order is not None:
            age = self.clock() - order.arrived
            if age > self.watchdog:
                self.halt(f'no command from the gate for more than {self.watchdog:g} s')
        if self.halted:
            self._stop()
        elif order is not None:
            self._send(order, period)

    def _send(self, order: Order, period: float) -> None:
        ticks = 1 if not self.burst else self.burst if self._fresh() else 0
        try:
            if ticks:
                self.robot.command(order.values)
            for _ in range(ticks):
                self.robot.tick(period)
        except Exception as error:  # whatever an SDK throws: this thread must live to stop it
            self.halt(_say(error))
            return
        if ticks:
            self.sent = order
            self.count += ticks

    def _stop(self) -> None:
        """Stop the robot until it has confirmed; do not ask more often than it can answer."""
        if self.confirmed or self.clock() - self._asked_at < RETRY:
            return
        try:
            self.confirmed = self.robot.stop()
        except Exception as error:
            reason = self.halted.split(UNCONFIRMED)[0]  # only the newest trouble is told
            self.halted = f'{reason}{UNCONFIRMED}{_say(error)}'
        self._asked_at = self.clock()


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, RobotError) else f'{type(error).__name__}: {error}'


class DryRun:
    """A robot that is not there: it takes everything, sends nothing, and stands where told."""

    sink_hz = 50.0

    def __init__(self, spec: TaskSpec) -> None:
        self.fields = spec.actions
        self.values = tuple(field.rest for field in spec.actions)

    def connect(self) -> None:
        """Do nothing."""

    def engage(self) -> None:
        """Do nothing."""

    def command(self, values: tuple[float, ...]) -> None:
        """Keep the values, for whoever looks."""
        self.values = values

    def tick(self, dt: float) -> None:
        """Send nothing."""

    def stop(self) -> bool:
        """Confirm: it never moves."""
        return True

    def health(self) -> Health:
        """Tell that nothing is connected."""
        return Health(True, 'dry run: nothing is sent to any robot')

    def state(self) -> RobotState:
        """Return the commanded positions as if they had been reached."""
        pairs = zip(self.fields, self.values)
        joints = {f.name: (value, 0.0) for f, value in pairs if not f.is_velocity}
        return RobotState(time.monotonic(), joints)

    def close(self) -> None:
        """Do nothing."""
