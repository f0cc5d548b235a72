"""
A Flexiv Rizon that moves its tool in a plane (hardware.md 8.2).

The task's tool velocity becomes pose targets at 100 Hz in the arm's non-real-time Cartesian
motion-force mode; height and orientation stay as they were when it was engaged.  Whatever a
person must see to (a fault, an emergency stop, a contact beyond the limits) is latched here and
cleared by :meth:`FlexivArm.clear_fault` only, which no program of ours calls by itself.

The SDK's Stop() blocks until the arm is still.  So :meth:`FlexivArm.stop` first gives the arm its
own position as target, then lets a thread wait for Stop() and itself answers within
``STOP_BUDGET`` seconds: False means 'not confirmed yet, ask again'.  In one process with the SDK
that thread holds Python's lock (see flexiv_rdk), and the budget is the SDK's; the worker process
is there for that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import math
import threading
import time

from .base import Health, RobotError, RobotState
from .flexiv_motion import Pair, SLACK, Target, Workspace, yaw
from .flexiv_rdk import Arm, Limits, MOTION, Setup, Snapshot

RATE = 100.0  # Hz; the vendor's examples send 1 to 100
STOP_BUDGET = 0.4  # s, of the 0.5 s that a bridge gives
LOOK = 0.004  # s, for which a snapshot is new enough
JOINTS = ('tool_x', 'tool_y')


@dataclass(frozen=True)
class FlexivConfig:
    """
    What the adapter may do with the arm, SI units.

    ``lead``: the furthest a target may be from the tool, speed times the bridge's watchdog.
    ``contact_force`` and ``contact_torque``: norm of the external force, and any joint's external
    torque, beyond which it stops (the SDK's demo: 10 N, 5 Nm).
    """

    workspace: Workspace = field(default_factory=Workspace)
    limits: Limits = field(default_factory=Limits)
    setup: Setup = field(default_factory=Setup)
    lead: float = 0.09
    contact_force: float = 10.0
    contact_torque: float = 5.0
    state_timeout: float = 0.5
    ready_timeout: float = 15.0


class FlexivArm:
    """The robot of task ``push_t``: command (vx, vy), m/s, in the task's frame."""

    sink_hz = RATE

    def __init__(
        self, arm: Arm, config: FlexivConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.arm, self.config, self.clock = arm, config, clock
        self.target = Target(config.workspace, config.limits.linear_speed, config.lead)
        self.velocity: Pair = (0.0, 0.0)
        self.latched = ''  # what a person must see to
        self.engaged = False
        self._pose: tuple[float, ...] = ()  # as engaged: its height and orientation are kept
        self._snapshot: Snapshot | None = None
        self._looked = -math.inf
        self._link = 'the arm is not connected'
        self._watch = threading.Lock()  # the snapshot and what follows from it
        self._hands = threading.Lock()  # one blocking call at a time; states may cease meanwhile
        self._stopper: threading.Thread | None = None

    # ------------------------------------------------------------------ to where it obeys
    def connect(self) -> None:
        """
        Connect and release the brakes.

        :raises RobotError: nobody there, a fault or a pressed e-stop (which stay), not ready.
        """
        self.arm.open()
        snapshot = self._first()
        if snapshot.fault:
            raise RobotError(
                f'{self.latched}; find its cause on the teach pendant, clear it there, and '
                'configure again'
            )
        self._make_ready()

    def engage(self) -> None:
        """Take pose targets, beginning where the tool is; it does not move."""
        if self.latched:
            raise RobotError(f'{self.latched}; call clear_fault when it is safe')
        with self._hands:
            self._enter()

    def clear_fault(self) -> None:
        """Clear the arm's fault and what is latched here, and release the brakes: for a person."""
        with self._hands:
            snapshot = self._look(0.0)
            if snapshot is None or not snapshot.connected:
                raise RobotError(f'nothing to clear: {self._link or "the arm is not connected"}')
            if snapshot.fault and not self.arm.clear_fault(30.0):
                raise RobotError('the arm kept its fault; see its event log, or switch it off')
            self._make_ready()
            self.latched, self.engaged = '', False

    def _first(self) -> Snapshot:
        until = self.clock() + self.config.state_timeout + 2.0
        while (snapshot := self._look(0.0)) is None or not snapshot.connected:
            if self.clock() > until:
                raise RobotError(f'the arm answers but sends no state; {self._link}')
            time.sleep(0.01)
        return snapshot

    def _make_ready(self) -> None:
        """Enable the arm and wait, for a bounded time, until it says that it is operational."""
        snapshot = self._look(0.0)
        if snapshot is not None and not snapshot.estop_released:
            raise RobotError('the emergency stop is pressed; release it and try again')
        if snapshot is None or not snapshot.operational:
            self.arm.enable()
        until = self.clock() + self.config.ready_timeout
        while (snapshot := self._look(0.0)) is None or not snapshot.operational:
            if self.clock() > until:
                status = snapshot.status if snapshot else self._link
                raise RobotError(
                    f'the arm is not operational after {self.config.ready_timeout:g} s: {status}; '
                    'it must be in auto mode with remote control (Ethernet) on'
                )
            time.sleep(0.02)

    def _enter(self) -> None:
        snapshot = self._look(0.0)
        if snapshot is None:
            raise RobotError(self._link)
        tool, box = self._tool(snapshot), self.config.workspace
        if box.misses(tool) > SLACK:
            raise RobotError(
                f'the tool is at ({tool[0]:.3f}, {tool[1]:.3f}) m, outside the workspace from '
                f'{box.low} to {box.high}; drive it inside with the teach pendant, or check the '
                'parameters board and workspace'
            )
        self.arm.enter(self.config.setup)
        snapshot = self._look(0.0) or snapshot
        self._pose = snapshot.pose
        self.target.rest(self._tool(snapshot), snapshot.stamp)
        self.engaged = True

    # ------------------------------------------------------------------ motion
    def command(self, values: tuple[float, ...]) -> None:
        """Take (vx, vy); RobotError for what is no velocity."""
        if len(values) != 2 or not all(math.isfinite(value) for value in values):
            raise RobotError(f'{values} is no tool velocity; it has two finite numbers, m/s')
        self.velocity = (float(values[0]), float(values[1]))

    def tick(self, dt: float) -> None:
        """Send the next target; after a stop it enters the mode again first, which blocks."""
        snapshot = self._look(LOOK)
        wrong = self._wrong(snapshot)
        if wrong or snapshot is None:
            raise RobotError(wrong)
        if not self.engaged:
            with self._hands:
                self._enter()
            snapshot = self._look(0.0) or snapshot
        point = self.target.advance(self.velocity, dt, self._tool(snapshot), snapshot.stamp)
        self.arm.send((*self.config.workspace.to_arm(point), *self._pose[2:]), self.config.limits)

    def stop(self) -> bool:
        """Hold where the tool is, then Stop(); see the module's text for its time."""
        self.velocity = (0.0, 0.0)
        until = self.clock() + STOP_BUDGET
        if self.engaged:
            self._hold()
        self.engaged = False
        if self._rests():
            return True
        if self._stopper is None or not self._stopper.is_alive():
            self._stopper = threading.Thread(target=self._stop, name='flexiv_stop', daemon=True)
            self._stopper.start()
        self._stopper.join(until - self.clock())
        while not self._rests():
            if self._stopper.is_alive() or self.clock() > until:
                return False
            time.sleep(0.005)  # its newest state may still be on the way
        return True

    def _hold(self) -> None:
        """Take the lead away: the target is where the tool is."""
        snapshot = self._look(LOOK)
        try:
            if snapshot is not None and snapshot.mode == MOTION:
                self.arm.send((*snapshot.pose[:2], *self._pose[2:]), self.config.limits)
        except RobotError:
            pass  # Stop() is asked for next, and says what is wrong

    def _stop(self) -> None:
        try:
            self.arm.stop()
        except RobotError as error:
            self._link = str(error)

    def _rests(self) -> bool:
        """Tell whether the arm has said that it stands and obeys no targets."""
        snapshot = self._look(0.0)
        if snapshot is None or self._silence(snapshot):
            return False
        return snapshot.stopped and (snapshot.mode != MOTION or not snapshot.operational)

    # ------------------------------------------------------------------ how it is
    def health(self) -> Health:
        """Return the verdict on the newest state."""
        snapshot = self._look(LOOK)
        wrong = self._wrong(snapshot)
        values: dict[str, object] = {}
        if snapshot is not None:
            values = {
                'mode': snapshot.mode,
                'status': snapshot.status,
                'connected': snapshot.connected,
                'state_age_ms': round(1e3 * (self.clock() - snapshot.arrived)),
                'contact_N': round(_norm(snapshot.wrench[:3]), 1),
                'enabling_button': snapshot.enabling_button,
                **{f'limited_{name}': count for name, count in self.target.limited.items()},
            }
        return Health(not wrong, wrong, bool(self.latched), values)

    def state(self) -> RobotState | None:
        """Return tool_x and tool_y with their velocities, and the pose in the task's frame."""
        snapshot = self._look(LOOK)
        if snapshot is None:
            return None
        workspace = self.config.workspace
        x, y = self._tool(snapshot)
        vx, vy = workspace.turned((snapshot.twist[0], snapshot.twist[1]))
        angle = yaw(snapshot.pose[3:]) - workspace.board[2]
        cos, sin = math.cos(angle), math.sin(angle)
        return RobotState(
            snapshot.arrived,
            dict(zip(JOINTS, ((x, vx), (y, vy)))),
            (x, y, angle),
            (cos * vx + sin * vy, cos * vy - sin * vx, snapshot.twist[5]),
        )

    def close(self) -> None:
        """Stop, wait for it as long as a stop may take, and let go."""
        if self._snapshot is not None:
            self.stop()
        if self._stopper is not None:
            self._stopper.join(1.0)
        self.arm.close()
        if self._stopper is not None:
            self._stopper.join(1.0)

    def _tool(self, snapshot: Snapshot) -> Pair:
        return self.config.workspace.to_task((snapshot.pose[0], snapshot.pose[1]))

    def _look(self, age: float) -> Snapshot | None:
        """Return the state, not older than ``age`` (s), and latch what it says of trouble."""
        with self._watch:
            if self.clock() - self._looked > age:
                try:
                    self._snapshot = self.arm.snapshot() or self._snapshot
                    self._link = ''
                except RobotError as error:
                    self._link = str(error)
                self._looked = self.clock()
            if self._snapshot is not None and not self.latched:
                self.latched = self._trouble(self._snapshot)
            return self._snapshot

    def _trouble(self, snapshot: Snapshot) -> str:
        """Say what a person must see to."""
        force, torque = _norm(snapshot.wrench[:3]), max(map(abs, snapshot.torques), default=0.0)
        if snapshot.connected and not snapshot.estop_released:
            return 'the emergency stop was pressed'
        if snapshot.fault:
            return f'the arm has a fault ({" ".join((snapshot.status, snapshot.event)).strip()})'
        if self.engaged and force > self.config.contact_force:
            return f'contact of {force:.0f} N, more than {self.config.contact_force:g} N'
        if self.engaged and torque > self.config.contact_torque:
            return f'contact of {torque:.0f} Nm, more than {self.config.contact_torque:g} Nm'
        return ''

    def _silence(self, snapshot: Snapshot) -> str:
        age = self.clock() - snapshot.arrived
        if not snapshot.connected:
            return 'the connection with the arm is lost'
        if age > self.config.state_timeout:
            return f'no new state from the arm for {age:.1f} s'
        return ''

    def _wrong(self, snapshot: Snapshot | None) -> str:
        """Say why it cannot be driven now; '' when it can."""
        if snapshot is None:
            return self._link or 'no state from the arm yet'
        if self.latched:
            return f'{self.latched}; call clear_fault when it is safe'
        if not self._hands.locked() and (silence := self._silence(snapshot) or self._link):
            return silence
        if snapshot.reduced or snapshot.recovery or not snapshot.operational:
            return f'the arm is not operational: {snapshot.status}'
        if self.engaged and snapshot.mode != MOTION:
            return f'the arm has left its mode for {snapshot.mode}'
        return ''


def _norm(vector: tuple[float, ...]) -> float:
    return math.sqrt(sum(value * value for value in vector))
