"""Who hears a graph: nobody of another machine, unless both name each other (needs root)."""

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
ADDRESSES = ('10.213.7.1', '10.213.7.2')
LISTENER = """
import os, sys, time
from dmo_ros.graph import environment
os.environ.update(environment())
import rclpy
from rosgraph_msgs.msg import Clock
rclpy.init()
node, heard = rclpy.create_node('far'), []
node.create_subscription(Clock, 'clock', heard.append, 1)
end = time.monotonic() + float(sys.argv[1])
while not heard and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
print('heard' if heard else 'silence')
node.destroy_node()
rclpy.shutdown()
"""


def ip(*words):
    return subprocess.run(['ip', *words], capture_output=True, text=True)


@pytest.fixture
def machines():
    """Two network namespaces with a cable between them: two machines, as far as DDS can see."""
    if os.geteuid() != 0 or shutil.which('ip') is None:
        pytest.skip('two network namespaces need root and iproute2')
    names = [f'dmo{os.getpid()}{end}' for end in 'ab']
    cables = [f'dmo{os.getpid() % 10**6}{end}' for end in 'ab']
    try:
        if ip('netns', 'add', names[0]).returncode or ip('netns', 'add', names[1]).returncode:
            pytest.skip('network namespaces are not allowed here')
        link = ('link', 'add', cables[0], 'netns', names[0], 'type', 'veth')
        if ip(*link, 'peer', 'name', cables[1], 'netns', names[1]).returncode:
            pytest.skip('this kernel has no veth')
        for name, cable, address in zip(names, cables, ADDRESSES):
            ip('-n', name, 'link', 'set', 'lo', 'up')
            ip('-n', name, 'link', 'set', cable, 'up')
            ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', cable)
        yield names
    finally:
        for name in names:
            ip('netns', 'del', name)


@pytest.mark.parametrize(
    'here, there, expected',
    [('', '', 'silence'), (ADDRESSES[1], ADDRESSES[0], 'heard')],
    ids=['nobody named', 'both named'],
)
def test_another_machine_hears_the_graph_only_when_both_name_each_other(
    machines, here, there, expected, tmp_path
):
    environment = {k: v for k, v in os.environ.items() if k != 'ROS_AUTOMATIC_DISCOVERY_RANGE'}
    graph = [sys.executable, '-m', 'dmo_ros.up', 'pusher', f'peers:={here}']
    log = tmp_path / 'log'
    with log.open('w') as out:
        up = subprocess.Popen(
            ['ip', 'netns', 'exec', machines[0], *graph],
            stdout=out,
            stderr=out,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        try:
            end = time.monotonic() + 60
            while log.read_text().count(': ready') < 4:
                assert time.monotonic() < end and up.poll() is None, log.read_text()
                time.sleep(0.1)
            patience = '40' if expected == 'heard' else '8'
            done = subprocess.run(
                ['ip', 'netns', 'exec', machines[1], sys.executable, '-c', LISTENER, patience],
                env={**environment, 'ROS_STATIC_PEERS': there},
                capture_output=True,
                text=True,
            )
            assert done.stdout.strip() == expected, done.stderr
        finally:
            up.send_signal(signal.SIGINT)
            assert up.wait(40) == 0, log.read_text()
