"""
The launch files under ROS's own launch: they load, and the pusher's graph really comes up.

Runs where ROS's launch and launch_pytest are installed, that is on every ROS machine; elsewhere
the same graph is tested through ``dmo up``.
"""

from pathlib import Path
import time

from dmo_ros.core.tasks import get_task
from dmo_ros.stacks import GRAPHS
from geometry_msgs.msg import TwistStamped
from launch import LaunchContext, LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_pytest
from launch_pytest.actions import ReadyToTest
import pytest
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

LAUNCH = Path(__file__).parents[2] / 'launch'
FILES = sorted(path.name for path in LAUNCH.glob('*.launch.py'))
FIRST_IMAGE_TIMEOUT = 30.0  # s, steady clock: six Python processes start on a busy machine


@pytest.mark.parametrize('file', FILES)
def test_a_launch_file_declares_what_its_stack_takes(file):
    source = PythonLaunchDescriptionSource(str(LAUNCH / file))
    declared = source.get_launch_description(LaunchContext()).get_launch_arguments()
    defaults = {a.name: a.default_value[0].text for a in declared}
    name = file.removesuffix('.launch.py')
    stack = next(graph for graph in GRAPHS.values() if graph.launch == name)
    assert defaults == {a.name: str(a.default) for a in stack.arguments}
    assert all(a.description for a in declared)


@launch_pytest.fixture
def graph():
    """Start the pusher's graph with a scripted operator; collect the exit codes."""
    exits = {}

    def collect(event, context):
        exits[event.process_name] = event.returncode

    source = PythonLaunchDescriptionSource(str(LAUNCH / 'pusher.launch.py'))
    arguments = {'operator': 'play', 'namespace': 'bench'}.items()
    actions = [
        RegisterEventHandler(OnProcessExit(on_exit=collect)),
        IncludeLaunchDescription(source, launch_arguments=arguments),
        ReadyToTest(),
    ]
    return LaunchDescription(actions), exits


@pytest.fixture
def listener():
    """Give a node to listen with; its context ends with the test."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('listener', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node, executor
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.mark.launch(fixture=graph)
def test_the_pusher_plays_and_ends_cleanly(graph, listener):
    _, exits = graph
    node, executor = listener
    images, commands = [], []
    node.create_subscription(Image, '/bench/image_raw', images.append, qos_profile_sensor_data)
    node.create_subscription(TwistStamped, '/bench/cmd', commands.append, 1)
    end = time.monotonic() + FIRST_IMAGE_TIMEOUT
    while not (images and commands) and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    assert images and commands, f'{len(images)} images, {len(commands)} commands; ended: {exits}'
    camera = get_task('pusher').camera
    assert (images[0].width, images[0].height) == (camera.width, camera.height)
    yield  # the graph is taken down here
    assert exits and set(exits.values()) == {0}, exits
