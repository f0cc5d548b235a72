"""
A Rizon's controller as far as Push-T needs it: power, modes, faults, and the motion generator.

Pure: time is an argument, nothing is sent.  What the SDK says about each call is from its own
docstrings (1.9.4.1): which mode it needs, what it raises.  How fast brakes are released or modes
are changed is the arm's secret; the times here are guesses of the order that the documentation
gives (some seconds for brakes and faults) and can be scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

JOINTS = 7
# N/m and Nm/rad; rad. Orders of magnitude: only that they are bounds matters here
NOMINAL_STIFFNESS = (10000.0, 10000.0, 10000.0, 1500.0, 1500.0, 1500.0)
Q_LIMIT = (2.79, 2.26, 2.97, 2.26, 2.97, 4.36, 2.97)
Q_READY = (0.0, -0.7, 0.0, 1.57, 0.0, 0.7, 0.0)
DOWN = (0.0, 0.0, 1.0, 0.0)  # orientation of a tool that points down; w first
IDLE, MOTION = 'IDLE', 'NRT_CARTESIAN_MOTION_FORCE'
MODES = {
    'UNKNOWN': 0,
    IDLE: 1,
    'NRT_JOINT_IMPEDANCE': 4,
    'NRT_JOINT_POSITION': 6,
    'NRT_PLAN_EXECUTION': 7,
    'NRT_PRIMITIVE_EXECUTION': 8,
    MOTION: 10,
    'NRT_SUPER_PRIMITIVE': 11,
}
STATUSES = (
    'UNKNOWN',
    'READY',
    'BOOTING',
    'ESTOP_NOT_RELEASED',
    'NOT_ENABLED',
    'RELEASING_BRAKE',
    'MINOR_FAULT',
    'CRITICAL_FAULT',
    'IN_REDUCED_STATE',
    'IN_RECOVERY_STATE',
    'IN_MANUAL_MODE',
    'IN_AUTO_MODE',
)


class Refused(Exception):  # noqa: N818 - an answer of the arm, not a failure of ours
    """What the SDK raises: ``kind`` is 'ValueError' or 'RuntimeError' (std::logic_error too)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Times:
    """Seconds that the arm takes; ``braking`` in m/s2."""

    brakes: float = 2.0
    mode: float = 0.3
    minor: float = 2.0
    critical: float = 20.0
    braking: float = 3.0

    def scaled(self, by: float) -> Times:
        """Return shorter times, for tests; the braking stays."""
        return Times(
            by * self.brakes, by * self.mode, by * self.minor, by * self.critical, self.braking
        )


@dataclass(frozen=True)
class Goal:
    """A pose target (7,) and what the generator may do: m/s, rad/s, m/s2, rad/s2."""

    pose: tuple[float, ...]
    bounds: tuple[float, float, float, float]


