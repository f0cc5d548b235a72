"""
The person's pad: ``joy`` -> ``cmd_teleop`` and ``intent``.

Both carry the Joy's stamp, so that a label and a command belong to the frame the person saw.
Without the dead-man the command is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import time

from dmo_ros.msg import IntentLabel
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy

from . import qos, run
from .convert import nanoseconds, to_command
from .parameters import declare, parameter
from ..core.gate import within_box
from ..core.intent import IntentButtons, PadError, PadMap, read_pad
from ..core.tasks import get_task


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
        check_pad(config.pad, len(self.spec.driven))
        self.buttons = IntentButtons(config.intent_mode)
        self.low = [item.low for item in self.spec.driven]
        self.high = [item.high for item in self.spec.driven]
        self.command_out = self.create_publisher(TwistStamped, 'cmd_teleop', qos.COMMAND_OUT)
        self.intent_out = self.create_publisher(IntentLabel, 'intent', qos.STREAM)
        self.create_subscription(Joy, 'joy', self._on_joy, qos.FEW)

    def _on_joy(self, message: Joy) -> None:
        try:
            pad = read_pad(message.axes, message.buttons, self.config.pad)
        except PadError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        stick = [
            value * (high if value > 0 else -low)
            for value, low, high in zip(pad.stick, self.low, self.high)
        ]
        if not pad.deadman:
            stick = [0.0] * len(stick)
        allowed = within_box(stick, self.low, self.high)
        stamp = nanoseconds(message.header.stamp)
        self.command_out.publish(to_command(allowed, self.spec, stamp))
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


def check_pad(pad: PadMap, fields: int) -> None:
    """Refuse a pad map that has not one axis per driven field."""
    if len(pad.axes) != fields:
        raise PadError(
            f'the pad map has {len(pad.axes)} axes, the task drives {fields} fields; '
            'set pad.axes and pad.signs in the config file of the task'
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(TeleopNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
