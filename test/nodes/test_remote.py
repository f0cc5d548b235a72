"""Unitree's remote, spoken by a process of its own over DDS, heard as a pad."""

import importlib.util
import subprocess
import sys

from dmo_ros.core.intent import PadMap, read_pad
import pytest
from sensor_msgs.msg import Joy

MAP = PadMap(axes=(1, 0, 3), signs=(1.0, 1.0, 1.0))  # push_cube.yaml with joy_unitree.yaml
PRESSER = """
import os, time
from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.robots.go2_remote import KEYS
from dmo_ros.robots.unitree import open_channel, Publication
kit = open_channel(twin_dds_domain(int(os.environ['ROS_DOMAIN_ID'])), 'lo')
kind = kit.go.WirelessController_
out = Publication('rt/wirelesscontroller', kind)
while True:
    out.write(kind(-0.5, 1.0, 0.0, 0.0, KEYS['L1'] | KEYS['R1']))
    time.sleep(0.02)
"""


def test_the_remote_is_a_pad_as_long_as_it_speaks(probe, start):
    pytest.importorskip('cyclonedds')
    if importlib.util.find_spec('unitree_sdk2py') is None:  # importing it plainly would fail
        pytest.skip('unitree_sdk2py is not installed')
    heard = probe.listen(Joy, 'joy')
    start('remote')
    probe.spin(0.3)
    assert not heard, 'a remote that is off is silent'
    presser = subprocess.Popen([sys.executable, '-c', PRESSER])
    try:
        probe.until(lambda: len(heard) > 20)
    finally:
        presser.kill()
        presser.wait()
    message = heard[-1][1]
    pad = read_pad(message.axes, message.buttons, MAP)
    assert pad.stick == (1.0, 0.5, 0.0) and pad.deadman and pad.intent and not pad.arm
    probe.spin(0.5)
    count = len(heard)
    probe.spin(0.5)
    assert len(heard) == count, 'and silent again'


def test_a_real_robot_needs_an_interface(start):
    child = start('remote', wait=False, robot='real')
    assert child.popen.wait(40) == 2 and 'interface:=' in child.story()
