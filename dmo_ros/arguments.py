"""
What a person may say about a graph (``name:=value``), what goes together, and what follows.

Everything that can be refused is refused here, before a process is started.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import re
from typing import Any

from .core.addresses import AddressError, check_domains, ROBOT_DDS_DOMAIN
from .core.tasks import get_task, TaskSpec
from .graph import Argument, ros_domain, Stack, StackError

UNITREE = ('go2', 'g1')
ROBOT_CAMERA, MULTICAST = 'robot', 'multicast'
REMOTE = 'unitree'
WITH_CAMERA = ('go2',)  # robots whose own camera we can ask for pictures

PADS = ('xbox', 'dualsense', 'switch_pro', REMOTE)
ROBOT = Argument('robot', 'twin', 'the simulated robot or the real one', ('twin', 'real'))
REAL = (
    Argument(
        'interface',
        '',
        'network interface the real robot is plugged into (ip link); asked for '
        'with robot:=real, because nothing else may be spoken to',
    ),
    Argument(
        'camera',
        '',
        'where pictures come from: a device (/dev/v4l/by-id/...), an image topic, a '
        "video file, 'robot' for the Go2's own (or its 'multicast' stream); empty: the twin's, "
        "or the real Go2's own",
    ),
    Argument(
        'sink',
        'robot',
        'where commands go; dry_run: nowhere but to bridge/sent',
        ('robot', 'dry_run'),
    ),
)
FLEXIV = (
    Argument('serial', '', "the real arm's serial number, as Rizon10s-062001"),
    Argument(
        'worker_python',
        '',
        'Python (3.10 or 3.12) in which flexivrdk is installed; empty: this one',
    ),
)
G1 = (
    Argument(
        'path',
        'sonic',
        'who moves the body: SONIC (ZeroMQ) or the walking controller of the vendor (DDS)',
        ('sonic', 'arm_sdk'),
    ),
    Argument('sonic_host', '127.0.0.1', 'address of the machine on which a real SONIC runs'),
)
COMMON = (
    Argument(
        'operator',
        'none',
        'scripted person of a twin: plays, drives to the goal, drives at random, '
        'watches a policy, or none (a real pad publishes joy)',
        ('none', 'play', 'expert', 'random', 'watch'),
    ),
    Argument('policy', '', 'deployable policy (.onnx); empty for none'),
    Argument(
        'trusted_keys',
        '',
        'public keys (hex, comma between), one of which must have signed the '
        'policy; empty: nobody is asked',
    ),
    Argument('record', '', 'folder of the bag to record; empty for none'),
    Argument('speed', 1.0, 'how many times faster than real time a twin may run'),
    Argument('seed', 0, 'seed of the twin and of the operator'),
    Argument(
        'pad',
        'xbox',
        "numbers of the pad's axes and buttons; unitree starts the node that listens to the "
        "robot's own remote, and the keyboard (dmo keyboard) is an xbox",
        PADS,
    ),
    Argument('joy', False, "start ROS's joy_node for a pad on this machine (package joy)"),
    Argument('namespace', '', 'namespace of the whole graph'),
    Argument(
        'peers',
        '',
        'addresses of other machines whose nodes may take part, comma between; '
        'empty: this machine only',
    ),
    Argument(
        'keystore',
        '',
        'folder of dmo security make; every node then needs a middleware with DDS-Security, and '
        'ends without one. Empty: unsecured',
    ),
)
ARGUMENTS = (ROBOT, *COMMON)
TASK = Argument('task', 'push_cube', 'whose robot is played with')


# ---------------------------------------------------------------------- what goes together
def check(stack: Stack, values: Mapping[str, Any]) -> None:
    """Refuse what cannot go together, before anything is started."""
    spec = get_task(stack.task)
    if values['robot'] == 'real':
        _check_real(spec, values)
    elif values.get('interface', '') not in ('', 'lo'):
        raise StackError('interface:= is for robot:=real; a twin is on this machine')
    elif asks_robot(spec, values):
        _check_twin_camera(values)
    if asks_robot(spec, values) and spec.robot not in WITH_CAMERA:
        raise StackError(
            f"the pictures of {spec.robot}'s camera are not asked for over its own protocol; "
            'name its device or topic with camera:='
        )
    if values['pad'] == REMOTE and spec.robot not in UNITREE:
        raise StackError(f'pad:={REMOTE} is the remote of a Go2 or G1, not of {spec.robot}')
    if values['policy'] and not Path(values['policy']).is_file():
        raise StackError(f'policy:={values["policy"]} is not a file; make one with dmo export')
    if values['trusted_keys'] and not values['policy']:
        raise StackError('trusted_keys:= is about a policy; name one with policy:=')
    if values['keystore'] and not _enclave(stack, values).is_file():
        raise StackError(
            f'keystore:={values["keystore"]} has no enclaves for {stack.task}; make them: '
            f'dmo security make {values["keystore"]} --task {stack.task}'
        )
    _environment(values)


def _enclave(stack: Stack, values: Mapping[str, Any]) -> Path:
    return Path(values['keystore'], 'enclaves', stack.task, 'gate', 'permissions.p7s')


def _check_real(spec: TaskSpec, values: Mapping[str, Any]) -> None:
    if 'interface' not in values:
        raise StackError(f'{spec.name} exists as a twin only; leave robot:=real away')
    if values['speed'] != 1.0:
        raise StackError(f'speed:={values["speed"]:g} is for twins; a real robot runs at speed:=1')
    if values['operator'] != 'none':
        raise StackError(
            f'operator:={values["operator"]} is a scripted person who sees the twin from within; '
            'a real robot is driven by a person with a pad'
        )
    if not values['camera'] and spec.robot not in WITH_CAMERA:
        raise StackError(
            'camera:= is empty; name the device (ls /dev/v4l/by-id), or the topic of its driver'
        )
    if values['sink'] == 'dry_run' and not asks_robot(spec, values):
        return
    if not values['interface']:
        raise StackError(
            'interface:= is empty; name the network interface that the robot is plugged into '
            '(ip link), so that nobody else is spoken to'
        )
    if values.get('serial') == '' and values['sink'] == 'robot':
        raise StackError("serial:= is empty; it is on the arm's control box, as Rizon10s-062001")
    if spec.robot in UNITREE:
        try:
            check_domains(ros_domain(), ROBOT_DDS_DOMAIN)
        except AddressError as error:
            raise StackError(str(error)) from error


def _check_twin_camera(values: Mapping[str, Any]) -> None:
    """Refuse what needs the twin's frames to the moment, when pictures go the robot's long way."""
    if values['speed'] != 1.0:
        raise StackError('camera:=robot takes its own time; leave speed:= away')
    if values['operator'] != 'none':
        raise StackError(
            f'operator:={values["operator"]} looks at the frames of the twin itself; with '
            'camera:=robot drive it with a pad'
        )


def asks_robot(spec: TaskSpec, values: Mapping[str, Any]) -> bool:
    """Tell whether pictures come from the robot itself."""
    return pictures(spec, values)[0] in (spec.robot, MULTICAST)


def pictures(spec: TaskSpec, values: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return source, topic and path of the camera node."""
    default = ROBOT_CAMERA if values['robot'] == 'real' and spec.robot in WITH_CAMERA else ''
    where = values.get('camera') or default
    if where in (ROBOT_CAMERA, MULTICAST):
        return (spec.robot if where == ROBOT_CAMERA else MULTICAST), 'camera/image', ''
    if where.startswith('/dev/'):
        return 'device', 'camera/image', where
    if Path(where).is_file():
        return 'file', 'camera/image', where
    return 'topic', where or 'twin/image', ''


