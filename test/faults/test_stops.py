"""
Rows C, T, O, D and V of the fault table, with real processes: from the harm to zero on the wire.

Limits: T_cmd = max(2.5 control periods, 250 ms) + 100 ms of tolerance for a busy machine; where
the gate brakes within the task's deceleration, that ramp comes on top.  After each fault nothing
moves although the person still holds the dead-man: nothing arms itself.
"""

import random
import signal
import subprocess
import sys
import time

from dmo_ros.nodes import convert, qos
import pytest

TOLERANCE = 0.1
QUIET = 0.8  # seconds in which nothing may move by itself
RESUME = 3.0
pytestmark = pytest.mark.faults


def command_limit(rig):
    """Return T_cmd with tolerance and ramp, in seconds."""
    ramp = 0.5 * rig.spec.driven[0].high / rig.spec.limits.acceleration[0]
    return max(2.5 * rig.spec.period, 0.25) + TOLERANCE + ramp


def any_moment(rig):
    """Begin at a random phase of the control period."""
    rig.place((-1.8, 0.0, 0.0, 1.5, 1.5, 0.0))  # room to walk
    rig.drive()
    time.sleep(random.uniform(0.0, rig.spec.period))


def stays_at_rest(rig):
    before = len(rig.wire.heard)
    time.sleep(QUIET)
    assert not any(any(values) for _, values in rig.wire.heard[before:]), rig.story()


def test_c1_a_camera_that_dies(go2, book, run):
    any_moment(go2)
    at = go2.kill('camera')
    book('C1', 'camera killed', command_limit(go2), go2.seconds_to_rest(at))
    stays_at_rest(go2)
    go2.restart('camera')
    stays_at_rest(go2)  # C4: the frames are back, the robot does not move by that


def test_c1_a_camera_that_hangs(go2, book, run):
    any_moment(go2)
    at = go2.send('camera', signal.SIGSTOP)
    book('C1', 'camera hung', command_limit(go2), go2.seconds_to_rest(at))
    go2.send('camera', signal.SIGCONT)
    stays_at_rest(go2)


def test_t1_a_policy_that_overruns(go2, book, run):
    any_moment(go2)
    at = go2.send('policy', signal.SIGSTOP)
    time.sleep(0.7)
    go2.send('policy', signal.SIGCONT)
    book('T1', 'policy asleep for 0.7 s', command_limit(go2), go2.seconds_to_rest(at))
    stays_at_rest(go2)


def test_t3_t5_a_policy_that_dies_and_comes_back(go2, book, run):
    any_moment(go2)
    at = go2.kill('policy')
    book('T3', 'policy killed', command_limit(go2), go2.seconds_to_rest(at))
    go2.restart('policy')
    back = time.monotonic()
    stays_at_rest(go2)
    go2.drive()
    book('T5', 'armed again after a respawn', QUIET + RESUME, time.monotonic() - back)


def test_t4_a_policy_that_hangs(go2, book, run):
    any_moment(go2)
    at = go2.send('policy', signal.SIGSTOP)
    book('T4', 'policy hung', command_limit(go2), go2.seconds_to_rest(at))
    stays_at_rest(go2)
    go2.send('policy', signal.SIGCONT)
    stays_at_rest(go2)


def test_t6_a_gate_that_dies(go2, book, run):
    any_moment(go2)
    at = go2.kill('gate')
    book('T6', 'gate killed', 0.25 + TOLERANCE, go2.seconds_to_rest(at))
    go2.restart('gate')
    stays_at_rest(go2)


def test_t6_a_gate_that_hangs(go2, book, run):
    any_moment(go2)
    at = go2.send('gate', signal.SIGSTOP)
    book('T6', 'gate hung', 0.25 + TOLERANCE, go2.seconds_to_rest(at))
    go2.send('gate', signal.SIGCONT)
    stays_at_rest(go2)


def test_t7_a_bridge_that_dies(go2, book, run):
    """The robot's own expiry: a Go2 holds a Move for 1 s, and has then to come to rest."""
    any_moment(go2)
    go2.until(lambda: time.monotonic() - go2.wire.walked[-1] < 0.1, why='it never walked')
    at = go2.kill('go2_bridge')
    book(
        'T7', 'bridge killed, Go2 stands after its 1 s', 1.3 + TOLERANCE, go2.seconds_to_stand(at)
    )
    go2.restart('go2_bridge')
    stays_at_rest(go2)


