"""
A G1 that is not there: SONIC over ZeroMQ and Unitree's DDS, moving a ``grab_box`` twin.

Both ways to drive it are served at once, as on the robot: SONIC, once it has been started, owns
the body; before that the vendor's walking controller does, with rt/arm_sdk blended in.  See
:class:`G1Peer` for what can be made to go wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import threading
import time
from typing import Any

import numpy as np

from .g1_dds_peer import DdsSide
from .g1_sonic_peer import CONTROL, debug, ENDED, ORDER, PERIOD, Planned, Sonic, WAIT
from ..core.addresses import twin_dds_domain, twin_port
from ..robots.unitree import LinkFaults

JOINTS, UPPER = 29, 17
CONFIG_EVERY = 2.0  # s between two robot_config
HEARTBEAT = 0.1  # s (real time) without a period after which a lockstep peer repeats itself
KEEP = 100_000  # records
LOOK = 20  # ms between two looks at whether to end
TOPICS = ('command', 'planner', 'pose')


@dataclass(frozen=True)
class Record:
    """What came: 'command', 'planner', 'left_hand', 'right_hand', 'loco', 'arm_sdk', 'refused'."""

    at: float  # s, steady clock
    kind: str
    data: Any


class G1Peer:
    """
    The robot's side of both protocols; see :class:`dmo_ros.twins.base.Peer`.

    Switches, any time: ``mute`` (nothing goes out), ``freeze`` (the same state for ever), ``drop``
    (every n-th plan or call is lost), :meth:`kill` (gone, without a word), :meth:`fault` (SONIC
    leaves control) and :meth:`boot` (its program is started anew).  ``records`` holds what came.
    """

    burst = round(0.1 / PERIOD)  # plans in a control period of the task

    def __init__(self, twin: Any, ros_domain: int, lockstep: bool = False) -> None:
        self.twin, self.ros_domain, self.lockstep = twin, ros_domain, lockstep
        self.faults = LinkFaults()
        self.freeze = False
        self.records: deque[Record] = deque(maxlen=KEEP)
        self.now = 0.0  # s of the robot's own time
        self.sonic = Sonic(self._note)
        self.dds: DdsSide | None = None
        self._notify: Callable[[], None] | None = None
        self._queue: deque[Planned] = deque()
        self._seen = 0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._context: Any = None
        self._out: Any = None
        self._last = b''
        self._told: tuple[Any, ...] = ()
        self._configured = self._published = -1e9
        self._first_heading = float(twin.base[0, 2])
        self._own = np.array(twin.joint_position[0], float)  # (19,): where it stays by itself
        self._target = self._own.copy()
        self._due = 0.0

    # ------------------------------------------------------------------ sockets
    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Serve on the addresses of the ROS domain."""
        import zmq

        self._notify = notify
        burst = self.burst if self.lockstep else 1
        self.dds = DdsSide(twin_dds_domain(self.ros_domain), self._note, self.faults, burst)
        self._context = zmq.Context()
        self._out = self._context.socket(zmq.PUB)
        self._out.setsockopt(zmq.LINGER, 0)
        self._out.setsockopt(zmq.SNDHWM, 10)
        self._out.bind(f'tcp://127.0.0.1:{twin_port(self.ros_domain, "sonic_feedback")}')
        self._thread = threading.Thread(target=self._listen, name='g1_peer', daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        import zmq

        sockets = {}
        poller = zmq.Poller()
        for topic in TOPICS:
            socket = self._context.socket(zmq.SUB)
            socket.setsockopt(zmq.RCVHWM, 1000 if self.lockstep else 3)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f'tcp://127.0.0.1:{twin_port(self.ros_domain, "sonic_command")}')
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            poller.register(socket, zmq.POLLIN)
            sockets[socket] = topic
        try:
            while not self._ended.is_set():
                for socket, _ in poller.poll(LOOK):
                    self._take(sockets[socket], socket.recv())
                if self.lockstep and time.monotonic() - self._published > HEARTBEAT:
                    self._publish()
        finally:
            for socket in sockets:
                socket.close()

    def _take(self, topic: str, message: bytes) -> None:
        with self._lock:
            if topic == 'command':
                self.sonic.take_command(message)
                return
            if topic != 'planner' or self._loses():
                return
            plan = self.sonic.read(message)
            if plan is None:
                return
            if not self.lockstep:
                self._queue.clear()
            self._queue.append(plan)
        if self._notify is not None:
            self._notify()

    def _loses(self) -> bool:
        self._seen += 1
        return self.faults.drop > 0 and self._seen % self.faults.drop == 0

    def _note(self, kind: str, data: Any) -> None:
        self.records.append(Record(time.monotonic(), kind, data))

    # ------------------------------------------------------------------ time
    @property
    def pending(self) -> int:
        """Return how many plans have come that the robot has not taken up."""
        return len(self._queue)

    def advance(self, seconds: float) -> None:
        """Let time pass in control periods; one plan is taken up at the start of each."""
        left = seconds
        while left > 1e-9:
            with self._lock:
                if self._due < 1e-9:
                    self._decide()
                    self._due += PERIOD
                dt = min(left, self._due)
                self._move(dt)
                left, self._due = left - dt, self._due - dt
                if self._due < 1e-9:
                    self._publish()

    def _decide(self) -> None:
        """Do what its control loop does in one period."""
        sonic = self.sonic
        if sonic.update(self.now):
            self._first_heading = float(self.twin.base[0, 2])
            self._own = np.array(self.twin.joint_position[0], float)
        if self._queue:
            sonic.follow(self._queue.popleft(), self.now)
        if self.dds is not None:
            self.dds.take_hands()
        sonic.index += sonic.state == CONTROL

    def _move(self, dt: float) -> None:
        """Move the twin under what is in force."""
        dds = self.dds
        velocity = (0.0, 0.0, 0.0)
        upper, hands = self._own[:UPPER], self._own[UPPER:]
        if self.sonic.state == CONTROL:
            plan = self.sonic.plan
            velocity = self.sonic.velocity(self._heading())
            if plan is not None and plan.upper is not None:
                upper = plan.upper
        if dds is not None:
            dds.now, dds.walks = self.now, self.sonic.state == WAIT
            hands = np.where(np.isfinite(dds.hands), dds.hands, hands)
            if dds.walks:
                velocity, upper = dds.velocity(), dds.blend(upper, ORDER)
        self._target = np.concatenate([upper, hands])
        self.twin.advance(np.concatenate([self._target, velocity])[None], dt)
        self.now += dt

    def _heading(self) -> float:
        """Return the heading in SONIC's world."""
        return float(self.twin.base[0, 2]) - self._first_heading

    # ------------------------------------------------------------------ what it tells
    def _publish(self) -> None:
        """Publish the state, as both protocols do; nothing when muted."""
        with self._lock:
            self._published = time.monotonic()
            if self.mute or self._out is None:
                return
            position = np.asarray(self.twin.joint_position[0], float)
            speed = np.asarray(self.twin.joint_velocity[0], float)
            q, dq, target = np.zeros(JOINTS), np.zeros(JOINTS), np.zeros(JOINTS)
            for values, source in ((q, position), (dq, speed), (target, self._target)):
                values[list(ORDER)] = source[:UPPER]
            if not self.freeze or not self._last:
                self._pack(q, dq, target)
            if self.dds is not None:
                if not self.freeze or not self._told:
                    self._told = (round(self.now * 1000), q, dq, position[UPPER:], speed[UPPER:])
                self.dds.publish(*self._told)
            self._send()

    def _pack(self, q: np.ndarray, dq: np.ndarray, target: np.ndarray) -> None:
        import msgpack

        if self.lockstep:
            self.sonic.index += 1  # also when it only repeats itself while time stands still
        headings = (float(self.twin.base[0, 2]), self._first_heading)
        rate = float(self.twin.base_velocity[0, 2])
        self._last = msgpack.packb(debug(self.sonic.index, q, dq, target, headings, rate))

    def _send(self) -> None:
        import msgpack
        import zmq

        if self.sonic.state == CONTROL:
            self._out.send(b'g1_debug' + self._last, zmq.NOBLOCK)
        now = time.monotonic()
        if self.sonic.state != ENDED and now - self._configured > CONFIG_EVERY:
            self._configured = now
            config = msgpack.packb({'robot': 'g1', 'num_motors': JOINTS, 'control_dt': PERIOD})
            self._out.send(b'robot_config' + config, zmq.NOBLOCK)

    def show(self, picture: np.ndarray) -> None:
        """Take a picture; this robot serves no camera of its own."""

    # ------------------------------------------------------------------ switches
    @property
    def mute(self) -> bool:
        """Return whether nothing goes out."""
        return self.faults.mute

    @mute.setter
    def mute(self, on: bool) -> None:
        self.faults.mute = on

    @property
    def drop(self) -> int:
        """Return which of the messages are lost: every n-th, 0 for none."""
        return self.faults.drop

    @drop.setter
    def drop(self, every: int) -> None:
        self.faults.drop = every

    def fault(self) -> None:
        """Let SONIC leave control by itself, as it does when a joint is too fast."""
        with self._lock:
            self.sonic.state, self.sonic.plan = ENDED, None

    def boot(self) -> None:
        """Start SONIC's program anew: it waits to be started."""
        with self._lock:
            self.sonic = Sonic(self._note)
            self._queue.clear()
            self._last, self._configured = b'', -1e9

    def kill(self) -> None:
        """Be gone at once."""
        self.stop()

    def reset(self) -> None:
        """Forget what was commanded; stay where the twin was put, facing where it faced."""
        with self._lock:
            self._queue.clear()
            self.sonic.rest()
            if self.dds is not None:
                self.dds.rest()
            self._own = np.array(self.twin.joint_position[0], float)
            self._target = self._own.copy()
            self._first_heading = float(self.twin.base[0, 2]) - self.sonic.facing
        self._publish()

    def stop(self) -> None:
        """End threads and sockets; idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        if self.dds is not None:
            self.dds.close()
        with self._lock:
            out, self._out = self._out, None
            if out is not None:
                out.close()
        if self._context is not None:
            self._context.term()
            self._context = None
