"""
The G1's own side of Unitree's DDS: BrainCo hands, loco service, rt/arm_sdk and rt/lowstate.

Behaviour: hardware reference, sections 6.2 to 6.4.  While SONIC controls the robot the walking
controller is gone; ``walks`` tells which of the two it is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
import json
import math
import threading
from typing import Any

import numpy as np

from ..robots import unitree

FINGERS = 6
WEIGHT = 29  # of rt/arm_sdk: the motor whose q blends
MACHINE = 5  # mode_machine of a 29-DoF robot whose waist is free
MOTORS = 35
GET_FSM, SET_FSM, SET_VELOCITY = 7001, 7101, 7105
MODES = {7001: 'fsm', 7002: 'fsm_mode', 7003: 'balance', 7004: 'swing', 7005: 'height'}
WALKING = (500, 801)
FSM_IDS = (0, 1, 2, 3, 4, *WALKING, 702, 706)
UNAVAILABLE, BAD_FSM = 7301, 7302


class DdsSide:
    """
    Topics and service of one robot; velocities and targets are read by the peer.

    ``hands`` (2,): the closures in force, NaN before the first. ``counts``: what came.

    :param burst: how many commands a hand keeps, to obey one in each period; 1: the newest.
    """

    def __init__(
        self,
        domain: int,
        note: Callable[[str, Any], None],
        faults: unitree.LinkFaults,
        burst: int = 1,
    ) -> None:
        kit = unitree.open_channel(domain)
        self.kit, self.note, self.faults = kit, note, faults
        self.counts: Counter[str] = Counter()
        self.hands = np.full(2, math.nan)
        self._closures: tuple[deque[float], ...] = (deque(maxlen=burst), deque(maxlen=burst))
        self.arms: np.ndarray | None = None  # (29,) rad, NaN where nobody drives
        self.weight = 0.0
        self.fsm = WALKING[0]
        self.walks = True
        self.now = 0.0  # s of the robot's own time
        self._velocity, self._until = (0.0, 0.0, 0.0), -math.inf
        self._lock = threading.Lock()
        self._state = kit.default.unitree_hg_msg_dds__LowState_()
        self._topics: list[Any] = []
        self._open()

    def _open(self) -> None:
        go, hg = self.kit.go, self.kit.hg
        self.hand_out = []
        for side, name in enumerate(('left', 'right')):
            topic = f'rt/brainco/{name}'
            take = partial(self._hand, side)
            self._topics.append(unitree.Subscription(f'{topic}/cmd', go.MotorCmds_, take))
            self.hand_out.append(unitree.Publication(f'{topic}/state', go.MotorStates_))
        self.state_out = unitree.Publication('rt/lowstate', hg.LowState_)
        self._topics.append(unitree.Subscription('rt/arm_sdk', hg.LowCmd_, self._arm))
        self._topics += [*self.hand_out, self.state_out]
        self.service = unitree.Service('sport', '1.0.0.0', self._serve, self.faults)

    # ------------------------------------------------------------------ what comes
    def _hand(self, side: int, sample: Any) -> None:
        positions = [motor.q for motor in sample.cmds]
        if len(positions) != FINGERS or not all(map(math.isfinite, positions)):
            self.counts['hand_refused'] += 1  # the real one would read past its end, or pass NaN
            return
        self.counts['hand'] += 1
        self.note(('left_hand', 'right_hand')[side], tuple(positions))
        self._closures[side].append(min(1.0, max(0.0, float(np.mean(positions)))))

    def _arm(self, sample: Any) -> None:
        if unitree.crc32(sample) != sample.crc:
            self.counts['bad_crc'] += 1
            return
        if sample.mode_machine != MACHINE:
            self.counts['bad_machine'] += 1
            return
        self.counts['arm_sdk'] += 1
        motors = sample.motor_cmd
        positions = [motor.q if motor.mode == 1 and motor.kp > 0 else math.nan for motor in motors]
        weight = min(1.0, max(0.0, motors[WEIGHT].q))
        self.note('arm_sdk', (tuple(positions[:29]), weight))
        with self._lock:
            self.arms, self.weight = np.array(positions[:29]), weight

    def _serve(self, api: int, parameter: str) -> unitree.Answer:
        asked = json.loads(parameter or '{}')
        self.note('loco', (api, asked))
        if not self.walks:
            return unitree.Answer(UNAVAILABLE)
        if api in MODES:
            return unitree.Answer(data=json.dumps({'data': self.fsm if api == GET_FSM else 0}))
        if api == SET_FSM:
            if asked['data'] not in FSM_IDS:
                return unitree.Answer(BAD_FSM)
            self.fsm = asked['data']
            return unitree.Answer()
        if api == SET_VELOCITY:
            return self._set_velocity(asked)
        return unitree.Answer(unitree.NOT_IMPLEMENTED)

    def _set_velocity(self, asked: dict[str, Any]) -> unitree.Answer:
        vx, vy, wz = map(float, asked['velocity'])
        duration = float(asked.get('duration', 1.0))
        if not math.isfinite(vx + vy + wz + duration):
            return unitree.Answer(unitree.BAD_PARAMETER)
        if self.fsm not in WALKING:
            return unitree.Answer(UNAVAILABLE)
        with self._lock:
            self._velocity, self._until = (vx, vy, wz), self.now + duration
        return unitree.Answer()

    # ------------------------------------------------------------------ what it does
    def take_hands(self) -> None:
        """Let the next command of each hand be in force, if one has come."""
        for side, waiting in enumerate(self._closures):
            if waiting:
                self.hands[side] = waiting.popleft()

    def velocity(self) -> tuple[float, float, float]:
        """Return the body velocity in force; it ends with its duration."""
        with self._lock:
            moving = self.walks and self.fsm in WALKING and self.now < self._until
            return self._velocity if moving else (0.0, 0.0, 0.0)

    def blend(self, own: np.ndarray, motors: tuple[int, ...]) -> np.ndarray:
        """Return the targets of ``motors``: what arm_sdk asks for, weighed against ``own``."""
        with self._lock:
            arms, weight = self.arms, self.weight
        if arms is None or not self.walks:
            return own
        asked = arms[list(motors)]
        return np.where(np.isfinite(asked), own + weight * (np.nan_to_num(asked) - own), own)

    def rest(self) -> None:
        """Forget what was commanded: the twin was put elsewhere."""
        with self._lock:
            self.hands[:] = math.nan
            for waiting in self._closures:
                waiting.clear()
            self.arms, self._until = None, -math.inf

    # ------------------------------------------------------------------ what it tells
    def publish(
        self, tick: int, q: np.ndarray, dq: np.ndarray, hands: np.ndarray, speeds: np.ndarray
    ) -> None:
        """Publish motors (29,) at ``tick`` (ms), and hands (2,)."""
        if self.faults.mute:
            return
        for out, position, speed in zip(self.hand_out, hands, speeds):
            states = []
            for _ in range(FINGERS):
                state = self.kit.default.unitree_go_msg_dds__MotorState_()
                state.q, state.dq = float(position), float(speed)
                states.append(state)
            out.write(self.kit.go.MotorStates_(states))
        if self.state_out.matched:
            state = self._state
            state.mode_machine, state.tick = MACHINE, tick % 2**32
            for motor, position, speed in zip(state.motor_state, q, dq):
                motor.mode, motor.q, motor.dq = 1, float(position), float(speed)
            state.crc = unitree.crc32(state)
            self.state_out.write(state)

    def close(self) -> None:
        """End service and topics."""
        self.service.close()
        for topic in self._topics:
            topic.close()