def test_o1_the_dead_man_is_let_go(go2, book, run):
    any_moment(go2)
    at = go2.let_go()
    book('O1', 'dead-man released', TOLERANCE, go2.seconds_to_rest(at))
    go2.held = True
    stays_at_rest(go2)


def test_o2_the_pad_dies_with_the_button_held(go2, book, run):
    any_moment(go2)
    go2.plugged = False
    at = time.monotonic()
    book('O2', 'pad silent', 0.2 + TOLERANCE, go2.seconds_to_rest(at))
    go2.plugged = True
    stays_at_rest(go2)


ROGUE = """
import sys, rclpy
from dmo_ros.core.tasks import get_task
from dmo_ros.nodes import convert, qos
rclpy.init()
node = rclpy.create_node('rogue')
spec = get_task('push_cube')
out = node.create_publisher(convert.command_type(spec), sys.argv[1], qos.COMMAND_OUT)
def publish():
    out.publish(convert.to_command((-0.37, 0.11, 0.0), spec, node.get_clock().now().nanoseconds))
node.create_timer(0.005, publish)
while not out.get_subscription_count():
    publish()
print('found', flush=True)
rclpy.spin(node)
"""


@pytest.mark.parametrize('topic', ['cmd', 'cmd_policy', 'cmd_teleop'])
def test_d3_a_second_writer(go2, book, run, topic):
    any_moment(go2)
    with go2.deaf():
        rogue = subprocess.Popen([sys.executable, '-c', ROGUE, topic], stdout=subprocess.PIPE)
        try:
            assert rogue.stdout.readline()  # gate or bridge has been found, and would listen
            at = time.monotonic()
            seconds = go2.seconds_to_rest(at)
            go2.until(lambda: go2.state() == 'FAULT', why='a second writer is a fault')
            heard = {round(values[0], 3) for _, values in go2.wire.heard}
        finally:
            rogue.kill()
            rogue.wait()
            rogue.stdout.close()
    assert -0.37 not in heard
    book('D3', f'rogue on {topic} found its listener', 0.5, seconds)
    stays_at_rest(go2)


def test_d4_a_clock_that_jumps(go2, book, run):
    """Watchdogs ask the steady clock: a jump of ROS time neither moves nor saves anything."""
    from rosgraph_msgs.msg import Clock

    any_moment(go2)
    out = go2.node.create_publisher(Clock, 'clock', qos.STREAM)
    try:
        for second in (10**6, 1, 10**6):
            out.publish(Clock(clock=convert.to_time(second * 10**9)))
        at = go2.kill('policy')
        for second in (1, 10**6):
            out.publish(Clock(clock=convert.to_time(second * 10**9)))
        book('D4', 'clock jumps, policy killed', command_limit(go2), go2.seconds_to_rest(at))
    finally:
        go2.node.destroy_publisher(out)
    go2.restart('policy')
    stays_at_rest(go2)


def test_v1_a_command_that_is_not_a_number(go2, book, run):
    go2.drive()
    go2.kill('policy')
    with go2.as_policy() as command:
        command((0.3, 0.0, 0.0))
        go2.drive(repair=False)
        at = command((float('nan'), 0.0, 0.0))
        book('V1', 'NaN from the policy', 0.02 + TOLERANCE, go2.seconds_to_rest(at))
        go2.until(lambda: go2.state() == 'FAULT', why='a NaN is a fault')
    assert all(value == value for _, values in go2.commands for value in values)
    go2.restart('policy')
    stays_at_rest(go2)


def test_c3_a_command_from_the_future(go2, book, run):
    """It must not keep the robot moving by making all later ones look old."""
    go2.drive()
    go2.kill('policy')
    with go2.as_policy() as command:
        command((0.3, 0.0, 0.0))
        go2.drive(repair=False)
        at = command((0.3, 0.0, 0.0), ahead=1000.0, once=True)
        command(None)
        book('C3', 'future stamp, then silence', command_limit(go2), go2.seconds_to_rest(at))
    go2.restart('policy')
    stays_at_rest(go2)
