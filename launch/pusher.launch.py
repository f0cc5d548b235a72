"""Start the pusher's graph: ros2 launch dmo_ros pusher.launch.py operator:=play speed:=100."""

from dmo_ros.stacks import launch_description


def generate_launch_description():
    """Return the graph that `dmo up pusher` starts, for ROS's launch."""
    return launch_description('pusher')
