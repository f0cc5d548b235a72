"""
Is a stream of stamped messages still what it should be?

Ages are measured on the steady clock from the moment of arrival, never from stamps: a stamp may be
wrong, in the future or in another clock's time, and must not keep an old message alive.
"""

from __future__ import annotations

from collections import Counter


class StampOrder:
    """
    Accept stamps that move forward.

    After ``silence`` seconds without an accepted message the next one starts a new order, so that
    a source that was started again, or a clock that was set back, costs one time-out and no more.
    """

    def __init__(self, silence: float) -> None:
        self.silence = silence
        self.last = 0
        self.heard_at = -float('inf')

    def age(self, now: float) -> float:
        """Return the seconds since the last accepted message; infinite before the first."""
        return now - self.heard_at

    def judge(self, stamp: int, now: float, repeats: bool = False) -> str:
        """Return '' for a stamp (ns) that is fine, else 'duplicate' or 'reordered'."""
        if stamp and self.age(now) <= self.silence:
            if stamp < self.last:
                return 'reordered'
            if stamp == self.last and not repeats:
                return 'duplicate'
        return ''

    def accept(self, stamp: int, now: float) -> None:
        """Take a message as heard."""
        self.last, self.heard_at = stamp, now


class FrameWatch:
    """
    Refuse frames that are duplicated, reordered, from the future, unstamped or frozen; count them.

    ``frozen_after`` is the number of equal pictures in a row after which a camera counts as frozen
    (0: never; a simulated scene may really stand still).  ``future`` is how far in seconds a stamp
    may be ahead of the clock (0: not asked).
    """

    def __init__(self, timeout: float, frozen_after: int = 0, future: float = 0.0) -> None:
        self.order = StampOrder(timeout)
        self.frozen_after, self.future = frozen_after, future
        self.counts: Counter[str] = Counter()
        self._digest: object = None
        self._same = 0

    def accept(self, stamp: int, now: float, clock: int = 0, digest: object = None) -> str:
        """
        Return '' for a good frame, else why it is refused.

        :param stamp: the frame's stamp in ns; ``clock``: the same clock's now in ns.
        :param now: steady clock in s; ``digest``: any hashable summary of the pixels.
        """
        fault = self._fault(stamp, now, clock, digest)
        self.counts[fault or 'accepted'] += 1
        if not fault:
            self.order.accept(stamp, now)
        return fault

    def _fault(self, stamp: int, now: float, clock: int, digest: object) -> str:
        if stamp <= 0:
            return 'unstamped'
        if self.future and stamp > clock + self.future * 1e9:
            return 'future'
        disorder = self.order.judge(stamp, now)
        if disorder:
            return disorder
        self._same = self._same + 1 if digest is not None and digest == self._digest else 1
        self._digest = digest
        return 'frozen' if 0 < self.frozen_after <= self._same else ''

    def stale(self, now: float) -> bool:
        """Tell whether the last good frame is older than the time-out."""
        return self.order.age(now) > self.order.silence
