"""
A stand-in for Flexiv's Python SDK, of both generations that accept a Rizon arm.

Same names, signatures, defaults, enumerations, fields and errors as flexivrdk 1.9 and 2.0; what it
lacks is what this package does not use.  ``test/robots/test_flexiv_conformance.py`` compares it
with the real classes wherever an interpreter has them.  It speaks with :mod:`.flexiv_peer`.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
import re
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

from .flexiv_arm import MOTION
from .flexiv_types import (
    CoordType,
    JointGroup,
    Mode,
    NrtCartesianCmd19,
    NrtCartesianCmd20,
    OperationalStatus,
    RobotEvent,
    RobotInfo,
    RobotStates19,
    RobotStates20,
    Struct,
    vector,
)

Address = tuple[str, int]
SEARCH = 3.2  # s, after which a robot that is not there is given up (measured: 3.1 to 3.2)
SILENCE = 1.0  # s without a state, after which the connection counts as lost
ANSWER = 40.0  # s; the longest blocking call is ClearFault's 30
LOST = 3.0  # s of silence after which a call is given up
MODELS = ('Rizon4', 'Rizon4s', 'Rizon10', 'Rizon10s')


class _Link:
    """The connection of one Robot: the newest state, and calls that wait for their answer."""

    def __init__(self, address: Address, patience: float) -> None:
        until = time.monotonic() + patience
        self.socket = self._find(address, until)
        self.state: dict[str, Any] = {}
        self.heard = -math.inf
        self.changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._write = threading.Lock()
        self.open = True
        self.thread = threading.Thread(target=self._listen, name='flexiv_sdk', daemon=True)
        self.thread.start()

    @staticmethod
    def _find(address: Address, until: float) -> socket.socket:
        while True:
            try:
                link = socket.create_connection(address, timeout=0.5)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.settimeout(None)
                return link
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _listen(self) -> None:
        try:
            with self.socket.makefile('rb') as lines:
                for line in lines:
                    self._hear(json.loads(line))
        except (OSError, ValueError):
            pass
        with self.changed:
            self.open = False
            self.changed.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        with self.changed:
            if 'state' in message:
                self.state, self.heard = message['state'], time.monotonic()
            else:
                self._answers[message['id']] = message
            self.changed.notify_all()

    def post(self, message: dict[str, Any]) -> None:
        """Send a line; RuntimeError when the other side is gone."""
        try:
            with self._write:
                self.socket.sendall(json.dumps(message).encode() + b'\n')
        except OSError as error:
            raise RuntimeError('Failed to deliver the request to the connected robot') from error

    def ask(self, call: str, *args: Any, patience: float = ANSWER) -> Any:
        """Call and wait for the answer; its error is raised here."""
        with self.changed:
            self._count += 1
            number = self._count
        self.post({'call': call, 'id': number, 'args': args})
        until = time.monotonic() + patience
        with self.changed:
            alive = max(self.heard, time.monotonic())
            while number not in self._answers and self.open:
                if time.monotonic() > min(until, max(self.heard, alive) + LOST):
                    break
                self.changed.wait(0.1)
            answer = self._answers.pop(number, None)
        if answer is None:
            raise RuntimeError('Failed to deliver the request to the connected robot')
        if 'error' in answer:
            kind = ValueError if answer['error'] == 'ValueError' else RuntimeError
            raise kind(f'[flexiv::rdk::Robot] {answer["text"]}')
        return answer['result']

    def close(self) -> None:
        """Hang up and end the thread."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()
        if self.thread is not threading.current_thread():
            self.thread.join(timeout=2.0)


