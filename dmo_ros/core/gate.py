"""
The gate: the one place where a command becomes motion.

Pure logic with time as an argument (seconds of a steady clock); the node around it only converts.

DISARMED sends zero.  ARMED sends zero until somebody drives.  ACTIVE forwards the person's stick,
else the policy.  STOPPING brakes within the limits because commands ceased, then is DISARMED.
FAULT sends zero until it is cleared by name.  Letting the dead-man go, or losing the pad, is zero
at once. Every stop ends DISARMED and nothing arms by itself: that takes a new press of the
dead-man, a neutral stick and the arm button (or service).

Stamps are copied, never judged for age: ages count from arrival on the steady clock.  A forwarded
command keeps its stamp and is limited against the command before over the difference of their
stamps, at most one control period; so a recording made at any speed holds the same commands.  In
between the command is held, as the task's convention of time says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
import math

from .intent import Pad
from .stream import StampOrder
from .tasks import TaskSpec

TELEOP, POLICY = 'teleop', 'policy'


class State(Enum):
    """What the gate is doing."""

    DISARMED = 'DISARMED'
    ARMED = 'ARMED'
    ACTIVE = 'ACTIVE'
    STOPPING = 'STOPPING'
    FAULT = 'FAULT'


@dataclass(frozen=True)
class GateConfig:
    """Limits (SI, one per action field) and time-outs (s) of a velocity-driven task."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    acceleration: tuple[float, ...]
    period: float
    command_timeout: float
    frame: str
    joy_timeout: float = 0.2
    joy_rate: float = 15.0

    @classmethod
    def of(cls, spec: TaskSpec, joy_timeout: float = 0.2, joy_rate: float = 15.0) -> GateConfig:
        """Take the limits from a task."""
        return cls(
            tuple(f.low for f in spec.actions),
            tuple(f.high for f in spec.actions),
            spec.limits.acceleration,
            spec.period,
            spec.limits.command_timeout,
            spec.command_frame,
            joy_timeout,
            joy_rate,
        )


@dataclass(frozen=True)
class Command:
    """Velocities in SI units, with the stamp (ns) of what caused them."""

    values: tuple[float, ...]
    stamp: int


