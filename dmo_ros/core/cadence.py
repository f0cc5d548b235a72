"""
How often something comes, and which of it is answered: time is always an argument.

:class:`Cadence` measures a camera by its stamps; :class:`Pace` picks from a fast camera the frames
that fall on the control grid.
"""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 30  # intervals that the rate is judged by
ENOUGH = 5
PAUSE = 10.0  # periods; a longer gap is an interruption, not so many lost frames
OFF = 0.05  # of the nominal rate: what a person should hear of


class Cadence:
    """The rate of a stream by its own stamps, and what is missing in it."""

    def __init__(self, nominal_hz: float) -> None:
        """``nominal_hz``: frames a second that are expected."""
        self.nominal_hz = nominal_hz
        self.drops = self.interruptions = 0
        self._last = 0
        self._intervals: deque[int] = deque(maxlen=WINDOW)

    def accept(self, stamp: int) -> None:
        """Count a frame with this stamp (ns); stamps move forward, or something new begins."""
        gap = stamp - self._last
        if self._last and gap > 0:
            periods = gap / self.period
            if periods > PAUSE:
                self.interruptions += 1
            else:
                if self._judged:  # before, a slow camera would look like one that loses frames
                    self.drops += max(0, round(periods) - 1)
                self._intervals.append(gap)
        self._last = stamp

    @property
    def period(self) -> float:
        """The usual time between two frames in ns: measured, the nominal one at first."""
        return median(self._intervals) if self._judged else 1e9 / self.nominal_hz

    @property
    def rate_hz(self) -> float:
        """Measured frames a second; 0 before enough have come."""
        return 1e9 / self.period if self._judged else 0.0

    @property
    def _judged(self) -> bool:
        return len(self._intervals) >= ENOUGH

    @property
    def verdict(self) -> str:
        """Return what is wrong with the rate, '' for nothing."""
        rate = self.rate_hz
        if not rate or abs(rate - self.nominal_hz) <= OFF * self.nominal_hz:
            return ''
        return (
            f'{rate:.1f} frames a second instead of {self.nominal_hz:g}; stamps are as they came, '
            'but look at light (exposure), cable and USB port, or set rate_hz'
        )


class Pace:
    """
    Pick one frame per control period out of a camera that may be faster.

    A frame is taken when it is due, or up to a tenth of a period early.  Frames that hit the grid
    that closely pull it along (a quarter of the way), so that a camera whose clock runs a little
    fast or slow is followed instead of losing a frame now and then; frames of a camera that does
    not divide into the period do not.  After a gap the grid begins anew.
    """

    EARLY = 0.1
    PULL = 0.25
    APART = 0.5  # of a period: two frames closer than this are never both taken

    def __init__(self, period: float) -> None:
        """``period``: the control period in seconds."""
        self.period = round(period * 1e9)
        self.reset()

    def reset(self) -> None:
        """Take the next frame, whenever it comes."""
        self._due = self._last = 0

    def accept(self, stamp: int) -> bool:
        """Tell whether the frame of this stamp (ns) is one to answer."""
        error = stamp - self._due
        if not self._last or stamp < self._last or error > self.period:
            self._due = stamp
            error = 0
        elif error < -self.EARLY * self.period or stamp - self._last < self.APART * self.period:
            return False
        close = abs(error) <= self.EARLY * self.period
        self._due += self.period + (round(self.PULL * error) if close else 0)
        self._last = stamp
        return True
