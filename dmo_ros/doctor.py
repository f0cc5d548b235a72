"""
`dmo doctor`: what works on this machine, what is missing, and how to get it.

Every check is a function that returns a Finding and never raises; a library is imported rather
than looked up where a broken installation would otherwise pass for a good one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
import importlib
import json
import os
from pathlib import Path
import platform
import shutil
import socket
import sys
from typing import Any

from .doctor_robots import ABILITIES as ROBOT_ABILITIES
from .doctor_robots import CHECKS as ROBOT_CHECKS
from .doctor_robots import ROBOTS
from .findings import absent, BROKEN, Finding, libraries, library, MISSING, OK, version_of, WARN

LAST_SAFE_DOMAIN = 101  # above it, DDS ports reach into those that Linux hands to clients
FREE_DISK = 2.0  # GiB; below it the recorder does not start
SHARED_MEMORY = 64  # MiB in /dev/shm for the segments of a graph
TENSORBOARD_PORT = 6006
MINIMUM_PYTHON = (3, 10)


def check_python() -> Finding:
    """This Python, and whether it is the one that the pinned versions are for."""
    version = platform.python_version()
    where = f'{version} in {sys.prefix}'
    if sys.version_info < MINIMUM_PYTHON:
        return Finding('python', BROKEN, where, 'use Python 3.10 or newer')
    return Finding('python', OK, f'{where}, {os.cpu_count()} cores, {platform.machine()}')


def check_numpy() -> Finding:
    """numpy, without which nothing works."""
    return library('numpy', 'numpy', 'pip install numpy')


def check_opencv() -> Finding:
    """OpenCV resizes camera images."""
    return library('opencv', 'cv2', "pip install 'dmo_ros[deploy]'")


def check_torch() -> Finding:
    """PyTorch and the device it would train on."""
    found = library('torch', 'torch', "pip install 'dmo_ros[train]'")
    if found.state != OK:
        return found
    torch = importlib.import_module('torch')
    if torch.cuda.is_available():
        return Finding('torch', OK, f'{found.detail}, trains on {torch.cuda.get_device_name(0)}')
    if Path('/dev/nvidia0').exists():
        return Finding(
            'torch',
            WARN,
            f'{found.detail}, does not use the GPU that is here',
            'install a CUDA build of torch that fits the driver',
        )
    return Finding('torch', OK, f'{found.detail}, trains on the CPU')


def check_training() -> Finding:
    """The libraries of the training extra besides torch."""
    return libraries(
        'training',
        ('safetensors', 'tensorboard', 'tqdm', 'scipy', 'matplotlib', 'stable_baselines3'),
        "pip install 'dmo_ros[train]'",
    )


def check_export() -> Finding:
    """What torch needs to write an ONNX file."""
    return libraries('export', ('onnx', 'onnxscript'), "pip install 'dmo_ros[train]'")


def check_onnxruntime() -> Finding:
    """Onnxruntime and its providers; two builds at once hide each other."""
    builds = [name for name in ('onnxruntime', 'onnxruntime-gpu') if version_of(name)]
    if len(builds) > 1:
        return Finding(
            'onnxruntime',
            BROKEN,
            f'{" and ".join(builds)} overwrite each other',
            'pip uninstall both, then install one of the extras deploy and gpu',
        )
    found = library('onnxruntime', 'onnxruntime', "pip install 'dmo_ros[deploy]', or [gpu]")
    if found.state != OK:
        return found
    names = importlib.import_module('onnxruntime').get_available_providers()
    short = ', '.join(name.removesuffix('ExecutionProvider') for name in names)
    return Finding('onnxruntime', OK, f'{found.detail}, providers {short}')


def check_bags() -> Finding:
    """The libraries that write and read rosbags."""
    return libraries('bags', ('rosbags', 'mcap'), "pip install 'dmo_ros[ros]', or [train]")


def check_signatures() -> Finding:
    """The library behind signed policies."""
    return libraries('signatures', ('cryptography',), "pip install 'dmo_ros[sign]'")


def check_rclpy() -> Finding:
    """ROS 2 itself, with the middleware that it would use."""
    fix = "source /opt/ros/<distro>/setup.bash, or pip install 'dmo_ros[ros]'"
    try:
        rclpy = importlib.import_module('rclpy')
        rmw = importlib.import_module('rclpy.utilities').get_rmw_implementation_identifier()
    except ImportError as error:
        return absent('rclpy', error, fix)
    except Exception as error:
        return Finding(
            'rclpy',
            BROKEN,
            f'does not start: {error}',
            'unset RMW_IMPLEMENTATION, or install the middleware that it names',
        )
    distro = os.environ.get('ROS_DISTRO') or version_of('ros-jazzy-rclpy') or 'wheels'
    return Finding('rclpy', OK, f'{distro}, {rmw}, {rclpy.__path__[0]}')


def check_messages() -> Finding:
    """Whether dmo_ros.msg was generated, and its type support loads."""
    fix = 'colcon build, or with a ROS in reach: pip install --no-build-isolation --no-deps -e .'
    try:
        messages = importlib.import_module('dmo_ros.msg')
        names = [
            name
            for name in ('BodyCommand', 'IntentLabel', 'PolicyStatus')
            if not hasattr(messages, name)
        ]
        if names:
            return Finding('messages', BROKEN, f'{", ".join(names)} not among them', fix)
        support = importlib.import_module('rclpy.type_support')
        support.check_for_type_support(messages.IntentLabel)
    except ImportError as error:
        return absent('messages', error, fix)
    except Exception as error:
        return Finding('messages', BROKEN, f'their type support does not load: {error}', fix)
    return Finding('messages', OK, 'IntentLabel, BodyCommand, PolicyStatus')


def check_discovery() -> Finding:
    """How far this shell's nodes are heard; `dmo up` and the launch files keep to this machine."""
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '')
    peers = os.environ.get('ROS_STATIC_PEERS', '')
    old = os.environ.get('ROS_LOCALHOST_ONLY', '')
    if old and reach:
        return Finding(
            'discovery',
            WARN,
            f'ROS_LOCALHOST_ONLY={old} overrules ROS_AUTOMATIC_DISCOVERY_RANGE={reach}',
            'unset ROS_LOCALHOST_ONLY',
        )
    if reach.upper() == 'OFF':
        return Finding(
            'discovery',
            WARN,
            'OFF: not even nodes of this machine find each other',
            'export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST',
        )
    if reach.upper() == 'LOCALHOST' or old == '1':
        return Finding('discovery', OK, f'this machine{" and " + peers if peers else ""}')
    return Finding(
        'discovery',
        WARN,
        f'{reach or "SUBNET (the default)"}: other machines of the '
        "network hear and command this shell's nodes",
        'export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST  (dmo up does so by itself)',
    )


