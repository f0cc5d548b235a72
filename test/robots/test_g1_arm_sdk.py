"""The G1 by rt/arm_sdk and its loco service, over real DDS, against its peer in this process."""

import time

from dmo_ros.core.tasks import get_task
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from dmo_ros.robots.g1_arm_sdk import LONGEST
import numpy as np
import pytest

REST = [field.rest for field in get_task('grab_box').actions]


def slow_crc(words):
    """Return the vendor's checksum, bit by bit as its header has it; independent of ours."""
    crc = 0xFFFFFFFF
    for word in words:
        for bit in range(31, -1, -1):
            top = crc >> 31
            crc = (crc << 1) & 0xFFFFFFFF
            if top ^ ((word >> bit) & 1):
                crc ^= 0x04C11DB7
    return crc


def test_the_checksum_of_what_is_sent_equals_a_slow_one(world):
    seen = []
    listener = unitree.Subscription('rt/arm_sdk', unitree.sdk().hg.LowCmd_, seen.append)
    robot = world.robot(path='arm_sdk')
    world.drive(robot, upper=0.1)
    world.until(lambda: len(seen) > 20)
    listener.close()
    for message in seen[::5]:
        words = np.frombuffer(unitree.pack(message), '<u4')
        assert len(words) == 251 and slow_crc(words[:-1].tolist()) == message.crc
        assert message.mode_machine == 5
        driven = [k for k, motor in enumerate(message.motor_cmd) if motor.mode]
        assert driven == list(range(12, 29))
        assert all(message.motor_cmd[k].kp > 0 and message.motor_cmd[k].kd > 0 for k in driven)
    assert not world.peer.dds.counts['bad_crc'] and not world.peer.dds.counts['bad_machine']


def test_a_wrong_checksum_is_counted_and_not_obeyed(world):
    kit = unitree.sdk()
    out = unitree.Publication('rt/arm_sdk', kit.hg.LowCmd_)
    world.until(lambda: out.matched)
    message = kit.default.unitree_hg_msg_dds__LowCmd_()
    message.mode_machine = 5
    for k in range(12, 29):
        message.motor_cmd[k].mode, message.motor_cmd[k].q, message.motor_cmd[k].kp = 1, 0.5, 60.0
    message.motor_cmd[29].q = 1.0
    message.crc = unitree.crc32(message) ^ 1

    def send():
        out.write(message)
        time.sleep(0.02)
        return world.peer.dds.counts

    world.until(lambda: send()['bad_crc'] >= 3)
    assert np.allclose(world.twin.joint_position[0, :17], REST[:17])
    message.crc ^= 1
    world.until(lambda: send()['arm_sdk'] >= 3)
    world.until(lambda: np.allclose(world.twin.joint_position[0, :17], 0.5, atol=1e-2))
    out.close()


def test_the_weight_is_ramped_up_and_down_and_the_arms_never_jump(world):
    robot = world.robot(path='arm_sdk')
    ticker = world.drive(robot, upper=0.3)
    world.until(
        lambda: np.allclose(world.twin.joint_position[0, :17], world.raised(0.3), atol=0.01)
    )
    ticker.end()
    robot.close()
    weights = [r.data[1] for r in list(world.peer.records) if r.kind == 'arm_sdk']
    assert weights[0] <= 0.06 and max(weights) == pytest.approx(1.0)
    assert weights[-1] == pytest.approx(0.0, abs=0.06)
    assert np.max(np.abs(np.diff(weights))) < 0.3  # 0.05 a message; some are lost


def test_every_call_to_walk_expires_and_standing_is_said(world):
    robot = world.robot(path='arm_sdk')
    ticker = world.drive(robot, walk=(0.2, 0.0, 0.1))
    world.until(lambda: world.twin.base_velocity[0, 0] > 0.19)
    time.sleep(0.5)
    assert world.twin.base_velocity[0, 0] > 0.19
    ticker.end()
    robot.stop()
    world.until(lambda: not world.twin.base_velocity.any())
    time.sleep(0.5)
    calls = [r.data for r in list(world.peer.records) if r.kind == 'loco']
    velocities = [asked for api, asked in calls if api == 7105]
    assert len(velocities) >= 5
    assert all(0 < asked['duration'] <= LONGEST == 0.3 for asked in velocities)
    assert {api for api, _ in calls} <= {7001, 7105}
    assert not any(velocities[-1]['velocity'])


def test_a_robot_that_does_not_walk_is_refused(world):
    world.peer.dds.fsm = 1
    with pytest.raises(RobotError, match='state 1'):
        world.robot(path='arm_sdk')


def test_damp_asks_the_loco_service(world):
    robot = world.robot(path='arm_sdk')
    robot.damp()
    assert world.peer.dds.fsm == 1 and robot.health().fault
