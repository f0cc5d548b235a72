"""
Two ways to a G1's body behind one face: SONIC, or the vendor's controller with rt/arm_sdk.

Both take the 17 joints above the legs (task order) and a body velocity, and both tell the 29
motors.  :class:`dmo_ros.robots.g1.G1` decides what is sent and when.
"""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Protocol

from .base import RobotError
from .g1_arm_sdk import ArmSdk, DAMP, Gains, Loco, WALKING
from .sonic import pack_command, pack_planner, Walk
from .sonic_link import SonicLink

PRESENCE = 5.0  # s to hear from a robot that is there: robot_config comes every 2 s
STARTING = 15.0  # s for SONIC to take control; its planner alone may need 5
SILENT = 0.5  # s without news after which a robot is not driven


class Way(Protocol):
    """What :class:`dmo_ros.robots.g1.G1` needs of either; all may be called from any thread."""

    fades: bool  # the upper body is handed back by its weight, else by going back to its pose

    def connect(self) -> None:
        """Open the link and hear the robot; RobotError if not."""

    def engage(self) -> None:
        """Bring it to where it takes commands; RobotError if not."""

    def send(
        self,
        position: Sequence[float],
        velocity: Sequence[float],
        walk: Sequence[float],
        dt: float,
        share: float = 1.0,
    ) -> None:
        """Send one setpoint; ``share``: how much of it counts while it is taken or handed back."""

    def age(self) -> float:
        """Return the seconds since the robot's state was seen to advance."""

    def motors(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Return positions and velocities of the 29 motors, None before the first."""

    def trouble(self) -> tuple[str, bool]:
        """Say what is wrong ('' for nothing), and whether a person must look at it."""

    def values(self) -> dict[str, object]:
        """Return numbers for diagnostics."""

    def damp(self) -> None:
        """Damp all joints: the robot collapses unless it hangs."""

    def close(self) -> None:
        """End sockets and threads; idempotent."""


class SonicWay:
    """SONIC over ZeroMQ; see :mod:`dmo_ros.robots.sonic`."""

    fades = False

    def __init__(self, commands: str, feedback: str) -> None:
        self.link = SonicLink(commands, feedback)
        self._walk = Walk()
        self._engaged = False
        self._restarts = 0

    def connect(self) -> None:
        """Wait for SONIC's configuration or feedback."""
        self.link.open()
        if not self.link.wait_for('presence', PRESENCE):
            raise RobotError(
                f'nothing from SONIC at {self.link.feedback} for {PRESENCE:g} s; start its '
                'deploy.sh with --input-type zmq_manager and --zmq-host of this machine, and '
                'check sonic_host'
            )

    def engage(self) -> None:
        """Start its control, the only place where that is done."""
        if not self.link.start_control(STARTING):
            raise RobotError(
                f'SONIC did not take control within {STARTING:g} s; its terminal says why'
            )
        self._walk = Walk()
        self._restarts, self._engaged = self.link.restarts, True

    def send(
        self,
        position: Sequence[float],
        velocity: Sequence[float],
        walk: Sequence[float],
        dt: float,
        share: float = 1.0,
    ) -> None:
        """Send a plan for the legs with the upper body's targets."""
        newest = self.link.newest
        plan = self._walk.plan(walk, dt, None if newest is None else newest.heading)
        self.link.send(pack_planner(plan, position, velocity))

    def age(self) -> float:
        """Return the seconds since its feedback advanced."""
        return self.link.age()

    def motors(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Return what its newest feedback says."""
        newest = self.link.newest
        return None if newest is None else (newest.q, newest.dq)

    def trouble(self) -> tuple[str, bool]:
        """Name silence, and a program that was started anew."""
        link = self.link
        if not self._engaged:
            return '', False  # it says nothing before it controls
        if link.restarts != self._restarts:
            return (
                'SONIC was started anew; look at the robot, then activate the bridge again',
                True,
            )
        if link.age() > SILENT:
            return (
                f'SONIC has been silent for {link.age():.1f} s: it left control, or the link',
                False,
            )
        return '', False

    def values(self) -> dict[str, object]:
        """Return what its feedback says about itself."""
        link, newest = self.link, self.link.newest
        told = {} if newest is None else {'index': newest.index, 'hottest': newest.temperature}
        return {'plans': link.sent, 'garbled': link.garbled, **told}

    def damp(self) -> None:
        """Send ``command stop``, a few times: its program damps the joints and ends."""
        for _ in range(3):
            self.link.send(pack_command(stop=True))
            time.sleep(0.02)

    def close(self) -> None:
        """Close the sockets."""
        self.link.close()


class ArmWay:
    """rt/arm_sdk and the loco service; see :mod:`dmo_ros.robots.g1_arm_sdk`."""

    fades = True

    def __init__(self, domain: int, interface: str, gains: Gains) -> None:
        self.domain, self.interface, self.gains = domain, interface, gains
        self.arm: ArmSdk | None = None
        self.loco: Loco | None = None

    def connect(self) -> None:
        """Wait for rt/lowstate and for an answer of the loco service."""
        from .unitree import open_channel

        self.arm = ArmSdk(open_channel(self.domain, self.interface), self.gains)
        self.loco = Loco()
        until = time.monotonic() + PRESENCE
        while self.arm.age() > SILENT:
            if time.monotonic() > until:
                raise RobotError(
                    f'no rt/lowstate on {self.interface} for {PRESENCE:g} s: is the robot on, and '
                    'is this the interface of its network?'
                )
            time.sleep(0.02)
        self._check_fsm(until)

    def _check_fsm(self, until: float) -> None:
        """Ask for its state; a first call may be lost while the two sides find each other."""
        assert self.loco is not None
        while True:
            try:
                state = self.loco.fsm()
                break
            except RobotError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        if state not in WALKING:
            raise RobotError(
                f'the robot is in state {state}, not in one that walks ({WALKING}); bring it '
                'there with its remote'
            )

    def engage(self) -> None:
        """Do nothing: the weight is ramped up by what is sent."""

    def send(
        self,
        position: Sequence[float],
        velocity: Sequence[float],
        walk: Sequence[float],
        dt: float,
        share: float = 1.0,
    ) -> None:
        """Send targets with their weight, and what to walk."""
        if self.arm is not None and self.loco is not None:
            self.loco.walk(walk)
            self.arm.send(position, velocity, share)

    def age(self) -> float:
        """Return the seconds since the robot's clock advanced."""
        return float('inf') if self.arm is None else self.arm.age()

    def motors(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Return what rt/lowstate says."""
        return None if self.arm is None else self.arm.measured()

    def trouble(self) -> tuple[str, bool]:
        """Name silence, and a loco service that refuses."""
        if self.age() > SILENT:
            return f'rt/lowstate has been silent for {self.age():.1f} s', False
        code = 0 if self.loco is None else self.loco.code
        return (f'the loco service answered {code}', False) if code else ('', False)

    def values(self) -> dict[str, object]:
        """Return the weight, the hottest motor, and the calls."""
        if self.arm is None or self.loco is None:
            return {}
        return {
            'targets': self.arm.sent,
            'weight': self.arm.weight,
            'hottest': self.arm.hottest,
            'calls': self.loco.calls,
        }

    def damp(self) -> None:
        """Ask the loco service for its damping state."""
        if self.loco is None:
            raise RobotError('not connected')
        self.loco.set_fsm(DAMP)

    def close(self) -> None:
        """Stand, then end."""
        for part in (self.loco, self.arm):
            if part is not None:
                part.close()
        self.arm = self.loco = None
