"""
What a robot feels of itself: joint positions in the order of the task's fields.

The converter and the policy node put ``joint_states`` into this order by :func:`arrange`, and pair
frames with states by one rule: the newest state stamped not after the frame, at most one control
period older.  A second way anywhere would be a skew between what a policy was trained on and what
it is told on the robot.

A twin's clock stands still while it waits for an answer.  The policy then has the newest state of
that stamp that came before it acts; the converter, which sees the whole recording, takes the first
one, because the last ones have already seen the action.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .stream import StampOrder
from .tasks import Field, TaskSpec

KEPT = 1_000_000_000  # ns of states that are remembered: no picture is later than that
MOST = 1000  # of them


class ProprioceptionError(ValueError):
    """Joint states that do not tell what the task asks for; nothing is done on them."""


def arrange(names: Sequence[str], positions: Sequence[float], spec: TaskSpec) -> np.ndarray:
    """
    Put the positions of named joints into the order of ``spec.proprioception``.

    :param names: joints in any order; those that the task does not ask for are left out.
    :param positions: one for each name: rad, or the closure of a hand (0 open, 1 closed).
    :returns: (P,) float32.
    :raises ProprioceptionError: a joint is missing, named twice, or not finite (by its name).
    """
    if len(names) != len(positions):
        raise ProprioceptionError(
            f'a joint state names {len(names)} joints and gives {len(positions)} positions; '
            'its publisher is at fault'
        )
    found = dict(zip(names, positions))
    wanted = [field.name for field in spec.proprioception]
    if missing := [name for name in wanted if name not in found]:
        raise ProprioceptionError(
            f'the joint state lacks {_listed(missing)} of task {spec.name!r}; does the bridge '
            'of this robot run, with all its parts?'
        )
    if len(found) < len(names):
        count = Counter(names)
        if twice := [name for name in wanted if count[name] > 1]:
            raise ProprioceptionError(f'the joint state names {_listed(twice)} more than once')
    with np.errstate(over='ignore'):  # too large for float32 is infinite, and refused below
        row = np.array([found[name] for name in wanted], dtype=np.float64).astype(np.float32)
    return check_proprioception(row, spec.proprioception)


def check_proprioception(rows: np.ndarray, fields: Sequence[Field]) -> np.ndarray:
    """Return rows (..., P); ProprioceptionError names a wrong width or a non-finite field."""
    rows = np.asarray(rows)
    if rows.shape[-1:] != (len(fields),):
        raise ProprioceptionError(
            f'proprioception has {len(fields)} numbers ({_listed([f.name for f in fields])}), '
            f'this one has shape {rows.shape}'
        )
    wrong = ~np.isfinite(rows).all(axis=tuple(range(rows.ndim - 1)))
    if wrong.any():
        names = _listed([field.name for field, bad in zip(fields, wrong) if bad])
        raise ProprioceptionError(f'the joint state is not finite in {names}; it is refused')
    return rows


def _listed(names: Sequence[str]) -> str:
    """Return a few names and how many more there are."""
    more = f' and {len(names) - 4} more' if len(names) > 4 else ''
    return ', '.join(names[:4]) + more


@dataclass(frozen=True)
class _State:
    stamp: int
    row: np.ndarray


class StateWatch:
    """
    The newest joint states, and which of them goes with a frame.

    Stamps pair a state with a frame; whether states still come at all is asked of the steady
    clock.  A message that is refused takes what was known with it: until the next good one, how
    the robot stands is unknown.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec, self.period = spec, round(spec.period * 1e9)
        self.order = StampOrder(spec.limits.frame_timeout)
        self.counts: Counter[str] = Counter()
        self.reason = 'no joint state has come yet; is the bridge active?'
        self._states: deque[_State] = deque(maxlen=MOST)

    def hear(
        self, stamp: int, now: float, names: Sequence[str], positions: Sequence[float]
    ) -> str:
        """
        Take a message as stamped (ns) and arrived (``now``, s on the steady clock).

        :returns: '' or why it is refused.
        """
        if self.order.judge(stamp, now, repeats=True):
            self.counts['states_reordered'] += 1
            return 'the joint state is older than one before it'  # no news, good or bad
        try:
            if stamp <= 0:
                raise ProprioceptionError(
                    'the joint state has no stamp; its publisher is at fault'
                )
            row = arrange(names, positions, self.spec)
        except ProprioceptionError as error:
            self._states.clear()
            self.counts['states_refused'] += 1
            self.reason = str(error)
            return self.reason
        if self._states and stamp <= self._states[-1].stamp:
            self._forget_after(stamp)
        self.order.accept(stamp, now)
        self._states.append(_State(stamp, row))
        while self._states[0].stamp < stamp - KEPT:
            self._states.popleft()
        return ''

    def _forget_after(self, stamp: int) -> None:
        """Make room for a later word of the same moment, or for a clock that was set back."""
        while self._states and self._states[-1].stamp >= stamp:
            self._states.pop()

    def reached(self, stamp: int) -> bool:
        """Tell whether a state of this moment (ns) or a later one has come: no better follows."""
        return bool(self._states) and self._states[-1].stamp >= stamp

    def pair(self, stamp: int, now: float) -> np.ndarray:
        """
        Return the state (P,) float32 that goes with the frame of this stamp (ns).

        :raises ProprioceptionError: there is none, or none that is fresh; says why.
        """
        if not self._states:
            raise ProprioceptionError(self.reason)
        if self.order.age(now) > self.order.silence:
            raise ProprioceptionError(
                f'the newest joint state came {self.order.age(now):.2f} s ago; does the bridge '
                'still run, and its robot?'
            )
        found = next((state for state in reversed(self._states) if state.stamp <= stamp), None)
        if found is None:
            early = (self._states[0].stamp - stamp) * 1e-9
            raise ProprioceptionError(
                f'all joint states are at least {early:.2f} s newer than the frame; do camera '
                'and bridge stamp by the same clock?'
            )
        if stamp - found.stamp > self.period:
            raise ProprioceptionError(
                f'the newest joint state is {(stamp - found.stamp) * 1e-9:.2f} s older than the '
                f'frame, more than the {self.spec.period:g} s that it may be'
            )
        return found.row
