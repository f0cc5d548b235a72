"""
A Go2 on the wire: sport service, camera, state topics and remote over real DDS, moving a twin.

What the real SportClient talks to in twin mode and in tests; its behaviour is in
:mod:`.go2_firmware`, and :mod:`.go2_process` runs one in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import math
import threading
import time
from typing import Any

import numpy as np

from .base import Twin
from .go2_firmware import Firmware
from ..core.addresses import twin_dds_domain
from ..robots import unitree

SPORT_VERSION = '1.0.0.1'
STATE_HZ, LOW_HZ = 50.0, 20.0  # a real one: 500 on the full topics; on rt/lf/ not documented
LF_EVERY = 2  # of these reach the rt/lf/ topics
JPEG_QUALITY = 90
GET_IMAGE = 1001  # videohub
INTERNAL_ERROR = 3202
STANDING_LEG = (0.0, 0.67, -1.3)  # rad: hip, thigh, calf


class Go2Peer:
    """
    A Go2 that moves ``twin``; see :class:`dmo_ros.twins.base.Peer`.

    Switches for tests, at any time: ``faults`` (mute, delay, drop), ``frozen`` (the stamps stand),
    ``silent`` (no state at all), ``firmware.force(code)`` (a fault), :meth:`press` (the remote).
    In lockstep it is found standing, because its time passes only while it is driven.
    """

    burst = 1

    def __init__(
        self,
        twin: Twin,
        ros_domain: int,
        lockstep: bool = False,
        firmware: Firmware | None = None,
    ) -> None:
        self.twin, self.domain, self.lockstep = twin, twin_dds_domain(ros_domain), lockstep
        self.firmware = firmware or (Firmware(1013, lockstep=True) if lockstep else Firmware())
        self.faults = unitree.LinkFaults()
        self.frozen = self.silent = False
        self.charge = 87  # %
        self.odometry = Odometry(twin)
        self.keys = 0
        self._notify: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # firmware and odometry
        self._picture: np.ndarray | None = None
        self._jpeg: bytes = b''
        self._stamp = 0.0
        self._ended = False
        self._wake = threading.Event()
        self._kit: Any = None
        self._services: dict[str, unitree.Service] = {}
        self._out: dict[str, unitree.Publication] = {}
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ the Peer protocol
    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Serve on loopback, in the DDS domain that belongs to the ROS domain."""
        self._notify = notify or self._notify
        kit = self._kit = unitree.open_channel(self.domain, unitree.LOOPBACK)
        kinds = {
            'sportmodestate': kit.go.SportModeState_,
            'lf/sportmodestate': kit.go.SportModeState_,
            'lowstate': kit.go.LowState_,
            'lf/lowstate': kit.go.LowState_,
            'wirelesscontroller': kit.go.WirelessController_,
        }
        self._out = {name: unitree.Publication(f'rt/{name}', k) for name, k in kinds.items()}
        for name, version, handle in (
            ('sport', SPORT_VERSION, self._sport),
            ('videohub', '1.0.0.1', self._video),
            ('motion_switcher', '1.0.0.1', self._switcher),
            ('obstacles_avoid', '1.0.0.2', self._avoid),
        ):
            self._services[name] = unitree.Service(name, version, handle, self.faults)
        self._thread = threading.Thread(target=self._tell, name='go2_state', daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Return how many Moves have come that ``advance`` has not obeyed."""
        return len(self.firmware.moves)

    def advance(self, seconds: float) -> None:
        """Obey, walk, and take the odometry along."""
        with self._lock:
            walked = self.firmware.advance(seconds)
        for velocity, duration in walked:
            self.twin.advance(np.array([velocity]), duration)
        with self._lock:
            self.odometry.update(seconds)
        if self.lockstep:
            self._wake.set()  # there, a frame and the state belong together

    def show(self, picture: np.ndarray) -> None:
        """Keep the picture for the next request of the camera's."""
        with self._lock:
            self._picture, self._jpeg = np.array(picture), b''

    def reset(self) -> None:
        """Come to rest; the odometry does not see that the robot was carried."""
        with self._lock:
            self.firmware.rest()
            self.odometry.carried()

    def stop(self) -> None:
        """End all threads and close all topics; idempotent."""
        self._ended = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        for service in self._services.values():
            service.close()
        for out in self._out.values():
            out.close()

    # ------------------------------------------------------------------ for tests
    @property
    def requests(self) -> list[unitree.Request]:
        """Return all requests to the sport service, in order."""
        return list(self._services['sport'].requests) if self._services else []

    def press(self, lx: float, ly: float, rx: float, ry: float, keys: int) -> None:
        """Send what the hand remote would: sticks in [-1, 1], keys as bits."""
        self.keys = keys
        sample = self._kit.go.WirelessController_(lx, ly, rx, ry, keys)
        self._out['wirelesscontroller'].write(sample)

    # ------------------------------------------------------------------ services
    def _sport(self, api_id: int, parameter: str) -> unitree.Answer:
        with self._lock:
            before = self.pending
            code, data = self.firmware.serve(api_id, parameter)
            moved = self.pending > before
        if moved:
            self._notify()
        return unitree.Answer(code, data)

    def _video(self, api_id: int, parameter: str) -> unitree.Answer:
        if api_id != GET_IMAGE:
            return unitree.Answer(unitree.NOT_IMPLEMENTED)
        with self._lock:
            if self._picture is not None and not self._jpeg:
                self._jpeg = _encode(self._picture)
            return unitree.Answer(binary=self._jpeg) if self._jpeg else _broken()

    def _switcher(self, api_id: int, parameter: str) -> unitree.Answer:
        if api_id != 1001:  # CheckMode; a velocity bridge has no business with the others
            return unitree.Answer(unitree.NOT_IMPLEMENTED)
        return unitree.Answer(data=json.dumps({'form': '0', 'name': 'normal'}))

    def _avoid(self, api_id: int, parameter: str) -> unitree.Answer:
        if api_id == 1003:  # Move, with yaw for z; this world has nothing that it would avoid
            given = json.loads(parameter)
            text = json.dumps({'x': given['x'], 'y': given['y'], 'z': given['yaw']})
            return self._sport(1008, text)
        known = {1001: 'enable', 1002: '', 1004: 'is_remote_commands_from_api'}
        if api_id not in known:
            return unitree.Answer(unitree.NOT_IMPLEMENTED)
        if (name := known[api_id]) and not isinstance(json.loads(parameter)[name], bool):
            return unitree.Answer(unitree.BAD_PARAMETER)
        return unitree.Answer(data='' if name else json.dumps({'enable': True}))

    # ------------------------------------------------------------------ state
    def _tell(self) -> None:
        """Publish the state at a steady rate; in lockstep after each step as well."""
        turn, low_due = 0, 0.0
        while not self._ended:
            if not self.silent:
                self._publish('sportmodestate', turn, self._state)
                if time.monotonic() >= low_due:
                    low_due = time.monotonic() + 1.0 / LOW_HZ
                    self._publish('lowstate', turn, self._low_state)
            turn += 1
            self._wake.wait(1.0 / STATE_HZ)
            self._wake.clear()

    def _publish(self, name: str, turn: int, make: Callable[[], Any]) -> None:
        low_frequency = self.lockstep or turn % LF_EVERY == 0
        names = (name, f'lf/{name}') if low_frequency else (name,)
        wanted = [self._out[name] for name in names if self._out[name].matched]
        if wanted:
            sample = make()
            for out in wanted:
                out.write(sample)

    def _state(self) -> Any:
        message = self._kit.default.unitree_go_msg_dds__SportModeState_()
        if not self.frozen:
            self._stamp = time.time()
        message.stamp.sec = int(self._stamp)
        message.stamp.nanosec = int(self._stamp % 1.0 * 1e9)
        with self._lock:
            message.error_code = self.firmware.posture
            x, y, yaw = self.odometry.pose
            vx, vy, wz = self.odometry.twist
        message.position = [x, y, 0.33]
        message.velocity = [vx, vy, 0.0]
        message.yaw_speed, message.body_height = wz, 0.33
        message.imu_state.quaternion = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
        message.imu_state.gyroscope, message.imu_state.rpy = [0.0, 0.0, wz], [0.0, 0.0, yaw]
        return message

    def _low_state(self) -> Any:
        message = self._kit.default.unitree_go_msg_dds__LowState_()
        for joint in range(12):
            message.motor_state[joint].mode = 1
            message.motor_state[joint].q = STANDING_LEG[joint % 3]
        message.bms_state.soc, message.power_v = self.charge, 29.4
        message.tick = int(time.monotonic() * 1e3) & 0xFFFFFFFF
        message.wireless_remote[2:4] = [self.keys & 0xFF, self.keys >> 8]
        message.crc = unitree.crc32(message)
        return message


class Odometry:
    """Where the legs say that the robot is, from its twin's columns dog_x, _y and _yaw."""

    COLUMNS = ('dog_x', 'dog_y', 'dog_yaw')

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.columns = [twin.names.index(name) for name in self.COLUMNS]
        self.pose = self.twist = (0.0, 0.0, 0.0)
        self.carried()

    def carried(self) -> None:
        """Start from where the twin is now without having walked there."""
        self._last = self.twin.state[0, self.columns].copy()
        self.twist = (0.0, 0.0, 0.0)

    def update(self, seconds: float) -> None:
        """Take in what the twin walked in this time (s)."""
        now = self.twin.state[0, self.columns].copy()
        dx, dy, dyaw = map(float, now - self._last)
        turn = math.remainder(dyaw, math.tau)
        along, left = _rotated(dx, dy, -float(self._last[2]))
        x, y, yaw = self.pose
        dx, dy = _rotated(along, left, yaw)
        self.pose = x + dx, y + dy, math.remainder(yaw + turn, math.tau)
        self.twist = along / seconds, left / seconds, turn / seconds
        self._last = now


def _rotated(x: float, y: float, angle: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _encode(picture: np.ndarray) -> bytes:
    import cv2

    _, data = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _broken() -> unitree.Answer:
    return unitree.Answer(INTERNAL_ERROR)
