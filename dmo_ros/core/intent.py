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

from .tasks import TaskSpec

PLAY, INTENT, MILESTONE = 0, 1, 2
NAMES = ('play', 'intent', 'milestone')
STUCK_AFTER = 30.0  # seconds: nobody means one thing for so long without letting go once


class PadError(ValueError):
    """A pad with fewer axes or buttons than its map names."""


def _described(default: Any, description: str) -> Any:
    return field(default=default, metadata={'description': description})


@dataclass(frozen=True)
class PadMap:
    """
    Which axis drives which action field (with its sign), and which button means what.

    A pad with fewer axes than the task has fields names its fields; a second layer, in force while
    ``shift`` is held, drives others.  ROS knows no empty list of a type: -1 and '' stand for none.
    """

    axes: tuple[int, ...] = _described((0, 1), 'axis of the pad for each driven field')
    signs: tuple[float, ...] = _described((1.0, 1.0), '1.0 or -1.0 for each of these axes')
    fields: tuple[str, ...] = _described(
        ('',), "action field of each of these axes; ['']: the task's fields in order"
    )
    deadzone: float = _described(0.05, 'stick lengths below it count as let go')
    scale: float = _described(1.0, 'share of full speed at full stick, unless turbo is held')
    deadman: int = _described(4, 'button that has to be held for anything to move')
    intent: int = _described(5, 'button held (or toggled) on the way to the goal')
    milestone: int = _described(0, 'key pressed with the goal reached')
    arm: int = _described(7, 'button that arms the gate')
    turbo: int = _described(-1, 'button held for full speed; -1: none')
    shift: int = _described(-1, 'button held for the second layer; -1: none')
    shift_axes: tuple[int, ...] = _described((-1,), 'axes of the second layer; [-1]: none')
    shift_signs: tuple[float, ...] = _described((1.0,), '1.0 or -1.0 for each of these')
    shift_fields: tuple[str, ...] = _described(('',), 'action field of each of these')
    trigger_axes: tuple[int, ...] = _described(
        (-1,), 'axes that are triggers and give 0 (let go) to 1 (pressed); [-1]: none'
    )
    trigger_rest: float = _described(1.0, 'what a trigger that is let go reports, 1.0 or -1.0')
    renumber: tuple[int, ...] = _described(
        (-1,), "the pad's own axis for each axis of an Xbox pad (-1: it has none); [-1]: the same"
    )

    def __post_init__(self) -> None:
        self._check_axes('axes', self.axes, self.signs, self.fields)
        if self.layered:
            self._check_axes('shift_axes', self.shift_axes, self.shift_signs, self.shift_fields)
        if self.layered != (self.shift >= 0) or (self.layered and '' in self.shift_fields):
            raise PadError(
                'the second layer of a pad map needs all of shift, shift_axes, shift_signs and '
                f'shift_fields; these are {self.shift}, {self.shift_axes} and {self.shift_fields}'
            )
        if not 0.0 <= self.deadzone < 0.5 or not 0.0 < self.scale <= 1.0:
            raise PadError(
                'the pad map has a dead zone from 0 to 0.5 and a scale above 0 up to 1, not '
                f'{self.deadzone} and {self.scale}'
            )
        if abs(self.trigger_rest) != 1.0:
            raise PadError(f'a trigger rests at 1.0 or -1.0, not at {self.trigger_rest}')
        self._check_buttons()
        used = (*self.axes, *(self.shift_axes if self.layered else ()))
        if self.renumber != (-1,) and any(
            axis >= len(self.renumber) or self.renumber[axis] < 0 for axis in used
        ):
            raise PadError(
                f'the pad map drives with the axes {used}, but has {self.renumber} only'
            )

    def _check_axes(
        self, what: str, axes: tuple[int, ...], signs: tuple[float, ...], fields: tuple[str, ...]
    ) -> None:
        if len(axes) != len(signs) or min(axes, default=-1) < 0:
            raise PadError(
                f'the pad map has the {what} {axes} and {len(signs)} signs; give one sign per '
                'axis, and no negative axis'
            )
        if any(abs(sign) != 1.0 for sign in signs):
            raise PadError(f'the pad map has signs of 1.0 or -1.0, not {signs}')
        if fields != ('',) and (len(fields) != len(axes) or len(set(fields)) < len(fields)):
            raise PadError(
                f'the pad map has {len(axes)} {what} and the fields {fields}; name one field per '
                'axis, each once'
            )

    def _check_buttons(self) -> None:
        needed = (self.deadman, self.intent, self.milestone, self.arm)
        buttons = (*needed, *(button for button in (self.turbo, self.shift) if button >= 0))
        if len(set(buttons)) < len(buttons) or min(needed) < 0:
            raise PadError(
                'the pad map needs different buttons, none negative, for dead-man, intent, '
                f'milestone, arm, and turbo and shift where there are some; these are {buttons}'
            )

    @property
    def layered(self) -> bool:
        """Tell whether there is a second layer."""
        return self.shift_axes != (-1,)

    @property
    def size(self) -> tuple[int, int]:
        """How many axes and buttons a pad must have for this map."""
        buttons = self.deadman, self.intent, self.milestone, self.arm, self.turbo, self.shift
        axes = 1 + max(*self.axes, *self.shift_axes)
        own = max(self.renumber[:axes]) + 1 if self.renumber != (-1,) else axes
        return own, 1 + max(buttons)

    def own(self, axis: int) -> int:
        """Return the number that the pad itself gives an axis."""
        return axis if self.renumber == (-1,) else self.renumber[axis]

    def names(self, spec: TaskSpec, shifted: bool = False) -> tuple[str, ...]:
        """Return the action field of each axis of a layer."""
        if shifted:
            return self.shift_fields
        return tuple(f.name for f in spec.actions) if self.fields == ('',) else self.fields

    def check(self, spec: TaskSpec) -> None:
        """Refuse a map that does not fit a task: PadError names the field or the count."""
        known = [item.name for item in spec.actions]
        driven = self.names(spec) + (self.shift_fields if self.layered else ())
        unknown = [name for name in driven if name not in known]
        if unknown:
            raise PadError(
                f'the pad map drives {", ".join(unknown)}, task {spec.name!r} has '
                f'{", ".join(known)}'
            )
        check_pad(self, len(self.names(spec)))

    def spread(self, pad: Pad, spec: TaskSpec) -> tuple[float, ...]:
        """Return the stick per action field of the task, 0 for the ones it does not drive."""
        stick = dict(zip(self.names(spec, pad.shifted), pad.stick))
        return tuple(stick.get(item.name, 0.0) for item in spec.actions)


