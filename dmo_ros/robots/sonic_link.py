"""
The sockets between us and SONIC: we publish commands, it publishes what the robot does.

``g1_debug`` comes 50 times a second while SONIC controls the robot and never otherwise;
``robot_config`` comes every two seconds from its start on (hardware reference, section 7).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from .base import RobotError
from .sonic import Feedback, pack_command, read_feedback, SonicError

LINGER = 200  # ms the last messages may take to leave when a socket is closed
LOOK = 50  # ms between two looks at whether to end


def _libraries() -> tuple[Any, Any]:
    try:
        import msgpack
        import zmq
    except ImportError as error:
        raise RobotError(
            f'SONIC is spoken to over ZeroMQ, and {error.name} is missing: '
            "pip install 'dmo_ros[g1]'"
        ) from error
    return zmq, msgpack


class SonicLink:
    """
    Both sockets; messages may be sent from any thread.

    ``newest``: the last feedback, ``arrived``: when a new one came (s, steady clock; repeats of an
    old one do not count); ``config``: robot_config, {} before it came; ``restarts``: how often its
    counter went back, ``garbled``: how much could not be read.

    :param commands: address to bind, SONIC connects to it.
    :param feedback: address where SONIC answers.
    """

    def __init__(self, commands: str, feedback: str) -> None:
        self.commands, self.feedback = commands, feedback
        self.newest: Feedback | None = None
        self.arrived = self.configured = 0.0
        self.config: dict[str, Any] = {}
        self.restarts = self.garbled = self.sent = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._context: Any = None
        self._out: Any = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """
        Bind, connect and listen.

        :raises RobotError: a library is missing, or the address is in use.
        """
        zmq, _ = _libraries()
        self._context = zmq.Context()
        self._out = self._context.socket(zmq.PUB)
        self._out.setsockopt(zmq.LINGER, LINGER)
        try:
            self._out.bind(self.commands)
        except zmq.ZMQError as error:
            self.close()
            raise RobotError(
                f'{self.commands} cannot be bound ({error}); SONIC listens to one sender: end the '
                'other one, or give another command_address'
            ) from error
        self._thread = threading.Thread(target=self._listen, name='sonic_link', daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> None:
        """Send a packed message, if open."""
        with self._lock:
            if self._out is not None:
                self._out.send(message)
                self.sent += 1

    def age(self) -> float:
        """Return the seconds since the newest feedback."""
        return time.monotonic() - self.arrived

    def wait_for(self, what: str, seconds: float) -> bool:
        """Wait for 'presence' (anything from SONIC since the link is open) or 'control'."""
        return self._until(lambda: self._hears(what), seconds)

    def start_control(self, seconds: float) -> bool:
        """Ask SONIC to take control until it does; the first messages to a new peer are lost."""
        message = pack_command(start=True)

        def ask() -> bool:
            if self._hears('control'):
                return True
            self.send(message)
            return False

        return self._until(ask, seconds)

    def _hears(self, what: str) -> bool:
        if self.newest is not None and self.age() < 0.2:
            return True
        return what == 'presence' and self.configured > 0.0

    def _until(self, condition: Any, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until or self._ended.wait(0.05):
                return False
        return True

    # ------------------------------------------------------------------ what comes
    def _listen(self) -> None:
        zmq, msgpack = _libraries()
        sockets = {}
        poller = zmq.Poller()
        for topic in (b'g1_debug', b'robot_config'):
            socket = self._context.socket(zmq.SUB)
            socket.setsockopt(zmq.CONFLATE, 1)  # its newest message is the only one of interest
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, topic)
            socket.connect(self.feedback)
            poller.register(socket, zmq.POLLIN)
            sockets[socket] = topic
        try:
            while not self._ended.is_set():
                for socket, _ in poller.poll(LOOK):
                    self._take(sockets[socket], socket.recv(), msgpack)
        finally:
            for socket in sockets:
                socket.close()

    def _take(self, topic: bytes, message: bytes, msgpack: Any) -> None:
        try:
            fields = msgpack.unpackb(message[len(topic) :])
            if topic == b'robot_config':
                self.config, self.configured = dict(fields), time.monotonic()
                return
            found = read_feedback(fields)
        except (SonicError, ValueError, TypeError, msgpack.UnpackException):
            self.garbled += 1
            return
        before = self.newest
        if before is not None and found.index == before.index:
            return  # a frozen controller repeats itself
        self.restarts += before is not None and found.index < before.index
        self.newest, self.arrived = found, time.monotonic()

    def close(self) -> None:
        """Close both sockets and end the thread; idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        with self._lock:
            out, self._out = self._out, None
            if out is not None:
                out.close()
        if self._context is not None:
            self._context.term()
            self._context = None
