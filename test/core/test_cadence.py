"""Laws of the camera's rate and of the frames that are answered."""

from dmo_ros.core.cadence import Cadence, Pace
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

SECOND = 1_000_000_000


def stamps(hz, seconds, jitter=0.0, seed=0, first=SECOND):
    times = np.arange(round(seconds * hz)) / hz
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, len(times))
    return [first + round(t * SECOND) for t in times + noise]


@pytest.mark.parametrize('hz', [5.0, 13.7, 30.0])
def test_the_rate_is_measured_by_stamps_and_only_a_wrong_one_is_told(hz):
    watch = Cadence(hz)
    assert watch.rate_hz == 0.0 and not watch.verdict
    for stamp in stamps(hz, 60 / hz, jitter=0.05 / hz):
        watch.accept(stamp)
    assert watch.rate_hz == pytest.approx(hz, rel=0.03) and not watch.verdict
    assert watch.drops == watch.interruptions == 0
    slow = Cadence(hz)
    for stamp in stamps(0.9 * hz, 60 / hz):
        slow.accept(stamp)
    assert f'instead of {hz:g}' in slow.verdict and slow.drops == 0


def test_drops_are_counted_by_the_gap_and_a_pause_is_not_a_thousand_drops():
    watch, all_of_them = Cadence(30.0), stamps(30.0, 4.0)
    lost = {20, 41, 42, 60}
    for index, stamp in enumerate(all_of_them):
        if index not in lost:
            watch.accept(stamp)
    assert (watch.drops, watch.interruptions) == (4, 0)
    watch.accept(all_of_them[-1] + 60 * SECOND)
    watch.accept(SECOND)  # set back: something new begins
    assert (watch.drops, watch.interruptions) == (4, 1)


def taken(pace, times):
    return [stamp for stamp in times if pace.accept(stamp)]


@pytest.mark.parametrize('hz', [5.0, 5.05, 4.95, 4.0])
def test_every_frame_of_a_camera_about_as_fast_as_control_is_answered(hz):
    times = stamps(hz, 600.0, jitter=0.003)
    assert taken(Pace(0.2), times) == times


@pytest.mark.parametrize('hz', [10.0, 13.7, 15.0, 29.97, 30.0, 60.0])
@pytest.mark.parametrize('period', [0.2, 0.1])
def test_a_faster_camera_is_thinned_to_the_control_rate(hz, period):
    times = stamps(hz, 300.0, jitter=0.04 / hz)
    found = np.diff(taken(Pace(period), times)) / SECOND
    assert found.mean() == pytest.approx(period, rel=0.02)
    assert found.min() >= 0.5 * period and found.max() <= period + 1.3 / hz


@given(st.lists(st.integers(1, 3 * SECOND), min_size=1, max_size=200))
def test_two_answers_are_never_closer_than_half_a_period(gaps):
    times = [int(t) for t in SECOND + np.cumsum(gaps)]
    found = taken(Pace(0.2), times)
    assert found[0] == times[0]
    assert all(later - earlier >= 0.1 * SECOND for earlier, later in zip(found, found[1:]))


def test_after_a_gap_or_a_step_back_the_first_frame_is_answered():
    pace = Pace(0.2)
    assert taken(pace, stamps(5.0, 1.0))
    for first in (100 * SECOND, 5 * SECOND):
        times = stamps(5.0, 1.0, first=first)
        assert taken(pace, times) == times
    assert not pace.accept(times[-1] + SECOND // 20)
    pace.reset()
    assert pace.accept(times[-1] + SECOND // 20)