def check_domain() -> Finding:
    """ROS_DOMAIN_ID, a small number whose ports are not handed to clients."""
    text = os.environ.get('ROS_DOMAIN_ID', '') or '0'
    fix = f'export ROS_DOMAIN_ID=<0 to {LAST_SAFE_DOMAIN}>'
    if not text.isascii() or not text.isdigit():
        return Finding('domain', BROKEN, f'ROS_DOMAIN_ID={text!r} is no number', fix)
    first = 7400 + 250 * int(text)
    if int(text) > LAST_SAFE_DOMAIN:
        return Finding(
            'domain',
            WARN,
            f'{text}: its UDP ports {first}-{first + 249} are also '
            'handed to clients, or do not exist',
            fix,
        )
    return Finding('domain', OK, f'{text}, UDP ports {first}-{first + 249}')


def check_fastdds() -> Finding:
    """The Fast DDS profile that lets large images through, and room for its segments."""
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        path = os.environ.get(name)
        if path and not Path(path).is_file():
            return Finding(
                'fastdds',
                BROKEN,
                f'{name}={path} is no file',
                f'unset {name}, or name config/fastdds.xml',
            )
    chosen = os.environ.get('FASTDDS_DEFAULT_PROFILES_FILE') or os.environ.get(
        'FASTRTPS_DEFAULT_PROFILES_FILE'
    )
    detail = chosen or 'config/fastdds.xml, set by dmo up and the launch files'
    shared = Path('/dev/shm')
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / 2**20
        if free < SHARED_MEMORY:
            return Finding(
                'fastdds',
                WARN,
                f'{free:.0f} MiB free in /dev/shm: images will be lost',
                'empty it, or give the container more: --shm-size=512m',
            )
    return Finding('fastdds', OK, detail)


