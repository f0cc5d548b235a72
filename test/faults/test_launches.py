"""Twenty starts and ends of each graph: nothing stays behind, and the robot is stopped first."""

import contextlib
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from dmo_ros.core.addresses import twin_port
from dmo_ros.stacks import STACKS
import psutil
import pytest

LAUNCHES = 20
PATIENCE = 120.0
pytestmark = [pytest.mark.faults, pytest.mark.ros]


def descendants(pid):
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def shared_memory(pids):
    """
    Return the segments of DDS's shared memory that these processes have open.

    The file of a port is not one: Fast DDS leaves it behind even a single node that ends well, and
    the next participant with that number takes it.
    """
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f'/proc/{pid}/maps').read_text().splitlines()
            found |= {line.split()[-1] for line in lines if '/dev/shm/fastrtps_' in line}
    return {name for name in found if 'port' not in name}


def listening():
    """Return the ports of twins' protocols that somebody still listens on."""
    domain = int(os.environ['ROS_DOMAIN_ID'])
    ports = {
        twin_port(domain, name)
        for name in ('flexiv', 'flexiv_worker', 'sonic_command', 'sonic_feedback')
    }
    return {c.laddr.port for c in psutil.net_connections('inet') if c.status == 'LISTEN'} & ports


def wait_for(popen, text):
    """Read its output until a text has come; return the lines."""
    lines, deadline = [], time.monotonic() + PATIENCE
    for line in popen.stdout:
        lines.append(line)
        if text in line:
            return lines
        assert time.monotonic() < deadline, ''.join(lines[-20:])
    raise AssertionError(f'it ended without {text!r}: {"".join(lines[-20:])}')


@pytest.mark.parametrize('task', STACKS)
def test_a_launch_leaves_nothing_behind(task):
    for number in range(LAUNCHES):
        popen = subprocess.Popen(
            [sys.executable, '-m', 'dmo_ros.up', task, 'operator:=play'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            wait_for(popen, '[twin]' if number % 2 else 'ACTIVE')
            time.sleep(random.uniform(0.0, 0.5))
            family = descendants(popen.pid)
            shared = shared_memory(family)
            popen.send_signal(signal.SIGINT)
            output = popen.communicate(timeout=60)[0]
        finally:
            if popen.poll() is None:
                os.killpg(popen.pid, signal.SIGKILL)
        assert popen.returncode == 0, f'launch {number}: {output[-2000:]}'
        assert 'Traceback' not in output, f'launch {number}: {output[-3000:]}'
        alive = {pid for pid in family if psutil.pid_exists(pid)}
        assert not alive, f'launch {number} left {alive}'
        assert not listening(), f'launch {number} left {listening()}'
        left = {name for name in shared if Path(name).exists()}
        assert not left, f'launch {number} left {left}'


def test_sigint_stops_the_robot_first(go2, run):
    """The last thing heard on the robot's wire is a stop, and it came before the bridge ended."""
    go2.drive()
    time.sleep(random.uniform(0.0, go2.spec.period))
    at = time.monotonic()
    bridge = go2.graph.children['go2_bridge']
    bridge.send(signal.SIGINT)
    bridge.popen.wait(20)
    ended = time.monotonic()
    after = [(when, values) for when, values in go2.wire.heard if when >= at]
    assert after and not any(after[-1][1]) and after[-1][0] <= ended
    assert bridge.code == 0
    go2.restart('go2_bridge')
