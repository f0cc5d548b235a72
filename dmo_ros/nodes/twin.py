"""
The pusher twin as a robot: publishes frames and state, obeys ``cmd``, owns ``clock``.

With ``speed`` above 1 it runs in lockstep: its time moves on by one control period when a command
that answers the current frame has come (stamp of the command >= stamp of the frame), however long
that takes, so play recorded at 300 frames a second is the play of 5 frames a second.  A silent
graph is waited for ``lockstep_timeout`` and then counted.  At speed 1 and below time just passes.

A reset is a new start in time as well: the clock jumps ahead by ten periods, which recorder,
converter and policy see as what it is, a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import time

from geometry_msgs.msg import TwistStamped
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from . import qos, run
from .convert import from_command, joint_state, nanoseconds, to_image, to_time
from .diagnostics import Diagnostics
from .parameters import declare, parameter
from ..core.tasks import get_task, TaskError
from ..twins.pusher import PusherTwin

NAMES = ('tool_x', 'tool_y', 'object_x', 'object_y')
RESET_PERIODS = 10


@dataclass(frozen=True)
class TwinConfig:
    """Parameters of the twin node."""

    task: str = parameter('pusher', 'task whose robot is simulated')
    speed: float = parameter(
        1.0, 'most simulated seconds per second; above 1 in lockstep', 0.01, 1e4
    )
    lockstep_timeout: float = parameter(
        1.0, 'seconds to wait for the answer to a frame before time passes without it', 0.02, 60.0
    )
    seed: int = parameter(0, 'seed of the random starts', 0, 2**31)


class TwinNode(Node):
    """Advance the simulator; see the module's text."""

    def __init__(self) -> None:
        super().__init__('twin')
        self.config = config = declare(self, TwinConfig)
        self.spec = get_task(config.task)
        if self.spec.robot != 'pusher':
            raise TaskError(f'the twin of task {config.task!r} is not here yet; use task pusher')
        self.twin = PusherTwin(1, config.seed)
        self.period = round(self.spec.period * 1e9)
        self.lockstep = config.speed > 1.0
        self.stamp = RESET_PERIODS * self.period
        self.velocity = np.zeros((1, len(self.spec.actions)))
        self.commanded = 0  # the stamp of the frame at which the newest command came
        self.answered = False
        self.misses = self.steps = 0
        self._next = time.monotonic()
        self._make_interfaces()
        self._show()

    def _make_interfaces(self) -> None:
        self.clock_out = self.create_publisher(ClockMessage, 'clock', qos.STREAM)
        self.image_out = self.create_publisher(Image, 'twin/image', qos.STREAM)
        self.state_out = self.create_publisher(JointState, 'twin/state', qos.STREAM)
        self.create_subscription(TwistStamped, 'cmd', self._on_command, qos.COMMAND_IN)
        self.create_subscription(JointState, 'twin/place', self._on_place, qos.FEW)
        self.create_service(Trigger, 'twin/reset', self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = self.create_timer(1.0, self._on_timer, clock=steady)
        self.diagnostics = Diagnostics(self, self._diagnose)

    # ------------------------------------------------------------------ time
    def _on_command(self, message: TwistStamped) -> None:
        values = from_command(message, self.spec)
        if not np.isfinite(values).all():
            return  # the gate never sends one; a robot would not obey it either
        self.velocity[0] = values
        self.commanded = self.stamp
        if nanoseconds(message.header.stamp) >= self.stamp and not self.answered:
            self.answered = True
            if self.lockstep:
                self._advance_when_due()

    def _on_timer(self) -> None:
        if self.lockstep and not self.answered:
            self.misses += 1
            self.answered = True
        self._advance_when_due()

    def _advance_when_due(self) -> None:
        left = self._next - time.monotonic()
        if left > 1e-4:
            self._wake_after(left)
            return
        self._step()

    def _wake_after(self, seconds: float) -> None:
        self.timer.timer_period_ns = max(1, int(seconds * 1e9))
        self.timer.reset()

    def _step(self) -> None:
        silent = (self.stamp - self.commanded) * 1e-9
        if silent > self.spec.limits.command_timeout:
            self.velocity[:] = 0.0  # the robot's own watchdog: nobody commands, it stands
        self.twin.step(self.velocity)
        self.steps += 1
        self.stamp += self.period
        self._show()

    def _show(self) -> None:
        """Publish the frame of this moment and set the alarm for the next."""
        self.answered = False
        header = Header(stamp=to_time(self.stamp), frame_id=self.spec.camera.frame_id)
        self.clock_out.publish(ClockMessage(clock=header.stamp))
        self.image_out.publish(to_image(self.twin.render()[0], 'rgb8', header))
        board = Header(stamp=header.stamp, frame_id=self.spec.command_frame)
        self.state_out.publish(joint_state(NAMES, self.twin.state[0], board))
        now = time.monotonic()
        self._next = max(self._next + self.spec.period / self.config.speed, now - self.spec.period)
        self._wake_after(self.config.lockstep_timeout if self.lockstep else self._next - now)

    # ------------------------------------------------------------------ starts
    def _begin(self, state: np.ndarray | None = None) -> None:
        self.twin.reset(state=state)
        self.velocity[:] = 0.0
        self.stamp += RESET_PERIODS * self.period
        self._show()

    def _on_place(self, message: JointState) -> None:
        position = np.array(message.position)
        if position.shape != (len(NAMES),) or not ((position > 0) & (position < 1)).all():
            self.get_logger().error(
                f'twin/place needs {", ".join(NAMES)} in metres, each inside '
                f'the board (0 to 1), not {list(message.position)}; ignored'
            )
            return
        self._begin(position[None])

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin()
        response.success, response.message = True, f'new start at {self.stamp * 1e-9:.1f} s'
        return response

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        text = f'{self.misses} frames went unanswered' if self.misses else ''
        return (
            0,
            text,
            {'steps': self.steps, 'misses': self.misses, 'seconds': round(self.stamp * 1e-9, 3)},
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(TwinNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
