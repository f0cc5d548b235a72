"""
What has to be well around the gate: bridge, camera, e-stop, exclusive writers, honest stamps.

Time is an argument (seconds of a steady clock), as everywhere in the core.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
import math

from .stream import StampOrder

BRIDGE_TIMEOUT = 0.5  # s; the bridge tells how it is ten times a second
GHOST = 1.5  # s; the lease of nodes/qos.py, and some time to hear of its end
AHEAD = 50_000_000  # ns that a stamp may be ahead of every stream that stamps are copied from


class Code(Enum):
    """Why the gate is in its state; the sentence beside it says more."""

    STARTED = 'STARTED'
    NOT_ARMED = 'NOT_ARMED'
    ARMED = 'ARMED'
    DRIVEN = 'DRIVEN'
    DEADMAN_RELEASED = 'DEADMAN_RELEASED'
    PAD_SILENT = 'PAD_SILENT'
    COMMAND_STALE = 'COMMAND_STALE'
    CAMERA_STALE = 'CAMERA_STALE'
    GATE_HELD_UP = 'GATE_HELD_UP'
    DISARMED_ON_REQUEST = 'DISARMED_ON_REQUEST'
    BRIDGE_FAULT = 'BRIDGE_FAULT'
    BRIDGE_SILENT = 'BRIDGE_SILENT'
    ESTOP = 'ESTOP'
    RIVAL_WRITER = 'RIVAL_WRITER'
    NOT_FINITE = 'NOT_FINITE'
    MALFORMED = 'MALFORMED'
    FAULT_CLEARED = 'FAULT_CLEARED'


class Beat:
    """Is the pad heard, and often enough to tell a dead one from a quiet one?"""

    def __init__(self, timeout: float, rate: float) -> None:
        self.timeout, self.rate = timeout, rate
        self._times: deque[float] = deque(maxlen=10)

    def hear(self, now: float) -> None:
        """Take note of a message."""
        self._times.append(now)

    def silent(self, now: float) -> bool:
        """Tell whether none has come for too long."""
        return not self._times or now - self._times[-1] > self.timeout

    def trouble(self, now: float) -> str:
        """Say why it is not to be relied upon; '' when it is."""
        times = self._times
        if self.silent(now):
            return 'is silent'
        span = max(times[-1] - times[0], 1e-9)
        if len(times) < (times.maxlen or 0) or (len(times) - 1) / span < self.rate:
            return (
                f'reports less often than {self.rate:g} times a second; raise the '
                'autorepeat_rate of its driver'
            )
        return ''


class Source:
    """The newest command of one sender."""

    def __init__(self, timeout: float, width: int) -> None:
        self.order = StampOrder(timeout)
        self.values = (0.0,) * width

    def live(self, now: float) -> bool:
        """Tell whether it is young enough to be obeyed."""
        return self.order.age(now) <= self.order.silence


class Conditions:
    """What was last heard of the surroundings, and what of it forbids to drive."""

    def __init__(self, need_bridge: bool, need_camera: bool, frame_timeout: float) -> None:
        self.need_bridge, self.need_camera = need_bridge, need_camera
        self.frame_timeout = frame_timeout
        self.rivals: dict[str, str] = {}
        self._rival_since = math.inf
        self.estop_topic = self.estop_service = False
        self._bridge = ''  # what is wrong with it
        self._bridge_at = self._frame_at = -math.inf

    def hear_bridge(self, now: float, ok: bool, reason: str) -> None:
        """Take the bridge's word on itself and the robot."""
        self._bridge = '' if ok else reason or 'it is not well'
        self._bridge_at = now

    def hear_frame(self, now: float) -> None:
        """Take note of a picture."""
        self._frame_at = now

    def set_rival(self, now: float, topic: str, found: str) -> None:
        """Remember who writes a topic beside the one who may; '' for nobody."""
        if found:
            self.rivals[topic] = found
            self._rival_since = min(self._rival_since, now)
        else:
            self.rivals.pop(topic, None)
            self._rival_since = self._rival_since if self.rivals else math.inf

    def beset(self, now: float) -> bool:
        """Tell a rival who stays from a respawned writer beside its ghost, which lasts a lease."""
        return now - self._rival_since > GHOST

    @property
    def estop(self) -> bool:
        """Tell whether somebody has hit the emergency stop and nobody has released it."""
        return self.estop_topic or self.estop_service

    def harm(self, now: float) -> tuple[Code, str] | None:
        """Name what is a fault while driving, and must be gone before a fault is cleared."""
        if self.estop:
            return Code.ESTOP, 'the emergency stop is engaged'
        if self.rivals:
            return Code.RIVAL_WRITER, '; '.join(self.rivals.values())
        if not self.need_bridge:
            return None
        if self._bridge_at == -math.inf:
            return Code.BRIDGE_SILENT, 'bridge: no bridge/status has come; is it started?'
        if now - self._bridge_at > BRIDGE_TIMEOUT:
            return Code.BRIDGE_SILENT, f'bridge: silent for more than {BRIDGE_TIMEOUT:g} s'
        return (Code.BRIDGE_FAULT, f'bridge: {self._bridge}') if self._bridge else None

    def blind(self, now: float) -> str:
        """Say that the camera is silent where it is needed; '' when it is not."""
        if not self.need_camera or now - self._frame_at <= self.frame_timeout:
            return ''
        return f'no picture for more than {self.frame_timeout:g} s (camera_info)'


class Witnesses:
    """
    The streams whose stamps are copied into commands; no honest command is ahead of them all.

    Stamps may be in any clock and pass at any speed (a twin's), so they are compared with each
    other and never with a clock of this machine.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, float]] = {}

    def hear(self, stream: str, now: float, stamp: int) -> None:
        """Take the newest stamp (ns) of a stream."""
        if stamp > 0:
            self._heard[stream] = stamp, now

    def heard(self, stamp: int) -> bool:
        """Tell whether a stream has come as far as this stamp."""
        return any(seen >= stamp for seen, _ in self._heard.values())

    def ahead(self, now: float, stamp: int) -> bool:
        """Tell a stamp that comes from the future; without a witness nothing does."""
        if not stamp or not self._heard:
            return False
        newest = max(seen + int((now - at) * 1e9) for seen, at in self._heard.values())
        return stamp > newest + AHEAD
