"""
The G1's bridge: ``cmd`` -> upper body, walking and hands (see :mod:`.bridge`).

``path:=sonic`` speaks to NVIDIA's SONIC over ZeroMQ, ``path:=arm_sdk`` to the vendor's walking
controller over DDS; the BrainCo hands are on DDS either way.  With ``robot:=twin`` both are the
peer's on loopback.  ``~/damp`` lets the robot collapse, on a person's word only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import run
from .bridge import BridgeConfig, BridgeNode
from .parameters import parameter
from ..core.addresses import ROBOT_DDS_DOMAIN, twin_dds_domain, twin_port
from ..core.tasks import TaskSpec
from ..robots.base import RobotError
from ..robots.g1 import G1, G1Config
from ..robots.g1_arm_sdk import Gains
from ..robots.g1_joints import MOTORS, UPPER_BODY

AUTOMATIC = -1
LOCAL = '127.0.0.1'
FIELDS = (*(MOTORS[motor] for motor in UPPER_BODY), 'left_hand', 'right_hand', 'vx', 'vy', 'wz')


@dataclass(frozen=True)
class G1BridgeConfig(BridgeConfig):
    """Parameters of the G1's bridge."""

    task: str = parameter('grab_box', 'task whose commands are obeyed')
    path: str = parameter(
        'sonic',
        'who moves the body: SONIC or the walking controller',
        choices=('sonic', 'arm_sdk'),
    )
    sonic_host: str = parameter(
        LOCAL, 'where a real SONIC runs; another machine than this one connects to interface'
    )
    command_port: int = parameter(5556, 'TCP port to which a real SONIC connects', 1, 65535)
    feedback_port: int = parameter(5557, 'TCP port on which a real SONIC answers', 1, 65535)
    dds_domain: int = parameter(
        AUTOMATIC, "the robot's DDS domain; -1: 0 for a real one, the twin's for a twin", -1, 232
    )
    hands: bool = parameter(True, 'drive BrainCo hands; without them their fields do nothing')
    ramp: float = parameter(
        1.5, 'seconds in which the upper body is taken over and handed back', 0.2, 5.0
    )
    margin: float = parameter(0.02, 'rad that targets keep from the ends of joints', 0.0, 0.2)
    kp: float = parameter(60.0, 'stiffness of waist and arms with arm_sdk (Nm/rad)', 1.0, 100.0)
    kd: float = parameter(1.5, 'damping of waist and arms with arm_sdk (Nms/rad)', 0.1, 5.0)
    wrist_kp: float = parameter(40.0, 'stiffness of the wrists with arm_sdk (Nm/rad)', 1.0, 60.0)
    wrist_kd: float = parameter(1.5, 'damping of the wrists with arm_sdk (Nms/rad)', 0.1, 3.0)


def make_g1(config: G1BridgeConfig, spec: TaskSpec, ros_domain: int) -> G1:
    """Return the robot that the parameters name; RobotError when they make no sense together."""
    if tuple(field.name for field in spec.actions) != FIELDS:
        raise RobotError(f'task {spec.name!r} does not drive the joints of a G1 in their order')
    if config.robot == 'real':
        commands, feedback = real_addresses(config)
        automatic, interface = ROBOT_DDS_DOMAIN, config.interface
    else:
        commands, feedback = (
            f'tcp://{LOCAL}:{twin_port(ros_domain, name)}'
            for name in ('sonic_command', 'sonic_feedback')
        )
        automatic, interface = twin_dds_domain(ros_domain), 'lo'
    return G1(
        G1Config(
            path=config.path,
            commands=commands,
            feedback=feedback,
            dds_domain=automatic if config.dds_domain == AUTOMATIC else config.dds_domain,
            interface=interface,
            hands=config.hands,
            ramp=config.ramp,
            margin=config.margin,
            gains=Gains(config.kp, config.kd, config.wrist_kp, config.wrist_kd),
            lockstep=config.lockstep,
        ),
        spec,
    )


def real_addresses(config: G1BridgeConfig) -> tuple[str, str]:
    """
    Return where to bind for a real SONIC and where it answers.

    :raises RobotError: no interface is named.
    """
    if not config.interface:
        raise RobotError(
            'robot:=real needs interface:=, the network interface the G1 hangs on (ip link '
            'lists them); without it nothing outside this machine is addressed'
        )
    local = config.sonic_host in (LOCAL, 'localhost')
    ours = LOCAL if local else config.interface  # ZeroMQ binds interfaces by name
    return (
        f'tcp://{ours}:{config.command_port}',
        f'tcp://{config.sonic_host}:{config.feedback_port}',
    )


def make_node() -> BridgeNode:
    """Make the node, ready to be spun."""
    return BridgeNode('g1_bridge', G1BridgeConfig, make_g1, ('damp',)).autostart()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(make_node, args)


if __name__ == '__main__':
    raise SystemExit(main())