class _Robot:
    """What both generations have."""

    _address: Address = ('127.0.0.1', 0)
    _search = SEARCH
    _states: type[Struct] = RobotStates19

    def __init__(
        self,
        robot_sn: str,
        network_interface_whitelist: Sequence[str] = [],
        verbose: bool = True,
        lite: bool = False,
    ) -> None:
        if not isinstance(robot_sn, str):
            raise TypeError(f'__init__(): incompatible constructor arguments: {robot_sn!r}')
        self._serial = _serial(robot_sn)
        self._lite = lite
        try:
            self._link = _Link(self._address, self._search)
            self._about = self._link.ask('hello', patience=self._search)
            if self._about['serial'] != self._serial:
                self._link.close()
                raise RuntimeError('another robot')
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f'[flexiv::rdk::Robot] Failed to connect to [{self._serial}]. Please check that '
                'the robot is on, in remote mode, and connected'
            ) from error

    def __del__(self) -> None:
        link = self.__dict__.get('_link')
        if link is not None:
            link.close()

    # ------------------------------------------------------------------ does not block
    def connected(self) -> bool:
        return self._link.open and time.monotonic() - self._link.heard < SILENCE

    def info(self) -> RobotInfo:
        info = RobotInfo()
        info.serial_num, info.model_name = self._serial, self._serial.split('-')[0]
        info.DoF = info.DoF_m = 7
        info.K_x_nom = self._about['stiffness']
        info.q_max = self._about['q_max']
        info.q_min = [-value for value in self._about['q_max']]
        return info

    def lite(self) -> bool:
        return self._lite

    def mode(self) -> Any:
        return Mode(self._now('mode'))

    def operational(self) -> bool:
        return self.operational_status().name == 'READY'

    def operational_status(self) -> Any:
        return OperationalStatus(self._now('status'))

    def fault(self) -> bool:
        return bool(self._now('fault'))

    def busy(self) -> bool:
        return bool(self._now('busy'))

    def reduced(self) -> bool:
        return bool(self._now('reduced'))

    def recovery(self) -> bool:
        return bool(self._now('recovery'))

    def estop_released(self) -> bool:
        return bool(self._now('estop_released', True))

    def enabling_button_pressed(self) -> bool:
        return bool(self._now('enabling_button'))

    def event_log(self) -> list[RobotEvent]:
        events = []
        for text in self._now('events', ()):
            events.append(RobotEvent())
            events[-1].description = text
        return events

    def _now(self, name: str, without: Any = 0) -> Any:
        return self._link.state.get(name, without)

    def _one(self) -> Struct:
        states, now = self._states(), self._link.state
        if now:
            states.timestamp = divmod(now['stamp'], 10**9)
            states.tcp_pose = states.flange_pose = now['pose']
            states.q = states.theta = now['q']
            states.tau_ext = now['torques']
            grouped = self._states is RobotStates20
            setattr(states, 'tcp_twist' if grouped else 'tcp_vel', now['twist'])
            setattr(states, 'tcp_wrench' if grouped else 'ext_wrench_in_world', now['wrench'])
        return states

    # ------------------------------------------------------------------ blocks
    def Enable(self) -> None:  # noqa: N802
        self._link.ask('Enable')

    def Stop(self) -> None:  # noqa: N802
        self._link.ask('Stop')

    def ClearFault(self, timeout_sec: int = 30) -> bool:  # noqa: N802
        return bool(self._link.ask('ClearFault', int(timeout_sec)))

    def _switch(self, mode: Any) -> None:
        if not isinstance(mode, Mode):
            raise TypeError(f'SwitchMode(): incompatible function arguments: {mode!r}')
        self._link.ask('SwitchMode', mode.name)

    def _force_axes(self, axes: Any, speeds: Any) -> None:
        vector(speeds, 3)
        self._link.ask('SetForceControlAxis', vector(axes, 6))

    def _impedance(self, stiffness: Any, damping: Any) -> None:
        ratios = vector(damping, 6)
        if min(ratios) < 0.3:
            raise ValueError('[flexiv::rdk::Robot] Z_x contains a value outside [0.3, 0.8]')
        self._link.ask('SetCartesianImpedance', [*vector(stiffness, 6), *ratios])

    def _max_wrench(self, wrench: Any) -> None:
        self._link.ask('SetMaxContactWrench', vector(wrench, 6))

    def _posture(self, positions: Any) -> None:
        values = vector(positions)
        if len(values) != len(self._about['q_max']):
            raise ValueError('[flexiv::rdk::Robot] Size of ref_positions does not match robot DoF')
        self._link.ask('SetNullSpacePosture', values)

    def _send(self, command: Any) -> None:
        bounds = [
            command.max_linear_vel,
            command.max_angular_vel,
            command.max_linear_acc,
            command.max_angular_acc,
        ]
        if min(bounds) <= 0:
            raise ValueError('[flexiv::rdk::Robot] Limits of motion must be positive')
        if self.mode().name != MOTION:
            raise RuntimeError('[flexiv::rdk::Robot] Robot is not in the correct control mode')
        if not self.operational():
            raise RuntimeError('[flexiv::rdk::Robot] Robot is not operational')
        pose, epoch = command.pose_d, self._now('epoch')
        self._link.post({'call': 'send', 'pose': pose, 'bounds': bounds, 'epoch': epoch})


class Robot19(_Robot):
    """The Robot of 1.9: one arm."""

    def states(self) -> RobotStates19:
        return self._one()  # type: ignore[return-value]

    def stopped(self) -> bool:
        return bool(self._now('stopped', True))

    def SwitchMode(self, mode: Any) -> None:  # noqa: N802
        self._switch(mode)

    def SetForceControlAxis(  # noqa: N802
        self,
        enabled_axes: Sequence[bool],
        max_linear_vel: Sequence[float] = [1.0, 1.0, 1.0],
    ) -> None:
        self._force_axes(enabled_axes, max_linear_vel)

    def SetCartesianImpedance(  # noqa: N802
        self,
        K_x: Sequence[float],
        Z_x: Sequence[float] = [0.7, 0.7, 0.7, 0.7, 0.7, 0.7],
    ) -> None:
        self._impedance(K_x, Z_x)

    def SetMaxContactWrench(self, max_wrench: Sequence[float]) -> None:  # noqa: N802
        self._max_wrench(max_wrench)

    def SetNullSpacePosture(self, ref_positions: Sequence[float]) -> None:  # noqa: N802
        self._posture(ref_positions)

    def SendCartesianMotionForce(  # noqa: N802
        self,
        pose: Sequence[float],
        wrench: Sequence[float] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        velocity: Sequence[float] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        max_linear_vel: float = 0.5,
        max_angular_vel: float = 1.0,
        max_linear_acc: float = 2.0,
        max_angular_acc: float = 5.0,
    ) -> None:
        bounds = (max_linear_vel, max_angular_vel, max_linear_acc, max_angular_acc)
        self._send(NrtCartesianCmd20(pose, wrench, velocity, *bounds))


