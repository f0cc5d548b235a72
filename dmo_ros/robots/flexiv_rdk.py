"""
Few verbs over Flexiv's RDK, whose Python API changed with 2.0.

1.9 speaks of one arm, 2.0 of joint groups: setters take the group first, commands and states are
maps from it (hardware.md 8.1; signatures compared with the real classes by
``test/robots/test_flexiv_conformance.py``).  A Rizon has the one group ARMS.  2.1 refuses Rizon
arms.  Only the standard library is imported here, so that it runs in any interpreter that has the
SDK (:mod:`dmo_ros.robots.flexiv_worker`).

The SDK keeps Python's interpreter lock while it waits: during a call that blocks (Enable,
SwitchMode, Stop, ClearFault) no other thread of the process runs.  Measured for the constructor of
1.9.4.1 and 2.0.0: another thread stood still for all of its 3.2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
import fcntl
import math
import socket
import struct
import time
from typing import Any, Protocol, TypeVar

from .base import RobotError

MOTION = 'NRT_CARTESIAN_MOTION_FORCE'
Answer = TypeVar('Answer')


@dataclass(frozen=True)
class Limits:
    """What the robot's own motion generator may do on the way to a target; all above 0."""

    linear_speed: float = 0.36  # m/s: both axes of +-0.25 m/s at once
    angular_speed: float = 0.5  # rad/s
    linear_acceleration: float = 1.5  # m/s2
    angular_acceleration: float = 2.0  # rad/s2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise RobotError(f'the limit {name} is {value:g}; the arm takes values above 0')


@dataclass(frozen=True)
class Setup:
    """How the arm feels to what it touches; the SDK's demo values where it has some."""

    stiffness: float = 1.0  # share of the arm's nominal Cartesian stiffness
    damping: float = 0.7  # ratio; 0.3 to 0.8 are allowed
    contact_force: float = 10.0  # N, to which the arm's controller regulates a contact
    contact_moment: float = 2.0  # Nm


@dataclass(frozen=True)
class Snapshot:
    """
    What the arm says of itself, SI units; quaternions as it has them, w first.

    ``stamp``: s, the robot's clock. ``arrived``: s, steady clock of this machine, when the stamp
    was first seen to have moved on.
    """

    connected: bool
    fault: bool
    estop_released: bool
    operational: bool
    status: str
    reduced: bool
    recovery: bool
    enabling_button: bool
    mode: str
    stopped: bool
    pose: tuple[float, ...]  # (7,) x y z qw qx qy qz
    twist: tuple[float, ...]  # (6,)
    wrench: tuple[float, ...]  # (6,) external, at the tool, in the arm's world frame
    torques: tuple[float, ...]  # (n,) external
    q: tuple[float, ...]  # (n,)
    stamp: float
    arrived: float
    event: str = ''  # what the arm's log said last, while it has a fault


class Arm(Protocol):
    """The verbs: :class:`RdkArm` here, the same at the other end of a pipe in flexiv_worker."""

    def open(self) -> None:
        """Connect; blocks for seconds when nobody is there."""

    def snapshot(self) -> Snapshot | None:
        """Return the newest state; None before the first."""

    def clear_fault(self, timeout: float) -> bool:
        """Ask the arm to clear its fault; blocks up to ``timeout`` s."""

    def enable(self) -> None:
        """Release the brakes; the arm is operational some seconds later."""

    def enter(self, setup: Setup) -> None:
        """Go to the mode that takes pose targets and set it up; blocks."""

    def send(self, pose: Sequence[float], limits: Limits) -> None:
        """Give the newest target (7,); does not block."""

    def stop(self) -> None:
        """Bring the arm to rest and to mode IDLE; blocks until it is still."""

    def close(self) -> None:
        """Let go of the connection."""


def load() -> Any:
    """Import the vendor's module; RobotError says what to install."""
    try:
        import flexivrdk
    except ImportError as error:
        raise RobotError(
            f"Flexiv's SDK cannot be imported ({error}); pip install 'dmo_ros[flexiv]' in a "
            'Python 3.10 or 3.12 (it has no wheels for others), and name that Python with the '
            'parameter worker_python'
        ) from error
    return flexivrdk


def generation(sdk: Any) -> str:
    """Return '1.9' or '2.0'; RobotError for an SDK whose arms are others."""
    if not hasattr(sdk.Robot, 'Enable'):
        raise RobotError(
            f'flexivrdk {getattr(sdk, "__version__", "2.1")} does not accept Rizon arms; install '
            "one that does: pip install 'flexivrdk<=2.0.0'"
        )
    return '2.0' if hasattr(sdk, 'JointGroup') else '1.9'


def address_of(interface: str) -> str:
    """Return the IPv4 address of a network interface; RobotError when it has none."""
    request = struct.pack('256s', interface.encode()[:15])
    get_address = 0x8915  # SIOCGIFADDR
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe.fileno(), get_address, request)
    except OSError as error:
        known = ', '.join(name for _, name in socket.if_nameindex())
        raise RobotError(
            f'network interface {interface!r} has no IPv4 address here ({error.strerror}); this '
            f'machine has {known}'
        ) from error
    return socket.inet_ntoa(answer[20:24])


