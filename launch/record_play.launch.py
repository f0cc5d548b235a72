"""Record play: ros2 launch dmo_ros record_play.launch.py task:=push_t operator:=play."""

from dmo_ros.stacks import launch_description


def generate_launch_description():
    """Return the graph that `dmo up record_play` starts, for ROS's launch."""
    return launch_description('record_play')
