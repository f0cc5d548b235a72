"""
The Go2's bridge: ``cmd`` -> its sport service, its odometry -> ``odom`` (see :mod:`.bridge`).

With ``robot:=twin`` it speaks to the peer on loopback, in the DDS domain of the graph's twin; with
``robot:=real`` to the robot behind ``interface``, in the robot's own domain.  Nothing else is
addressed.  ``~/damp`` lets the robot collapse, on a person's word only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import run
from .bridge import BridgeConfig, BridgeNode
from .parameters import parameter
from ..core.addresses import ROBOT_DDS_DOMAIN, twin_dds_domain
from ..core.tasks import TaskSpec
from ..robots.base import RobotError
from ..robots.go2 import Go2, RANGES

AUTOMATIC = -1
GAITS = {'keep': None, 'slow': -1, 'normal': 0, 'fast': 1}


@dataclass(frozen=True)
class Go2BridgeConfig(BridgeConfig):
    """Parameters of the Go2's bridge."""

    dds_domain: int = parameter(
        AUTOMATIC, "the robot's DDS domain; -1: 0 for a real one, the twin's for a twin", -1, 232
    )
    avoid_obstacles: bool = parameter(
        False, "drive through the robot's obstacle avoidance, which will not push anything"
    )
    gait: str = parameter('keep', "the robot's own speed level", choices=tuple(GAITS))
    call_timeout: float = parameter(
        0.2, 'seconds a call to the robot may take (blocks that long when it is gone)', 0.1, 0.3
    )
    engage_within: float = parameter(
        25.0, 'seconds the robot may take to stand up and obey', 1.0, 120.0
    )
    send_hz: float = parameter(
        50.0, 'how often the newest velocity is sent while commands are fresh (Hz)', 10.0, 100.0
    )


def make_go2(config: Go2BridgeConfig, spec: TaskSpec, ros_domain: int) -> Go2:
    """Return the robot that the parameters name; RobotError when they make no sense together."""
    check_fields(spec)
    if config.robot == 'real':
        if not config.interface:
            raise RobotError(
                'robot:=real needs interface:=, the network interface the Go2 hangs on (ip link '
                'lists them); without it nothing outside this machine is addressed'
            )
        automatic, interface = ROBOT_DDS_DOMAIN, config.interface
    else:
        automatic, interface = twin_dds_domain(ros_domain), 'lo'
    return Go2(
        automatic if config.dds_domain == AUTOMATIC else config.dds_domain,
        interface,
        avoid_obstacles=config.avoid_obstacles,
        speed_level=GAITS[config.gait],
        timeout=config.call_timeout,
        engage_within=config.engage_within,
        sink_hz=spec.rate_hz if config.lockstep else config.send_hz,  # lockstep: one a period
    )


def check_fields(spec: TaskSpec) -> None:
    """Refuse a task whose actions are not velocities that a Go2 takes."""
    if [field.name for field in spec.actions] != [name for name, *_ in RANGES]:
        raise RobotError(f'a Go2 takes vx, vy, wz; task {spec.name!r} drives something else')
    for field, (name, low, high) in zip(spec.actions, RANGES):
        if field.low < low or field.high > high:
            raise RobotError(
                f'task {spec.name!r} lets {name} range from {field.low:g} to {field.high:g}, a '
                f'Go2 takes {low:g} to {high:g}'
            )


def make_node() -> BridgeNode:
    """Make the node, ready to be spun."""
    return BridgeNode('go2_bridge', Go2BridgeConfig, make_go2, ('damp',)).autostart()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(make_node, args)


if __name__ == '__main__':
    raise SystemExit(main())