def within_box(
    values: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """Shrink a vector as a whole until every field is inside its range; its direction is kept."""
    scale = 1.0
    for value, floor, ceiling in zip(values, low, high):
        bound = ceiling if value > 0 else floor
        if abs(value) > abs(bound):
            scale = min(scale, abs(bound / value))
    # The product may exceed the bound by a rounding error, a robot's own check may not forgive it.
    return tuple(min(h, max(l, v * scale)) for v, l, h in zip(values, low, high))


def within_reach(
    target: Sequence[float], previous: Sequence[float], acceleration: Sequence[float], dt: float
) -> tuple[float, ...]:
    """Move from ``previous`` straight towards ``target`` as far as ``dt`` seconds allow."""
    scale = 1.0
    for aim, before, limit in zip(target, previous, acceleration):
        change = abs(aim - before)
        if change > limit * dt:
            scale = min(scale, limit * dt / change)
    if scale == 1.0:
        return tuple(target)
    return tuple(before + scale * (aim - before) for aim, before in zip(target, previous))


class _Source:
    """The newest command of one sender."""

    def __init__(self, timeout: float, width: int) -> None:
        self.order = StampOrder(timeout)
        self.values = (0.0,) * width

    def live(self, now: float) -> bool:
        return self.order.age(now) <= self.order.silence


class Gate:
    """Feed it the pad, commands and time; it returns what may be sent to the robot."""

    def __init__(
        self, config: GateConfig, on_transition: Callable[[State, State, str], None] | None = None
    ) -> None:
        self.config = config
        self.state, self.reason = State.DISARMED, 'started'
        self.following = ''
        self.counts: Counter[str] = Counter()
        self.rivals: dict[str, str] = {}
        self._on_transition = on_transition
        self._zero = (0.0,) * len(config.low)
        self._sources = {
            name: _Source(config.command_timeout, len(config.low)) for name in (TELEOP, POLICY)
        }
        self._pad = Pad(self._zero, False, False, False, False)
        self._joy_times: deque[float] = deque(maxlen=10)
        self._pressed_anew = False
        self._sent = Command(self._zero, 0)
        self._sent_at = self._repeated_at = -math.inf
        self._heard, self._heard_at = 0, 0.0

    # ------------------------------------------------------------------ what comes in
    def on_pad(self, now: float, pad: Pad, stamp: int) -> Command | None:
        """Take the pad's state; return a command when it stops the robot at once."""
        before, self._pad = self._pad, pad
        self._joy_times.append(now)
        self._hear(now, stamp)
        if not pad.deadman:
            self._pressed_anew = True
            if self.state in (State.ARMED, State.ACTIVE, State.STOPPING):
                return self._halt(now, State.DISARMED, 'dead-man released')
        if pad.arm and not before.arm and self.state is State.DISARMED:
            self.arm(now)
        return None

    def on_command(
        self, now: float, source: str, values: Sequence[float], stamp: int, frame: str = ''
    ) -> Command | None:
        """Take a command of ``source``; return what to send, None when it is not its turn."""
        wrong = self._malformed(values, frame)
        if wrong:
            self.counts['refused'] += 1
            return self._halt(now, State.FAULT, f'cmd_{source}: {wrong}')
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

    def tick(self, now: float) -> Command:
        """Return what to repeat; call it at 50 Hz or faster, it is also where time-outs strike."""
        stopped = self._watch(now)
        if stopped is not None:
            return stopped
        if self.state is State.STOPPING:
            return self._brake(now)
        self._repeated_at = now
        return self._sent

    # ------------------------------------------------------------------ what people ask for
    def arm(self, now: float) -> tuple[bool, str]:
        """Arm, or say what is missing."""
        if self.state in (State.ARMED, State.ACTIVE):
            return True, f'already {self.state.value}'
        missing = self._missing(now)
        if missing:
            self.reason = f'not armed: {missing}'
            return False, self.reason
        self._pressed_anew = False
        self._sent = Command(self._zero, self._sent.stamp)
        self._enter(State.ARMED, 'armed by the person')
        return True, self.reason

    def disarm(self, now: float) -> Command:
        """Stop at once."""
        state = State.FAULT if self.state is State.FAULT else State.DISARMED
        reason = self.reason if state is State.FAULT else 'disarmed on request'
        return self._halt(now, state, reason)

    def clear_fault(self) -> tuple[bool, str]:
        """Leave FAULT for DISARMED, unless its cause is still there."""
        if self.state is not State.FAULT:
            return False, f'there is no fault to clear, the gate is {self.state.value}'
        if self.rivals:
            return False, f'the cause is still there: {"; ".join(self.rivals.values())}'
        self._pressed_anew = False
        self._enter(State.DISARMED, 'fault cleared by the person')
        return True, self.reason

    def set_rivals(self, now: float, topic: str, found: str) -> Command | None:
        """Say who else publishes on ``topic`` ('' for nobody); a rival is a fault."""
        if not found:
            self.rivals.pop(topic, None)
            return None
        self.rivals[topic] = f'{topic} has another publisher: {found}'
        return self._halt(now, State.FAULT, self.rivals[topic])

    # ------------------------------------------------------------------ decisions
    def _missing(self, now: float) -> str:
        """Name what keeps the gate from being armed, '' when nothing does."""
        times, rate = self._joy_times, self.config.joy_rate
        full = len(times) == times.maxlen
        if self.state is not State.DISARMED:
            return f'the gate is {self.state.value} ({self.reason})'
        if not times or now - times[-1] > self.config.joy_timeout:
            return 'the pad is silent'
        if not full or (len(times) - 1) / max(times[-1] - times[0], 1e-9) < rate:
            return (
                f'the pad reports less often than {rate:g} times a second; raise the '
                'autorepeat_rate of its driver'
            )
        if not self._pad.deadman:
            return 'the dead-man is not held'
        if not self._pressed_anew:
            return 'let the dead-man go and press it again'
        if not self._pad.neutral:
            return 'the stick is not neutral'
        if not self._sources[TELEOP].live(now):
            return 'no commands come from teleop'
        return ''

    def _malformed(self, values: Sequence[float], frame: str) -> str:
        if len(values) != len(self._zero):
            return f'{len(values)} values, the task has {len(self._zero)}'
        if not all(map(math.isfinite, values)):
            return 'a value is not finite'
        if frame and frame != self.config.frame:
            return f'given in frame {frame!r}, the task commands in {self.config.frame!r}'
        return ''

    def _watch(self, now: float) -> Command | None:
        """Stop for a silent pad (at once) or a silent driver (within the limits)."""
        if self.state not in (State.ARMED, State.ACTIVE, State.STOPPING):
            return None
        silent = now - self._joy_times[-1]
        if silent > self.config.joy_timeout:
            return self._halt(
                now,
                State.DISARMED,
                f'the pad was silent for more than {self.config.joy_timeout:g} s',
            )
        if self.state is State.ACTIVE and not self._sources[self.following].live(now):
            self._enter(
                State.STOPPING,
                f'no command from {self.following} for more than '
                f'{self.config.command_timeout:g} s',
            )
            return self._brake(now)
        return None

    def _lead(self, now: float) -> str:
        """Return whose turn it is: the stick's when it is moved, else a live policy's."""
        teleop, policy = self._sources[TELEOP], self._sources[POLICY]
        steered = not self._pad.neutral or (teleop.live(now) and any(teleop.values))
        return POLICY if policy.live(now) and not steered else TELEOP

    def _follow(self, lead: str) -> None:
        self.following = lead
        if self.state is State.ARMED and (lead == POLICY or any(self._sources[lead].values)):
            self._enter(State.ACTIVE, f'{lead} drives')

    def _forward(self, now: float, values: tuple[float, ...], stamp: int) -> Command:
        if self.state is not State.ACTIVE:
            return self._send(now, self._zero, stamp)
        allowed = within_box(values, self.config.low, self.config.high)
        self.counts['limited'] += allowed != values
        dt = self._interval(now, stamp)
        return self._send(
            now, within_reach(allowed, self._sent.values, self.config.acceleration, dt), stamp
        )

    def _interval(self, now: float, stamp: int) -> float:
        """Return the seconds since the last command, by stamps if they move, else by arrival."""
        between = (stamp - self._sent.stamp) * 1e-9 if stamp and self._sent.stamp else 0.0
        return min(between if between > 0 else now - self._sent_at, self.config.period)

    def _brake(self, now: float) -> Command:
        dt = min(now - max(self._sent_at, self._repeated_at), self.config.period)
        values = within_reach(self._zero, self._sent.values, self.config.acceleration, dt)
        if not any(values):
            return self._halt(now, State.DISARMED, self.reason)
        return self._send(now, values, self._estimate(now))

    def _halt(self, now: float, state: State, reason: str) -> Command:
        if self.state is not State.FAULT or state is State.FAULT:
            self._enter(state, reason)
        self._pressed_anew = not self._pad.deadman
        self.following = ''
        return self._send(now, self._zero, self._estimate(now))

    def _enter(self, state: State, reason: str) -> None:
        before, self.state, self.reason = self.state, state, reason
        if before is not state and self._on_transition:
            self._on_transition(before, state, reason)

    # ------------------------------------------------------------------ stamps
    def _send(self, now: float, values: tuple[float, ...], stamp: int) -> Command:
        self._sent, self._sent_at = Command(values, stamp or self._estimate(now)), now
        return self._sent

    def _hear(self, now: float, stamp: int) -> None:
        if stamp > 0:
            self._heard, self._heard_at = stamp, now

    def _estimate(self, now: float) -> int:
        """Return the stamp of a decision of its own: the newest heard, plus what has passed."""
        return self._heard + int((now - self._heard_at) * 1e9) if self._heard else 0
