"""
A Unitree G1 with BrainCo hands: upper-body targets 50 times a second, walking, closures.

Commands come a few times a second and are interpolated (:mod:`dmo_ros.robots.g1_motion`); two ways
lead to the body (:mod:`dmo_ros.robots.g1_ways`).  The upper body is never let go while it is
commanded: stopping means standing with the arms held where they are, and a thread here goes on
saying so, because SONIC drops the arms one second after the last message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math
import threading
import time

import numpy as np

from .base import Health, RobotError, RobotState
from .brainco import Hands
from .g1_arm_sdk import Gains
from .g1_joints import UPPER_BODY
from .g1_motion import Tracker
from .g1_ways import ArmWay, PRESENCE, SILENT, SonicWay, Way
from ..core.tasks import TaskSpec

UPPER = len(UPPER_BODY)
STILL = (0.0, 0.0, 0.0)
PAUSE = 5  # setpoints that may be missed until it is held by the thread here
GONE = 1.0  # s of silence after which the robot has dropped what it was told
JUMP = 0.5  # rad by which a joint is elsewhere without having moved there
APART = 0.3  # rad between setpoint and robot above which a pause ends where the robot is


@dataclass(frozen=True)
class G1Config:
    """
    Where a G1 is and how it is driven.

    ``commands`` and ``feedback``: addresses of SONIC's sockets, ours to bind and its own.
    ``margin``: rad kept from each joint's end. ``ramp``: s to take over and to hand back.
    """

    path: str = 'sonic'  # or 'arm_sdk'
    commands: str = 'tcp://127.0.0.1:5556'
    feedback: str = 'tcp://127.0.0.1:5557'
    dds_domain: int = 0
    interface: str = 'lo'
    hands: bool = True
    ramp: float = 1.5
    margin: float = 0.02
    gains: Gains = field(default=Gains())
    lockstep: bool = False

    def __post_init__(self) -> None:
        if self.path not in ('sonic', 'arm_sdk'):
            raise RobotError(f'path is sonic or arm_sdk, not {self.path!r}')
        if self.lockstep and self.path == 'arm_sdk':
            raise RobotError(
                'lockstep needs path:=sonic: DDS keeps only the newest of the setpoints that '
                'lockstep sends at once'
            )

    def way(self) -> Way:
        """Make the way to the body."""
        if self.path == 'sonic':
            return SonicWay(self.commands, self.feedback)
        return ArmWay(self.dds_domain, self.interface, self.gains)


class G1:
    """The G1 as a :class:`dmo_ros.robots.base.Robot`; ``spec`` is the task ``grab_box``."""

    sink_hz = 50.0

    def __init__(self, config: G1Config, spec: TaskSpec) -> None:
        self.config, self.spec = config, spec
        self.way = config.way()
        self.hands: Hands | None = None
        self._body = self._tracker(slice(0, UPPER), config.margin)
        self._closures = self._tracker(slice(UPPER, UPPER + 2), 0.0)
        self._walk: Sequence[float] = STILL
        self._home = self._body.position
        self._names = [item.name for item in spec.actions]
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._engaged = self._paused = self._lost = self._damped = False
        self._ticked = self._looked = 0.0
        self._seen: np.ndarray | None = None

    def _tracker(self, part: slice, margin: float) -> Tracker:
        fields = self.spec.actions[part]
        return Tracker(
            [item.low + margin for item in fields],
            [item.high - margin for item in fields],
            self.spec.limits.speed[part],
            self.spec.period,
            self.config.ramp,
        )

    # ------------------------------------------------------------------ taking over
    def connect(self) -> None:
        """Hear the body and, if they are used, both hands; nothing is sent."""
        self.way.connect()
        if self.config.hands:
            from .unitree import open_channel

            self.hands = Hands(open_channel(self.config.dds_domain, self.config.interface))
            self._wait_for_hands()

    def _wait_for_hands(self) -> None:
        assert self.hands is not None
        until = time.monotonic() + PRESENCE
        while self.hands.measured() is None:
            if time.monotonic() > until:
                raise RobotError(
                    f'rt/brainco/left|right/state were silent for {PRESENCE:g} s; start '
                    'brainco_hand_service, or set hands:=false'
                )
            time.sleep(0.02)

    def engage(self) -> None:
        """Take the body over where it is, standing; takes ``ramp`` seconds with rt/arm_sdk."""
        self.way.engage()
        with self._lock:
            self._place()
            self._home = self._body.position.copy()
            self._walk = STILL
            self._engaged, self._lost, self._damped = True, False, False
        if self.config.lockstep:
            return  # its peer counts what is sent, and its time stands still meanwhile
        self._fade(0.0, 1.0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name='g1_hold', daemon=True)
            self._thread.start()

    def _place(self) -> None:
        """Let the setpoints be where body and hands are now."""
        there = self._measured()
        if there is None:
            raise RobotError('the robot has not told where its joints are')
        self._body.place(there)
        self._seen, self._looked = there, time.monotonic()
        hands = self.hands.measured() if self.hands is not None else None
        if hands is not None:
            self._closures.place([closure for closure, _ in hands])

    def _measured(self) -> np.ndarray | None:
        motors = self.way.motors()
        return None if motors is None else np.array([motors[0][motor] for motor in UPPER_BODY])

    def _fade(self, before: float, after: float) -> None:
        """Send the setpoints on while their share changes, over ``ramp`` s if it matters."""
        period = 1 / self.sink_hz
        steps = max(1, round(self.config.ramp / period)) if self.way.fades or after == 0.0 else 1
        for step in range(1, steps + 1):
            if self.way.age() > SILENT:
                return
            with self._lock:
                self._send(period, STILL, before + (after - before) * step / steps)
            if steps > 1:
                time.sleep(period)

    # ------------------------------------------------------------------ driving
    def command(self, values: tuple[float, ...]) -> None:
        """Take the task's 22 fields; RobotError if they are not 22 finite numbers."""
        if len(values) != len(self.spec.actions) or not math.isfinite(sum(values)):
            raise RobotError(f'22 finite numbers are a command, not {list(values)}')
        with self._lock:
            if self._paused:
                self._resume()
            self._body.aim(values[:UPPER])
            self._closures.aim(values[UPPER : UPPER + 2])
            self._walk = values[UPPER + 2 :]

    def _resume(self) -> None:
        """Go on where the robot is, if it did not stay where it was held."""
        self._paused = False
        there = self._measured()
        if there is not None and np.max(np.abs(there - self._body.position)) > APART:
            self._place()
        self._seen, self._looked = there, time.monotonic()

    def _look(self) -> None:
        """Go on where the robot is, if it was put there: a twin at another start, or a gap."""
        there, now = self._measured(), time.monotonic()
        if there is not None and self._seen is not None:
            reach = JUMP + 2 * self._body.speed * min(1.0, now - self._looked)
            if np.any(np.abs(there - self._seen) > reach):
                self._place()
        self._seen, self._looked = there, now

    def tick(self, dt: float) -> None:
        """Send the next setpoints; RobotError when it is not engaged or silent."""
        if not self._engaged:
            raise RobotError(self.health().reason or 'engage() comes before tick()')
        if self.way.age() > SILENT:
            raise RobotError(self.health().reason or 'the robot is silent')
        with self._lock:
            self._look()
            self._send(dt, self._walk)
            self._ticked = time.monotonic()

    def _send(self, dt: float, walk: Sequence[float], share: float = 1.0) -> None:
        closures, _ = self._closures.step(dt)
        if self.hands is not None:
            self.hands.send(closures.tolist())
        position, velocity = self._body.step(dt)
        self.way.send(position.tolist(), velocity.tolist(), walk, dt, share)

    def stop(self) -> bool:
        """Stand, and hold arms and hands where they are; True when the robot is heard."""
        with self._lock:
            self._hold()
            if not self._engaged:
                return True
            if not self._lost:
                self._send(1 / self.sink_hz, STILL)
        return self.way.age() < SILENT

    def _hold(self) -> None:
        self._body.hold()
        self._closures.hold()
        self._walk, self._paused = STILL, True

    def _keep(self) -> None:
        """Hold the robot whenever nobody else says what it should do."""
        period = 1 / self.sink_hz
        while not self._ended.wait(period):
            with self._lock:
                if self._engaged and time.monotonic() - self._ticked > PAUSE * period:
                    self._keep_once(period)

    def _keep_once(self, period: float) -> None:
        if not self._paused:
            self._hold()
        if self.way.age() > GONE:  # it stands by itself now, its arms are its own
            self._lost = True
        elif self._lost and self.way.age() < SILENT:
            self._place()
            self._lost = False
        if not self._lost:
            self._send(period, STILL)

    # ------------------------------------------------------------------ what it tells
    def health(self) -> Health:
        """Return whether body and hands are heard and obey."""
        reason, fault = self.way.trouble()
        if self._damped:
            reason, fault = 'damped on request; stand it up, then activate the bridge again', True
        age = self.way.age()
        values: dict[str, object] = {
            'path': self.config.path,
            'clamped': self._body.clamped,
            'age_ms': round(1000 * age) if math.isfinite(age) else -1,
            **self.way.values(),
        }
        if not reason and self.hands is not None and self.hands.age() > SILENT:
            reason = f'a hand has been silent for {self.hands.age():.1f} s'
        return Health(not reason, reason, fault, values)

    def state(self) -> RobotState | None:
        """Return the task's 19 upper-body fields; the robot tells no place in the world."""
        motors = self.way.motors()
        if motors is None:
            return None
        joints = {
            name: (float(motors[0][motor]), float(motors[1][motor]))
            for name, motor in zip(self._names, UPPER_BODY)
        }
        hands = self.hands.measured() if self.hands is not None else None
        for name, hand in zip(self._names[UPPER:], hands or ()):
            joints[name] = hand
        return RobotState(time.monotonic() - self.way.age(), joints)

    # ------------------------------------------------------------------ handing back
    def damp(self) -> None:
        """Damp all joints, for emergencies: the robot collapses unless it hangs."""
        with self._lock:
            self._engaged, self._damped = False, True
            self.way.damp()

    def close(self) -> None:
        """Stand, hand the upper body back over ``ramp`` seconds, and end; idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        if self._engaged and not self.config.lockstep:
            self._engaged = False
            with self._lock:
                self._hold()
                if not self.way.fades:  # what SONIC goes back to by itself is where it was
                    self._body.aim(self._home)
            self._fade(1.0, 0.0)
        self.way.close()
        if self.hands is not None:
            self.hands.close()
