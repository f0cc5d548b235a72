"""A publisher for the recorder's tests: python recorder_source.py RATE_HZ, until it is killed."""

import array
import sys
import time

from builtin_interfaces.msg import Time
from dmo_ros.msg import IntentLabel
from geometry_msgs.msg import TwistStamped
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image


def main(rate):
    """Publish; stamps are multiples of 1/rate of the wall clock, each one used once."""
    rclpy.init()
    node = rclpy.create_node('source')
    qos = QoSProfile(depth=20)
    images = node.create_publisher(Image, 'image_raw', qos)
    commands = node.create_publisher(TwistStamped, 'cmd', qos)
    labels = node.create_publisher(IntentLabel, 'intent', qos)
    print('publishing', flush=True)
    step = int(time.time() * rate)
    while True:
        step += 1
        time.sleep(max(0.0, step / rate - time.time()))
        stamp = Time(sec=step // rate, nanosec=step % rate * (10**9 // rate))
        image = Image(height=32, width=32, encoding='rgb8', step=96)
        image.header.stamp = stamp
        image.data = array.array('B', bytes([step % 256]) * 3072)
        images.publish(image)
        command = TwistStamped()
        command.header.stamp = stamp
        commands.publish(command)
        labels.publish(IntentLabel(stamp=stamp, label=step // 10 % 2, source='test'))


if __name__ == '__main__':
    main(int(sys.argv[1]))
