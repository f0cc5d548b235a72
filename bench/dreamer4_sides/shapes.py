"""The sizes at which the sides are compared, and how they are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import time

Work = Callable[[], object]
DENOISINGS, LEVELS, CONTEXT_SIGNAL = 4, 128, 0.9


@dataclass(frozen=True)
class Shape:
    """A DreamerV4 of any side: 64 numbers a head, time in every fourth layer, two streams."""

    width: int
    layers: int
    latents: int
    image: int
    patch: int
    coder_width: int
    coder_layers: int
    bottleneck: int = 16
    registers: int = 4
    actions: int = 3
    window: int = 96

    @property
    def heads(self) -> int:
        """Return the heads of the dynamics."""
        return self.width // 64

    @property
    def coder_heads(self) -> int:
        """Return the heads of the tokenizer."""
        return self.coder_width // 64


SHAPES = {
    'tiny': Shape(128, 8, 32, 64, 8, 128, 4),
    'small': Shape(256, 8, 64, 128, 16, 256, 8),
}


@dataclass
class Timing:
    """CPU seconds of one side's rounds."""

    spent: list[float]

    def quartile(self, number: int) -> float:
        """Return the 1st, 2nd (the median) or 3rd quartile."""
        return sorted(self.spent)[len(self.spent) * number // 4]

    def over(self, other: Timing) -> float:
        """Return the median over rounds of this side's time as a share of the other's."""
        shares = sorted(a / b for a, b in zip(self.spent, other.spent, strict=True))
        return shares[len(shares) // 2]


def measure(sides: Mapping[str, Work], rounds: int, warm: int = 2) -> dict[str, Timing]:
    """Time sides in turn, round by round: what else the machine does slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm):
        for name, work in sides.items():
            start = time.process_time()
            work()
            if number >= warm:
                times[name].append(time.process_time() - start)
    return {name: Timing(spent) for name, spent in times.items()}
