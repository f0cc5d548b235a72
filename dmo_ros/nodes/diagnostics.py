"""One DiagnosticStatus a second on ``diagnostics``, as ROS tools expect it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from . import qos

OK, WARN, ERROR = 0, 1, 2


def status(name: str, level: int, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """Return a DiagnosticStatus with its values as text."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=bytes([level]), name=name, message=message, values=pairs)


class Diagnostics:
    """Ask ``source`` once a second and publish its (level, message, values)."""

    def __init__(
        self,
        node: Node,
        source: Callable[[], tuple[int, str, Mapping[str, object]]],
        period: float = 1.0,
    ) -> None:
        self.node, self.source = node, source
        self.out = node.create_publisher(DiagnosticArray, 'diagnostics', qos.FEW)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = node.create_timer(period, self.publish, clock=steady)

    def publish(self) -> None:
        """Publish now."""
        level, message, values = self.source()
        array = DiagnosticArray(status=[status(self.node.get_name(), level, message, values)])
        array.header.stamp = self.node.get_clock().now().to_msg()
        self.out.publish(array)
