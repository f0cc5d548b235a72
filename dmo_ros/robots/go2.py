"""
A Unitree Go2, driven by velocities through its sport service (hardware reference, 4, 5, 13).

The robot holds the last Move for a second and does not filter it, so Moves are repeated at
``sink_hz`` while commands are fresh.  Nothing here can make it jump, flip or dance: of the sport
service only what is named below is ever called.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import threading
import time
from typing import Any

from . import unitree
from .base import Health, RobotError, RobotState
from .go2_state import DAMPING, DRIVABLE, posture, STANDING_LOCK, StateWatch

VERSION = '1.0.0.1'  # of the sport service whose numbers these are
RANGES = (('vx', -2.5, 3.8), ('vy', -1.0, 1.0), ('wz', -4.0, 4.0))  # m/s, m/s, rad/s [vendor]
STOP_WITHIN = 0.5  # s
FIRST_STATE = 3.0  # s to wait for the robot's state; discovery takes up to two
FAST_ENOUGH = 10.0  # Hz: the low-frequency topic below it is left for the full one
ENOUGH = 4  # messages that tell its rate
ASK_AGAIN = 1.0  # s between two BalanceStand


class Go2:
    """
    One Go2 in a DDS domain on a network interface, see :class:`dmo_ros.robots.base.Robot`.

    :param avoid_obstacles: drive through the robot's obstacle avoidance, which will not push
        anything; otherwise velocities go to its legs as they are.
    :param speed_level: -1, 0, 1 asks for the robot's slow, normal, fast gait; None leaves it.
    :param timeout: seconds a call may take; a call blocks that long when nobody answers.
    :param engage_within: seconds to get it standing and obeying; users report 4 to 10.
    """

    def __init__(
        self,
        domain: int,
        interface: str = unitree.LOOPBACK,
        *,
        avoid_obstacles: bool = False,
        speed_level: int | None = None,
        timeout: float = 0.2,
        engage_within: float = 25.0,
        sink_hz: float = 50.0,
    ) -> None:
        self.domain, self.interface, self.timeout = domain, interface, timeout
        self.avoid_obstacles, self.speed_level = avoid_obstacles, speed_level
        self.engage_within, self.sink_hz = engage_within, sink_hz
        self.watch = StateWatch()
        self.counts: dict[int, int] = {unitree.NO_PEER: 0, unitree.TIMED_OUT: 0}
        self.values: tuple[float, ...] = (0.0, 0.0, 0.0)
        self._sport: Any = None
        self._avoid: Any = None
        self._readers: list[unitree.Subscription] = []
        self._calls = threading.Lock()  # a person's damp() must not meet the sender's stop()

    # ------------------------------------------------------------------ connect
    def connect(self) -> None:
        """Hear its state, then ask its sport service for its version; moves nothing."""
        kit = unitree.open_channel(self.domain, self.interface)
        slow = self._subscribe('rt/lf/sportmodestate', kit.go.SportModeState_, self._take)
        self._subscribe('rt/lf/lowstate', kit.go.LowState_, self._take_battery)
        self._sport = unitree.open_client(kit.SportClient, self.timeout)
        self._hear(kit, slow)
        self._check_version()
        if self.avoid_obstacles:
            self._avoid = unitree.open_client(kit.ObstaclesAvoidClient, self.timeout)

    def _hear(self, kit: Any, slow: unitree.Subscription) -> None:
        """Wait for its state; take the full topic where the low-frequency one is too slow."""
        self._wait(lambda: slow.count >= ENOUGH, FIRST_STATE / 2)
        if slow.rate < FAST_ENOUGH:
            slow.close()
            self._subscribe('rt/sportmodestate', kit.go.SportModeState_, self._take)
        if not self._wait(lambda: self.watch.code is not None, FIRST_STATE / 2):
            raise RobotError(
                f'no Go2 is heard on interface {self.interface!r}, DDS domain {self.domain} '
                '(rt/sportmodestate): is it on, is the cable in, does this machine have an '
                'address in 192.168.123.0/24?'
            )

    def _subscribe(
        self, topic: str, kind: Any, handle: Callable[[Any], None]
    ) -> unitree.Subscription:
        self._readers.append(unitree.Subscription(topic, kind, handle))
        return self._readers[-1]

    def _take(self, message: Any) -> None:
        self.watch.take(message, time.monotonic())

    def _take_battery(self, message: Any) -> None:
        good = message.crc == unitree.crc32(message)
        self.watch.take_battery(int(message.bms_state.soc) if good else None)

    def _check_version(self) -> None:
        if not self._wait(lambda: unitree.client_matched(self._sport), FIRST_STATE):
            raise RobotError(
                'the Go2 is heard, but its sport service is not there: switch sport_mode on in '
                "the phone app's service list"
            )
        code, version = self._call('GetServerApiVersion')
        if code != unitree.OK or version != VERSION:
            raise RobotError(
                f'the sport service answered {code}, version {version!r}, not {VERSION}: this may '
                'be another robot (a G1 uses the same name), or firmware below 1.1.6'
            )

    # ------------------------------------------------------------------ engage
    def engage(self) -> None:
        """
        Get it to balance stand, at rest.

        A locked stand answers Move with 0 and ignores it for seconds; only its state tells when
        that is over, so that is what is waited for (section 4, readiness trap).
        """
        until = time.monotonic() + self.engage_within
        self._require_start()
        if self.watch.code == DAMPING:
            self._demand('StandUp')
            self._wait(lambda: self.watch.code != DAMPING, until - time.monotonic())
        while self.watch.code not in DRIVABLE:
            self._demand('BalanceStand')
            self._wait(lambda: self.watch.code in DRIVABLE, ASK_AGAIN)
            if time.monotonic() > until:
                raise RobotError(
                    f'the Go2 still is in {posture(self.watch.code or 0)} after '
                    f'{self.engage_within:.0f} s; bring it to a balanced stand with its remote'
                )
        self._set_up()
        if not self.stop():
            raise RobotError('the Go2 stands, but does not confirm StopMove; its link is not good')

    def _require_start(self) -> None:
        health = self.watch.health(time.monotonic(), {})
        code = self.watch.code
        if code in (DAMPING, STANDING_LOCK):
            return
        if not health.ok:
            raise RobotError(
                f'{health.reason}; it can be made ready from damping, standing lock or when it '
                'stands: use its remote'
            )

    def _demand(self, name: str, *arguments: Any) -> None:
        code = self._call(name, *arguments)
        if code != unitree.OK:
            raise RobotError(f'the Go2 refused {name} with code {code}')

    def _set_up(self) -> None:
        if self.speed_level is not None:
            self._demand('SpeedLevel', self.speed_level)
        if self._avoid is not None:
            for name in ('SwitchSet', 'UseRemoteCommandFromApi'):
                if code := self._through(self._avoid, name, True):
                    raise RobotError(f'the obstacle avoidance of the Go2 refused {name}: {code}')

    # ------------------------------------------------------------------ drive
    def command(self, values: tuple[float, ...]) -> None:
        """Take vx, vy (m/s) and wz (rad/s), body frame; RobotError outside the vendor's ranges."""
        if len(values) != len(RANGES):
            raise RobotError(f'a Go2 takes vx, vy and wz, not {len(values)} values')
        for (name, low, high), value in zip(RANGES, values):
            if not math.isfinite(value) or not low <= value <= high:
                raise RobotError(
                    f'{name} of {value:g} is outside what a Go2 takes: {low} to {high}'
                )
        self.values = tuple(map(float, values))

    def tick(self, dt: float) -> None:
        """Send the newest command; RobotError when it was not sent."""
        code = self._move(*self.values)
        if code != unitree.OK:
            raise RobotError(f'Move was not sent ({code}): the Go2 is no longer on the network')

    def _move(self, vx: float, vy: float, wz: float) -> int:
        client = self._sport if self._avoid is None else self._avoid
        return int(self._through(client, 'Move', vx, vy, wz))

    def stop(self) -> bool:
        """Send Move(0, 0, 0) and StopMove until it answers 0, for half a second at most."""
        self.values = (0.0, 0.0, 0.0)
        until = time.monotonic() + STOP_WITHIN
        while self._sport is not None and unitree.client_matched(self._sport):
            if self._move(0.0, 0.0, 0.0) == unitree.OK and self._call('StopMove') == unitree.OK:
                return True
            if time.monotonic() > until - self.timeout:
                break
            time.sleep(0.01)
        return False

    def damp(self) -> None:
        """Let all joints go soft: it collapses.  For emergencies, on a person's word only."""
        if self._sport is None or self.watch.code is None:
            raise RobotError('no Go2 is connected')
        self._demand('Damp')

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._through(self._sport, name, *arguments)

    def _through(self, client: Any, name: str, *arguments: Any) -> Any:
        """Call a client's method and count what became of it."""
        with self._calls:
            result = getattr(client, name)(*arguments)
        code = result[0] if isinstance(result, tuple) else result
        if code != unitree.OK:
            self.counts[code] = self.counts.get(code, 0) + 1
        return result

    # ------------------------------------------------------------------ tell
    def health(self) -> Health:
        """Judge age and stamp of its state, and its posture."""
        counts: dict[str, object] = {f'code_{code}': n for code, n in self.counts.items()}
        return self.watch.health(time.monotonic(), counts)

    def state(self) -> RobotState | None:
        """Return its odometry."""
        return self.watch.state()

    def close(self) -> None:
        """Stop it, leave it standing, and end all that listens."""
        if self._sport is not None:
            self.stop()
        if self._avoid is not None:
            self._through(self._avoid, 'UseRemoteCommandFromApi', False)
        for client in (self._sport, self._avoid):
            if client is not None:
                unitree.close_client(client)
        self._sport = self._avoid = None
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True
