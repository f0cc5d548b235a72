"""
The camera: a device, a video file or somebody's image topic -> ``image_raw`` and ``camera_info``.

The newest frame wins: a device is read in a thread of its own, and a frame nobody had time for is
replaced by the next.  Duplicated, reordered, future and frozen frames are refused and counted; a
stream that has stopped is reported.  Pixels are not touched beyond the task's encoding: what the
model sees is cut out by the one image function, here as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import hashlib
import threading
import time
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from . import qos, run
from .convert import nanoseconds, to_image, to_rgb, to_time
from .diagnostics import Diagnostics, ERROR, OK, WARN
from .parameters import declare, parameter, ParameterError
from ..core.images import ImageError
from ..core.stream import FrameWatch
from ..core.tasks import get_task


@dataclass(frozen=True)
class CameraConfig:
    """Parameters of the camera node."""

    task: str = parameter('pusher', 'task whose camera this is')
    source: str = parameter('topic', 'where frames come from', choices=('device', 'file', 'topic'))
    topic: str = parameter('camera/image', 'image topic (source topic)')
    path: str = parameter(
        '',
        'stable device path as in /dev/v4l/by-id (source device), or a video file (source file)',
    )
    rate_hz: float = parameter(
        30.0, 'frames a second asked from a device, played from a file', 1.0, 240.0
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
        self.refused = ''
        self.image_out = self.create_publisher(Image, 'image_raw', qos.STREAM)
        self.info_out = self.create_publisher(CameraInfo, 'camera_info', qos.STREAM)
        self.diagnostics = Diagnostics(self, self._diagnose)
        self.grabber: Grabber | None = None
        if config.source == 'topic':
            self.create_subscription(Image, config.topic, self._on_image, qos.SENSOR)
        else:
            self.wake = self.create_guard_condition(self._on_grab)
            self.grabber = Grabber(open_capture(config), config, self.wake.trigger)

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
        message.header.frame_id = self.spec.camera.frame_id
        self.refused = ''
        self.image_out.publish(message)
        self.info_out.publish(
            CameraInfo(header=message.header, width=message.width, height=message.height)
        )

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

    def _diagnose(self) -> tuple[int, str, dict[str, object]]:
        values: dict[str, object] = dict(self.watch.counts)
        if self.grabber:
            values['replaced_by_newer'] = self.grabber.replaced
            if self.grabber.error:
                return ERROR, self.grabber.error, values
        if self.watch.stale(time.monotonic()):
            return ERROR, self.refused or 'no frames come', values
        return (WARN, self.refused, values) if self.refused else (OK, '', values)

    def destroy_node(self) -> None:
        """Stop the reading thread, then the node."""
        if self.grabber:
            self.grabber.stop()
        super().destroy_node()


class Grabber:
    """Read a capture in a thread; keep only the newest frame and the moment it came."""

    def __init__(self, capture: Any, config: CameraConfig, notify: Callable[[], None]) -> None:
        self.capture, self.notify = capture, notify
        # A device blocks until its next frame; a file would be over in a moment.
        self.pause = 1.0 / config.rate_hz if config.source == 'file' else 0.0
        self.replaced = 0
        self.error = ''
        self._frame: tuple[np.ndarray, float] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name='grabber', daemon=True)
        self._thread.start()

    def take(self) -> tuple[np.ndarray, float] | None:
        """Return the newest frame (H, W, 3) RGB and its age in seconds, once."""
        with self._lock:
            taken, self._frame = self._frame, None
        return None if taken is None else (taken[0], time.monotonic() - taken[1])

    def stop(self) -> None:
        """End the thread and release the device."""
        self._stop.set()
        self._thread.join(timeout=2.0)
        self.capture.release()

    def _read(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            good, frame = self.capture.read()
            now = time.monotonic()
            if not good:
                self.error = 'the video is over' if self.pause else 'the camera gives no frames'
                if self.pause or self._stop.wait(0.1):
                    return
                continue
            self.error = ''
            with self._lock:
                self.replaced += self._frame is not None
                self._frame = frame[..., ::-1], now
            self.notify()
            due = max(due + self.pause, now)
            self._stop.wait(due - now)


def open_capture(config: CameraConfig) -> Any:
    """Open a device or a file with OpenCV; ParameterError when it cannot be opened."""
    import cv2

    if not config.path:
        raise ParameterError(
            f'source {config.source} needs the parameter path; list devices with ls /dev/v4l/by-id'
        )
    capture = cv2.VideoCapture(config.path)
    if not capture.isOpened():
        raise ParameterError(
            f'{config.path!r} cannot be opened as a {config.source}: is it '
            'there, is it readable, does another program hold it?'
        )
    if config.source == 'device':
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest of a queue
        capture.set(cv2.CAP_PROP_FPS, config.rate_hz)
    return capture


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(CameraNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
