"""
Unitree's own hand remote as a pad: ``rt/wirelesscontroller`` -> ``joy`` (``pad:=unitree``).

A remote that is off or out of reach is silent, and so is ``joy``: the gate stops for that.  Mind
that a real robot obeys its remote by itself too, the sticks as well as the buttons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Joy

from . import qos, run
from .parameters import declare, parameter
from ..core.addresses import ROBOT_DDS_DOMAIN, twin_dds_domain
from ..robots.base import RobotError
from ..robots.go2_remote import Go2Remote


class RemoteError(ValueError):
    """The remote cannot be listened to."""


@dataclass(frozen=True)
class RemoteConfig:
    """Parameters of the remote node."""

    task: str = parameter('push_cube', 'task of its graph; the remote is the same for all')
    robot: str = parameter(
        'twin', 'a twin on this machine or the real robot', choices=('twin', 'real')
    )
    interface: str = parameter('', 'network interface of the real robot (ip link)')
    dds_domain: int = parameter(
        -1, "the robot's DDS domain; -1: 0 for a real one, the twin's for a twin", -1, 232
    )
    rate_hz: float = parameter(50.0, 'most messages a second (Hz)', 20.0, 200.0)

    def __post_init__(self) -> None:
        if self.robot == 'real' and not self.interface:
            raise RemoteError(
                'robot:=real needs interface:=, the network interface the robot hangs on (ip '
                'link lists them)'
            )


class RemoteNode(Node):
    """Publish each new state of the remote, at most ``rate_hz`` times a second."""

    def __init__(self) -> None:
        super().__init__('remote')
        self.config = config = declare(self, RemoteConfig)
        self._newest: tuple[tuple[float, ...], tuple[int, ...]] | None = None
        self.out = self.create_publisher(Joy, 'joy', qos.STREAM)
        real = config.robot == 'real'
        domain = config.dds_domain
        if domain < 0:
            ros_domain = int(os.environ.get('ROS_DOMAIN_ID') or 0)
            domain = ROBOT_DDS_DOMAIN if real else twin_dds_domain(ros_domain)
        self.remote = Go2Remote(domain, config.interface if real else 'lo', self._take)
        try:
            self.remote.connect()
        except RobotError as error:
            raise RemoteError(str(error)) from error
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / config.rate_hz, self._report, clock=steady)

    def _take(self, axes: tuple[float, ...], buttons: tuple[int, ...]) -> None:
        """Keep the newest state; called by a thread of DDS."""
        self._newest = axes, buttons

    def _report(self) -> None:
        newest, self._newest = self._newest, None
        if newest is None:
            return
        message = Joy(axes=list(newest[0]), buttons=list(newest[1]))
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = 'remote'
        self.out.publish(message)

    def destroy_node(self) -> None:
        """End the thread that listens, then the node."""
        remote = getattr(self, 'remote', None)
        if remote is not None:
            remote.close()
        super().destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(RemoteNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
