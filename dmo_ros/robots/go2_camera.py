"""
The Go2's front camera, asked picture by picture from its ``videohub`` service (section 9).

The service answers with one JPEG and no time; the middle of the request is taken as the moment of
the picture.  A thread asks, so nobody waits for the network; only the newest picture is kept.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any

import numpy as np

from . import unitree
from .base import RobotError

RATE_HZ = 15.0  # the camera itself gives 13 to 15
TIMEOUT = 0.5  # s for one picture of some 100 kB
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # s of patience after a failure, doubled each time
PRESENCE = 3.0  # s to wait for the service; discovery takes up to two


class Go2Camera:
    """
    The newest picture of a Go2 in a DDS domain on a network interface.

    ``error``: what is wrong now, in a sentence; ``frames``, ``failures``, ``undecoded``,
    ``replaced``: counts.  ``notify`` is called in the thread for each picture.
    """

    def __init__(
        self,
        domain: int,
        interface: str = unitree.LOOPBACK,
        notify: Callable[[], None] = lambda: None,
        rate_hz: float = RATE_HZ,
    ) -> None:
        self.domain, self.interface = domain, interface
        self.notify, self.period = notify, 1.0 / rate_hz
        self.error = ''
        self.frames = self.failures = self.undecoded = self.replaced = 0
        self._client: Any = None
        self._newest: tuple[np.ndarray, float] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name='go2_camera', daemon=True)

    def connect(self) -> None:
        """
        Find the service and begin to ask it.

        :raises RobotError: no SDK, or nobody there serves a camera.
        """
        kit = unitree.open_channel(self.domain, self.interface)
        self._client = unitree.open_client(kit.VideoClient, TIMEOUT)
        until = time.monotonic() + PRESENCE
        while not unitree.client_matched(self._client):
            if time.monotonic() > until:
                self.close()
                raise RobotError(
                    f'no Go2 serves its camera on interface {self.interface!r}, DDS domain '
                    f'{self.domain} (videohub): is it on, is the cable in?'
                )
            time.sleep(0.05)
        self._thread.start()

    def take(self) -> tuple[np.ndarray, float] | None:
        """Return the newest picture (h, w, 3) uint8 RGB and its age in seconds, once."""
        with self._lock:
            taken, self._newest = self._newest, None
        return None if taken is None else (taken[0], time.monotonic() - taken[1])

    def close(self) -> None:
        """End the thread and the client; idempotent."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0 * TIMEOUT + 2.0)
        client, self._client = self._client, None
        if client is not None:
            unitree.close_client(client)

    stop = close  # as the camera node's Grabber has it

    def _run(self) -> None:
        wait, due = FIRST_WAIT, time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            self.error = self._ask(began)
            if self.error:
                self.failures += 1
                due, wait = time.monotonic() + wait, min(2.0 * wait, LONGEST_WAIT)
            else:
                due, wait = max(due + self.period, began), FIRST_WAIT

    def _ask(self, began: float) -> str:
        """Ask for one picture; return what went wrong."""
        code, data = self._client.GetImageSample()
        taken = (began + time.monotonic()) / 2.0
        if code != unitree.OK:
            silent = code in (unitree.NO_PEER, unitree.TIMED_OUT)
            why = f'does not answer ({code})' if silent else f'refused with code {code}'
            return f'the camera of the Go2 {why}'
        picture = _decode(bytes(data))
        if picture is None:
            self.undecoded += 1
            return 'the camera of the Go2 sent what is no JPEG'
        self.frames += 1
        with self._lock:
            self.replaced += self._newest is not None
            self._newest = picture, taken
        self.notify()
        return ''


def _decode(data: bytes) -> np.ndarray | None:
    import cv2

    if not data:
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
