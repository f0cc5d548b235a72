"""
Where the camera node's frames come from: a device, a file, the Go2's own camera, its multicast.

A source is opened, read frame by frame and closed in the :class:`Grabber`'s thread, which keeps
only the newest frame, opens a lost source again with growing patience, and never hands out a frame
twice.  OpenCV and the robots' SDKs are imported when a source is opened.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import threading
import time
from typing import Any, Protocol

import numpy as np

FIRST_WAIT, LONGEST_WAIT = 0.5, 5.0  # s between two attempts to open what was lost
OLDEST_STAMP = 1.0  # s; a driver's capture time that is older is not one of this clock
MULTICAST = ('230.1.1.1', 1720)  # where the Go2 sends its H.264 stream (field reports)
Frame = tuple[np.ndarray, float]  # (H, W, 3) uint8 RGB, and when it was taken (steady clock, s)


class SourceError(ValueError):
    """A source that cannot be opened or gives no frames; another attempt may help."""


class SourceEndedError(ValueError):
    """A source that is over or unusable; another attempt would not help."""


class Source(Protocol):
    """One camera; used by one thread."""

    def open(self) -> None:
        """Begin; SourceError or SourceEndedError says why not and what to do."""

    def read(self) -> Frame | None:
        """Wait for the next frame; None when one came that could not be decoded."""

    def close(self) -> None:
        """Release it; idempotent."""


class Capture:
    """A video device or file, by OpenCV."""

    def __init__(self, path: str, rate_hz: float, size: tuple[int, int] | None) -> None:
        """``size``: width and height that a device must give; None plays a file at its rate."""
        self.path, self.rate_hz, self.size = path, rate_hz, size
        self._capture: Any = None
        self._due = 0.0

    def open(self) -> None:
        """Open it, ask for the mode, and refuse another one than was asked for."""
        import cv2

        if not self.path:
            raise SourceEndedError(
                'this source needs the parameter path; list devices with ls /dev/v4l/by-id'
            )
        backend = cv2.CAP_V4L2 if self.size else cv2.CAP_ANY
        capture = cv2.VideoCapture(self.path, backend)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f'{self.path!r} cannot be opened: is it there, is it readable, does another '
                'program hold it?'
            )
        if self.size:
            self._set_mode(cv2, capture, self.size)
        self._capture, self._due = capture, time.monotonic()

    def _set_mode(self, cv2: Any, capture: Any, size: tuple[int, int]) -> None:
        wanted = {
            cv2.CAP_PROP_FRAME_WIDTH: size[0],
            cv2.CAP_PROP_FRAME_HEIGHT: size[1],
            cv2.CAP_PROP_FPS: self.rate_hz,
            cv2.CAP_PROP_BUFFERSIZE: 1,  # the newest frame, not the oldest of a queue
        }
        for name, value in wanted.items():
            capture.set(name, value)
        found = tuple(
            round(capture.get(name))
            for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if found != size:
            capture.release()
            raise SourceEndedError(
                f'{self.path} gives {found[0]}x{found[1]} instead of the {size[0]}x{size[1]} that '
                'the task is for; v4l2-ctl --list-formats-ext shows its modes'
            )

    def read(self) -> Frame | None:
        """Wait for a frame; the moment it was taken is the driver's where it tells one."""
        if not self.size:
            self._wait_until_due()
        if not self._capture.grab():
            if not self.size:
                raise SourceEndedError('the video is over')
            raise SourceError(f'{self.path} gives no frames; is it still plugged in?')
        now = time.monotonic()
        good, frame = self._capture.retrieve()
        return (frame[..., ::-1], self._taken(now)) if good else None

    def _wait_until_due(self) -> None:
        now = time.monotonic()
        self._due = max(self._due + 1.0 / self.rate_hz, now)
        time.sleep(max(0.0, self._due - now))

    def _taken(self, now: float) -> float:
        """Return V4L2's own time of the frame, which is this clock's, else the time it came."""
        import cv2

        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3 if self.size else 0.0
        return stamp if 0.0 <= now - stamp < OLDEST_STAMP else now

    def close(self) -> None:
        """Release the device."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


class Multicast(Capture):
    """The H.264 stream that a Go2 sends to everybody on its network; needs GStreamer."""

    def __init__(self, interface: str, rate_hz: float) -> None:
        super().__init__(f'{MULTICAST[0]}:{MULTICAST[1]}', rate_hz, None)
        self.interface = interface

    def open(self) -> None:
        """Build the pipeline; a sentence where OpenCV has no GStreamer."""
        import cv2

        if not _has_gstreamer(cv2.getBuildInformation()):
            raise SourceEndedError(
                'this OpenCV has no GStreamer, which the multicast stream needs (pip has none '
                "that does; apt's python3-opencv has); take camera:=robot instead"
            )
        if not self.interface:
            raise SourceEndedError('source multicast needs the parameter interface (ip link)')
        pipeline = (
            f'udpsrc address={MULTICAST[0]} port={MULTICAST[1]} '
            f'multicast-iface={self.interface} ! '
            'application/x-rtp, media=video, encoding-name=H264 ! rtph264depay ! h264parse ! '
            'avdec_h264 ! videoconvert ! video/x-raw, format=BGR ! '
            'appsink drop=true max-buffers=1'
        )
        self._capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            self.close()
            raise SourceError('the multicast stream does not open; is the robot on this network?')

    def read(self) -> Frame | None:
        """Wait for the stream's next frame; it has no time of its own."""
        if not self._capture.grab():
            raise SourceError('the multicast stream has ended')
        now = time.monotonic()
        good, frame = self._capture.retrieve()
        return (frame[..., ::-1], now) if good else None


