"""Start the G1's graph: ros2 launch dmo_ros g1_grab_box.launch.py operator:=play."""

from dmo_ros.stacks import launch_description


def generate_launch_description():
    """Return the graph that `dmo up grab_box` starts, for ROS's launch."""
    return launch_description('grab_box')
