"""
Streams of stamped messages on the control grid: pure functions of time.

Stamps are int64 nanoseconds; a value sampled at a tick is never one of the future.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SECOND = 1_000_000_000


def grid(
    stamps: np.ndarray, period: int, max_gap: float = 2.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Lay ticks over sorted image stamps (N,) int64 ns.

    A gap of more than ``max_gap`` periods begins a new part with a phase of its own.  Where the
    camera is about as fast as the grid, a tick moves onto the image within a quarter of a period.

    :returns: ticks (T,), ends of their intervals (T,), numbers of their parts (T,).
    """
    cuts = np.flatnonzero(np.diff(stamps) > max_gap * period) + 1
    ticks, ends, parts = [], [], []
    for number, piece in enumerate(np.split(stamps, cuts)):
        spacing = np.median(np.diff(piece)) if len(piece) > 1 else period
        reach = period // 4 if spacing > 0.67 * period else period // 1000
        laid = lay(piece, period, reach)
        ticks.append(laid)
        ends.append(np.append(laid[1:], laid[-1] + period))
        parts.append(np.full(len(laid), number))
    return np.concatenate(ticks), np.concatenate(ends), np.concatenate(parts)


def lay(stamps: np.ndarray, period: int, reach: int) -> np.ndarray:
    """Step through one part, from its first image to its last."""
    times, last = stamps.tolist(), len(stamps) - 1
    tick, at, laid = times[0], 0, []
    while tick <= times[-1] + reach:
        while at < last and abs(times[at + 1] - tick) <= abs(times[at] - tick):
            at += 1
        if abs(times[at] - tick) <= reach:
            tick = times[at]
        laid.append(tick)
        tick += period
    return np.array(laid, dtype=np.int64)


def in_force(stamp: np.ndarray, log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return when commands (N,) begin to be in force, and the numbers of those messages.

    A command begins at its stamp.  The gate repeats the last one under the same stamp, perhaps
    ramped: such a repetition begins as much later as it arrived later.  At equal times a command
    with a stamp of its own goes before a repetition, and the first one to arrive decides.
    """
    order = np.argsort(stamp, kind='stable')
    ordered, arrived = stamp[order], log[order]
    first = np.append(True, ordered[1:] != ordered[:-1])
    leader = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    begin = ordered + np.maximum(arrived - arrived[leader], 0)
    rank = np.lexsort((np.arange(len(order)), ~first, begin))
    begin, kept = np.unique(begin[rank], return_index=True)
    return begin, order[rank][kept]


def mean_in_force(
    begin: np.ndarray,
    value: np.ndarray,
    tick: np.ndarray,
    end: np.ndarray,
    hold: float,
    stops: np.ndarray,
) -> np.ndarray:
    """
    Return the time-weighted mean (T, A) of a held command over [tick, end).

    :param begin: (N,) int64 ns, ascending; ``value``: (N, A).
    :param hold: seconds after which a field where ``stops`` (A,) is true falls to zero.
    """
    zero = np.where(stops, 0.0, value)
    expiry = begin + round(hold * SECOND)
    lapses = np.append(expiry[:-1] < begin[1:], True)
    knots = np.concatenate([begin, expiry[lapses]])
    levels = np.concatenate([value, zero[lapses]])
    order = np.argsort(knots, kind='stable')
    origin = min(tick[0], knots.min())
    time = (knots[order] - origin) / SECOND
    levels = levels[order]
    before = np.where(stops, 0.0, value[0])
    # The integral of a step function is piecewise linear, so differences of it are exact means.
    time = np.concatenate([[-1.0], time, [max(time[-1], (end[-1] - origin) / SECOND) + 1.0]])
    area = np.concatenate([[before], levels]) * np.diff(time)[:, None]
    area = np.vstack([np.zeros(value.shape[1]), np.cumsum(area, axis=0)])
    edges = (np.stack([tick, end]) - origin) / SECOND
    means = [np.diff(np.interp(edges, time, area[:, a]), axis=0)[0] for a in range(area.shape[1])]
    return np.stack(means, axis=1) / ((end - tick) / SECOND)[:, None]


def strongest_label(
    stamp: np.ndarray, label: np.ndarray, tick: np.ndarray, end: np.ndarray, hold: float
) -> np.ndarray:
    """
    Return (T,) uint8: the strongest label in force at a tick or pressed before its end.

    :param stamp: (N,) int64 ns in order of arrival; ``label``: (N,) uint8.
    :param hold: seconds for which a label that is not repeated stays in force.
    """
    order = np.argsort(stamp, kind='stable')
    stamp, label = stamp[order], label[order]
    begin, stop = np.searchsorted(stamp, tick), np.searchsorted(stamp, end)
    held = np.searchsorted(stamp, tick, side='right') - 1
    holds = (held >= 0) & (tick - stamp[held] <= hold * SECOND)
    found = np.where(holds, label[held], 0)
    edges = np.stack([begin, stop], axis=1).ravel()
    pressed = np.maximum.reduceat(np.append(label, 0), edges)[::2]
    return np.where(stop > begin, np.maximum(found, pressed), found).astype(np.uint8)


def cut(part: np.ndarray, longest: int, shortest: int) -> tuple[list[slice], int]:
    """Cut parts (T,) into about equal pieces; returns them and how many frames are left out."""
    pieces, left_out = [], 0
    edges = np.flatnonzero(np.diff(part, prepend=-1, append=-1)).tolist()
    for start, stop in pairwise(edges):
        if stop - start < shortest:
            left_out += stop - start
            continue
        count = -(-(stop - start) // longest)
        bounds = np.linspace(start, stop, count + 1).round().astype(int).tolist()
        pieces += [slice(a, b) for a, b in pairwise(bounds)]
    return pieces, left_out
