"""Start the Go2's graph: ros2 launch dmo_ros go2_push_cube.launch.py operator:=play."""

from dmo_ros.stacks import launch_description


def generate_launch_description():
    """Return the graph that `dmo up push_cube` starts, for ROS's launch."""
    return launch_description('push_cube')
