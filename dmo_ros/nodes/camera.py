"""
The camera: a device, a file, the robot's own or somebody's image topic -> ``image_raw`` and
``camera_info``.

The newest frame wins: a source is read in a thread of its own, and a frame nobody had time for is
replaced by the next.  Stamps say when a frame was taken, not when it was published.  Duplicated,
reordered, future and frozen frames are refused and counted; lost ones are counted by the gap in
the stamps; a source that is lost is opened again, and what comes then is new.  Pixels are not
touched beyond the task's encoding: what the model sees is cut out by the one image function, here
as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from . import qos, run
from .calibration import load_calibration
from .camera_sources import (
    Capture,
    Grabber,
    is_stable,
    Multicast,
    Polled,
    Source,
    SourceEndedError,
    SourceError,
)
from .convert import nanoseconds, to_image, to_rgb, to_time
from .diagnostics import Diagnostics, ERROR, OK, WARN
from .parameters import declare, parameter, ParameterError
from ..core.addresses import ROBOT_DDS_DOMAIN, twin_dds_domain
from ..core.cadence import Cadence
from ..core.images import ImageError
from ..core.stream import FrameWatch
from ..core.tasks import get_task, TaskSpec
from ..graph import ros_domain

SOURCES = ('device', 'file', 'topic', 'go2', 'multicast')


@dataclass(frozen=True)
class CameraConfig:
    """Parameters of the camera node."""

    task: str = parameter('pusher', 'task whose camera this is')
    source: str = parameter('topic', 'where frames come from', choices=SOURCES)
    topic: str = parameter('camera/image', 'image topic (source topic)')
    path: str = parameter(
        '',
        'stable device path as in /dev/v4l/by-id (source device), or a video file (source file)',
    )
    robot: str = parameter(
        'twin',
        'whose camera source go2 asks: that of the twin or the real one',
        choices=('twin', 'real'),
    )
    interface: str = parameter('', 'network interface of the real robot (sources go2, multicast)')
    calibration: str = parameter(
        '', 'file that camera_calibration wrote (.yaml), for camera_info; empty: sizes only'
    )
    rate_hz: float = parameter(
        30.0, 'frames a second: asked from a device, played from a file, expected', 1.0, 240.0
    )
    frozen_after: int = parameter(
        5, 'equal pictures in a row that count as frozen; 0: never', 0, 1000
    )
    future_tolerance: float = parameter(
        0.05, 'seconds a stamp may be ahead of the clock; 0: not asked', 0.0, 10.0
    )


class CameraNode(Node):
    """Check every frame and pass it on."""

    def __init__(self) -> None:
        super().__init__('camera')
        self.config = config = declare(self, CameraConfig)
        self.spec = get_task(config.task)
        self.watch = FrameWatch(
            self.spec.limits.frame_timeout, config.frozen_after, config.future_tolerance
        )
        self.cadence = Cadence(config.rate_hz)
        self.refused = ''
        self.calibration = load_calibration(config.calibration) if config.calibration else None
        self.image_out = self.create_publisher(Image, 'image_raw', qos.STREAM)
        self.info_out = self.create_publisher(CameraInfo, 'camera_info', qos.STREAM)
        self.diagnostics = Diagnostics(self, self._diagnose)
        self.grabber: Grabber | None = None
        if config.source == 'topic':
            self.create_subscription(Image, config.topic, self._on_image, qos.SENSOR)
        else:
            self.wake = self.create_guard_condition(self._on_grab)
            source, opened = open_source(config, self.spec)
            self.grabber = Grabber(source, self.wake.trigger, opened)
            if config.source == 'device' and not is_stable(config.path):
                self.get_logger().warning(
                    f'{config.path} may be another camera after the next start; name it as in '
                    '/dev/v4l/by-id'
                )

    # ------------------------------------------------------------------ frames
    def _on_image(self, message: Image) -> None:
        stamp = nanoseconds(message.header.stamp)
        if self._refuse(stamp, message.data):
            return
        try:
            if message.encoding != self.spec.camera.encoding:
                message = to_image(to_rgb(message), self.spec.camera.encoding, message.header)
            else:
                to_rgb(message)  # sizes that contradict the data are refused here, not in a model
        except ImageError as error:
            self._reject(str(error))
            return
        self._publish(message)

    def _on_grab(self) -> None:
        taken = self.grabber.take() if self.grabber else None
        if taken is None:
            return
        frame, age = taken
        stamp = self.get_clock().now().nanoseconds - int(age * 1e9)
        if not self._refuse(stamp, frame):
            self._publish(to_image(frame, 'rgb8', Header(stamp=to_time(stamp))))

    def _publish(self, message: Image) -> None:
        self.cadence.accept(nanoseconds(message.header.stamp))
        message.header.frame_id = self.spec.camera.frame_id
        self.refused = ''
        self.image_out.publish(message)
        self.info_out.publish(self._info(message))

    def _info(self, message: Image) -> CameraInfo:
        info = CameraInfo(width=message.width, height=message.height)
        found = self.calibration
        if found is not None:
            if (found.width, found.height) == (message.width, message.height):
                info = found
            else:
                self.refused = (
                    f'{self.config.calibration} is for {found.width}x{found.height}, frames are '
                    f'{message.width}x{message.height}; camera_info goes without it'
                )
        info.header = message.header
        return info

    # ------------------------------------------------------------------ refusals
    def _refuse(self, stamp: int, pixels: Any) -> str:
        watched = self.config.frozen_after > 0
        digest = hashlib.blake2b(pixels, digest_size=16).digest() if watched else None
        clock = self.get_clock().now().nanoseconds
        fault = self.watch.accept(stamp, time.monotonic(), clock, digest)
        if fault:
            self._reject(fault)
        return fault

    def _reject(self, why: str) -> None:
        self.refused = why
        self.get_logger().warning(f'frame refused: {why}', throttle_duration_sec=5.0)

    # ------------------------------------------------------------------ what it tells
    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        values: dict[str, object] = {
            **self.watch.counts,
            'lost': self.cadence.drops,
            'interruptions': self.cadence.interruptions,
            'rate_hz': round(self.cadence.rate_hz, 2),
        }
        if self.grabber:
            values['replaced_by_newer'] = self.grabber.replaced
            values['undecoded'] = self.grabber.undecoded
            values['reconnects'] = self.grabber.reconnects
            if self.grabber.error:
                return ERROR, self.grabber.error, values
        if self.watch.stale(time.monotonic()):
            return ERROR, self.refused or 'no frames come', values
        doubt = self.refused or self.cadence.verdict
        return (WARN, doubt, values) if doubt else (OK, '', values)

    def destroy_node(self) -> None:
        """Stop the reading thread, then the node."""
        if self.grabber:
            self.grabber.stop()
        super().destroy_node()


def open_source(config: CameraConfig, spec: TaskSpec) -> tuple[Source, bool]:
    """
    Return the configured source, and whether it is open already.

    What is on this machine is opened at once, so that a wrong path is told at the start; a robot
    may take its time.

    :raises ParameterError: a device or file that cannot be opened.
    """
    if config.source == 'go2':
        return Polled(lambda: _go2_camera(config)), False
    if config.source == 'multicast':
        return Multicast(config.interface, config.rate_hz), False
    size = (spec.camera.width, spec.camera.height) if config.source == 'device' else None
    source = Capture(config.path, config.rate_hz, size)
    try:
        source.open()
    except (SourceError, SourceEndedError) as error:
        raise ParameterError(f'source {config.source}: {error}') from error
    return source, True


def _go2_camera(config: CameraConfig) -> Any:
    from ..robots.go2_camera import Go2Camera

    if config.robot == 'real' and not config.interface:
        raise RuntimeError('source go2 of a real robot needs the parameter interface (ip link)')
    real = config.robot == 'real'
    camera = Go2Camera(
        ROBOT_DDS_DOMAIN if real else twin_dds_domain(ros_domain()),
        config.interface if real else 'lo',
        rate_hz=config.rate_hz,
    )
    camera.connect()
    return camera


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(CameraNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
