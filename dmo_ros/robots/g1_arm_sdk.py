"""
The other way to drive a G1: the vendor's walking controller, with rt/arm_sdk for the upper body.

The controller keeps the legs; what we send for the joints above them counts as much as the weight
in motor 29 says, and is taken over and handed back by ramping that weight, because arms whose
weight drops at once fall (hardware reference, 6.2).  Walking is asked of its loco service, in
calls that expire by themselves after 0.3 s at most (6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
import threading
import time
from typing import Any

from .base import RobotError
from .g1_joints import UPPER_BODY, WEIGHT, WRISTS

LONGEST = 0.3  # s a velocity stays in force without another call
AGAIN = 0.1  # s between two calls while it walks
ZEROS = 3  # calls that say zero before it is silent
GET_FSM, SET_FSM, SET_VELOCITY = 7001, 7101, 7105
DAMP = 1  # fsm: joints damped, the robot collapses unless it hangs
WALKING = (500, 501, 801)  # fsm ids in which it balances and walks


@dataclass(frozen=True)
class Gains:
    """Stiffness (Nm/rad) and damping (Nms/rad) of waist and arms, and of the wrists."""

    kp: float = 60.0
    kd: float = 1.5
    wrist_kp: float = 40.0
    wrist_kd: float = 1.5


class Loco:
    """
    The walking controller's service, called by a thread of its own: a call may block.

    ``code``: what the last call was answered. ``calls``: how many.
    """

    def __init__(self, timeout: float = 0.2) -> None:
        from .unitree import make_client

        apis = (GET_FSM, SET_FSM, SET_VELOCITY)
        self._client: Any = make_client('sport', '1.0.0.0', apis, timeout)
        self.code = self.calls = 0
        self._velocity = (0.0, 0.0, 0.0)
        self._zeros = ZEROS  # that have been said
        self._wake = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name='loco', daemon=True)
        self._thread.start()

    def fsm(self) -> int:
        """
        Return which state its machine is in.

        :raises RobotError: no answer.
        """
        code, data = self._client._Call(GET_FSM, '{}')
        if code != 0:
            raise RobotError(
                f'the loco service does not answer (code {code}): SONIC or debug mode has taken '
                'the robot, or it is off'
            )
        return int(json.loads(data)['data'])

    def set_fsm(self, state: int) -> None:
        """
        Ask for a state.

        :raises RobotError: it was refused.
        """
        code, _ = self._client._Call(SET_FSM, json.dumps({'data': state}))
        if code != 0:
            raise RobotError(f'the loco service refused state {state} (code {code})')

    def walk(self, velocity: Sequence[float]) -> None:
        """Walk with vx, vy (m/s), wz (rad/s) from now on; a zero is said at once."""
        wanted = tuple(map(float, velocity))
        if not math.isfinite(sum(wanted)):
            raise RobotError(f'a velocity is not finite: {wanted}')
        with self._wake:
            changed = any(self._velocity) != any(wanted)
            self._velocity = wanted[0], wanted[1], wanted[2]
            if any(wanted):
                self._zeros = 0
            if changed:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                velocity, ended = self._velocity, self._ended
                moving = any(velocity)
                due = moving or self._zeros < ZEROS
                if not moving:
                    self._zeros = min(self._zeros + 1, ZEROS)
            if ended and not due:
                return
            if due:
                self._call(velocity)
            with self._wake:
                if self._velocity == velocity and not self._ended:
                    self._wake.wait(AGAIN)

    def _call(self, velocity: tuple[float, float, float]) -> None:
        asked = json.dumps({'velocity': list(velocity), 'duration': LONGEST})
        self.code, _ = self._client._Call(SET_VELOCITY, asked)
        self.calls += 1

    def close(self) -> None:
        """Stand, end the thread and the client; idempotent."""
        from .unitree import close_client

        with self._wake:
            self._velocity, self._ended = (0.0, 0.0, 0.0), True
            self._wake.notify()
        self._thread.join(timeout=3.0)
        client, self._client = self._client, None
        if client is not None:
            close_client(client)


class ArmSdk:
    """
    Targets for waist and arms as LowCmd, and what LowState tells.

    :param sdk: what :func:`dmo_ros.robots.unitree.open_channel` returned.
    """

    def __init__(self, sdk: Any, gains: Gains) -> None:
        from .unitree import crc32, Publication, Subscription

        self.gains, self.weight, self.sent = gains, 0.0, 0
        self._crc32 = crc32
        self._tick, self._advanced = -1, 0.0
        self._message = sdk.default.unitree_hg_msg_dds__LowCmd_()
        self._lock = threading.Lock()
        self._out = Publication('rt/arm_sdk', sdk.hg.LowCmd_)
        self._in = Subscription('rt/lowstate', sdk.hg.LowState_, self._take)
        self.hottest = 0.0

    def _take(self, state: Any) -> None:
        if state.tick != self._tick:  # a frozen robot repeats itself
            self._tick, self._advanced = state.tick, time.monotonic()

    def age(self) -> float:
        """Return the seconds since the robot's clock was seen to move; inf before the first."""
        return time.monotonic() - self._advanced if self._in.count else math.inf

    def measured(self) -> tuple[list[float], list[float]] | None:
        """Return positions and velocities of the 29 motors, None before the first state."""
        state = self._in.sample
        if state is None:
            return None
        motors = state.motor_state[:29]
        self.hottest = float(max(max(motor.temperature) for motor in motors))
        return [motor.q for motor in motors], [motor.dq for motor in motors]

    def send(self, position: Sequence[float], velocity: Sequence[float], weight: float) -> None:
        """
        Send targets for the 17 upper joints (task order) and how much they count, 0 to 1.

        :raises RobotError: not finite, or no state was heard, whose mode has to be echoed.
        """
        state = self._in.sample
        if state is None:
            raise RobotError('no rt/lowstate was heard: its mode_machine has to be sent back')
        if not math.isfinite(sum((*position, *velocity, weight))):
            raise RobotError('a target of rt/arm_sdk is not finite')
        with self._lock:
            self.weight = min(1.0, max(0.0, float(weight)))
            self._fill(position, velocity, state.mode_machine)
            self._out.write(self._message)
            self.sent += 1

    def _fill(self, position: Sequence[float], velocity: Sequence[float], machine: int) -> None:
        message, gains = self._message, self.gains
        message.mode_pr, message.mode_machine = 0, machine
        for motor, q, dq in zip(UPPER_BODY, position, velocity):
            command = message.motor_cmd[motor]
            wrist = motor in WRISTS
            command.mode, command.q, command.dq, command.tau = 1, float(q), float(dq), 0.0
            command.kp = gains.wrist_kp if wrist else gains.kp
            command.kd = gains.wrist_kd if wrist else gains.kd
        message.motor_cmd[WEIGHT].q = self.weight
        message.crc = self._crc32(message)

    def close(self) -> None:
        """End both topics; ramp the weight down before."""
        self._out.close()
        self._in.close()
