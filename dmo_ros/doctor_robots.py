"""
What `dmo doctor` asks about robots: their SDKs, cameras, pads, addresses, and the twins' pictures.

Nothing is connected to; a robot that is off is no fault of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import socket
import subprocess
import sys

from .core.addresses import ROBOT_DDS_DOMAIN, twin_port
from .findings import BROKEN, Finding, libraries, MISSING, OK, version_of, WARN
from .graph import foreign, ros_domain, StackError

NEWEST_FLEXIV = (2, 0)  # 2.1 refuses Rizon arms
FLEXIV_PYTHONS = ((3, 10), (3, 12))
SONIC_PORT = 5556  # where the G1's whole-body controller listens to us
CAMERAS = Path('/dev/v4l/by-id')
PADS = Path('/dev/input')
SOFTWARE_GL = 'sudo apt install libegl1 libegl-mesa0 libgl1-mesa-dri'
# In a process of its own: an OpenGL that is half there may end the process that tries it.
_DRAW = (
    "import os; os.environ.setdefault('MUJOCO_GL', 'egl'); import mujoco; "
    'context = mujoco.GLContext(16, 16); context.make_current(); '
    'from OpenGL.GL import glGetString, GL_RENDERER; print(glGetString(GL_RENDERER).decode())'
)


def check_unitree() -> Finding:
    """The SDK of Go2 and G1, with the DDS that it stands on."""
    from .robots.base import RobotError
    from .robots.unitree import sdk

    try:
        sdk()
    except RobotError as error:
        text, _, fix = str(error).partition(': pip ')
        state = BROKEN if 'does not load' in text else MISSING
        return Finding('unitree', state, text, f'pip {fix}' if fix else str(error))
    versions = f'{version_of("unitree-sdk2") or "found"}, cyclonedds {version_of("cyclonedds")}'
    return Finding('unitree', OK, f'unitree_sdk2py {versions}')


def check_sonic() -> Finding:
    """What the G1's whole-body controller is spoken to with."""
    return libraries('sonic', ('zmq', 'msgpack'), "pip install 'dmo_ros[g1]'")


def check_flexiv() -> Finding:
    """The Flexiv SDK: one that accepts Rizon arms, in a Python that it has wheels for."""
    here = sys.version_info[:2]
    version = version_of('flexivrdk')
    if version is None:
        if here in FLEXIV_PYTHONS:
            return Finding(
                'flexiv', MISSING, 'flexivrdk not installed', "pip install 'dmo_ros[flexiv]'"
            )
        return Finding(
            'flexiv',
            MISSING,
            f'flexivrdk has no wheel for Python {here[0]}.{here[1]}',
            "install 'flexivrdk<=2.0.0' in a Python 3.10 or 3.12 and name that with the bridge's "
            'parameter worker_python; the twin needs none',
        )
    if tuple(int(part) for part in version.split('.')[:2]) > NEWEST_FLEXIV:
        return Finding(
            'flexiv',
            BROKEN,
            f'flexivrdk {version} refuses Rizon arms',
            "pip install 'flexivrdk<=2.0.0'",
        )
    return Finding('flexiv', OK, f'flexivrdk {version}')


def check_mujoco() -> Finding:
    """The twins' physics."""
    return libraries('mujoco', ('mujoco',), "pip install 'dmo_ros[sim]'")


def check_gl() -> Finding:
    """Whether the twins can draw, and with what."""
    if check_mujoco().state != OK:
        return Finding('gl', MISSING, 'needs mujoco', "pip install 'dmo_ros[sim]'")
    try:
        done = subprocess.run(
            [sys.executable, '-c', _DRAW], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return Finding('gl', BROKEN, 'drawing takes longer than a minute', SOFTWARE_GL)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ['no OpenGL'])[-1]
        return Finding('gl', MISSING, f'the twins cannot draw: {last}', SOFTWARE_GL)
    return Finding('gl', OK, done.stdout.strip())


def check_cameras() -> Finding:
    """Cameras that are plugged in, by a name that stays."""
    found = sorted(CAMERAS.iterdir()) if CAMERAS.is_dir() else []
    if not found:
        return Finding('cameras', OK, 'none is plugged in')
    closed = [path.name for path in found if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            'cameras', WARN, f'{", ".join(closed)} may not be read', 'sudo adduser $USER video'
        )
    return Finding('cameras', OK, ', '.join(str(path) for path in found))


