"""
A simulated robot: publishes pictures and its true state, owns ``clock``.

The pusher obeys ``cmd`` itself.  The other twins are moved by the peer of their robot, which
speaks the robot's own protocol with the real bridge; this node gives it time and pictures.

With ``speed`` above 1 it runs in lockstep: its time moves on by one control period when the answer
to the current frame has arrived, however long that takes, so play recorded at 300 frames a second
is the play of 5 frames a second.  For the pusher the answer is a command whose stamp is the
frame's or later; for a peer, the period's setpoints.  A silent graph is waited for
``lockstep_timeout`` and then counted.  At speed 1 and below time just passes.

A reset is a new start in time as well: the clock jumps ahead by ten periods, which recorder,
converter and policy see as what it is, a gap.  In lockstep a robot with a peer first stands for a
moment: setpoints that answer the frame before are still on their way, carry no stamps, and would
move it at its new place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
import time

from geometry_msgs.msg import TwistStamped
import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from . import qos, run
from .convert import from_command, joint_state, nanoseconds, to_image, to_time
from .diagnostics import Diagnostics
from .parameters import declare, parameter
from ..core.tasks import get_task
from ..twins.base import harm, make_peer, make_twin, Peer

RESET_PERIODS = 10
SETTLE = 0.1  # seconds in which what was on its way to the robot arrives and is dropped
TICK = 10_000_000  # ns of a peer's time between two of its decisions
BEHIND = 0.1  # seconds it may lag before it lets the lost time go


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
    camera_hz: float = parameter(
        0.0, 'pictures a second for a robot that serves its camera; 0: the control rate', 0.0, 60.0
    )
    seed: int = parameter(0, 'seed of the random starts', 0, 2**31)


class TwinNode(Node):
    """Advance the simulator; see the module's text."""

    def __init__(self) -> None:
        super().__init__('twin')
        self.config = config = declare(self, TwinConfig)
        self.spec = get_task(config.task)
        self.period = round(self.spec.period * 1e9)
        self.lockstep = config.speed > 1.0
        self.twin = make_twin(config.task, 1, config.seed)
        domain = int(os.environ.get('ROS_DOMAIN_ID') or 0)
        self.peer: Peer | None = make_peer(config.task, self.twin, domain, self.lockstep)
        self.tick = TICK if self.peer is not None and not self.lockstep else self.period
        self.stamp = self.frame = RESET_PERIODS * self.period
        self.command = np.zeros((1, len(self.spec.actions)))
        self.commanded = 0  # the stamp of the frame at which the newest command came
        self.answered = self.settling = False
        self.misses = self.steps = 0
        self._picture_at = 0
        self._next = self._first()
        self._make_interfaces()
        if self.peer is not None:
            self.wake = self.create_guard_condition(self._on_peer)
            self.peer.start(self.wake.trigger)
        self._show()

    def _make_interfaces(self) -> None:
        self.clock_out = self.create_publisher(ClockMessage, 'clock', qos.STREAM)
        self.image_out = self.create_publisher(Image, 'twin/image', qos.STREAM)
        self.state_out = self.create_publisher(JointState, 'twin/state', qos.STREAM)
        if self.peer is None:
            self.create_subscription(TwistStamped, 'cmd', self._on_command, qos.COMMAND_IN)
        self.create_subscription(JointState, 'twin/place', self._on_place, qos.FEW)
        self.create_subscription(String, 'twin/harm', self._on_harm, qos.FEW)
        self.create_service(Trigger, 'twin/reset', self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = self.create_timer(1.0, self._on_timer, clock=steady)
        self.diagnostics = Diagnostics(self, self._diagnose)

    # ------------------------------------------------------------------ answers
    def _on_command(self, message: TwistStamped) -> None:
        values = from_command(message, self.spec)
        if not np.isfinite(values).all():
            return  # the gate never sends one; a robot would not obey it either
        self.command[0] = values
        self.commanded = self.stamp
        if nanoseconds(message.header.stamp) >= self.stamp:
            self._on_answer()

    def _on_peer(self) -> None:
        if not self.lockstep or self.settling or self.peer is None:
            return
        if self.peer.pending >= self.peer.burst:
            self._on_answer()

    def _on_answer(self) -> None:
        if not self.answered:
            self.answered = True
            if self.lockstep:
                self._advance_when_due()

    # ------------------------------------------------------------------ time
    def _on_timer(self) -> None:
        if self.settling:
            self._settled()
            return
        if self.lockstep and not self.answered:
            self.misses += 1
            self.answered = True
        self._advance_when_due()

    def _advance_when_due(self) -> None:
        left = self._next - time.monotonic()
        if left > 1e-4:
            self._wake_after(left)
            return
        self._advance()

    def _wake_after(self, seconds: float) -> None:
        self.timer.timer_period_ns = max(1, int(seconds * 1e9))
        self.timer.reset()

    def _advance(self) -> None:
        """Let one tick pass."""
        seconds = self.tick * 1e-9
        if self.peer is not None:
            self.peer.advance(seconds)
        else:
            silent = (self.stamp - self.commanded) * 1e-9
            if silent > self.spec.limits.command_timeout:
                self.command[:] = 0.0  # the robot's own watchdog: nobody commands, it stands
            self.twin.advance(self.command, seconds)
        self.stamp += self.tick
        now = time.monotonic()
        self._next = max(self._next + seconds / self.config.speed, now - BEHIND)
        if self.stamp >= self.frame + self.period:
            self.steps += 1
            self._show()
        else:
            self._tell_time()
            self._film()
            self._wake_after(self._next - now)

    def _show(self) -> None:
        """Publish the frame of this moment and set the alarm for the next."""
        self.answered = False
        self.frame = self.stamp
        header = self._tell_time()
        picture = self.twin.render()[0]
        if self.peer is not None:
            self.peer.show(picture)
            self._picture_at = self.stamp
        self.image_out.publish(to_image(picture, 'rgb8', header))
        true = Header(stamp=header.stamp, frame_id=self.spec.command_frame)
        self.state_out.publish(joint_state(self.twin.names, self.twin.state[0], true))
        left = self._next - time.monotonic()
        self._wake_after(self.config.lockstep_timeout if self.lockstep else left)
        if self.lockstep:
            self._on_peer()  # its answer may have come before the picture was out

    def _tell_time(self) -> Header:
        header = Header(stamp=to_time(self.stamp), frame_id=self.spec.camera.frame_id)
        self.clock_out.publish(ClockMessage(clock=header.stamp))
        return header

    def _film(self) -> None:
        """Give the robot's own camera a picture between two frames, where it wants more."""
        rate = self.config.camera_hz
        if rate and self.peer is not None and (self.stamp - self._picture_at) * rate >= 1e9:
            self._picture_at = self.stamp
            self.peer.show(self.twin.render()[0])

    # ------------------------------------------------------------------ starts
    def _begin(self, state: np.ndarray | None = None) -> None:
        self.twin.reset(state=state)
        if self.peer is not None:
            self.peer.reset()
        self.command[:] = 0.0
        if self.lockstep and self.peer is not None:
            self.settling = True
            self._wake_after(SETTLE)
        else:
            self._settled()

    def _settled(self) -> None:
        if self.settling and self.peer is not None:
            self.settling = False
            self.peer.reset()
        self.stamp += RESET_PERIODS * self.period
        self._next = self._first()
        self._show()

    def _first(self) -> float:
        """Return when the first tick after a start is due."""
        return time.monotonic() + self.tick * 1e-9 / self.config.speed

    def _on_place(self, message: JointState) -> None:
        names, position = self.twin.names, np.array(message.position)
        if position.shape == (len(names),) and np.isfinite(position).all():
            wrong = self.twin.check(position)
        else:
            wrong = f'it needs {", ".join(names)}, finite'
        if wrong:
            self.get_logger().error(f'twin/place of {list(message.position)} is ignored: {wrong}')
            return
        self._begin(position[None])

    def _on_harm(self, message: String) -> None:
        """Throw a switch of the peer: a person practises a fault, a test proves a stop."""
        wrong = harm(self.peer, message.data) if self.peer else 'this twin has no peer to harm'
        if wrong:
            self.get_logger().error(f'twin/harm is ignored: {wrong}')
        else:
            self.get_logger().warning(f'the robot was harmed on request: {message.data}')

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin()
        begins = self.stamp + self.settling * RESET_PERIODS * self.period
        response.success, response.message = True, f'new start at {begins * 1e-9:.1f} s'
        return response

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        text = f'{self.misses} frames went unanswered' if self.misses else ''
        return (
            0,
            text,
            {'steps': self.steps, 'misses': self.misses, 'seconds': round(self.stamp * 1e-9, 3)},
        )

    def destroy_node(self) -> None:
        """End the peer's threads, then the node."""
        if self.peer is not None:
            self.peer.stop()
        super().destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(TwinNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
