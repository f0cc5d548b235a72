"""
The policy on the robot, a lifecycle node: ``image_raw`` (and ``joint_states``) -> ``cmd_policy``.

Configure loads the file and checks its contract; a mismatch is a failed transition and the
sentence that says why.  Activate answers every new frame with one command that carries the frame's
stamp; of a camera that is faster than the control rate only the frames on the control grid are
answered.  A frame that is old, repeated or malformed gets no answer, and the gate stops for the
silence.  A gap in time (an episode's start, a camera that was away) makes the policy begin anew.

In a task with proprioception a frame goes with the newest joint state stamped not after it, which
is how the converter pairs them.  A state that is stale, lacks a joint or is not finite is never
acted on: the frame gets no answer, and ``~/status`` says why (:mod:`dmo_ros.core.proprioception`).
Pictures are late by what a camera needs, so the state of their moment is there already; a frame
that comes before it, as a twin's may, waits up to ``state_wait`` for it.  The first frame after a
gap waits that long in any case: a robot that was put elsewhere is then felt by all who heed where
it is, the gate among them, before anything moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import time

from dmo_ros.msg import PolicyStatus
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from . import Finished, qos, run
from .convert import command_type, nanoseconds, to_command, to_rgb, to_time
from .diagnostics import Diagnostics, ERROR, OK, WARN
from .parameters import declare, parameter
from ..core.actions import fill, to_si
from ..core.cadence import Pace
from ..core.images import ImageError
from ..core.policy import Policy, PolicyError
from ..core.proprioception import ProprioceptionError, StateWatch
from ..core.seal import ContractError
from ..core.stream import FrameWatch
from ..core.tasks import get_task

GAP_PERIODS = 2.5  # one lost frame is bridged, two are the start of something new
_NAMES = {
    PolicyStatus.UNCONFIGURED: 'unconfigured',
    PolicyStatus.INACTIVE: 'inactive',
    PolicyStatus.ACTIVE: 'active',
    PolicyStatus.FAULT: 'fault',
}


@dataclass(frozen=True)
class PolicyConfig:
    """Parameters of the policy node."""

    task: str = parameter('pusher', 'task the robot runs; the file must be made for it')
    path: str = parameter('', 'policy file (.onnx) written by dmo export')
    provider: str = parameter('CPUExecutionProvider', 'onnxruntime provider; no fall-back')
    trusted_keys: str = parameter(
        '',
        'public keys (hex, comma between), one of which must have '
        'signed the file; empty: nobody is asked',
    )
    allow_unsigned: bool = parameter(False, 'take an unsigned file although keys are given')
    state_wait: float = parameter(
        0.05, 'seconds a frame waits for the joint state of its moment to arrive', 0.0, 0.2
    )
    autostart: bool = parameter(False, 'configure and activate at once (for twins)')


@dataclass(frozen=True)
class Waiting:
    """
    A frame to be answered: its stamp (ns), and when it arrived (s, steady clock).

    ``anew``: it is the first after a gap.
    """

    message: Image
    stamp: int
    began: float
    anew: bool


class PolicyNode(LifecycleNode):
    """One :class:`Policy` between a camera and the gate."""

    def __init__(self) -> None:
        super().__init__('policy')
        self.config = declare(self, PolicyConfig)
        self.spec = get_task(self.config.task)
        self.policy: Policy | None = None
        self.state, self.reason = PolicyStatus.UNCONFIGURED, 'no policy is loaded'
        self.latency = self.slowest = 0.0
        self.misses = self.answers = self.skipped = 0
        self.watch = FrameWatch(self.spec.limits.frame_timeout)
        self.pace = Pace(self.spec.period)
        self.felt = StateWatch(self.spec) if self.spec.proprioception else None
        self.waiting: Waiting | None = None
        self.last = self.refused = 0
        self.command_out = self.create_publisher(
            command_type(self.spec), 'cmd_policy', qos.COMMAND_OUT
        )
        self.status_out = self.create_publisher(PolicyStatus, '~/status', qos.LATCHED)
        self.create_subscription(Image, 'image_raw', self._on_image, qos.SENSOR)
        if self.felt is not None:
            self.create_subscription(JointState, 'joint_states', self._on_state, qos.FEW)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        wait = max(self.config.state_wait, 1e-3)
        self.patience = self.create_timer(wait, self._on_patience, clock=steady)
        self.patience.cancel()
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.diagnostics = Diagnostics(self, self._diagnose)

    # ------------------------------------------------------------------ lifecycle
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the file and check everything it promises."""
        keys = [key.strip() for key in self.config.trusted_keys.split(',') if key.strip()]
        try:
            self.policy = Policy.load(
                self.config.path,
                self.spec,
                [self.config.provider],
                keys or None,
                self.config.allow_unsigned,
            )
        except (ContractError, PolicyError) as error:
            self.get_logger().error(f'not configured: {error}')
            self._become(PolicyStatus.UNCONFIGURED, str(error))
            return TransitionCallbackReturn.FAILURE
        policy = self.policy
        self.get_logger().info(
            f'{self.config.path}: {policy.digest[:12]}, {policy.trust}, golden '
            f'loop within {policy.golden_error:.1g}'
        )
        self._become(PolicyStatus.INACTIVE, 'loaded, not activated')
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to answer."""
        self._begin()
        self.waiting = None
        self.misses = self.answers = self.skipped = self.refused = 0
        self.pace.reset()
        self._become(PolicyStatus.ACTIVE, '')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall silent; the gate stops the robot."""
        self._become(PolicyStatus.INACTIVE, 'deactivated')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the file."""
        self.policy = None
        self._become(PolicyStatus.UNCONFIGURED, 'no policy is loaded')
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> PolicyNode:
        """Configure and activate where the parameter says so; end the process if it fails."""
        if self.config.autostart:
            for trigger in (self.trigger_configure, self.trigger_activate):
                if trigger() is not TransitionCallbackReturn.SUCCESS:
                    raise Finished(2)
        return self

    # ------------------------------------------------------------------ frames
    def _on_image(self, message: Image) -> None:
        began = time.monotonic()
        stamp = nanoseconds(message.header.stamp)
        if self.state != PolicyStatus.ACTIVE or self.policy is None:
            return
        if self.watch.accept(stamp, began):
            return
        if not self.pace.accept(stamp):
            self.skipped += 1
            return
        self.waiting = Waiting(message, stamp, began, not 0 < self._periods(stamp) < GAP_PERIODS)
        if self.felt is None:
            self._act()
            return
        self.patience.reset()
        self._act_if_felt()

    def _act_if_felt(self) -> None:
        waiting, felt = self.waiting, self.felt
        if waiting and felt and felt.reached(waiting.stamp) and not waiting.anew:
            self._act()

    def _on_state(self, message: JointState) -> None:
        assert self.felt is not None
        stamp = nanoseconds(message.header.stamp)
        wrong = self.felt.hear(stamp, time.monotonic(), message.name, message.position)
        if wrong:
            self.get_logger().warning(wrong, throttle_duration_sec=2.0)
        else:
            self._act_if_felt()

    def _on_patience(self) -> None:
        """Answer with the newest state there is, if it may be used at all."""
        if self.waiting is not None:
            self._act()

    def _act(self) -> None:
        """Answer the frame that waits."""
        self.patience.cancel()
        waiting, self.waiting = self.waiting, None
        if waiting is None or self.policy is None or self.state != PolicyStatus.ACTIVE:
            return
        stamp = waiting.stamp
        try:
            frame = to_rgb(waiting.message)
            felt = None if self.felt is None else self.felt.pair(stamp, time.monotonic())
            self._count_gap(stamp)
            action = self.policy.step(frame, felt)
        except (ImageError, ProprioceptionError) as error:
            self.refused += 1
            self._miss(f'frame refused: {error}', stamp)
            return
        except PolicyError as error:
            self.get_logger().error(str(error))
            self._become(PolicyStatus.FAULT, str(error), stamp)
            return
        self._answer(fill(to_si(action, self.spec.driven), self.spec), stamp, waiting.began)

    def _answer(self, values: Sequence[float], stamp: int, began: float) -> None:
        self.latency = time.monotonic() - began
        self.slowest = max(self.slowest, self.latency)
        if self.latency > self.spec.limits.frame_timeout:
            late = f'an answer took {self.latency:.2f} s; it is too late to be sent'
            self._miss(late, stamp)
            return
        self.command_out.publish(to_command(values, self.spec, stamp))
        self.answers += 1
        self._become(self.state, '', stamp)

    def _count_gap(self, stamp: int) -> None:
        """Begin anew after a gap in what the policy saw, count what was lost in a shorter one."""
        if not 0 < self._periods(stamp) < GAP_PERIODS:
            self._begin()
        else:
            self.misses += max(0, round(self._periods(stamp)) - 1 - self.refused)
        self.last, self.refused = stamp, 0

    def _periods(self, stamp: int) -> float:
        """Return the control periods since the newest frame that the policy saw."""
        return (stamp - self.last) * 1e-9 * self.spec.rate_hz

    def _begin(self) -> None:
        if self.policy is not None:
            self.policy.reset()

    def _miss(self, why: str, stamp: int) -> None:
        self.misses += 1
        self.get_logger().warning(why, throttle_duration_sec=2.0)
        self._become(self.state, why, stamp)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin()
        response.success = self.policy is not None
        response.message = 'the next frame is the first' if response.success else self.reason
        return response

    # ------------------------------------------------------------------ what it tells
    def _become(self, state: int, reason: str, stamp: int = 0) -> None:
        self.state, self.reason = state, reason
        self._publish_status(stamp)

    def _publish_status(self, stamp: int) -> None:
        self.status_out.publish(
            PolicyStatus(
                header=Header(stamp=to_time(stamp), frame_id=self.spec.camera.frame_id),
                state=self.state,
                reason=self.reason,
                latency=self.latency,
                misses=self.misses,
            )
        )

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        values = {
            'state': _NAMES[self.state],
            'answers': self.answers,
            'misses': self.misses,
            'between': self.skipped,
            'latency_ms': round(self.latency * 1e3, 2),
            'slowest_ms': round(self.slowest * 1e3, 2),
            **self.watch.counts,
            **(self.felt.counts if self.felt is not None else {}),
        }
        self.slowest = 0.0
        level = {PolicyStatus.ACTIVE: OK, PolicyStatus.FAULT: ERROR}.get(self.state, WARN)
        return level, self.reason, values


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(lambda: PolicyNode().autostart(), args)


if __name__ == '__main__':
    raise SystemExit(main())
