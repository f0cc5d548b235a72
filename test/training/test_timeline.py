"""Laws of the control grid and of what is in force on it."""

from dmo_training.timeline import cut, grid, in_force, mean_in_force, strongest_label
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

PERIOD = 200_000_000
STOPS = np.array([True])


def ns(*seconds):
    return np.round(np.array(seconds) * 1e9).astype(np.int64)


def mean(begin, value, tick, end, hold=0.5, stops=STOPS):
    value = np.array(value, dtype=float).reshape(len(begin), -1)
    return mean_in_force(ns(*begin), value, ns(*tick), ns(*end), hold, stops)[:, 0]


def test_an_exact_camera_is_its_own_grid():
    stamps = 7 + PERIOD * np.arange(50)
    tick, end, part = grid(stamps, PERIOD)
    np.testing.assert_array_equal(tick, stamps)
    np.testing.assert_array_equal(end, stamps + PERIOD)
    assert not part.any()


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=60), st.integers(0, 10**18))
@settings(max_examples=50, deadline=None)
def test_a_jittering_camera_of_the_same_rate_loses_and_doubles_nothing(jitter, start):
    stamps = start + PERIOD * np.arange(len(jitter)) + np.array(jitter) * 1_000_000 // 2
    tick, end, _ = grid(stamps, PERIOD)
    np.testing.assert_array_equal(tick, stamps)
    np.testing.assert_array_equal(end[:-1], tick[1:])


def test_a_fast_camera_is_sampled_on_the_strict_grid():
    stamps = 33_333_333 * np.arange(300)
    tick, _, _ = grid(stamps, PERIOD)
    np.testing.assert_allclose(np.diff(tick), PERIOD, atol=PERIOD // 1000)


def test_a_missing_frame_keeps_its_tick_and_a_gap_begins_a_new_part():
    steps = np.r_[0:10, 11:20, 25:30]
    tick, end, part = grid(PERIOD * steps, PERIOD)
    np.testing.assert_array_equal(tick // PERIOD, np.r_[0:20, 25:30])
    np.testing.assert_array_equal(part, np.r_[np.zeros(20), np.ones(5)])
    assert end[19] == 20 * PERIOD  # the last interval of a part does not span the gap


def test_a_command_stamped_like_the_tick_counts_from_it():
    tick = np.arange(5) * 0.2
    value = [1.0, -2.0, 3.0, 0.5, 0.25]
    np.testing.assert_allclose(mean(tick, value, tick, tick + 0.2), value, atol=1e-12)


def test_the_action_is_the_time_weighted_mean():
    assert mean([0.0, 0.05], [1.0, 3.0], [0.0], [0.2]) == pytest.approx([0.25 * 1 + 0.75 * 3])


def test_a_command_lapses_to_zero_after_the_time_out_unless_it_is_a_position():
    found = mean([0.0], [2.0], [0.0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(found, [2.0, 2.0, 1.0, 0.0], atol=1e-12)
    held = mean([0.0], [2.0], [0.0, 0.6], [0.2, 0.8], stops=np.array([False]))
    np.testing.assert_allclose(held, 2.0)


def test_before_the_first_command_a_robot_stands_still():
    np.testing.assert_allclose(mean([0.3], [1.0], [0.0, 0.2], [0.2, 0.4]), [0.0, 0.5])


def test_a_wall_clock_stamp_loses_no_precision():
    start = 1_790_000_000
    tick = start + np.arange(1000) * 0.2
    begin = start * 10**9 + PERIOD * np.arange(1000)
    value = np.random.default_rng(0).uniform(-1, 1, (1000, 1))
    found = mean_in_force(begin, value, begin, begin + PERIOD, 0.5, STOPS)
    assert len(tick) == 1000
    np.testing.assert_allclose(found, value, atol=1e-9)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_mean_equals_a_fine_sum(data):
    count = data.draw(st.integers(1, 8))
    begin = np.sort(
        data.draw(st.lists(st.integers(0, 2000), min_size=count, max_size=count, unique=True))
    )
    value = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count)))
    tick = np.arange(0, 2000, 200)
    ms = np.arange(0, 2000) + 0.5
    held = np.searchsorted(begin, ms, side='right') - 1
    live = (held >= 0) & (ms - begin[held] < 500)
    wanted = np.where(live, value[held], 0).reshape(-1, 200).mean(axis=1)
    found = mean_in_force(
        begin * 10**6, value[:, None], tick * 10**6, (tick + 200) * 10**6, 0.5, STOPS
    )[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_a_repeated_stamp_begins_as_much_later_as_it_arrived():
    stamp = ns(0.0, 0.0, 0.0, 0.2)
    log = ns(5.0, 5.02, 5.04, 5.2)
    begin, chosen = in_force(stamp, log)
    np.testing.assert_array_equal(begin, ns(0.0, 0.02, 0.04, 0.2))
    np.testing.assert_array_equal(chosen, [0, 1, 2, 3])


def test_in_lockstep_the_first_command_under_a_stamp_decides():
    # The clock stands still between steps, or has just jumped when a repetition is logged.
    stamp, log = ns(0.0, 0.0, 0.0, 0.2, 0.2), ns(0.0, 0.0, 0.2, 0.2, 0.2)
    begin, chosen = in_force(stamp, log)
    np.testing.assert_array_equal(begin, ns(0.0, 0.2))
    np.testing.assert_array_equal(chosen, [0, 3])


def test_commands_that_arrive_out_of_order_are_sorted():
    begin, chosen = in_force(ns(0.2, 0.0), ns(0.3, 0.31))
    np.testing.assert_array_equal(begin, ns(0.0, 0.2))
    np.testing.assert_array_equal(chosen, [1, 0])


def labels(stamp, label, tick, hold=1.0):
    tick, label = ns(*tick), np.array(label, np.uint8)
    return strongest_label(ns(*stamp), label, tick, tick + PERIOD, hold).tolist()


def test_a_label_holds_until_the_next_one():
    assert labels([0.0, 0.4], [1, 0], [0.0, 0.2, 0.4, 0.6]) == [1, 1, 0, 0]


def test_any_press_within_the_interval_counts():
    assert labels([0.0, 0.25, 0.3], [0, 2, 0], [0.0, 0.2, 0.4]) == [0, 2, 0]


def test_a_press_at_the_end_of_an_interval_belongs_to_the_next():
    assert labels([0.0, 0.2], [0, 1], [0.0, 0.2]) == [0, 1]


def test_a_label_nobody_repeats_lapses():
    assert labels([0.0], [1], [0.0, 0.8, 1.2]) == [1, 1, 0]
    assert labels([5.0], [1], [0.0]) == [0]


def test_parts_are_cut_into_equal_episodes_and_crumbs_are_left_out():
    pieces, left_out = cut(np.repeat([0, 1, 2], [1100, 5, 40]), longest=512, shortest=16)
    assert left_out == 5
    assert [p.stop - p.start for p in pieces] == [367, 366, 367, 40]
    assert pieces[-1] == slice(1105, 1145)
