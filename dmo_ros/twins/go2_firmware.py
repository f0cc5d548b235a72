"""
How a Go2 behaves behind its sport service: postures, the held Move, ranges, errors.

Pure: no DDS, no clock of its own; time is what :meth:`Firmware.advance` is told.  Facts: hardware
reference, section 4; where the vendor is silent, the stricter of two guesses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import json
import math
from typing import Any

TICK = 0.01  # s, the grain of its time
HOLD = 1.0  # s for which the last Move stays in force [vendor]
RANGES = ((-2.5, 3.8), (-1.0, 1.0), (-4.0, 4.0))  # vx, vy (m/s), vyaw (rad/s) [vendor]
EULER = (0.75, 0.75, 0.6)  # rad

DAMPING, STANDING_LOCK, SIT = 1001, 1002, 1007
AGILE, BALANCE, WALK, RUN, ENDURANCE, CLASSIC = 100, 1013, 1015, 1016, 1017, 2010
STANDING = (BALANCE, WALK)  # the two between which it changes by itself
MOVABLE = (AGILE, *STANDING, RUN, ENDURANCE, CLASSIC)

OK, NOT_IMPLEMENTED, BAD_PARAMETER, UNSUITABLE = 0, 3203, 3204, 4206
Velocity = tuple[float, float, float]
REST: Velocity = (0.0, 0.0, 0.0)


class Firmware:
    """
    The robot's own controller.

    :param posture: the state it is found in; :data:`DAMPING` is lying and limp.
    :param stand_time: s (of its time) that standing up takes.
    :param dead_time: s after standing up for which it stays in standing lock, whatever is asked,
        and ignores Move while answering 0 (issue 175 of the vendor's Python SDK: 4 to 10).
    :param lockstep: obey Moves one after the other, one in each call of :meth:`advance`.
    """

    def __init__(
        self,
        posture: int = DAMPING,
        stand_time: float = 0.3,
        dead_time: float = 0.3,
        lockstep: bool = False,
    ) -> None:
        self.posture, self.stand_time, self.dead_time = posture, stand_time, dead_time
        self.lockstep = lockstep
        self.speed_level = 0
        self.auto_recovery = False
        self.moves: deque[Velocity] = deque()  # that have come and are not obeyed yet
        self.velocity: Velocity = REST
        self._held = 0  # ticks since the Move in force
        self._due: deque[tuple[int, int]] = deque()  # (ticks left, posture then)
        self._wants_balance = False
        self._serves: dict[int, Callable[[Any], Any]] = {
            1001: lambda p: self._fall(DAMPING),
            1002: lambda p: self._balance(),
            1003: lambda p: self.rest(),
            1004: lambda p: self._stand_up(STANDING_LOCK),
            1005: lambda p: self._fall(DAMPING),
            1006: lambda p: self._stand_up(BALANCE),
            1007: self._euler,
            1008: self._move,
            1009: lambda p: self._gait(SIT),
            1010: lambda p: self._rise(),
            1015: self._set_speed_level,
            1027: lambda p: _flag(p['data']),
            1028: lambda p: _flag(p['data']),
            1061: lambda p: self._gait(WALK),
            1062: lambda p: self._gait(RUN),
            1063: lambda p: self._gait(ENDURANCE),
            2045: lambda p: self._gait(AGILE),
            2048: lambda p: _flag(p['data']),
            2049: self._classic,
            2054: self._set_auto_recovery,
            2055: lambda p: {'data': self.auto_recovery},
            2058: lambda p: None,
        }

    def serve(self, api_id: int, parameter: str) -> tuple[int, str]:
        """
        Answer a request of the sport service with (code, JSON).

        Flips, jumps and dances are 3203 here: nothing of ours may ever ask for them.
        """
        handler = self._serves.get(api_id)
        if handler is None:
            return NOT_IMPLEMENTED, ''
        try:
            answer = handler(json.loads(parameter))
        except (ValueError, TypeError, KeyError):
            return BAD_PARAMETER, ''
        if isinstance(answer, int):
            return answer, ''
        return OK, '' if answer is None else json.dumps(answer)

    def advance(self, seconds: float) -> list[tuple[Velocity, float]]:
        """Let time (s, a multiple of 0.01) pass; return what it walks: (velocity, seconds)."""
        if self.lockstep:
            if self.moves:
                self._obey(self.moves.popleft())
        elif self.moves:
            self._obey(self.moves[-1])
            self.moves.clear()
        walked: list[tuple[Velocity, int]] = []
        for _ in range(round(seconds / TICK)):
            self._tick()
            if walked and walked[-1][0] == self.velocity:
                walked[-1] = self.velocity, walked[-1][1] + 1
            else:
                walked.append((self.velocity, 1))
            self._held += 1
        return [(velocity, ticks * TICK) for velocity, ticks in walked]

    def force(self, posture: int) -> None:
        """Put it into a state from outside: a fault, its remote, a fall."""
        self._fall(posture)

    def rest(self) -> None:
        """Stop walking and forget what was asked (StopMove)."""
        self.moves.clear()
        self._set(REST)

    # ------------------------------------------------------------------ inside
    def _tick(self) -> None:
        if self._held >= round(HOLD / TICK):
            self._set(REST)
        if not self._due:
            return
        left, posture = self._due[0]
        self._due[0] = left - 1, posture
        if left <= 1:
            self._due.popleft()
            self.posture = posture
        if not self._due and self._wants_balance:
            self.posture, self._wants_balance = BALANCE, False

    def _obey(self, velocity: Velocity) -> None:
        if self.posture in MOVABLE:
            self._set(velocity)
            self._held = 0

    def _set(self, velocity: Velocity) -> None:
        self.velocity = velocity
        if self.posture in STANDING:
            self.posture = WALK if any(velocity) else BALANCE

    def _move(self, parameter: Any) -> None:
        values = [_number(parameter[name]) for name in 'xyz']
        vx, vy, wz = (min(max(v, low), high) for v, (low, high) in zip(values, RANGES))
        self.moves.append((vx, vy, wz))

    def _fall(self, posture: int) -> None:
        self.rest()
        self._due.clear()
        self._wants_balance = False
        self.posture = posture

    def _stand_up(self, then: int) -> None:
        self.rest()
        if self.posture == then or (then == BALANCE and self.posture in MOVABLE):
            return
        ticks = round((self.stand_time if self.posture not in MOVABLE else TICK) / TICK)
        self._due = deque([(max(1, ticks), then)])
        if then == STANDING_LOCK:
            self._due.append((max(1, round(self.dead_time / TICK)), then))

    def _balance(self) -> int:
        if self.posture in MOVABLE:
            return OK
        if self.posture != STANDING_LOCK:
            return UNSUITABLE
        if self._due:
            self._wants_balance = True  # accepted, and without effect until the dead time is over
        else:
            self.posture = BALANCE
        return OK

    def _rise(self) -> int:
        if self.posture != SIT:
            return UNSUITABLE
        self.posture = BALANCE
        return OK

    def _gait(self, posture: int) -> int:
        if self.posture not in MOVABLE:
            return UNSUITABLE
        self.posture = posture
        if posture == SIT:
            self.rest()
        return OK

    def _classic(self, parameter: Any) -> int:
        _flag(parameter['data'])
        return self._gait(CLASSIC if parameter['data'] else BALANCE)

    def _euler(self, parameter: Any) -> None:
        for name, limit in zip('xyz', EULER):
            if abs(_number(parameter[name])) > limit:
                raise ValueError(name)

    def _set_speed_level(self, parameter: Any) -> None:
        if parameter['data'] not in (-1, 0, 1):
            raise ValueError('data')
        self.speed_level = parameter['data']

    def _set_auto_recovery(self, parameter: Any) -> None:
        _flag(parameter['data'])
        self.auto_recovery = parameter['data']


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _flag(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(value)
