"""
The gate's process: ``cmd_teleop``, ``cmd_policy`` and ``joy`` -> ``cmd``.

It forwards on arrival and repeats at 50 Hz or more by a steady timer; every decision is
:mod:`dmo_ros.core.gate`'s.  It imports no torch and asks no clock but the steady one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
import time

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from . import qos, run
from .convert import command_type, from_command, nanoseconds, to_command
from .diagnostics import Diagnostics, ERROR, OK, status, WARN
from .parameters import declare, parameter
from .teleop import check_pad
from ..core.gate import Command, Gate, GateConfig, POLICY, State, TELEOP
from ..core.intent import PadError, PadMap, read_pad
from ..core.tasks import get_task

LOOK_EVERY = 0.2  # seconds between two looks for rivals
NAMELESS_LOOKS = 25
_NAMELESS = '_NODE_NAME_UNKNOWN_'
_LEVELS = {State.ARMED: OK, State.ACTIVE: OK, State.FAULT: ERROR}


@dataclass(frozen=True)
class GateNodeConfig:
    """Parameters of the gate node."""

    task: str = parameter('pusher', 'task whose limits are enforced')
    publish_hz: float = parameter(50.0, 'how often the command in force is repeated', 50.0, 500.0)
    joy_timeout: float = parameter(0.2, 'seconds without the pad before zero', 0.05, 0.5)
    joy_rate: float = parameter(15.0, 'slowest pad (Hz) with which arming is allowed', 5.0, 100.0)
    pad: PadMap = field(default=PadMap())


class GateNode(Node):
    """Messages in and out of one :class:`Gate`."""

    def __init__(self) -> None:
        super().__init__('gate')
        self.config = config = declare(self, GateNodeConfig)
        self.spec = get_task(config.task)
        check_pad(config.pad, len(self.spec.actions))
        limits = GateConfig.of(self.spec, config.joy_timeout, config.joy_rate)
        self.gate = Gate(limits, self._on_transition)
        self._shown: tuple[str, ...] = ()
        self._alive: dict[str, int] = {}
        self._nameless: Counter[str] = Counter()
        self._make_interfaces()
        self._show_status()

    def _make_interfaces(self) -> None:
        self.command_out = self.create_publisher(command_type(self.spec), 'cmd', qos.COMMAND_OUT)
        self.status_out = self.create_publisher(DiagnosticStatus, '~/status', qos.LATCHED)
        for source in (TELEOP, POLICY):
            topic = f'cmd_{source}'
            self.create_subscription(
                command_type(self.spec),
                topic,
                partial(self._on_command, source),
                qos.COMMAND_IN,
                event_callbacks=qos.SubscriptionEventCallbacks(
                    liveliness=partial(self._on_liveliness, topic)
                ),
            )
        self.create_subscription(Joy, 'joy', self._on_joy, qos.FEW)
        self.create_service(Trigger, '~/arm', partial(self._serve, self._arm))
        self.create_service(Trigger, '~/disarm', partial(self._serve, self._disarm))
        self.create_service(Trigger, '~/clear_fault', partial(self._serve, self.gate.clear_fault))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self.config.publish_hz, self._on_timer, clock=steady)
        self.create_timer(LOOK_EVERY, self._look_for_rivals, clock=steady)
        self.diagnostics = Diagnostics(self, self._diagnose)

    # ------------------------------------------------------------------ commands
    def _on_joy(self, message: Joy) -> None:
        try:
            pad = read_pad(message.axes, message.buttons, self.config.pad)
        except PadError as error:  # unread, it grows old, and the gate stops for that
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        self._send(self.gate.on_pad(time.monotonic(), pad, nanoseconds(message.header.stamp)))
        self._show_status()

    def _on_command(self, source: str, message: TwistStamped) -> None:
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

    # ------------------------------------------------------------------ people
    def _serve(
        self, action: object, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        response.success, response.message = action()  # type: ignore[operator]
        self._show_status()
        return response

    def _arm(self) -> tuple[bool, str]:
        return self.gate.arm(time.monotonic())

    def _disarm(self) -> tuple[bool, str]:
        self._send(self.gate.disarm(time.monotonic()))
        return True, self.gate.state.value

    # ------------------------------------------------------------------ rivals
    def _on_liveliness(self, topic: str, event: object) -> None:
        """Count the live senders; the ghost of a killed one is not alive and not counted."""
        self._alive[topic] = event.alive_count  # type: ignore[attr-defined]
        self._look_for_rivals()

    def _look_for_rivals(self) -> None:
        for topic in ('cmd', 'cmd_teleop', 'cmd_policy'):
            nodes = {
                f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                for info in self.get_publishers_info_by_topic(topic)
            }
            rival = self._rival(topic, nodes)
            self._send(self.gate.set_rivals(time.monotonic(), topic, rival))

    def _rival(self, topic: str, nodes: set[str]) -> str:
        """Name who publishes on a topic besides the one who may, '' for nobody."""
        # For a moment after its discovery every publisher is nameless; one that stays so is no
        # ROS node at all.
        nameless = {node for node in nodes if _NAMELESS in node}
        self._nameless[topic] = self._nameless[topic] + 1 if nameless else 0
        if self._nameless[topic] < NAMELESS_LOOKS:
            nodes = nodes - nameless
        if topic == 'cmd':
            return ', '.join(sorted(nodes - {self.get_fully_qualified_name()}))
        if len(nodes) > 1:
            return ', '.join(sorted(nodes))
        alive = self._alive.get(topic, 0)
        return f'{alive} live senders named {", ".join(nodes)}' if alive > 1 else ''

    # ------------------------------------------------------------------ what it tells
    def _on_transition(self, before: State, state: State, reason: str) -> None:
        text = f'{before.value} -> {state.value}: {reason}'
        if state is State.FAULT:  # rclpy wants one call per severity
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        gate = self.gate
        values: dict[str, object] = {
            'state': gate.state.value,
            'source': gate.following,
            **gate.counts,
        }
        return _LEVELS.get(gate.state, WARN), gate.reason, values

    def _show_status(self) -> None:
        """Publish the state when it, its reason or the driver has changed."""
        shown = (self.gate.state.value, self.gate.reason, self.gate.following)
        if shown != self._shown:
            self._shown = shown
            self.status_out.publish(status('gate', *self._diagnose()))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(GateNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