class ArmController:
    """
    One arm.  Attributes without underscore are switches that a test may set.

    ``fault``: '', 'minor' or 'critical'.  ``wrench``: what touches the tool (6,), N and Nm.
    """

    def __init__(self, times: Times | None = None) -> None:
        self.times = times or Times()
        self.fault = ''
        self.estop = self.reduced = self.recovery = self.manual = self.enabling_button = False
        self.wrench = [0.0] * 6
        self.torques = [0.0] * JOINTS
        self.fault_clears = True
        self.mode = IDLE
        self.setup: dict[str, list[float]] = {}
        self.goal: Goal | None = None
        self.position = np.zeros(3)
        self.orientation: tuple[float, ...] = DOWN
        self.velocity = np.zeros(3)
        self._ready_at = math.inf  # wall clock; inf: not enabled

    # ------------------------------------------------------------------ how it is
    def status(self, now: float) -> str:
        """Return the name of its OperationalStatus."""
        enabled = self._ready_at < math.inf
        for name, holds in (
            ('ESTOP_NOT_RELEASED', self.estop),
            ('CRITICAL_FAULT', self.fault == 'critical'),
            ('MINOR_FAULT', bool(self.fault)),
            ('IN_RECOVERY_STATE', self.recovery),
            ('IN_REDUCED_STATE', self.reduced),
            ('IN_MANUAL_MODE', self.manual),
            ('NOT_ENABLED', not enabled),
            ('RELEASING_BRAKE', now < self._ready_at),
        ):
            if holds:
                return name
        return 'READY'

    def ready(self, now: float) -> bool:
        """Tell whether it obeys."""
        return self.status(now) == 'READY'

    @property
    def still(self) -> bool:
        """Tell whether it has come to rest."""
        return not self.velocity.any()

    def look(self) -> None:
        """Do what the arm does by itself: brakes fall with an emergency stop or a fault."""
        if self.estop or self.fault:
            self._ready_at = math.inf
            self._leave()
            self.velocity[:] = 0.0  # CAT 0: the brakes hold it at once

    def place(self, position: Sequence[float]) -> None:
        """Put the tool elsewhere, at rest."""
        self.position[:] = position
        self.velocity[:] = 0.0
        if self.goal is not None:
            self.goal = self._hold()

    # ------------------------------------------------------------------ what it is asked
    def enable(self, now: float) -> None:
        """Release the brakes; operational after a while."""
        if self.estop:
            raise Refused('RuntimeError', 'E-stop is not released')
        if self.fault:
            raise Refused('RuntimeError', 'Robot has fault')
        if self._ready_at == math.inf:
            self._ready_at = now + self.times.brakes

    def clear_fault(self) -> bool:
        """Clear it, if it can be; the robot is not enabled afterwards."""
        if self.fault and not self.fault_clears:
            return False
        self.fault = ''
        return True

    def enter(self, mode: str, now: float) -> None:
        """Change the mode; the tool is at rest when this is called."""
        if not self.ready(now):
            raise Refused('RuntimeError', 'Robot is not operational')
        self._leave()
        self.mode = mode
        if mode == MOTION:
            self.goal = self._hold()

    def leave(self) -> None:
        """Go to IDLE; the tool is at rest when this is called."""
        self._leave()

    def brake(self, seconds: float) -> np.ndarray:
        """Slow down for ``seconds``; return the velocity (3,) to move with meanwhile."""
        self.goal = None
        size = float(np.linalg.norm(self.velocity))
        left = max(size - self.times.braking * seconds, 0.0)
        self.velocity *= left / size if size > 0.0 else 0.0
        return self.velocity

    def set(self, name: str, values: Sequence[float], low: float, high: Sequence[float]) -> None:
        """Take a setting of the Cartesian controller."""
        if self.mode != MOTION:
            raise Refused('RuntimeError', f'Robot is not in an applicable mode for {name}')
        if not all(low <= value <= top for value, top in zip(values, high)):
            raise Refused('ValueError', f'{name} contains a value outside the valid range')
        self.setup[name] = list(values)

    def accepts(self, goal: Goal, now: float) -> bool:
        """Tell whether a target would be taken now; the SDK has refused the others already."""
        positive = all(bound > 0 for bound in goal.bounds)
        finite = all(map(math.isfinite, goal.pose))
        return positive and finite and self.mode == MOTION and self.ready(now)

    # ------------------------------------------------------------------ motion
    def generate(self, seconds: float) -> np.ndarray:
        """
        Return the velocity (3,) for the next ``seconds``: towards the goal, and at rest there.

        Speed is bounded by what can still be braked away, its change by the acceleration.
        """
        if self.goal is None:
            return self.brake(seconds)
        speed, _, acceleration, _ = self.goal.bounds
        away = np.array(self.goal.pose[:3]) - self.position
        distance = float(np.linalg.norm(away))
        step = acceleration * seconds
        fast = math.sqrt(0.25 * step * step + 2 * acceleration * distance) - 0.5 * step
        wished = away / max(distance, 1e-12) * min(speed, fast, distance / seconds)
        change = wished - self.velocity
        size = float(np.linalg.norm(change))
        if distance < 1e-6 and float(np.linalg.norm(self.velocity)) <= step:
            self.velocity = np.zeros(3)
        else:
            self.velocity = self.velocity + change * min(1.0, step / max(size, 1e-12))
        self.orientation = self.goal.pose[3:]
        return self.velocity

    def _hold(self) -> Goal:
        return Goal((*map(float, self.position), *self.orientation), (0.5, 1.0, 2.0, 5.0))

    def _leave(self) -> None:
        self.mode, self.goal = IDLE, None
        self.setup = {}
