"""
What every bridge does: ``cmd`` -> the robot, the robot's state -> ROS, and the last watchdog.

A lifecycle node: configure connects (nothing moves), activate makes the robot ready and begins to
obey.  A command is taken from one living writer only, must be finite and inside the task's ranges,
and is sent by a thread of its own (:mod:`dmo_ros.robots.sender`).  When commands cease for
``watchdog`` seconds, when the robot is not well, or when a command should never have come, the
robot is stopped; it obeys again once the gate has been at rest.  What it does is latched on
``bridge/status``, where the gate reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import os
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from . import Finished, qos
from .convert import command_type, from_command, nanoseconds, to_command
from .diagnostics import Diagnostics, ERROR, OK, status, WARN
from .parameters import declare, parameter
from .writers import Writers
from ..core.tasks import get_task, TaskSpec
from ..robots.base import Health, Robot, RobotError, RobotState
from ..robots.sender import DryRun, Sender

RESTING = ('DISARMED', 'FAULT')  # what the gate may say while nothing is to move
TOLERANCE = 1e-6  # of a range: what a float may lose on its way through a message
STATUS_HZ = 10.0


@dataclass(frozen=True)
class BridgeConfig:
    """Parameters that every bridge has."""

    task: str = parameter('push_cube', 'task whose commands are obeyed')
    sink: str = parameter(
        'robot',
        'where commands go; dry_run: only to bridge/sent',
        choices=('robot', 'dry_run'),
    )
    robot: str = parameter(
        'twin', 'a twin on this machine or the real robot', choices=('twin', 'real')
    )
    interface: str = parameter(
        '', 'network interface of the real robot (ip link); nothing else leaves this machine'
    )
    watchdog: float = parameter(
        0.25, 'seconds without a command from the gate before the robot is stopped', 0.1, 0.5
    )
    lockstep: bool = parameter(
        False, 'answer each command with all its setpoints at once (twins above real time)'
    )
    autostart: bool = parameter(False, 'configure and activate at once (for twins)')
    connect_timeout: float = parameter(
        30.0, 'seconds to wait for the robot at configure', 0.0, 300.0
    )
    state_hz: float = parameter(50.0, 'how often the robot state is published (Hz)', 1.0, 200.0)


class BridgeNode(LifecycleNode):
    """
    Between the gate and one :class:`Robot`.

    :param make: returns the robot for (config, task, ROS domain); RobotError when that makes no
        sense.
    :param actions: names of methods of the robot that a person may call as services, for example
        'damp'.
    """

    def __init__(
        self,
        name: str,
        kind: type[BridgeConfig],
        make: Callable[[Any, TaskSpec, int], Robot],
        actions: Sequence[str] = (),
    ) -> None:
        super().__init__(name)
        self.config = declare(self, kind)
        self.spec = get_task(self.config.task)
        self.make = make
        self.robot: Robot | None = None
        self.sender: Sender | None = None
        self.refused = self.counted = 0
        self._gate = ''
        self._shown: tuple[object, ...] = ()
        self._make_interfaces(actions)
        self._show()

    def _make_interfaces(self, actions: Sequence[str]) -> None:
        kind = command_type(self.spec)
        self.writers = Writers(self, 'cmd')
        self.create_subscription(
            kind,
            'cmd',
            self._on_command,
            qos.COMMAND_IN,
            event_callbacks=self.writers.events,
        )
        self.create_subscription(DiagnosticStatus, 'gate/status', self._on_gate, qos.LATCHED)
        self.status_out = self.create_publisher(DiagnosticStatus, 'bridge/status', qos.LATCHED)
        self.sent_out = self.create_publisher(kind, 'bridge/sent', qos.STREAM)
        self.joints_out = self.create_publisher(JointState, 'joint_states', qos.STREAM)
        self.odometry_out = self.create_publisher(Odometry, 'odom', qos.STREAM)
        self.create_service(Trigger, '~/stop', self._on_stop)
        for action in actions:
            self.create_service(Trigger, f'~/{action}', self._action(action))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / STATUS_HZ, self._look, clock=steady)
        self.create_timer(1.0 / self.config.state_hz, self._tell, clock=steady)
        self.diagnostics = Diagnostics(self, self._diagnose)

    # ------------------------------------------------------------------ lifecycle
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connect; a twin may still be starting, so it is tried until the time is up."""
        until = time.monotonic() + self.config.connect_timeout
        while True:
            robot: Robot | None = None
            try:
                robot = self._new_robot()
                robot.connect()
                break
            except BaseException as error:
                if robot is not None:
                    robot.close()
                if not isinstance(error, RobotError):
                    raise  # a signal, say
                if time.monotonic() > until or self.config.robot == 'real':
                    self.get_logger().error(f'not configured: {error}')
                    return TransitionCallbackReturn.FAILURE
            time.sleep(0.1)
        self.robot = robot
        self._show()
        return TransitionCallbackReturn.SUCCESS

    def _new_robot(self) -> Robot:
        if self.config.sink == 'dry_run':
            return DryRun(self.spec)
        if self.config.robot == 'twin' and self.config.interface not in ('', 'lo'):
            raise RobotError(
                f'interface {self.config.interface!r} is for robot:=real; a twin is on lo'
            )
        return self.make(self.config, self.spec, int(os.environ.get('ROS_DOMAIN_ID') or 0))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make the robot ready, then obey."""
        assert self.robot is not None
        try:
            self.robot.engage()
        except RobotError as error:
            self.get_logger().error(f'not activated: {error}')
            return TransitionCallbackReturn.FAILURE
        rate = self.robot.sink_hz
        burst = round(rate * self.spec.period) if self.config.lockstep else 0
        self.sender = Sender(
            self.robot, self.config.watchdog, max(burst, int(self.config.lockstep))
        )
        self.sender.start()
        self._show()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the robot and obey no more."""
        self._end_sender()
        self._show()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hand the robot back."""
        self._let_go()
        self._show()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop it and hand it back."""
        self._let_go()
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> BridgeNode:
        """Configure and activate where the parameter says so; end the process if it fails."""
        if self.config.autostart:
            for trigger in (self.trigger_configure, self.trigger_activate):
                if trigger() is not TransitionCallbackReturn.SUCCESS:
                    self.destroy_node()
                    raise Finished(2)
        return self

    def destroy_node(self) -> None:
        """Stop the robot first, then end."""
        self._let_go()
        super().destroy_node()

    def _end_sender(self) -> None:
        sender, self.sender = self.sender, None
        if sender is not None:
            sender.close()

    def _let_go(self) -> None:
        self._end_sender()
        robot, self.robot = self.robot, None
        if robot is not None:
            robot.close()

    # ------------------------------------------------------------------ commands
    def _on_command(self, message: Any) -> None:
        sender = self.sender
        if sender is None:
            return
        values = from_command(message, self.spec)
        wrong = self.writers.rival() or self._wrong(values, message.header.frame_id)
        if wrong:
            self.refused += 1
            sender.halt(wrong)
            return
        sender.put(values, nanoseconds(message.header.stamp))

    def _wrong(self, values: Sequence[float], frame: str) -> str:
        """Say what the gate never sends; '' for a command that may be obeyed."""
        fields = self.spec.actions
        if len(values) != len(fields):
            return f'a command has {len(values)} values, task {self.spec.name} has {len(fields)}'
        if frame and frame != self.spec.command_frame:
            return f'a command is in frame {frame!r}, not in {self.spec.command_frame!r}'
        for field, value in zip(fields, values):
            slack = TOLERANCE * (field.high - field.low)
            if not field.low - slack <= value <= field.high + slack:  # NaN fails as well
                return f'{field.name} was commanded to be {value:g}, outside its range'
        return ''

    def _on_gate(self, message: DiagnosticStatus) -> None:
        self._gate = next((pair.value for pair in message.values if pair.key == 'state'), '')
        if self.sender is not None:
            self.sender.hear_gate(self._gate not in RESTING)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.sender is not None:
            self.sender.halt('stopped on request')
        response.success, response.message = True, 'the robot is being stopped'
        return response

    def _action(self, name: str) -> Callable[[Any, Any], Any]:
        def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            if self.sender is not None:
                self.sender.halt(f'{name} was asked for')
            try:
                act = getattr(self.robot, name, None)
                if act is None:
                    raise RobotError(f'there is no robot to {name}: none is connected (dry run?)')
                act()
                response.success, response.message = True, f'{name} done'
            except RobotError as error:
                response.success, response.message = False, str(error)
            return response

        return serve

    # ------------------------------------------------------------------ what it tells
    def _look(self) -> None:
        """Stop a robot that is not well, obey again one that is, and say how it stands."""
        sender = self.sender
        if sender is not None and self.robot is not None:
            sender.hear_gate(self._gate not in RESTING)
            health = self.robot.health()
            if not health.ok:
                sender.halt(health.reason)
            elif sender.halted and not self.writers.rival():
                sender.release()
        self._show()

    def _verdict(self) -> tuple[int, str, dict[str, object]]:
        """Return level, sentence and values of bridge/status."""
        if self.robot is None:
            return WARN, 'not connected', {'state': 'unconfigured', 'fault': 'false'}
        health: Health = self.robot.health()
        values: dict[str, object] = {'fault': str(health.fault).lower(), **health.values}
        if self.sender is None:
            return WARN, health.reason or 'not activated', {'state': 'inactive', **values}
        if self.sender.halted:
            return ERROR, self.sender.halted, {'state': 'halted', **values}
        return OK, health.reason, {'state': 'active', **values}

    def _show(self) -> None:
        self.status_out.publish(status('bridge', *self._verdict()))

    def _tell(self) -> None:
        """Publish the robot's state and the newest command that was sent."""
        sender, robot = self.sender, self.robot
        now = self.get_clock().now().to_msg()
        if sender is not None and sender.sent is not None and sender.count != self.counted:
            self.counted = sender.count
            sent = to_command(sender.sent.values, self.spec, sender.sent.stamp)
            self.sent_out.publish(sent)
        state = robot.state() if robot is not None else None
        if state is None or (state.arrived,) == self._shown:
            return
        self._shown = (state.arrived,)
        if state.joints:
            self.joints_out.publish(_joint_state(state, Header(stamp=now)))
        if state.pose is not None:
            header = Header(stamp=now, frame_id='odom')
            self.odometry_out.publish(_odometry(state, header, 'base_link'))

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        level, text, values = self._verdict()
        sent = self.sender.count if self.sender is not None else 0
        return level, text, {**values, 'sent': sent, 'refused': self.refused}


def _joint_state(state: RobotState, header: Header) -> JointState:
    names = list(state.joints)
    return JointState(
        header=header,
        name=names,
        position=[float(state.joints[name][0]) for name in names],
        velocity=[float(state.joints[name][1]) for name in names],
    )


def _odometry(state: RobotState, header: Header, child: str) -> Odometry:
    message = Odometry(header=header, child_frame_id=child)
    x, y, yaw = state.pose or (0.0, 0.0, 0.0)
    message.pose.pose.position.x, message.pose.pose.position.y = float(x), float(y)
    message.pose.pose.orientation.z = math.sin(yaw / 2)
    message.pose.pose.orientation.w = math.cos(yaw / 2)
    vx, vy, wz = state.twist or (0.0, 0.0, 0.0)
    message.twist.twist.linear.x, message.twist.twist.linear.y = float(vx), float(vy)
    message.twist.twist.angular.z = float(wz)
    return message
