"""
The person's pad: ``joy`` -> ``cmd_teleop`` and ``intent``.

Both carry the Joy's stamp, so that a label and a command belong to the frame the person saw.
Without the dead-man no velocity is commanded, and positions are the ones in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.msg import IntentLabel
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy

from . import qos, run
from .convert import command_type, from_command, nanoseconds, posture, to_command
from .parameters import declare, parameter
from ..core.gate import TELEOP
from ..core.intent import check_pad, IntentButtons, PadError, PadMap, read_pad
from ..core.steering import Steering
from ..core.tasks import get_task

__all__ = ['check_pad', 'TeleopConfig', 'TeleopNode']


@dataclass(frozen=True)
class TeleopConfig:
    """Parameters of the teleop node."""

    task: str = parameter('pusher', 'task whose fields the stick drives')
    intent_mode: str = parameter(
        'hold', 'intent button held or toggled', choices=('hold', 'toggle')
    )
    source: str = parameter('joy', 'who says so in IntentLabel.source')
    pad: PadMap = field(default=PadMap())


class TeleopNode(Node):
    """Answer every Joy with one command and one label."""

    def __init__(self) -> None:
        super().__init__('teleop')
        self.config = config = declare(self, TeleopConfig)
        self.spec = get_task(config.task)
        config.pad.check(self.spec)
        self.buttons = IntentButtons(config.intent_mode)
        self.steering = Steering(self.spec)
        self.leads = False
        kind = command_type(self.spec)
        self.command_out = self.create_publisher(kind, 'cmd_teleop', qos.COMMAND_OUT)
        self.intent_out = self.create_publisher(IntentLabel, 'intent', qos.STREAM)
        if self.steering.body:
            self.create_subscription(kind, 'cmd', self._on_command, qos.NEWEST)
            self.create_subscription(DiagnosticStatus, 'gate/status', self._on_gate, qos.LATCHED)
            self.create_subscription(JointState, 'joint_states', self._on_joints, qos.NEWEST)
        self.create_subscription(Joy, 'joy', self._on_joy, qos.FEW)

    # ------------------------------------------------------------------ where the robot is
    def _on_command(self, message: Any) -> None:
        self.steering.hear_command(from_command(message, self.spec))

    def _on_joints(self, message: JointState) -> None:
        values = posture(message, self.spec)
        if values is not None:
            self.steering.hear_posture(values, nanoseconds(message.header.stamp))

    def _on_gate(self, message: DiagnosticStatus) -> None:
        self.leads = any(pair.key == 'source' and pair.value == TELEOP for pair in message.values)

    # ------------------------------------------------------------------ what the person does
    def _on_joy(self, message: Joy) -> None:
        try:
            pad = read_pad(message.axes, message.buttons, self.config.pad)
        except PadError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        stamp = nanoseconds(message.header.stamp)
        stick = self.config.pad.spread(pad, self.spec)
        values = self.steering.steer(stick, stamp, pad.deadman, self.leads)
        if values is not None:
            self.command_out.publish(to_command(values, self.spec, stamp))
        self._publish_label(message, pad.intent, pad.milestone)

    def _publish_label(self, message: Joy, intent: bool, milestone: bool) -> None:
        label = self.buttons.update(time.monotonic(), intent, milestone)
        if self.buttons.stuck:
            self.get_logger().warning(
                'the intent button has not moved for half a minute: it is '
                'taken for stuck, labels are play until it moves',
                throttle_duration_sec=5.0,
            )
        self.intent_out.publish(
            IntentLabel(stamp=message.header.stamp, label=label, source=self.config.source)
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(TeleopNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
