"""
The arm's side of a Flexiv: its controller moves the Push-T twin, its SDK connects to it.

The vendor's protocol is proprietary, so what is served is not that protocol but the SDK's calls:
lines of JSON over loopback, spoken by the stand-in SDK (:mod:`.flexiv_sdk`), which has the real
one's names, blocking and errors.  A state goes to every client after each tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import json
import math
import socket
import threading
import time
from typing import Any

import numpy as np

from .base import Twin
from .flexiv_arm import (
    ArmController,
    Goal,
    JOINTS,
    MODES,
    NOMINAL_STIFFNESS,
    Q_LIMIT,
    Q_READY,
    Refused,
    STATUSES,
    Times,
)
from ..core.addresses import AddressError, twin_port

TICK = 0.01  # s, of the controller; a hundred targets a second are its fastest food
BOARD = (0.6, 0.0, 0.0)  # x, y (m), yaw (rad) of the twin's board in the arm's world frame
HEIGHT = 0.12  # m, of the tool above the arm's base
SERIAL = 'Rizon10s-062001'
BREATH = 0.05  # s, between two states in lockstep
GIVE_UP = 5.0  # s, after which a stop that nobody gives time to is refused


class FlexivPeer:
    """
    Serves the SDK's calls and moves a Push-T twin (see :class:`dmo_ros.twins.base.Peer`).

    ``arm`` has the switches of the robot itself; further ones: ``cut`` (the link is dead, both
    ways), ``mute`` (states cease, calls are still obeyed), ``slow_stop`` (s, added to Stop()).
    ``calls`` keeps (name, steady time) of everything but pose targets, ``targets`` those.
    """

    burst = 20

    def __init__(
        self,
        twin: Twin,
        ros_domain: int,
        lockstep: bool = False,
        times: Times | None = None,
        board: tuple[float, float, float] = BOARD,
        port: int | None = None,
    ) -> None:
        self.twin, self.lockstep, self.board = twin, lockstep, board
        self.address = ('127.0.0.1', twin_port(ros_domain, 'flexiv') if port is None else port)
        self.arm = ArmController(times)
        self.cut = self.mute = False
        self.slow_stop = 0.0
        self.calls: deque[tuple[str, float]] = deque(maxlen=10_000)
        self.targets: deque[tuple[float, ...]] = deque(maxlen=10_000)
        self._queue: deque[Goal] = deque(maxlen=self.burst if lockstep else 1)
        self._came = self._owed = 0
        self._stamp = self._epoch = 0
        self._columns = [twin.names.index(name) for name in ('tool_x', 'tool_y')]
        self._turn = _turned(board[2])
        self._braking = False
        self._moved = threading.Condition()  # guards the arm
        self._wire = threading.Lock()  # one line at a time
        self._clients: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._notify: Callable[[], None] | None = None
        self._server: socket.socket | None = None
        self._place()

    # ------------------------------------------------------------------ Peer
    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Begin to serve on loopback; AddressError when another twin already does."""
        self._notify = notify
        try:
            self._server = socket.create_server(self.address, backlog=4)
        except OSError as error:
            raise AddressError(
                f"port {self.address[1]} of the arm's twin is taken ({error.strerror}); another "
                'twin runs with this ROS_DOMAIN_ID: end it, or choose another domain'
            ) from error
        self.address = self._server.getsockname()
        self._server.settimeout(0.2)
        self._spawn(self._accept)
        if self.lockstep:
            self._spawn(self._breathe)

    @property
    def pending(self) -> int:
        """Return how many targets wait; what answers a frame that was given up does not count."""
        with self._moved:
            return max(self._came - self._owed, 0)

    def advance(self, seconds: float) -> None:
        """Obey, move the twin, tell the state."""
        with self._moved:
            missing = self.burst - self._came if self.lockstep else 0
            self._owed = max(missing, 0)
            self._came = 0
            for _ in range(max(1, round(seconds / TICK))):
                self._step(min(TICK, seconds))
            state = self._state()
            self._moved.notify_all()
        self._tell(state)

    def show(self, picture: np.ndarray) -> None:
        """Do nothing: the arm has no camera."""

    def reset(self) -> None:
        """Rest where the twin was put."""
        with self._moved:
            self._queue.clear()
            self._came = 0
            self._epoch += 1
            self._place()
            state = self._state()
        self._tell(state)

    def stop(self) -> None:
        """End."""
        with self._moved:
            self._ended = True
            self._moved.notify_all()
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            _hang_up(client)
        for thread in self._threads:
            thread.join(timeout=5.0)

    # ------------------------------------------------------------------ motion
    def _place(self) -> None:
        tool = self.twin.state[0][self._columns]
        x, y = self._turn @ tool + np.array(self.board[:2])
        self.arm.place((float(x), float(y), HEIGHT))

    def _step(self, seconds: float) -> None:
        """Let one tick pass."""
        arm = self.arm
        arm.look()
        if self._queue:
            goal = self._queue.popleft()
            if arm.goal is not None and not self._braking:
                arm.goal = goal
        velocity = arm.brake(seconds) if self._braking else arm.generate(seconds)
        self.twin.advance((velocity[:2] @ self._turn)[None], seconds)
        height = arm.position[2] + velocity[2] * seconds
        x, y = self._turn @ self.twin.state[0][self._columns] + np.array(self.board[:2])
        arm.position[:] = (x, y, height)
        self._stamp += round(1e9 * seconds)

    def _state(self) -> dict[str, Any]:
        """Return what the SDK may be asked without asking the arm."""
        arm, now = self.arm, time.monotonic()
        status = arm.status(now)
        return {
            'status': STATUSES.index(status),
            'mode': MODES[arm.mode],
            'fault': bool(arm.fault),
            'estop_released': not arm.estop,
            'enabling_button': arm.enabling_button,
            'reduced': arm.reduced,
            'recovery': arm.recovery,
            'stopped': arm.still,
            'busy': not arm.still,
            'pose': [*map(float, arm.position), *arm.orientation],
            'twist': [*map(float, arm.velocity), 0.0, 0.0, 0.0],
            'wrench': list(arm.wrench),
            'torques': list(arm.torques),
            'q': list(Q_READY),
            'events': [f'a {arm.fault} fault was switched on'] if arm.fault else [],
            'stamp': self._stamp,
            'epoch': self._epoch,
        }

    # ------------------------------------------------------------------ the link
    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name='flexiv_peer', daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        assert self._server is not None
        while not self._ended:
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if self.cut:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(1.0)
            self._clients.append(client)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Obey one client's lines until it goes; blocking calls get a thread each."""
        lines = _lines(client, lambda: self._ended)
        try:
            for line in lines:
                if self.cut:
                    continue
                message = json.loads(line)
                if message['call'] == 'send':
                    self._take(message)
                else:
                    self._spawn(self._answer, client, message)
        except (OSError, ValueError, KeyError):
            pass
        self._clients.remove(client)
        _hang_up(client)

    def _take(self, message: dict[str, Any]) -> None:
        """Take a pose target; nobody waits for an answer."""
        goal = Goal(tuple(message['pose']), tuple(message['bounds']))
        with self._moved:
            aimed = message['epoch'] == self._epoch  # else at a scene that is gone
            if not aimed or not self.arm.accepts(goal, time.monotonic()):
                return
            self._queue.append(goal)
            self._came += 1
            self.targets.append(goal.pose)
        if self._notify is not None:
            self._notify()

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        name = message['call']
        self.calls.append((name, time.monotonic()))
        reply: dict[str, Any] = {'id': message['id']}
        try:
            reply['result'] = self._call(name, message.get('args', []))
        except Refused as refused:
            reply.update(error=refused.kind, text=str(refused))
        except (TypeError, ValueError) as error:
            reply.update(error='RuntimeError', text=str(error))
        with self._moved:
            state = self._state()
        self._tell(state)
        self._write(client, reply)

    def _call(self, name: str, args: list[Any]) -> Any:
        """Do what the SDK asks, and take the arm's time for it."""
        if name == 'hello':
            return {'serial': SERIAL, 'stiffness': NOMINAL_STIFFNESS, 'q_max': Q_LIMIT}
        if name == 'Stop':
            return self._stop_arm()
        if name == 'SwitchMode':
            return self._switch(args[0])
        if name == 'ClearFault':
            return self._clear(float(args[0]))
        with self._moved:
            if name == 'Enable':
                return self.arm.enable(time.monotonic())
            low, high = _RANGES[name]
            return self.arm.set(name, args[0], low, high)

    def _stop_arm(self) -> None:
        """Brake, wait until it is still, go to IDLE."""
        self._pause(self.slow_stop)
        with self._moved:
            self._brake()
            self.arm.leave()

    def _switch(self, mode: str) -> None:
        with self._moved:
            if not self.arm.ready(time.monotonic()):
                raise Refused('RuntimeError', 'Robot is not operational')
            self._brake()
        self._pause(self.arm.times.mode)
        with self._moved:
            self.arm.enter(mode, time.monotonic())

    def _brake(self) -> None:
        """Come to rest; in lockstep time stands still meanwhile, and so does the arm."""
        self._queue.clear()
        self._braking = True
        try:
            if self.lockstep:
                self.arm.velocity[:] = 0.0
            elif not self._moved.wait_for(lambda: self.arm.still or self._ended, GIVE_UP):
                raise Refused('RuntimeError', 'Failed to stop the robot')
        finally:
            self._braking = False

    def _clear(self, timeout: float) -> bool:
        wanted = self.arm.times.critical if self.arm.fault == 'critical' else self.arm.times.minor
        self._pause(min(wanted, timeout))
        with self._moved:
            return wanted <= timeout and self.arm.clear_fault()

    def _pause(self, seconds: float) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._ended, seconds)

    def _breathe(self) -> None:
        """Tell the state while the twin's time stands still; its stamp creeps, so it is new."""
        while not self._ended:
            self._pause(BREATH)
            with self._moved:
                self._stamp += 1
                state = self._state()
            self._tell(state)

    def _tell(self, state: dict[str, Any]) -> None:
        if not self.mute:
            for client in list(self._clients):
                self._write(client, {'state': state})

    def _write(self, client: socket.socket, message: dict[str, Any]) -> None:
        if self.cut:
            return
        try:
            with self._wire:
                client.sendall(json.dumps(message).encode() + b'\n')
        except OSError:
            pass  # it has gone; its reader notices


_RANGES: dict[str, tuple[float, tuple[float, ...]]] = {
    'SetForceControlAxis': (0.0, (1.0,) * 6),
    'SetCartesianImpedance': (0.0, (*NOMINAL_STIFFNESS, *(0.8,) * 6)),
    'SetMaxContactWrench': (0.0, (math.inf,) * 6),
    'SetNullSpacePosture': (-4.4, (4.4,) * JOINTS),
}


def _lines(client: socket.socket, ended: Callable[[], bool]) -> Any:
    """Yield lines until the other side hangs up."""
    rest = b''
    while not ended():
        try:
            data = client.recv(65536)
        except TimeoutError:
            continue
        if not data:
            return
        *whole, rest = (rest + data).split(b'\n')
        yield from whole


def _hang_up(client: socket.socket) -> None:
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    client.close()


def _turned(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])
