"""
The scripted person: looks at the twin, answers with a pad (``joy``) as a person's would.

It sees a frame when the camera has published it (``camera_info`` with the state's stamp), answers
it once, and repeats its last message at ``autorepeat_hz`` while nothing new is to be seen.  Seeing
the gate disarmed it lets everything go, takes the dead-man, and presses arm, as a person would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import time

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState, Joy
from std_msgs.msg import Header

from . import qos, run
from .convert import nanoseconds, to_time
from .parameters import declare, parameter
from .teleop import check_pad
from ..core.intent import INTENT, MILESTONE, PadMap, PLAY
from ..core.tasks import get_task
from ..twins.base import make_operator

WATCH = 'watch'
DRIVEN = ('ARMED', 'ACTIVE')
ASK_AGAIN = 2.0  # seconds


@dataclass(frozen=True)
class OperatorConfig:
    """Parameters of the operator node."""

    task: str = parameter('pusher', 'task that is operated')
    mode: str = parameter(
        'play',
        'how it drives; watch holds the dead-man for a policy',
        choices=('play', 'expert', 'random', WATCH),
    )
    seed: int = parameter(0, 'seed of its choices', 0, 2**31)
    autorepeat_hz: float = parameter(50.0, 'repeats of an unchanged pad (Hz)', 20.0, 200.0)
    pad: PadMap = field(default=PadMap())


class OperatorNode(Node):
    """A person with a pad in front of the twin."""

    def __init__(self) -> None:
        super().__init__('operator')
        self.config = config = declare(self, OperatorConfig)
        spec = get_task(config.task)
        check_pad(config.pad, len(spec.actions))
        self.limit = np.array(
            [f.high if f.is_velocity else rate for f, rate in zip(spec.actions, spec.limits.speed)]
        )
        skill = 'play' if config.mode == WATCH else config.mode
        self.person = make_operator(config.task, 1, config.seed, skill)
        self.seen = self.answered = 0
        self.states: dict[int, np.ndarray] = {}
        self.gate = ''
        self.asking_since = 0.0
        self.pad = self._press(deadman=False)
        self.pressed_at = 0.0
        self.out = self.create_publisher(Joy, 'joy', qos.STREAM)
        self.create_subscription(JointState, 'twin/state', self._on_state, qos.FEW)
        self.create_subscription(CameraInfo, 'camera_info', self._on_frame, qos.FEW)
        self.create_subscription(DiagnosticStatus, 'gate/status', self._on_status, qos.LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.5 / config.autorepeat_hz, self._repeat, clock=steady)

    # ------------------------------------------------------------------ what it sees
    def _on_state(self, message: JointState) -> None:
        stamp = nanoseconds(message.header.stamp)
        self.states[stamp] = np.array(message.position)[None]
        self._answer(stamp)

    def _on_frame(self, message: CameraInfo) -> None:
        self.seen = nanoseconds(message.header.stamp)
        self._answer(self.seen)

    def _on_status(self, message: DiagnosticStatus) -> None:
        state = next((pair.value for pair in message.values if pair.key == 'state'), '')
        if state != self.gate:
            self.asking_since = 0.0
        self.gate = state
        self._answer(self.seen)

    # ------------------------------------------------------------------ what it does
    def _answer(self, stamp: int) -> None:
        """Answer a frame once it is seen and its state is known."""
        if stamp != self.seen or stamp not in self.states or stamp == self.answered:
            return
        self.states = {later: s for later, s in self.states.items() if later >= stamp}
        if self.gate not in DRIVEN:  # asks with the stamp of before: the frame waits for an answer
            self.answered = self.answered or stamp
            return
        self.answered = stamp
        self.pad = self._drive(self.states.pop(stamp))
        self._publish()

    def _drive(self, state: np.ndarray) -> Joy:
        if self.config.mode == WATCH:
            return self._press(deadman=True)
        motion, label = self.person.act(state)
        return self._press(True, motion[0] / self.limit, int(label[0]))

    def _ask_to_arm(self) -> Joy:
        """Let go, hold the dead-man, press arm a few times; all over again without success."""
        now = time.monotonic()
        if not self.asking_since or now - self.asking_since > ASK_AGAIN:
            self.asking_since = now
        spent = now - self.asking_since
        return self._press(deadman=spent > 0.1, arm=spent > 0.2 and int(spent * 10) % 2 == 0)

    def _press(
        self, deadman: bool, stick: np.ndarray | None = None, label: int = PLAY, arm: bool = False
    ) -> Joy:
        pad = self.config.pad
        axes = [0.0] * pad.size[0]
        for axis, sign, value in zip(
            pad.axes, pad.signs, np.zeros(len(self.limit)) if stick is None else stick
        ):
            axes[pad.own(axis)] = sign * float(value)
        buttons = [0] * pad.size[1]
        if pad.turbo >= 0:
            buttons[pad.turbo] = 1  # at full speed the stick means what it says
        buttons[pad.deadman] = int(deadman)
        buttons[pad.arm] = int(arm)
        buttons[pad.intent] = int(label == INTENT)
        buttons[pad.milestone] = int(label == MILESTONE)
        return Joy(header=Header(frame_id='operator'), axes=axes, buttons=buttons)

    def _publish(self) -> None:
        self.pad.header.stamp = to_time(self.answered)
        self.out.publish(self.pad)
        self.pressed_at = time.monotonic()

    def _repeat(self) -> None:
        early = time.monotonic() - self.pressed_at < 0.9 / self.config.autorepeat_hz
        if early or not self.answered:  # a pad is not touched before there is anything to see
            return
        if self.gate not in DRIVEN:
            self.pad = self._ask_to_arm()
        self._publish()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(OperatorNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
