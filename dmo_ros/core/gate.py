"""
The gate: the one place where a command becomes motion.

Pure logic with time as an argument (seconds of a steady clock); the node around it only converts.

DISARMED sends no velocity.  ARMED neither, until somebody drives.  ACTIVE forwards the person's
stick, else the policy.  STOPPING brakes within the limits because commands or pictures ceased,
then is DISARMED.  FAULT stands still until it is cleared by name, which is refused while its cause
is there.  Letting the dead-man go, losing the pad, or having been held up itself is a halt at
once. Every stop ends DISARMED and nothing arms by itself: that takes a new press of the dead-man,
a neutral stick and the arm button (or service).  A halt is no velocity, and positions held where
they were last sent; nothing is sent before the first posture of a whole body is known.

Stamps are copied, never judged for age: ages count from arrival on the steady clock.  A command
that is ahead of every stream it may be copied from is refused.  A forwarded command keeps its
stamp and is limited against the command before over the difference of their stamps, at most one
control period; so a recording made at any speed holds the same commands.  In between the command
is held, as the task's convention of time says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
import math

from .conditions import Beat, Code, Conditions, Source, Witnesses
from .intent import Pad
from .limits import Limiter, Limits
from .steering import JUMP
from .tasks import TaskSpec

TELEOP, POLICY = 'teleop', 'policy'
POSTURE_TIMEOUT = 0.5  # s
EARLY = 0.05  # s that a command may come before the frame it answers


class State(Enum):
    """What the gate is doing."""

    DISARMED = 'DISARMED'
    ARMED = 'ARMED'
    ACTIVE = 'ACTIVE'
    STOPPING = 'STOPPING'
    FAULT = 'FAULT'


DRIVING = (State.ARMED, State.ACTIVE, State.STOPPING)


@dataclass(frozen=True)
class GateConfig:
    """Limits and time-outs (s) of a task, and what must be there before anything moves."""

    limits: Limits
    period: float
    command_timeout: float
    frame_timeout: float
    frame: str
    joy_timeout: float = 0.2
    joy_rate: float = 15.0
    need_bridge: bool = False
    need_camera: bool = False
    held_up: float = 0.25  # between two ticks that prove that the gate itself was not running

    @classmethod
    def of(
        cls,
        spec: TaskSpec,
        joy_timeout: float = 0.2,
        joy_rate: float = 15.0,
        need_bridge: bool = False,
        need_camera: bool = False,
        held_up: float = 0.25,
    ) -> GateConfig:
        """Take the limits from a task."""
        return cls(
            Limits.of(spec),
            spec.period,
            spec.limits.command_timeout,
            spec.limits.frame_timeout,
            spec.command_frame,
            joy_timeout,
            joy_rate,
            need_bridge,
            need_camera,
            held_up,
        )


@dataclass(frozen=True)
class Command:
    """The action fields in SI units, with the stamp (ns) of what caused them."""

    values: tuple[float, ...]
    stamp: int


@dataclass(frozen=True)
class _Early:
    """A command whose frame has not been heard of: two topics keep no order between them."""

    arrived: float
    source: str
    values: tuple[float, ...]
    stamp: int


class Gate:
    """Feed it the pad, commands and time; it returns what may be sent, None for nothing."""

    def __init__(
        self, config: GateConfig, on_transition: Callable[[State, State, str], None] | None = None
    ) -> None:
        self.config = config
        self.state, self.code, self.reason = State.DISARMED, Code.STARTED, 'started'
        self.following = ''
        self.counts: Counter[str] = Counter()
        self.around = Conditions(config.need_bridge, config.need_camera, config.frame_timeout)
        self._on_transition = on_transition
        self._limiter = Limiter(config.limits)
        width = len(config.limits.low)
        self._still = (0.0,) * sum(not moving for moving in config.limits.velocity)
        self._sources = {name: Source(config.command_timeout, width) for name in (TELEOP, POLICY)}
        self._pad = Pad((0.0,) * width, False, False, False, False)
        self._joy = Beat(config.joy_timeout, config.joy_rate)
        self._pressed_anew = False
        self._posture: tuple[float, ...] | None = None
        self._posture_at = self._ticked_at = -math.inf
        self._sent = Command(self._limiter.values, 0)
        self._sent_at = self._repeated_at = -math.inf
        self._heard, self._heard_at = 0, 0.0
        self._jumped = self._posed = 0  # stamps: of a leap in time, of the posture
        self._witnesses = Witnesses()
        self._early: _Early | None = None

    # ------------------------------------------------------------------ what comes in
    def on_pad(self, now: float, pad: Pad, stamp: int) -> Command | None:
        """Take the pad's state; return a command when it stops the robot at once."""
        stopped = self._held_up(now)
        before, self._pad = self._pad, pad
        self._joy.hear(now)
        self._hear(now, stamp)
        self._witnesses.hear('joy', now, stamp)
        if not pad.deadman:
            self._pressed_anew = True
            if self.state in DRIVING:
                return self._halt(now, State.DISARMED, Code.DEADMAN_RELEASED, 'dead-man released')
        if pad.arm and not before.arm and self.state is State.DISARMED and stopped is None:
            self.arm(now)
        return self._vouched(now) if stopped is None else stopped

    def on_command(
        self, now: float, source: str, values: Sequence[float], stamp: int, frame: str = ''
    ) -> Command | None:
        """Take a command of ``source``; return what to send, None when it is not its turn."""
        wrong = self._malformed(values, frame)
        if wrong:
            self.counts['refused'] += 1
            return self._halt(now, State.FAULT, wrong[0], f'cmd_{source}: {wrong[1]}')
        if self._witnesses.ahead(now, stamp):  # taken, it would make all later ones look old
            self.counts['future'] += 1
            self._early = _Early(now, source, tuple(values), stamp)
            return None
        sender = self._sources[source]
        if sender.order.judge(stamp, now, repeats=True):
            self.counts['reordered'] += 1
            return None
        sender.order.accept(stamp, now)
        sender.values = tuple(values)
        self._hear(now, stamp)
        stopped = self._watch(now)
        if stopped is not None:
            return stopped
        lead = self._lead(now)
        if self.state not in (State.ARMED, State.ACTIVE) or source not in (lead, self.following):
            return None  # a twin in lockstep waits then, instead of running on without its driver
        self._follow(lead)
        return self._forward(now, sender.values, stamp)

    def _vouched(self, now: float) -> Command | None:
        """Take a command that was here before what its stamp was copied from."""
        early, self._early = self._early, None
        if early is None or now - early.arrived > EARLY:
            return None
        if not self._witnesses.heard(early.stamp):
            self._early = early
            return None
        self.counts['future'] -= 1
        return self.on_command(now, early.source, early.values, early.stamp)

    def on_health(self, now: float, ok: bool, fault: bool, reason: str) -> Command | None:
        """Take how the bridge says that it and the robot are; ``fault`` is for the record."""
        self.counts['robot_faults'] += fault and not ok and self.state in DRIVING
        self.around.hear_bridge(now, ok, reason)
        return self._watch(now)

    def on_frame(self, now: float, stamp: int) -> Command | None:
        """Take note that the camera gave a picture; a command may have waited for that."""
        self.around.hear_frame(now)
        self._witnesses.hear('camera', now, stamp)
        return self._vouched(now)

    def on_posture(self, now: float, values: Sequence[float], stamp: int = 0) -> None:
        """Take where the robot is: one number per action field, of velocities it is ignored."""
        if all(map(math.isfinite, values)):
            self._posture, self._posture_at, self._posed = tuple(values), now, stamp
            elsewhere = 0 < self._jumped <= stamp
            if elsewhere or not self._limiter.known:
                self._jumped = 0
                self._limiter.hold(values)
                self._sent = Command(self._limiter.values, self._sent.stamp)

    def on_estop(self, now: float, engaged: bool) -> Command | None:
        """Take the e-stop topic: True stops, False alone never releases."""
        self.around.estop_topic = engaged
        return self._estop(now) if engaged else None

    def estop(self, now: float) -> Command | None:
        """Stop for an emergency, until the fault is cleared."""
        self.around.estop_service = True
        return self._estop(now)

    def set_rival(self, now: float, topic: str, found: str) -> Command | None:
        """Say who writes ``topic`` beside the one who may ('' for nobody): then none is obeyed."""
        self.around.set_rival(now, topic, found)
        if self.state is State.DISARMED and self.around.beset(now):
            text = '; '.join(self.around.rivals.values())
            return self._halt(now, State.FAULT, Code.RIVAL_WRITER, text)
        return self._watch(now)

    def tick(self, now: float) -> Command | None:
        """Return what to repeat; call it at 50 Hz or faster, it is also where time-outs strike."""
        stopped = self._watch(now)
        self._ticked_at = now
        if stopped is not None:
            return stopped
        if self.state is State.STOPPING:
            return self._brake(now)
        self._repeated_at = now
        return self._sent if self._limiter.known else None

    # ------------------------------------------------------------------ what people ask for
    def arm(self, now: float) -> tuple[bool, str]:
        """Arm, or say what is missing."""
        if self.state in (State.ARMED, State.ACTIVE):
            return True, f'already {self.state.value}'
        missing = self._missing(now)
        if missing:
            self.reason = f'not armed: {missing}'
            if self.state is State.DISARMED:
                self.code = Code.NOT_ARMED
            return False, self.reason
        self._pressed_anew = False
        if self._posture is not None and self._still:
            self._limiter.hold(self._posture)
        self._limiter.halt()
        self._sent = Command(self._limiter.values, self._sent.stamp)
        self._enter(State.ARMED, Code.ARMED, 'armed by the person')
        return True, self.reason

    def disarm(self, now: float) -> Command | None:
        """Stop at once."""
        if self.state is State.FAULT:
            return self._halt(now, State.FAULT, self.code, self.reason)
        return self._halt(now, State.DISARMED, Code.DISARMED_ON_REQUEST, 'disarmed on request')

    def clear_fault(self, now: float) -> tuple[bool, str]:
        """Leave FAULT for DISARMED, unless its cause is still there."""
        if self.state is not State.FAULT:
            return False, f'there is no fault to clear, the gate is {self.state.value}'
        pressed, self.around.estop_service = self.around.estop_service, False
        harm = self.around.harm(now)
        if harm:
            self.around.estop_service = pressed
            return False, f'the cause is still there: {harm[1]}'
        self._pressed_anew = False
        self._enter(State.DISARMED, Code.FAULT_CLEARED, 'fault cleared by the person')
        return True, self.reason

    # ------------------------------------------------------------------ decisions
    def _missing(self, now: float) -> str:
        """Name what keeps the gate from being armed, '' when nothing does."""
        if self.state is not State.DISARMED:
            return f'the gate is {self.state.value} ({self.reason})'
        harm = self.around.harm(now)
        if harm:
            return harm[1]
        if self._still and now - self._posture_at > POSTURE_TIMEOUT:
            return 'the posture of the robot is not known (no joint_states with all its joints)'
        return self._wrong_with_pad(now) or self.around.blind(now)

    def _wrong_with_pad(self, now: float) -> str:
        trouble = self._joy.trouble(now)
        if trouble:
            return f'the pad {trouble}'
        if not self._pad.deadman:
            return 'the dead-man is not held'
        if not self._pressed_anew:
            return 'let the dead-man go and press it again'
        if not self._pad.neutral:
            return 'the stick is not neutral'
        if not self._sources[TELEOP].live(now):
            return 'no commands come from teleop'
        return ''

    def _malformed(self, values: Sequence[float], frame: str) -> tuple[Code, str] | None:
        width = len(self.config.limits.low)
        if len(values) != width:
            return Code.MALFORMED, f'{len(values)} values, the task has {width}'
        if not all(map(math.isfinite, values)):
            return Code.NOT_FINITE, 'a value is not finite'
        if frame and frame != self.config.frame:
            ours = self.config.frame
            return Code.MALFORMED, f'given in frame {frame!r}, the task commands in {ours!r}'
        return None

    def _held_up(self, now: float) -> Command | None:
        """Halt after a time in which the gate did not run: what it hears now is old."""
        if self.state not in DRIVING or now - self._ticked_at <= self.config.held_up:
            return None
        text = f'the gate itself was held up for {now - self._ticked_at:.2f} s'
        return self._halt(now, State.DISARMED, Code.GATE_HELD_UP, text)

    def _watch(self, now: float) -> Command | None:
        """Stop for harm and a silent pad (at once) or a silent driver (within the limits)."""
        if self.state not in DRIVING:
            return None
        stopped = self._held_up(now)
        if stopped is not None:
            return stopped
        harm = self.around.harm(now)
        if harm:
            return self._halt(now, State.FAULT, *harm)
        if self._joy.silent(now):
            text = f'the pad was silent for more than {self.config.joy_timeout:g} s'
            return self._halt(now, State.DISARMED, Code.PAD_SILENT, text)
        stale = self._stale(now) if self.state is State.ACTIVE else None
        if stale:
            self._enter(State.STOPPING, *stale)
            return self._brake(now)
        return None

    def _stale(self, now: float) -> tuple[Code, str] | None:
        """Say what the one who drives lacks."""
        if not self._sources[self.following].live(now):
            timeout = self.config.command_timeout
            text = f'no command from {self.following} for more than {timeout:g} s'
            if self.counts['future']:
                text += f'; {self.counts["future"]} were refused, stamped ahead of all streams'
            return Code.COMMAND_STALE, text
        blind = self.around.blind(now) if self.following == POLICY else ''
        return (Code.CAMERA_STALE, blind) if blind else None

    def _steered(self, now: float) -> bool:
        """Tell whether the person asks for motion, by stick or by what teleop makes of it."""
        teleop = self._sources[TELEOP]
        return not self._pad.neutral or (teleop.live(now) and self._limiter.moves(teleop.values))

    def _lead(self, now: float) -> str:
        """Return whose turn it is: the stick's when it is moved, else a live policy's."""
        policy = self._sources[POLICY]
        return POLICY if policy.live(now) and not self._steered(now) else TELEOP

    def _follow(self, lead: str) -> None:
        self.following = lead
        asked = self._limiter.moves(self._sources[lead].values) or (
            bool(self._still) and not self._pad.neutral
        )
        if self.state is State.ARMED and (lead == POLICY or asked):
            self._enter(State.ACTIVE, Code.DRIVEN, f'{lead} drives')

    def _forward(self, now: float, values: tuple[float, ...], stamp: int) -> Command | None:
        if self.state is State.ACTIVE:
            between = self._between(stamp)
            if between > JUMP * self.config.period:
                self._jumped = stamp  # the posture heard next is where it is now
                if self._posture is not None and 0 < stamp <= self._posed:
                    self._limiter.hold(self._posture)  # the one heard already, too
            allowed = self._limiter.allowed(values)
            self.counts['limited'] += allowed != values
            # By stamps if they move, else by arrival.
            dt = between if between > 0 else now - self._sent_at
            self._limiter.step(allowed, min(dt, self.config.period))
        return self._send(now, stamp)

    def _between(self, stamp: int) -> float:
        """Return the seconds from the stamp of the command before; 0 without a stamp."""
        return (stamp - self._sent.stamp) * 1e-9 if stamp and self._sent.stamp else 0.0

    def _brake(self, now: float) -> Command | None:
        dt = min(now - max(self._sent_at, self._repeated_at), self.config.period)
        self._limiter.brake(dt)
        if self._limiter.resting:
            return self._halt(now, State.DISARMED, self.code, self.reason)
        return self._send(now, self._estimate(now))

    def _estop(self, now: float) -> Command | None:
        return self._halt(now, State.FAULT, Code.ESTOP, 'the emergency stop is engaged')

    def _halt(self, now: float, state: State, code: Code, reason: str) -> Command | None:
        if self.state is not State.FAULT or state is State.FAULT:
            self._enter(state, code, reason)
        self._pressed_anew = not self._pad.deadman
        self.following = ''
        self._limiter.halt()
        return self._send(now, self._estimate(now))

    def _enter(self, state: State, code: Code, reason: str) -> None:
        before, self.state, self.code, self.reason = self.state, state, code, reason
        if before is not state and self._on_transition:
            self._on_transition(before, state, reason)

    # ------------------------------------------------------------------ stamps
    def _send(self, now: float, stamp: int) -> Command | None:
        if not self._limiter.known:
            return None
        self._sent = Command(self._limiter.values, stamp or self._estimate(now))
        self._sent_at = now
        return self._sent

    def _hear(self, now: float, stamp: int) -> None:
        if stamp > 0:
            self._heard, self._heard_at = stamp, now

    def _estimate(self, now: float) -> int:
        """Return the stamp of a decision of its own: the newest heard, plus what has passed."""
        return self._heard + int((now - self._heard_at) * 1e9) if self._heard else 0