def check_disk() -> Finding:
    """Room for recordings in the folder where one stands."""
    free = shutil.disk_usage('.').free / 2**30
    if free < FREE_DISK:
        return Finding(
            'disk',
            WARN,
            f'{free:.1f} GiB free here',
            f'free {FREE_DISK:g} GiB: the recorder does not start below',
        )
    return Finding('disk', OK, f'{free:.1f} GiB free here')


def check_ports() -> Finding:
    """Whether TensorBoard could be opened; always on this machine's own address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', TENSORBOARD_PORT))
        except OSError:
            return Finding(
                'ports',
                WARN,
                f'{TENSORBOARD_PORT} is taken',
                'tensorboard --port 0 takes a free one',
            )
    return Finding('ports', OK, f'{TENSORBOARD_PORT} (TensorBoard) is free')


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_numpy,
    check_opencv,
    check_torch,
    check_training,
    check_export,
    check_onnxruntime,
    check_bags,
    check_signatures,
    check_rclpy,
    check_messages,
    check_discovery,
    check_domain,
    check_fastdds,
    check_disk,
    check_ports,
    *ROBOT_CHECKS,
)

# What one may want to do -> the findings that it stands on.
ABILITIES: dict[str, tuple[str, ...]] = {
    'run the nodes and twins (dmo up, dmo demo)': (
        'rclpy',
        'messages',
        'opencv',
        'domain',
        'fastdds',
    ),
    'run a policy': ('onnxruntime', 'opencv'),
    'record and convert play data': ('rclpy', 'messages', 'bags', 'opencv'),
    'train': ('torch', 'training', 'opencv'),
    'export a policy': ('torch', 'export', 'onnxruntime'),
    'demand signed policies, make keystores': ('signatures', 'onnxruntime'),
    **ROBOT_ABILITIES,
}


def examine(robot: str = '') -> dict[str, Any]:
    """Run all checks, or those that a robot needs, and conclude what works; plain JSON."""
    wanted = ROBOTS[robot] if robot else ()
    abilities = {
        ability: needs
        for ability, needs in ABILITIES.items()
        if not robot or set(needs) <= set(wanted)
    }
    findings = [
        _careful(check)
        for check in CHECKS
        if not robot or check.__name__.removeprefix('check_') in wanted
    ]
    state = {finding.name: finding.state for finding in findings}
    lacking = {
        ability: [name for name in needs if state[name] in (MISSING, BROKEN)]
        for ability, needs in abilities.items()
    }
    return {
        'findings': [asdict(finding) for finding in findings],
        'lacking': lacking,
        'broken': [name for name, value in state.items() if value == BROKEN],
    }


def _careful(check: Callable[[], Finding]) -> Finding:
    """A doctor that dies of the disease helps nobody."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.removeprefix('check_')
        return Finding(name, BROKEN, f'{type(error).__name__}: {error}', 'reinstall it')


def report(result: dict[str, Any]) -> str:
    """Return the findings as text for a terminal."""
    lines = []
    for found in result['findings']:
        lines.append(f'{found["state"]:8}{found["name"]:14}{found["detail"]}')
        if found['fix']:
            lines.append(f'{"":8}{"":14}-> {found["fix"]}')
    lines += ['', 'Here you can:']
    for ability, lacking in result['lacking'].items():
        lines.append(
            f'  {"no " if lacking else "yes"}  {ability}'
            + (f'  (needs {", ".join(lacking)})' if lacking else '')
        )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0 when nothing is broken (what is not installed is no fault), else 1."""
    import argparse

    parser = argparse.ArgumentParser(prog='dmo doctor', description=(__doc__ or '').split('\n')[1])
    parser.add_argument('--json', action='store_true', help='the report as JSON')
    parser.add_argument('--robot', choices=tuple(ROBOTS), default='', help='what this one needs')
    given = parser.parse_args(arguments)
    result = examine(given.robot)
    print(json.dumps(result, indent=1) if given.json else report(result))
    return 1 if result['broken'] else 0


if __name__ == '__main__':
    sys.exit(main())