def check_pads() -> Finding:
    """Pads that are plugged in, and ROS's joy_node that reads them."""
    sticks = sorted(PADS.glob('js*')) if PADS.is_dir() else []
    closed = [path.name for path in sticks if not os.access(path, os.R_OK)]
    if closed:
        return Finding(
            'pads', WARN, f'{", ".join(closed)} may not be read', 'sudo adduser $USER input'
        )
    names = ', '.join(path.name for path in sticks) or 'none is plugged in'
    try:
        foreign('joy', 'joy_node')
    except StackError:
        return Finding(
            'pads',
            WARN,
            f"{names}; ROS's joy_node is not installed",
            'sudo apt install ros-<distro>-joy (pip has none), or drive from another machine',
        )
    return Finding('pads', OK, names)


def check_robot_domain() -> Finding:
    """ROS's domain apart from the Unitree robots' own, because both say rt/..."""
    fix = 'export ROS_DOMAIN_ID=42  (robot:=real refuses to start otherwise)'
    try:
        domain = ros_domain()
    except StackError as error:
        return Finding('robot_domain', BROKEN, str(error), fix)
    if domain == ROBOT_DDS_DOMAIN:
        return Finding(
            'robot_domain', WARN, f'{domain} is the domain of Go2 and G1 themselves', fix
        )
    return Finding('robot_domain', OK, f'ROS {domain}, Unitree robots {ROBOT_DDS_DOMAIN}')


def check_robot_ports() -> Finding:
    """Ports that bridges and peers listen on, all of this machine."""
    try:
        domain = ros_domain()
    except StackError:
        domain = 0
    names = ('flexiv', 'flexiv_worker', 'sonic_command', 'sonic_feedback')
    ports = [*(twin_port(domain, name) for name in names), SONIC_PORT]
    taken = [str(port) for port in ports if not _free(port)]
    if taken:
        return Finding(
            'robot_ports',
            WARN,
            f'{", ".join(taken)} in use: is a graph running?',
            'end it, or use another ROS_DOMAIN_ID for twins',
        )
    return Finding('robot_ports', OK, f'{", ".join(map(str, ports))} are free')


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True


def check_interfaces() -> Finding:
    """Network interfaces a robot may be plugged into."""
    names = sorted(name for _, name in socket.if_nameindex() if name != 'lo')
    return Finding('interfaces', OK, ', '.join(names) or 'none but lo; a twin needs no more')


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_mujoco,
    check_gl,
    check_unitree,
    check_sonic,
    check_flexiv,
    check_cameras,
    check_pads,
    check_interfaces,
    check_robot_domain,
    check_robot_ports,
)

_NODES = ('python', 'numpy', 'opencv', 'onnxruntime', 'bags', 'signatures', 'rclpy', 'messages')
_NETWORK = ('discovery', 'domain', 'fastdds', 'disk', 'interfaces', 'robot_ports')
_HANDS = ('mujoco', 'gl', 'cameras', 'pads')
_UNITREE = ('unitree', 'robot_domain')
# Robot -> the findings that its graph stands on.
ROBOTS: dict[str, tuple[str, ...]] = {
    'go2': (*_NODES, *_NETWORK, *_HANDS, *_UNITREE),
    'g1': (*_NODES, *_NETWORK, *_HANDS, *_UNITREE, 'sonic'),
    'flexiv': (*_NODES, *_NETWORK, *_HANDS, 'flexiv'),
}
_RUN = ('rclpy', 'messages', 'opencv')
ABILITIES: dict[str, tuple[str, ...]] = {
    'simulate the robots with pictures': ('mujoco', 'gl'),
    'drive a Go2, or its twin': (*_RUN, 'unitree'),
    'drive a G1, or its twin': (*_RUN, 'unitree', 'sonic'),
    'drive the twin of a Flexiv Rizon': (*_RUN, 'mujoco'),
    'drive a Flexiv Rizon': (*_RUN, 'flexiv'),
}
