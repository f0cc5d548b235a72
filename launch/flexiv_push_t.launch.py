"""Start the Flexiv arm's graph: ros2 launch dmo_ros flexiv_push_t.launch.py operator:=play."""

from dmo_ros.stacks import launch_description


def generate_launch_description():
    """Return the graph that `dmo up push_t` starts, for ROS's launch."""
    return launch_description('push_t')
