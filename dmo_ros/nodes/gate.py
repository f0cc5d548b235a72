"""
The gate's process: ``cmd_teleop``, ``cmd_policy`` and ``joy`` -> ``cmd``.

It forwards on arrival and repeats at 50 Hz or more by a steady timer; every decision is
:mod:`dmo_ros.core.gate`'s.  It imports no torch and asks no clock but the steady one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from . import qos, run
from .convert import command_type, from_command, nanoseconds, posture, to_command
from .diagnostics import Diagnostics, ERROR, OK, status, WARN
from .parameters import declare, parameter
from .writers import Offers, Writers
from ..core.gate import Command, Gate, GateConfig, POLICY, State, TELEOP
from ..core.intent import PadError, PadMap, read_pad
from ..core.tasks import get_task

LOOK_EVERY = 0.2  # seconds between two looks for rivals who are silent
SAY_EVERY = 1.0  # seconds: a late bridge gets what is latched with the next heartbeat, after 3 s
_LEVELS = {State.ARMED: OK, State.ACTIVE: OK, State.FAULT: ERROR}


@dataclass(frozen=True)
class GateNodeConfig:
    """Parameters of the gate node."""

    task: str = parameter('pusher', 'task whose limits are enforced')
    publish_hz: float = parameter(50.0, 'how often the command in force is repeated', 50.0, 500.0)
    joy_timeout: float = parameter(0.2, 'seconds without the pad before zero', 0.05, 0.5)
    joy_rate: float = parameter(15.0, 'slowest pad (Hz) with which arming is allowed', 5.0, 100.0)
    need_bridge: bool = parameter(
        True, 'arm and drive only while bridge/status is well; false where no bridge is'
    )
    need_camera: bool = parameter(
        True, 'arm, and let a policy drive, only while camera_info comes'
    )
    held_up: float = parameter(
        0.25, 'seconds without a turn of its own timer after which the gate disarms', 0.1, 2.0
    )
    pad: PadMap = field(default=PadMap())


class GateNode(Node):
    """Messages in and out of one :class:`Gate`."""

    def __init__(self) -> None:
        super().__init__('gate')
        self.config = config = declare(self, GateNodeConfig)
        self.spec = get_task(config.task)
        config.pad.check(self.spec)
        limits = GateConfig.of(
            self.spec,
            config.joy_timeout,
            config.joy_rate,
            config.need_bridge,
            config.need_camera,
            config.held_up,
        )
        self.gate = Gate(limits, self._on_transition)
        self._shown: tuple[object, ...] = ()
        self.writers: dict[str, Writers] = {}
        self.offers: list[Offers] = []
        self._make_interfaces()
        self._show_status()

    def _make_interfaces(self) -> None:
        kind = command_type(self.spec)
        self.command_out = self.create_publisher(kind, 'cmd', qos.COMMAND_OUT)
        self.status_out = self.create_publisher(DiagnosticStatus, '~/status', qos.LATCHED)
        self.estop_out = self.create_publisher(Bool, '~/estop_engaged', qos.LATCHED)
        # What stamps are copied from is heard before what carries the copies.
        self._hear(CameraInfo, 'camera_info', self._on_camera, qos.NEWEST)
        self._hear(Joy, 'joy', self._on_joy, qos.FEW)
        for source in (TELEOP, POLICY):
            self._hear_writer(kind, f'cmd_{source}', partial(self._on_command, source))
        self._hear_writer(kind, 'cmd', lambda message: self._rival('cmd'), raw=True)  # its own
        self._hear(DiagnosticStatus, 'bridge/status', self._on_bridge, qos.LATCHED)
        self._hear(Bool, 'estop', self._on_estop, qos.FEW)  # whatever its durability
        quiet = qos.SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
        self.create_subscription(Bool, 'estop', self._on_estop, qos.LATCHED, event_callbacks=quiet)
        if self.spec.body:
            self._hear(JointState, 'joint_states', self._on_joints, qos.NEWEST)
        for name, action in (
            ('arm', self._arm),
            ('disarm', self._disarm),
            ('estop', self._estop),
            ('clear_fault', self._clear_fault),
        ):
            self.create_service(Trigger, f'~/{name}', partial(self._serve, action))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self.config.publish_hz, self._on_timer, clock=steady)
        self.create_timer(LOOK_EVERY, self._look_for_rivals, clock=steady)
        self.create_timer(SAY_EVERY, self._say_status, clock=steady)
        self.diagnostics = Diagnostics(self, self._diagnose)

    def _hear(self, kind: Any, topic: str, handle: Callable[[Any], None], profile: Any) -> None:
        offers = Offers(self, topic, profile)
        self.offers.append(offers)
        self.create_subscription(kind, topic, handle, profile, event_callbacks=offers.events)

    def _hear_writer(
        self, kind: Any, topic: str, handle: Callable[[Any], Any], raw: bool = False
    ) -> None:
        writers = self.writers[topic] = Writers(self, topic)
        self.offers.append(writers)
        self.create_subscription(
            kind, topic, handle, qos.COMMAND_IN, event_callbacks=writers.events, raw=raw
        )

    # ------------------------------------------------------------------ commands
    def _on_joy(self, message: Joy) -> None:
        try:
            pad = read_pad(message.axes, message.buttons, self.config.pad)
        except PadError as error:  # unread, it grows old, and the gate stops for that
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        self._send(self.gate.on_pad(time.monotonic(), pad, nanoseconds(message.header.stamp)))
        self._show_status()

    def _on_command(self, source: str, message: Any) -> None:
        if self._rival(f'cmd_{source}'):
            self.gate.counts['from_rivals'] += 1
            return
        stamp = nanoseconds(message.header.stamp)
        if not stamp:
            self.get_logger().warning(f'cmd_{source} has no stamp; its time is guessed', once=True)
        self._send(
            self.gate.on_command(
                time.monotonic(),
                source,
                from_command(message, self.spec),
                stamp,
                message.header.frame_id,
            )
        )

    def _on_timer(self) -> None:
        self._send(self.gate.tick(time.monotonic()))
        self._show_status()

    def _send(self, command: Command | None) -> None:
        if command is not None:
            self.command_out.publish(to_command(command.values, self.spec, command.stamp))

    # ------------------------------------------------------------------ surroundings
    def _on_camera(self, message: CameraInfo) -> None:
        self._send(self.gate.on_frame(time.monotonic(), nanoseconds(message.header.stamp)))

    def _on_bridge(self, message: DiagnosticStatus) -> None:
        fault = any(pair.key == 'fault' and pair.value == 'true' for pair in message.values)
        ok = message.level == bytes([OK])
        self._send(self.gate.on_health(time.monotonic(), ok, fault, message.message))
        self._show_status()

    def _on_joints(self, message: JointState) -> None:
        values = posture(message, self.spec)
        if values is not None:
            stamp = nanoseconds(message.header.stamp)
            self.gate.on_posture(time.monotonic(), values, stamp)

    def _on_estop(self, message: Bool) -> None:
        self._send(self.gate.on_estop(time.monotonic(), message.data))
        self._show_status()

    # ------------------------------------------------------------------ people
    def _serve(
        self,
        action: Callable[[], tuple[bool, str]],
        request: Trigger.Request,
        response: Trigger.Response,
    ) -> Trigger.Response:
        response.success, response.message = action()
        self._show_status()
        return response

    def _arm(self) -> tuple[bool, str]:
        return self.gate.arm(time.monotonic())

    def _disarm(self) -> tuple[bool, str]:
        self._send(self.gate.disarm(time.monotonic()))
        return True, self.gate.state.value

    def _estop(self) -> tuple[bool, str]:
        self._send(self.gate.estop(time.monotonic()))
        return True, self.gate.reason

    def _clear_fault(self) -> tuple[bool, str]:
        self._look_for_rivals()
        return self.gate.clear_fault(time.monotonic())

    # ------------------------------------------------------------------ rivals
    def _look_for_rivals(self) -> None:
        for topic in self.writers:
            self._rival(topic)

    def _rival(self, topic: str) -> str:
        """Ask who writes a topic, and let the gate know."""
        found = self.writers[topic].rival()
        if found or topic in self.gate.around.rivals:
            self._send(self.gate.set_rival(time.monotonic(), topic, found))
            self._show_status()
        return found

    # ------------------------------------------------------------------ what it tells
    def _on_transition(self, before: State, state: State, reason: str) -> None:
        text = f'{before.value} -> {state.value}: {self.gate.code.value}: {reason}'
        if state is State.FAULT:  # rclpy wants one call per severity
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        """Return what is told once a second: the status, and who cannot be heard."""
        level, text, values = self._verdict()
        unheard = [told for told in (offers.mismatch() for offers in self.offers) if told]
        if unheard:
            level, text = ERROR, '; '.join([text, *unheard])
        return level, text, values

    def _verdict(self) -> tuple[int, str, dict[str, object]]:
        gate = self.gate
        values: dict[str, object] = {
            'state': gate.state.value,
            'code': gate.code.value,
            'source': gate.following,
            'estop': str(gate.around.estop).lower(),
            **gate.counts,
        }
        return _LEVELS.get(gate.state, WARN), gate.reason, values

    def _show_status(self) -> None:
        """Publish the state when it, its reason or the driver has changed."""
        gate = self.gate
        shown = (gate.state, gate.code, gate.reason, gate.following, gate.around.estop)
        if shown == self._shown:
            return
        if not self._shown or self._shown[-1] != gate.around.estop:
            self.estop_out.publish(Bool(data=gate.around.estop))
        self._shown = shown
        self._say_status()

    def _say_status(self) -> None:
        self.status_out.publish(status('gate', *self._verdict()))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(GateNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
