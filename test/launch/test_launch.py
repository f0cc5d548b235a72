"""
The launch files under ROS's own `ros2 launch`: shown, up, driven, recorded, whole at the end.

Runs where ros2 is installed; elsewhere the same graphs are tested through ``dmo up``.
"""

import importlib.util
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.tasks import get_task
from dmo_ros.doctor_robots import check_gl
from dmo_ros.nodes import qos
from dmo_ros.nodes.convert import command_type
from dmo_ros.stacks import GRAPHS
import pytest
import rclpy
from sensor_msgs.msg import Image

ROS2 = shutil.which('ros2') or shutil.which('ros2', path=str(Path(sys.executable).parent))
PATIENCE = 120.0  # s; a busy machine starts eight Python processes slowly
NEEDED = {
    'pusher': (),
    'push_t': ('mujoco',),
    'push_cube': ('mujoco', 'unitree_sdk2py'),
    'grab_box': ('mujoco', 'unitree_sdk2py', 'zmq'),
}
SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ('push_t', 'grab_box')]
SHOWN = re.compile(r"^    '(\w+)':\n        (.*)\n        \(default: '(.*)'\)$", re.MULTILINE)
pytestmark = pytest.mark.skipif(ROS2 is None, reason='ros2 is not installed')


def words(name):
    return [ROS2, 'launch', 'dmo_ros', f'{GRAPHS[name].launch}.launch.py']


def need(task):
    absent = [name for name in NEEDED[task] if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f'not installed: {", ".join(absent)}')
    gl = check_gl()
    if task != 'pusher' and gl.state != 'ok':
        pytest.skip(f'{gl.detail}; {gl.fix}')


@pytest.fixture
def listener():
    """Give a node and its executor; both end with the test."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('listener', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node, executor
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.mark.parametrize('name', GRAPHS)
def test_ros2_launch_shows_what_the_stack_takes(name):
    done = subprocess.run([*words(name), '--show-args'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = {key: (text, default) for key, text, default in SHOWN.findall(done.stdout)}
    assert shown.keys() == {argument.name for argument in GRAPHS[name].arguments}
    for argument in GRAPHS[name].arguments:
        text, default = shown[argument.name]
        assert argument.description and argument.description in text
        assert default == str(argument.default)


@pytest.mark.parametrize('task', ['pusher', 'push_cube', *SLOW])
def test_a_graph_is_driven_and_recorded_under_ros2_launch_and_ends_cleanly(
    task, listener, tmp_path
):
    need(task)
    spec, (node, executor) = get_task(task), listener
    images, commands, gate = [], [], []
    node.create_subscription(Image, '/bench/image_raw', images.append, qos.SENSOR)
    node.create_subscription(command_type(spec), '/bench/cmd', commands.append, qos.EVERY)
    node.create_subscription(DiagnosticStatus, '/bench/gate/status', gate.append, qos.LATCHED)
    log = tmp_path / 'log'
    given = ['robot:=twin', 'operator:=play', 'namespace:=bench', f'record:={tmp_path / "bag"}']

    def driven():
        active = any('ACTIVE' in str(message.values) for message in gate)
        return active and len(images) > 5 and commands

    with log.open('w') as out:
        line = [*words(task), *given]
        launch = subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True)
        try:
            end = time.monotonic() + PATIENCE
            while not driven():
                executor.spin_once(timeout_sec=0.1)
                assert time.monotonic() < end and launch.poll() is None, log.read_text()
            image, camera = images[-1], spec.camera
            assert image.header.frame_id == camera.frame_id
            assert image.width * camera.height == image.height * camera.width
            launch.send_signal(signal.SIGINT)
            assert launch.wait(40) == 0, log.read_text()
        finally:
            if launch.poll() is None:
                os.killpg(launch.pid, signal.SIGKILL)
    text = log.read_text()
    assert 'Traceback' not in text and 'has died' not in text, text
    assert text.count('process has finished cleanly') == len(
        GRAPHS[task].resolve({'operator': 'play', 'record': 'bag'})
    )
    assert (tmp_path / 'bag' / 'metadata.yaml').is_file()
