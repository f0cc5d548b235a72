"""
What all tests share: an isolated ROS graph, and clean skips where a library is missing.

A folder of tests that needs a library is skipped as a whole, with the reason, before its modules
are imported; a single test elsewhere says so with ``@pytest.mark.ros``.
"""

import contextlib
import fcntl
import importlib.util
import os
from pathlib import Path
import sys
import tempfile

import pytest

# Folder of tests -> modules without which none of them can run. Below test/launch the folder's
# own name would satisfy `launch` as a namespace package: ask for what only the real one has.
NEEDS = {
    'nodes': ('rclpy', 'dmo_ros.msg'),
    'faults': ('rclpy', 'dmo_ros.msg', 'psutil'),
    'launch': ('launch.actions', 'ros2launch', 'rclpy', 'dmo_ros.msg'),
    'training': ('torch',),
}
# Above 101, DDS ports overlap the ports that Linux hands to clients; a twin's robot-side domain is
# its ROS domain + 50, and the lowest ones are what people choose by hand.
DOMAINS = range(21, 51)


def available(module: str) -> bool:
    """Tell whether a module could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def missing(modules: tuple[str, ...]) -> str:
    """Return why tests that need these modules cannot run, or an empty string."""
    absent = [module for module in modules if not available(module)]
    return f'not installed: {", ".join(absent)}' if absent else ''


def pytest_configure(config):
    """
    Keep the tests' ROS graph to this machine and to this session.

    Set before any test imports rclpy. Other sessions, and robots in reach, hear nothing.
    """
    os.environ['ROS_DOMAIN_ID'] = str(_own_domain())
    os.environ.setdefault('MUJOCO_GL', 'egl')  # gymnasium imports MuJoCo before our twins do
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.pop('ROS_LOCALHOST_ONLY', None)  # it would overrule the range, with warnings
    if os.environ.get('ROS_DISTRO') == 'humble':  # knows only the older variable
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    os.environ.pop('ROS_STATIC_PEERS', None)
    if Path(sys.prefix, 'share', 'ament_index').is_dir():  # ROS wheels: nothing was sourced
        os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)


def _own_domain():
    """Return a domain that no other session of this machine tests in, held by a lock."""
    first = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[first:], *DOMAINS[:first]):
        path = Path(tempfile.gettempdir(), f'dmo_ros_test_domain_{domain}')
        try:
            lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held by another session, or made by another user
            continue
        return domain  # the lock is held until this process ends
    raise pytest.UsageError(f'all of the test domains {DOMAINS} are in use; wait for one')


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector):
    """Skip a module of a folder whose needs are not met, instead of importing it."""
    if not isinstance(collector, pytest.Module):
        return
    parts = collector.nodeid.split('/')
    reason = missing(tuple(m for part in parts[:-1] for m in NEEDS.get(part, ())))
    if reason:
        collector.collect = lambda: pytest.skip(reason, allow_module_level=True)


def pytest_collection_modifyitems(items):
    """
    Give a test of processes and sockets a second and a third try; the summary names each one used.

    They wait for discovery and for each other on a machine that may stand still for seconds;
    ROS's own builds repeat such tests as well (colcon test --retest-until-pass).  A law that does
    not hold fails three times.
    """
    for item in items:
        file = Path(item.nodeid.split('::')[0])
        folders = {'nodes', 'launch', 'robots', 'twins'} & set(file.parts)
        if folders or file.name.startswith(('test_discovery', 'test_distributed')):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.fixture(scope='session')
def g1_standin():
    """Return test/twins/g1_standin.py as a module: a twin for the G1's peer, and its process."""
    file = Path(__file__).parent / 'twins' / 'g1_standin.py'
    found = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def start_g1_peer(g1_standin):
    """Return a function that starts a G1's peer as a process; all end with the test."""
    with contextlib.ExitStack() as ends:
        yield lambda *words: ends.enter_context(contextlib.closing(g1_standin.PeerProcess(*words)))


def pytest_runtest_setup(item):
    """Skip single tests marked ``ros`` where there is no ROS."""
    if item.get_closest_marker('ros') is not None:
        reason = missing(NEEDS['nodes'])
        if reason:
            pytest.skip(reason)
