"""
What all tests share: an isolated ROS graph, and clean skips where a library is missing.

A folder of tests that needs a library is skipped as a whole, with the reason, before its modules
are imported; a single test elsewhere says so with ``@pytest.mark.ros``.
"""

import importlib.util
import os
from pathlib import Path
import sys

import pytest

# Folder of tests -> modules without which none of them can run. Below test/launch the folder's
# own name would satisfy `launch` as a namespace package: ask for what only the real one has.
NEEDS = {
    'nodes': ('rclpy', 'dmo_ros.msg'),
    'launch': ('launch.actions', 'launch_pytest', 'rclpy', 'dmo_ros.msg'),
    'training': ('torch',),
}
LAST_SAFE_DOMAIN = 101  # above it, DDS ports overlap the ports that Linux hands to clients


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
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % LAST_SAFE_DOMAIN)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.pop('ROS_LOCALHOST_ONLY', None)  # it would overrule the range, with warnings
    if os.environ.get('ROS_DISTRO') == 'humble':  # knows only the older variable
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    os.environ.pop('ROS_STATIC_PEERS', None)
    if Path(sys.prefix, 'share', 'ament_index').is_dir():  # ROS wheels: nothing was sourced
        os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector):
    """Skip a module of a folder whose needs are not met, instead of importing it."""
    if not isinstance(collector, pytest.Module):
        return
    parts = collector.nodeid.split('/')
    reason = missing(tuple(m for part in parts[:-1] for m in NEEDS.get(part, ())))
    if reason:
        collector.collect = lambda: pytest.skip(reason, allow_module_level=True)


def pytest_runtest_setup(item):
    """Skip single tests marked ``ros`` where there is no ROS."""
    if item.get_closest_marker('ros') is not None:
        reason = missing(NEEDS['nodes'])
        if reason:
            pytest.skip(reason)