class RdkArm:
    """
    One arm through the vendor's module, or through one that stands in for it.

    :param whitelist: IPv4 addresses of this machine's interfaces that may be used; empty: all.
    """

    def __init__(
        self,
        serial: str,
        whitelist: Sequence[str] = (),
        sdk: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serial, self.whitelist, self.sdk, self.clock = serial, list(whitelist), sdk, clock
        self.grouped = False
        self.robot: Any = None
        self._stamp, self._arrived = -1.0, -math.inf

    # ------------------------------------------------------------------ once
    def open(self) -> None:
        """
        Connect.

        :raises RobotError: no SDK, a wrong one, a serial number that is none, nobody answers.
        """
        self.sdk = self.sdk or load()
        self.grouped = generation(self.sdk) == '2.0'
        self.robot = self._try(
            f'connect to the arm {self.serial}',
            lambda: self.sdk.Robot(self.serial, self.whitelist, False),
        )

    def close(self) -> None:
        """Let go of the connection; the SDK ends it with its object."""
        self.robot = None

    # ------------------------------------------------------------------ what blocks
    def clear_fault(self, timeout: float) -> bool:
        """Ask for it; a minor fault takes about 3 s, a critical one up to 30."""
        seconds = max(1, math.ceil(timeout))
        return self._try('clear the fault', lambda: bool(self._arm().ClearFault(seconds)))

    def enable(self) -> None:
        """Release the brakes."""
        self._try('enable the arm', lambda: self._arm().Enable())

    def enter(self, setup: Setup) -> None:
        """
        Take pose targets, all axes under motion control, contacts regulated.

        The order matters: setters need the mode active, and entering it resets the posture.
        """
        self._try(f'enter {MOTION}', lambda: self._enter(setup))

    def _enter(self, setup: Setup) -> None:
        robot = self._arm()
        robot.SwitchMode(getattr(self.sdk.Mode, MOTION))
        nominal = list(robot.info().K_x_nom)
        wrench = [setup.contact_force] * 3 + [setup.contact_moment] * 3
        group = self._group()
        robot.SetForceControlAxis(*group, [False] * 6)
        stiffness = [setup.stiffness * value for value in nominal]
        robot.SetCartesianImpedance(*group, stiffness, [setup.damping] * 6)
        robot.SetMaxContactWrench(*group, wrench)
        robot.SetNullSpacePosture(*group, list(self._states().q))

    def stop(self) -> None:
        """Stop(): blocks until the arm is still, then the mode is IDLE."""
        self._try('stop the arm', lambda: self._arm().Stop())

    # ------------------------------------------------------------------ what does not
    def send(self, pose: Sequence[float], limits: Limits) -> None:
        """Give a target (7,), w first; twist 0 is the vendor's robust choice."""
        self._try('move', lambda: self._send([float(value) for value in pose], limits))

    def _send(self, pose: list[float], limits: Limits) -> None:
        bounds = (
            limits.linear_speed,
            limits.angular_speed,
            limits.linear_acceleration,
            limits.angular_acceleration,
        )
        still = [0.0] * 6
        if not self.grouped:
            self._arm().SendCartesianMotionForce(pose, still, still, *bounds)
            return
        command = self.sdk.NrtCartesianCmd(pose, still, still, *bounds)
        self._arm().SendCartesianMotionForce({self._group()[0]: command})

    def snapshot(self) -> Snapshot | None:
        """Read what the SDK has received; None before :meth:`open`."""
        if self.robot is None:
            return None
        return self._try("read the arm's state", self._snapshot)

    def _snapshot(self) -> Snapshot:
        robot, states = self.robot, self._states()
        world = states.tcp_wrench if self.grouped else states.ext_wrench_in_world
        twist = states.tcp_twist if self.grouped else states.tcp_vel
        stamp = states.timestamp[0] + 1e-9 * states.timestamp[1]
        if stamp != self._stamp:
            self._stamp, self._arrived = stamp, self.clock()
        return Snapshot(
            connected=bool(robot.connected()),
            fault=bool(robot.fault()),
            estop_released=bool(robot.estop_released()),
            operational=bool(robot.operational()),
            status=robot.operational_status().name,
            reduced=bool(robot.reduced()),
            recovery=bool(robot.recovery()),
            enabling_button=bool(robot.enabling_button_pressed()),
            mode=robot.mode().name,
            stopped=bool(robot.all_stopped() if self.grouped else robot.stopped()),
            pose=tuple(states.tcp_pose),
            twist=tuple(twist),
            wrench=tuple(world),
            torques=tuple(states.tau_ext),
            q=tuple(states.q),
            stamp=stamp,
            arrived=self._arrived,
            event=self._event() if robot.fault() else '',
        )

    def _event(self) -> str:
        events = self.robot.event_log()
        return str(events[-1].description) if events else ''  # 2.0 cannot read its timestamp

    # ------------------------------------------------------------------ the two generations
    def _group(self) -> tuple[Any, ...]:
        """Return what 2.0 wants first: the arm's joint group; nothing for 1.9."""
        return (self.sdk.JointGroup.ARMS,) if self.grouped else ()

    def _states(self) -> Any:
        states = self._arm().states()
        if not self.grouped:
            return states
        group = self._group()[0]
        if group not in states:
            raise RuntimeError(f'this robot has the joint groups {list(states)}, not one arm')
        return states[group]

    def _arm(self) -> Any:
        if self.robot is None:
            raise RuntimeError('no arm is connected')
        return self.robot

    def _try(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Call the SDK; whatever it raises (ValueError, RuntimeError, ...) is a RobotError."""
        try:
            return call()
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            if isinstance(error, RobotError):
                raise
            raise RobotError(f'Flexiv: could not {what}: {error}') from error