class Robot20(_Robot):
    """The Robot of 2.0: joint groups; a single arm is the group ARMS."""

    _states = RobotStates20

    def groups(self) -> list[Any]:
        return [JointGroup.ARMS]

    def states(self) -> dict[Any, RobotStates20]:
        return {JointGroup.ARMS: self._one()}  # type: ignore[dict-item]

    def stopped(self) -> dict[Any, bool]:
        return {JointGroup.ARMS: self.all_stopped()}

    def all_stopped(self) -> bool:
        return bool(self._now('stopped', True))

    def SwitchMode(self, arg0: Any, /) -> None:  # noqa: N802
        self._switch(arg0)

    def SetForceControlAxis(  # noqa: N802
        self,
        group: Any,
        enabled_axes: Sequence[bool],
        max_linear_vel: Sequence[float] = [1.0, 1.0, 1.0],
    ) -> None:
        self._ours(group)
        self._force_axes(enabled_axes, max_linear_vel)

    def SetCartesianImpedance(  # noqa: N802
        self,
        group: Any,
        K_x: Sequence[float],
        Z_x: Sequence[float] = [0.7, 0.7, 0.7, 0.7, 0.7, 0.7],
    ) -> None:
        self._ours(group)
        self._impedance(K_x, Z_x)

    def SetMaxContactWrench(self, arg0: Any, arg1: Sequence[float], /) -> None:  # noqa: N802
        self._ours(arg0)
        self._max_wrench(arg1)

    def SetNullSpacePosture(self, arg0: Any, arg1: Sequence[float], /) -> None:  # noqa: N802
        self._ours(arg0)
        self._posture(arg1)

    def SendCartesianMotionForce(self, arg0: dict[Any, Any], /) -> None:  # noqa: N802
        for group, command in arg0.items():
            self._ours(group)
            if not isinstance(command, NrtCartesianCmd20):
                raise TypeError(f'incompatible function arguments: {command!r}')
            self._send(command)

    @staticmethod
    def _ours(group: Any) -> None:
        if not isinstance(group, JointGroup):
            raise TypeError(f'incompatible function arguments: {group!r} is no JointGroup')
        if group is not JointGroup.ARMS:
            raise ValueError(f'[flexiv::rdk::Robot] This robot has no joint group {group.name}')


def _serial(text: str) -> str:
    """Return a serial number as the SDK shows it; its errors for one that is none."""
    plain = text.replace(' ', '').replace('_', '-')
    found = re.fullmatch(r'([^-]+)-([^-]+)', plain)
    if not found:
        raise ValueError(
            f'[flexiv::rdk::Robot] Format of the provided robot serial number [{text}] is invalid'
        )
    if found[1] not in MODELS:
        raise RuntimeError(f'[flexiv::rdk::Robot] Robot model [{found[1]}] is not supported')
    return plain


def make_module(generation: str, address: Address, search: float = SEARCH) -> Any:
    """
    Return what ``import flexivrdk`` would, for generation '1.9' or '2.0'.

    :param address: of a :class:`.flexiv_peer.FlexivPeer`.
    :param search: s, after which a robot that is not there is given up.
    """
    if generation not in ('1.9', '2.0'):
        raise ValueError(f"the stand-in knows the SDK's generations 1.9 and 2.0, not {generation}")
    grouped = generation == '2.0'
    base: type[_Robot] = Robot20 if grouped else Robot19
    robot = type('Robot', (base,), {'_address': address, '_search': search})
    names: dict[str, Any] = {
        '__version__': '2.0.0' if grouped else '1.9.4.1',
        'Robot': robot,
        'RobotStates': RobotStates20 if grouped else RobotStates19,
        'RobotInfo': RobotInfo,
        'RobotEvent': RobotEvent,
        'NrtCartesianCmd': NrtCartesianCmd20 if grouped else NrtCartesianCmd19,
        'Mode': Mode,
        'OperationalStatus': OperationalStatus,
        'CoordType': CoordType,
    }
    if grouped:
        names['JointGroup'] = JointGroup
    return SimpleNamespace(**names)
