"""
A keyboard as a pad: key presses in, the axes and buttons of an Xbox pad out.

A terminal tells of keys that go down, and repeats them while they are held; it never tells of one
that goes up.  So a direction lasts until its repeats cease, the dead-man and the intent are
toggled, and the dead-man falls by itself when no key has come for a while.
"""

from __future__ import annotations

from dataclasses import dataclass

STOP, HOLD, ARM, INTENT, MILESTONE, QUIT = ' ', 'h', 'g', 'i', 'm', 'x'
# Key -> (axis, sign): left stick (left, up), right stick (left, up), as joy_node has it.
DIRECTIONS = {
    'left': (0, 1.0),
    'right': (0, -1.0),
    'up': (1, 1.0),
    'down': (1, -1.0),
    'a': (0, 1.0),
    'd': (0, -1.0),
    'w': (1, 1.0),
    's': (1, -1.0),
    'q': (3, 1.0),
    'e': (3, -1.0),
    'r': (4, 1.0),
    'f': (4, -1.0),
}
HELP = (
    'arrows or w a s d move, q e turn (r f: other axis) | h dead-man | g arm | i intent | '
    'm milestone | SPACE stop | x quit'
)
AXES, BUTTONS = 8, 10
DEADMAN_BUTTON, INTENT_BUTTON, MILESTONE_BUTTON, ARM_BUTTON = 4, 5, 0, 7  # config/joy_xbox.yaml
_ARROWS = {b'A': 'up', b'B': 'down', b'C': 'right', b'D': 'left'}


@dataclass(frozen=True)
class KeyTimes:
    """Seconds: a key's first press, each of its repeats, a pulse, the dead-man without a key."""

    first: float = 0.6  # a terminal waits about half a second before it repeats
    repeat: float = 0.15
    pulse: float = 0.3
    deadman: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.repeat <= self.first or self.pulse <= 0 or self.deadman <= 0:
            raise ValueError(f'times of keys are positive, the first press the longer: {self}')


class KeyPad:
    """Feed it keys and time (s, steady clock); ``read`` returns Joy's axes and buttons."""

    def __init__(self, speed: float = 1.0, times: KeyTimes | None = None) -> None:
        self.speed, self.times = speed, times or KeyTimes()
        self.deadman = self.intent = False
        self._axes: dict[int, tuple[float, float]] = {}  # axis -> (sign, until when)
        self._pulses = {ARM: 0.0, MILESTONE: 0.0}
        self._touched = 0.0

    def press(self, now: float, key: str) -> None:
        """Take a key (a character, or 'up', 'down', 'left', 'right'); others mean nothing."""
        key = key.lower()
        self.read(now)  # what has ended, ends before the key is heard
        self._touched = now
        if key == STOP:
            self.deadman = False
            self._axes.clear()
        elif key == HOLD:
            self.deadman = not self.deadman
            self._axes.clear()
        elif key == INTENT:
            self.intent = not self.intent
        elif key in self._pulses:
            self._pulses[key] = now + self.times.pulse
        elif key in DIRECTIONS:
            axis, sign = DIRECTIONS[key]
            held = axis in self._axes and self._axes[axis][0] == sign
            until = now + (self.times.repeat if held else self.times.first)
            self._axes[axis] = sign, max(until, self._axes[axis][1] if held else until)

    def read(self, now: float) -> tuple[list[float], list[int]]:
        """Return the pad at a moment."""
        if now - self._touched > self.times.deadman:
            self.deadman = False
        self._axes = {axis: held for axis, held in self._axes.items() if now < held[1]}
        axes, buttons = [0.0] * AXES, [0] * BUTTONS
        for axis, (sign, _) in self._axes.items():
            axes[axis] = sign * self.speed
        buttons[DEADMAN_BUTTON] = int(self.deadman)
        buttons[INTENT_BUTTON] = int(self.intent)
        buttons[MILESTONE_BUTTON] = int(now < self._pulses[MILESTONE])
        buttons[ARM_BUTTON] = int(now < self._pulses[ARM])
        return axes, buttons


def split(typed: bytes) -> tuple[list[str], bytes]:
    """
    Return the keys in what a terminal sent, and the rest that is not complete yet.

    Arrows come as ESC [ A or ESC O A; anything that is not plain text is skipped.
    """
    keys: list[str] = []
    while typed:
        if typed[:1] != b'\x1b':
            if 32 <= typed[0] < 127:
                keys.append(chr(typed[0]))
            typed = typed[1:]
            continue
        if len(typed) < 3 and typed in (b'\x1b', b'\x1b[', b'\x1bO'):
            return keys, typed
        if typed[1:2] in (b'[', b'O'):
            if typed[2:3] in _ARROWS:
                keys.append(_ARROWS[typed[2:3]])
            typed = typed[3:]
        else:
            typed = typed[1:]
    return keys, b''