def check_pad(pad: PadMap, fields: int) -> None:
    """Refuse a pad map that has not one axis per driven field."""
    if len(pad.axes) != fields:
        raise PadError(
            f'the pad map has {len(pad.axes)} axes, the task drives {fields} fields; '
            'set pad.axes and pad.signs in the config file of the task, or name pad.fields'
        )


@dataclass(frozen=True)
class Pad:
    """
    What the person does at one moment; ``stick`` is in [-1, 1], zero inside the dead zone.

    It has one number for each axis of the layer in force (the second one while ``shifted``).
    """

    stick: tuple[float, ...]
    deadman: bool
    intent: bool
    milestone: bool
    arm: bool
    shifted: bool = False

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
    need = pad.size
    if len(axes) < need[0] or len(buttons) < need[1]:
        raise PadError(
            f'the pad sends {len(axes)} axes and {len(buttons)} buttons, its map needs '
            f'{need[0]} and {need[1]}; choose the config/joy_*.yaml of this pad'
        )

    def held(button: int) -> bool:
        return button >= 0 and bool(buttons[button])

    shifted = held(pad.shift)
    layer = (pad.shift_axes, pad.shift_signs) if shifted else (pad.axes, pad.signs)
    stick = tuple(sign * _axis(axes[pad.own(axis)], axis, pad) for axis, sign in zip(*layer))
    if not all(map(math.isfinite, stick)):
        raise PadError('an axis of the pad is not finite; the message is ignored')
    stick = tuple(min(1.0, max(-1.0, value)) for value in stick)
    if math.hypot(*stick) < pad.deadzone:
        stick = (0.0,) * len(stick)
    if not held(pad.turbo):
        stick = tuple(value * pad.scale for value in stick)
    pressed = [held(button) for button in (pad.deadman, pad.intent, pad.milestone, pad.arm)]
    deadman, intent, milestone, arm = pressed
    return Pad(stick, deadman, intent, milestone, arm, shifted)


def _axis(value: float, axis: int, pad: PadMap) -> float:
    """Return an axis; of a trigger, how far it is pressed (0 to 1)."""
    if axis not in pad.trigger_axes:
        return value
    return (pad.trigger_rest - value) / (2.0 * pad.trigger_rest)


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
