import math

from dmo_ros.core.metrics import curvature, straightness, SuccessTracker, wilson
from dmo_ros.core.tasks import get_task
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

SPEC = get_task('pusher').success


@pytest.mark.parametrize('trials', [1, 2, 10, 20, 200])
def test_wilson_is_scipys(trials):
    stats = pytest.importorskip('scipy.stats')
    for successes in {0, 1, trials // 3, trials // 2, trials - 1, trials}:
        theirs = stats.binomtest(successes, trials).proportion_ci(method='wilson')
        assert wilson(successes, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_holds_the_rate_and_mirrors(a, b):
    successes, trials = a, a + b
    low, high = wilson(successes, trials)
    assert 0 <= low <= high <= 1
    if trials:
        assert low <= successes / trials + 1e-12 and successes / trials - 1e-12 <= high
        assert wilson(b, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize('successes,trials', [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match='cannot be'):
        wilson(successes, trials)


def run(inside):
    tracker = SuccessTracker(SPEC, len(inside))
    for column in np.array(inside).T:
        tracker.update(np.where(column, SPEC.threshold, SPEC.threshold * 1.01))
    return tracker


def test_strict_needs_an_unbroken_run_and_relaxed_one_touch():
    hold = SPEC.hold_steps
    tracker = run(
        [
            [0] * 12,
            [1] + [0] * 11,
            [1] * (hold - 1) + [0] + [1] * (12 - hold - 1) + [0],
            [0, 0] + [1] * (10),
            [1] * 12,
        ]
    )
    assert tracker.relaxed.tolist() == [False, True, True, True, True]
    assert tracker.strict.tolist() == [False, False, 12 - hold - 1 >= hold, True, True]
    assert tracker.steps_to_success[3:].tolist() == [2 + hold, hold]
    assert tracker.steps_to_success[0] == -1


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_tracker_agrees_with_a_plain_definition(inside):
    tracker, hold = run([inside]), SPEC.hold_steps
    ends = [t for t in range(hold, len(inside) + 1) if all(inside[t - hold : t])]
    assert bool(tracker.relaxed[0]) == any(inside)
    assert bool(tracker.strict[0]) == bool(ends)
    assert tracker.steps_to_success[0] == (ends[0] if ends else -1)


def test_rows_of_a_batch_do_not_touch():
    rng = np.random.default_rng(0)
    inside = rng.random((30, 25)) < 0.8
    together = run(inside)
    for row in range(30):
        alone = run(inside[row : row + 1])
        assert alone.strict[0] == together.strict[row]
        assert alone.steps_to_success[0] == together.steps_to_success[row]


def test_a_not_finite_distance_is_no_success():
    tracker = SuccessTracker(SPEC, 1)
    for _ in range(10):
        tracker.update(np.array([np.nan]))
    assert not tracker.relaxed[0] and not tracker.strict[0]


def test_straightness():
    line = np.linspace([0, 0], [3, 4], 20)
    assert straightness(line) == pytest.approx(1)
    turn = np.linspace(0, np.pi, 2001)
    half = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert straightness(half) == pytest.approx(2 / np.pi, rel=1e-5)
    assert straightness(np.concatenate([line, line[::-1]])) == pytest.approx(0)
    assert math.isnan(straightness(np.zeros((5, 2))))


def test_curvature_is_turning_per_metre_whatever_the_winding():
    turn = np.linspace(0, 4 * np.pi, 4001)
    circle = 2 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    wrapped = (turn + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    assert curvature(circle, wrapped) == pytest.approx(0.5, rel=1e-5)
    assert curvature(circle[::-1], wrapped[::-1]) == pytest.approx(0.5, rel=1e-5)
    assert curvature(np.linspace([0, 0], [1, 1], 9), np.zeros(9)) == 0
    assert math.isnan(curvature(np.zeros((5, 2)), np.arange(5.0)))