def _has_gstreamer(build: str) -> bool:
    lines = [line for line in build.splitlines() if 'GStreamer' in line]
    return any('YES' in line for line in lines)


class Polled:
    """A camera with a thread of its own and ``take() -> (rgb, age) | None``: the Go2's."""

    PATIENCE = 1.0  # s without a frame before it counts as lost
    PAUSE = 0.005

    def __init__(self, make: Callable[[], Any]) -> None:
        """``make`` returns the camera, connected; any error of its SDK means: not now."""
        self.make = make
        self._camera: Any = None

    def open(self) -> None:
        """Connect."""
        try:
            self._camera = self.make()
        except (RuntimeError, OSError) as error:  # RobotError is one: no SDK, no robot
            raise SourceError(str(error)) from error

    def read(self) -> Frame | None:
        """Wait for a frame that has not been taken yet."""
        until = time.monotonic() + self.PATIENCE
        while time.monotonic() < until:
            taken = self._camera.take()
            if taken is not None:
                frame, age = taken
                return frame, time.monotonic() - age
            time.sleep(self.PAUSE)
        error = getattr(self._camera, 'error', '')
        raise SourceError(error or "the robot's camera gives no pictures; is the robot on?")

    def close(self) -> None:
        """End its thread."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()


class Grabber:
    """Read a source in a thread; keep only the newest frame and the moment it was taken."""

    def __init__(self, source: Source, notify: Callable[[], None], opened: bool = False) -> None:
        """``notify`` is called (in the thread) for each frame; ``opened``: it is open already."""
        self.source, self.notify = source, notify
        self.replaced = self.undecoded = self.reconnects = 0
        self.error = ''
        self._opened = opened
        self._frame: Frame | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='grabber', daemon=True)
        self._thread.start()

    def take(self) -> tuple[np.ndarray, float] | None:
        """Return the newest frame (H, W, 3) RGB and its age in seconds, once."""
        with self._lock:
            taken, self._frame = self._frame, None
        return None if taken is None else (taken[0], time.monotonic() - taken[1])

    def stop(self) -> None:
        """End the thread, which releases the source; a driver that hangs is left to its fate."""
        self._stop.set()
        self._thread.join(timeout=4.0)

    def _run(self) -> None:
        wait = FIRST_WAIT
        try:
            while not self._stop.is_set():
                try:
                    if not self._opened:
                        self.source.open()
                        self._opened = True
                    self._read()
                except SourceError as error:
                    wait = self._lost(str(error), wait)
        except SourceEndedError as error:
            self.error = str(error)
        except Exception as error:  # never die silently: the node would wait for ever
            self.error = f'the camera failed: {type(error).__name__}: {error}'
        finally:
            self.source.close()

    def _lost(self, why: str, wait: float) -> float:
        """Close, wait, and return how long to wait the next time."""
        self.error = f'{why} (trying again)'
        self.source.close()
        if self._opened:
            self.reconnects += 1
            self._opened = False
            wait = FIRST_WAIT
        self._stop.wait(wait)
        return min(2.0 * wait, LONGEST_WAIT)

    def _read(self) -> None:
        while not self._stop.is_set():
            frame = self.source.read()
            if frame is None:
                self.undecoded += 1
                continue
            self.error = ''
            with self._lock:
                self.replaced += self._frame is not None
                self._frame = frame
            self.notify()


def is_stable(path: str) -> bool:
    """Tell whether a device path stays the same when cameras are plugged in another order."""
    return not (path.startswith('/dev/video') and not os.path.islink(path))