def _environment(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of the nodes: who may take part, and with what identity."""
    found = _peers(values)
    if values['keystore']:
        found['ROS_SECURITY_KEYSTORE'] = str(Path(values['keystore']).absolute())
        found['ROS_SECURITY_ENABLE'] = 'true'
        found['ROS_SECURITY_STRATEGY'] = 'Enforce'  # Permissive would start without an enclave
    return found


def _peers(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that lets the named machines take part."""
    names = [name.strip() for name in values['peers'].split(',') if name.strip()]
    for name in names:
        if not re.fullmatch(r'[\w.:-]+', name):
            raise StackError(f'peers:= takes addresses with commas between, {name!r} is none')
    if names and os.environ.get('ROS_DISTRO') == 'humble':
        raise StackError('peers:= needs ROS 2 Iron or newer; Humble reads no static peers')
    return {'ROS_STATIC_PEERS': ';'.join(names)} if names else {}


def derive(stack: Stack, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from the arguments."""
    source, topic, path = pictures(get_task(stack.task), values)
    return {
        'twin': values['robot'] == 'twin',
        'lockstep': values['speed'] > 1.0,
        # Above real time nothing is a robot: a busy machine must not end a twin's play.
        'joy_timeout': 0.5 if values['speed'] > 1.0 else None,
        'held_up': 2.0 if values['speed'] > 1.0 else None,
        'rate': get_task(stack.task).rate_hz,
        'remote': values['pad'] == REMOTE and values['operator'] == 'none',
        'source': source,
        'topic': topic,
        'camera_path': path,
        'environment': _environment(values),
    }
