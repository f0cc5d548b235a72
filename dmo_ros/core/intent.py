"""
The person's pad: the stick, the dead-man and the intent label, from axes and buttons.

The label is what the person says about the play while it happens.  It costs one finger: the intent
button is held (or toggled) on the way to the goal, the milestone key is pressed with the goal
reached, and nothing at all means play.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math
from typing import Any

PLAY, INTENT, MILESTONE = 0, 1, 2
NAMES = ('play', 'intent', 'milestone')
STUCK_AFTER = 30.0  # seconds: nobody means one thing for so long without letting go once


class PadError(ValueError):
    """A pad with fewer axes or buttons than its map names."""


def _described(default: Any, description: str) -> Any:
    return field(default=default, metadata={'description': description})


@dataclass(frozen=True)
class PadMap:
    """Which axis drives which action field (with its sign), and which button means what."""

    axes: tuple[int, ...] = _described((0, 1), 'axis of the pad for each driven field')
    signs: tuple[float, ...] = _described((1.0, 1.0), '1.0 or -1.0 for each of these axes')
    deadzone: float = _described(0.05, 'stick lengths below it count as let go')
    deadman: int = _described(4, 'button that has to be held for anything to move')
    intent: int = _described(5, 'button held (or toggled) on the way to the goal')
    milestone: int = _described(0, 'key pressed with the goal reached')
    arm: int = _described(7, 'button that arms the gate')

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.signs):
            raise PadError(
                f'the pad map has {len(self.axes)} axes and {len(self.signs)} signs; '
                'give one sign per axis'
            )
        if any(abs(sign) != 1.0 for sign in self.signs) or not 0.0 <= self.deadzone < 0.5:
            raise PadError(
                'the pad map has signs of 1.0 or -1.0 and a dead zone from 0 to 0.5, '
                f'not {self.signs} and {self.deadzone}'
            )
        buttons = (self.deadman, self.intent, self.milestone, self.arm)
        if len(set(buttons)) < len(buttons) or min(*self.axes, *buttons) < 0:
            raise PadError(
                'the pad map needs four different buttons (dead-man, intent, '
                f'milestone, arm) and no negative number, these are {buttons} and '
                f'{self.axes}'
            )


@dataclass(frozen=True)
class Pad:
    """What the person does at one moment; ``stick`` is in [-1, 1], zero inside the dead zone."""

    stick: tuple[float, ...]
    deadman: bool
    intent: bool
    milestone: bool
    arm: bool

    @property
    def neutral(self) -> bool:
        """Tell whether the stick is let go."""
        return not any(self.stick)


def read_pad(axes: Sequence[float], buttons: Sequence[int], pad: PadMap) -> Pad:
    """
    Read a Joy message's numbers.

    The stick is not rescaled beyond the dead zone, so that a command is the stick's own value.

    :raises PadError: too few axes or buttons, or an axis that is not finite.
    """
    need = 1 + max(pad.axes), 1 + max(pad.deadman, pad.intent, pad.milestone, pad.arm)
    if len(axes) < need[0] or len(buttons) < need[1]:
        raise PadError(
            f'the pad sends {len(axes)} axes and {len(buttons)} buttons, its map needs '
            f'{need[0]} and {need[1]}; choose the config/joy_*.yaml of this pad'
        )
    stick = tuple(sign * axes[axis] for axis, sign in zip(pad.axes, pad.signs))
    if not all(map(math.isfinite, stick)):
        raise PadError('an axis of the pad is not finite; the message is ignored')
    stick = tuple(min(1.0, max(-1.0, value)) for value in stick)
    if math.hypot(*stick) < pad.deadzone:
        stick = (0.0,) * len(stick)
    pressed = [bool(buttons[index]) for index in (pad.deadman, pad.intent, pad.milestone, pad.arm)]
    return Pad(stick, *pressed)


class IntentButtons:
    """Buttons to label.  A button that never moves for half a minute is stuck and says nothing."""

    def __init__(self, mode: str = 'hold', stuck_after: float = STUCK_AFTER) -> None:
        if mode not in ('hold', 'toggle'):
            raise ValueError(f'the mode of the intent button is hold or toggle, not {mode!r}')
        self.mode, self.stuck_after = mode, stuck_after
        self.stuck = False
        self._on = False
        self._last = (False, False)
        self._edge = 0.0

    def update(self, now: float, intent: bool, milestone: bool) -> int:
        """Return the label at ``now`` (s, steady clock) for the two buttons."""
        if (intent, milestone) != self._last:
            if intent and not self._last[0]:
                self._on = not self._on
            self._last, self._edge = (intent, milestone), now
        meant = intent if self.mode == 'hold' else self._on
        self.stuck = (meant or milestone) and now - self._edge > self.stuck_after
        if self.stuck:
            return PLAY
        return MILESTONE if milestone else INTENT if meant else PLAY
