"""
The Flexiv arm's bridge: ``cmd`` -> pose targets, its tool -> ``joint_states`` (see
:mod:`.bridge`).

With ``robot:=twin`` it drives the peer on loopback through a stand-in for the vendor's SDK; with
``robot:=real`` the SDK itself, which may use the network interface ``interface`` and no other.
``~/clear_fault`` clears what was latched and releases the brakes, on a person's word only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

from . import run
from .bridge import BridgeConfig, BridgeNode
from .parameters import parameter
from ..core.addresses import twin_port
from ..core.tasks import TaskSpec
from ..robots.base import RobotError
from ..robots.flexiv import FlexivArm, FlexivConfig
from ..robots.flexiv_motion import Workspace
from ..robots.flexiv_rdk import address_of, Arm, Limits, RdkArm, Setup
from ..robots.flexiv_worker import WorkerArm
from ..twins.flexiv_peer import SERIAL
from ..twins.flexiv_sdk import make_module


@dataclass(frozen=True)
class FlexivBridgeConfig(BridgeConfig):
    """Parameters of the Flexiv arm's bridge; SI units."""

    task: str = parameter('push_t', 'task whose commands are obeyed')
    serial: str = parameter('', "serial number of the real arm, as Rizon10s-062001; '' for a twin")
    sdk: str = parameter(
        'auto',
        "who speaks to the arm. auto: peer for a twin, worker for a real arm; peer: a twin's "
        'stand-in; worker: flexivrdk in a process of its own; flexivrdk: in this process, which '
        'then stands still whenever the SDK waits for the arm',
        choices=('auto', 'peer', 'worker', 'flexivrdk'),
    )
    worker_python: str = parameter(
        '', "Python (3.10 or 3.12) in which flexivrdk is installed, for sdk worker; '': this one"
    )
    peer_sdk: str = parameter(
        '2.0',
        "generation of the SDK's interface that a twin stands in for",
        choices=('1.9', '2.0'),
    )
    x_low: float = parameter(-0.25, "workspace in the task's frame (m)", -1.5, 1.5)
    x_high: float = parameter(0.25, "workspace in the task's frame (m)", -1.5, 1.5)
    y_low: float = parameter(-0.25, "workspace in the task's frame (m)", -1.5, 1.5)
    y_high: float = parameter(0.25, "workspace in the task's frame (m)", -1.5, 1.5)
    board_x: float = parameter(0.6, "origin of the task's frame in the arm's world (m)", -1.5, 1.5)
    board_y: float = parameter(0.0, "origin of the task's frame in the arm's world (m)", -1.5, 1.5)
    board_yaw: float = parameter(
        0.0, "direction of the task's x axis in the arm's world (rad)", -math.pi, math.pi
    )
    linear_speed: float = parameter(
        0.36, 'most the arm may move at; a faster command is scaled (m/s)', 0.01, 0.5
    )
    linear_acceleration: float = parameter(
        1.5, "acceleration of the arm's own motion generator (m/s2)", 0.1, 3.0
    )
    lead: float = parameter(
        0.0, 'furthest a target may be from the tool (m); 0: linear_speed times watchdog', 0.0, 0.2
    )
    contact_force: float = parameter(
        10.0, 'external force beyond which the arm is stopped, a fault (N)', 1.0, 100.0
    )
    contact_torque: float = parameter(
        5.0, 'external torque on a joint beyond which the arm is stopped, a fault (Nm)', 1.0, 50.0
    )
    regulated_force: float = parameter(
        10.0, "force to which the arm's own controller regulates a contact (N)", 1.0, 100.0
    )
    regulated_moment: float = parameter(
        2.0, "moment to which the arm's own controller regulates a contact (Nm)", 0.1, 20.0
    )
    stiffness: float = parameter(1.0, "share of the arm's nominal Cartesian stiffness", 0.05, 1.0)
    state_timeout: float = parameter(
        0.5, 'seconds without a new state before the arm counts as lost', 0.1, 1.0
    )
    ready_timeout: float = parameter(
        20.0, 'seconds the arm may take to release its brakes', 1.0, 60.0
    )


def make_flexiv(config: FlexivBridgeConfig, spec: TaskSpec, ros_domain: int) -> FlexivArm:
    """Return the robot that the parameters name; RobotError when they make no sense together."""
    if [field.unit for field in spec.actions] != ['m/s', 'm/s']:
        raise RobotError(f"task {spec.name!r} does not drive an arm's tool by two velocities")
    workspace = Workspace(
        (config.x_low, config.y_low),
        (config.x_high, config.y_high),
        (config.board_x, config.board_y, config.board_yaw),
    )
    limits = Limits(
        linear_speed=config.linear_speed, linear_acceleration=config.linear_acceleration
    )
    setup = Setup(
        stiffness=config.stiffness,
        contact_force=config.regulated_force,
        contact_moment=config.regulated_moment,
    )
    return FlexivArm(
        make_arm(config, ros_domain),
        FlexivConfig(
            workspace,
            limits,
            setup,
            lead_of(config, spec),
            config.contact_force,
            config.contact_torque,
            config.state_timeout,
            config.ready_timeout,
        ),
    )


def lead_of(config: FlexivBridgeConfig, spec: TaskSpec) -> float:
    """
    Return how far a target may be from the tool, m.

    In lockstep a period's targets are sent at once, while the twin's tool stands still.
    """
    lead = config.lead or config.linear_speed * config.watchdog
    return lead + (config.linear_speed * spec.period if config.lockstep else 0.0)


def make_arm(config: FlexivBridgeConfig, ros_domain: int) -> Arm:
    """Return the door to the arm that the parameters name."""
    real = config.robot == 'real'
    sdk = config.sdk if config.sdk != 'auto' else ('worker' if real else 'peer')
    if real == (sdk == 'peer'):
        raise RobotError(
            f'sdk:={sdk} does not go with robot:={config.robot}; peer is for a twin, worker and '
            'flexivrdk are for a real arm'
        )
    if not real:
        address = ('127.0.0.1', twin_port(ros_domain, 'flexiv'))
        return RdkArm(config.serial or SERIAL, (), make_module(config.peer_sdk, address))
    if not config.interface or not config.serial:
        raise RobotError(
            'robot:=real needs interface:=, the network interface the arm hangs on (ip link '
            "lists them), and serial:=, which is on the arm's control box; without them nothing "
            'outside this machine is addressed'
        )
    whitelist = [address_of(config.interface)]
    if sdk == 'worker':
        return WorkerArm(config.serial, whitelist, config.worker_python)
    return RdkArm(config.serial, whitelist)


def make_node() -> BridgeNode:
    """Make the node, ready to be spun."""
    return BridgeNode(
        'flexiv_bridge', FlexivBridgeConfig, make_flexiv, ('clear_fault',)
    ).autostart()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(make_node, args)


if __name__ == '__main__':
    raise SystemExit(main())
