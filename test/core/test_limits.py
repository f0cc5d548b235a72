"""The laws of the limiter: range, speed, acceleration, jerk, straight paths, and how it stops."""

import math

from dmo_ros.core.limits import Limiter, Limits, stoppable, within_box, within_reach
from dmo_ros.core.tasks import TASKS
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

GO2, G1 = Limits.of(TASKS['push_cube']), Limits.of(TASKS['grab_box'])
REST = np.array([field.rest for field in TASKS['grab_box'].actions])
POSITIONS = ~np.array(G1.velocity)
EXACT = 1e-3  # relative
finite = st.floats(-5, 5)
vectors = st.tuples(finite, finite, finite)
steps = st.sampled_from([0.01, 0.02, 0.1, 0.2])
seeds = st.integers(0, 2**32 - 1)


def drive(limiter, targets, dt):
    """Return the commands of a run, the first one included."""
    out = [limiter.values]
    for target in targets:
        steps = dt if np.isscalar(dt) else next(dt)
        limiter.step(limiter.allowed(target), steps)
        out.append(limiter.values)
    return np.array(out)


def wander(rng, limits, count):
    """Targets as nobody should send them: far outside at times, held for a while, reversed."""
    wide = 3 * np.maximum(np.abs(limits.low), np.abs(limits.high))
    targets = rng.uniform(-wide, wide, (count, len(wide)))
    held = rng.integers(1, 30)
    return targets[(np.arange(count) // held)]


# ---------------------------------------------------------------------- the two steps
@given(vectors)
def test_a_vector_is_scaled_as_a_whole_and_ends_in_the_box(vector):
    inside = within_box(vector, GO2.low, GO2.high)
    assert all(low <= value <= high for value, low, high in zip(inside, GO2.low, GO2.high))
    scale = max(abs(v) / h for v, h in zip(vector, GO2.high))
    if scale <= 1:
        assert inside == vector
    else:
        assert inside == pytest.approx(tuple(v / scale for v in vector), abs=1e-12)


@given(vectors, vectors, st.floats(0.0, 0.5))
def test_a_step_stays_within_the_acceleration_and_on_the_straight_line(target, previous, dt):
    step = within_reach(target, previous, GO2.acceleration, dt)
    for value, before, aim, limit in zip(step, previous, target, GO2.acceleration):
        assert abs(value - before) <= limit * dt + 1e-12
        assert min(before, aim) - 1e-12 <= value <= max(before, aim) + 1e-12


@given(st.floats(1e-6, 1), st.floats(1, 100), st.floats(0.01, 0.5), st.floats(0.1, 1.0))
def test_the_fastest_stoppable_rate_can_be_stopped(way, change, dt, slower):
    """After the interval the rest of the way does, in shorter intervals as well."""
    rate = stoppable(way, change, dt)
    left, later = way - rate * dt, slower * dt
    assert rate > 0 and left >= -1e-9 * way
    for _ in range(2000):
        rate -= change * later
        if rate <= 0:
            return
        left -= rate * later
        assert left >= -1e-9 * way
    raise AssertionError('it never stopped')


# ---------------------------------------------------------------------- laws of the whole
@settings(max_examples=60, deadline=None)
@given(seeds, steps)
def test_velocities_obey_box_acceleration_and_jerk(seed, dt):
    rng = np.random.default_rng(seed)
    sent = drive(Limiter(GO2), wander(rng, GO2, 300), dt)
    assert np.isfinite(sent).all()
    assert (sent >= GO2.low).all() and (sent <= GO2.high).all()
    acceleration = np.diff(sent, axis=0) / dt
    assert (np.abs(acceleration) <= np.multiply(GO2.acceleration, 1 + EXACT)).all()
    jerk = np.diff(acceleration, axis=0, prepend=0) / dt
    assert (np.abs(jerk) <= np.multiply(GO2.jerk, 1 + EXACT)).all()


@settings(max_examples=40, deadline=None)
@given(seeds, steps)
def test_positions_obey_range_speed_and_acceleration(seed, dt):
    rng = np.random.default_rng(seed)
    limiter = Limiter(G1)
    limiter.hold(REST)
    sent = drive(limiter, wander(rng, G1, 200), dt)
    assert np.isfinite(sent).all()
    assert (sent >= G1.low).all() and (sent <= G1.high).all()
    speed = np.diff(sent, axis=0)[:, POSITIONS] / dt
    assert (np.abs(speed) <= np.array(G1.speed)[POSITIONS] * (1 + EXACT)).all()
    acceleration = np.diff(speed, axis=0, prepend=0) / dt
    assert (np.abs(acceleration) <= np.array(G1.acceleration)[POSITIONS] * (1 + EXACT)).all()


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_uneven_intervals_break_neither_range_nor_rate(seed):
    rng = np.random.default_rng(seed)
    limiter = Limiter(G1)
    limiter.hold(REST)
    intervals = rng.choice([0.01, 0.02, 0.05, 0.1], 200)
    sent = drive(limiter, wander(rng, G1, 200), iter(intervals))
    assert (sent >= G1.low).all() and (sent <= G1.high).all()
    rate = np.diff(sent, axis=0) / intervals[:, None]
    bound = np.where(POSITIONS, G1.speed, G1.acceleration)
    assert (np.abs(rate) <= bound * (1 + EXACT)).all()


@settings(max_examples=40, deadline=None)
@given(seeds, steps, st.booleans())
def test_a_path_from_rest_is_straight_ends_at_the_target_and_does_not_overshoot(seed, dt, body):
    rng = np.random.default_rng(seed)
    limits = G1 if body else GO2
    limiter = Limiter(limits)
    limiter.hold(REST[: len(limits.low)])
    start = np.array(limiter.values)
    target = np.array(limiter.allowed(rng.uniform(limits.low, limits.high)))
    sent = drive(limiter, [target] * round(30 / dt), dt)
    np.testing.assert_array_equal(sent[-1], target)
    for kind in (np.array(limits.velocity), ~np.array(limits.velocity)):
        if kind.any():
            way, gone = (target - start)[kind], (sent - start)[:, kind]
            share = gone @ way / (way @ way)
            np.testing.assert_allclose(gone, share[:, None] * way, atol=1e-9)
            assert (np.diff(share) >= -1e-12).all() and share.max() <= 1 + 1e-12


@pytest.mark.parametrize('dt', [0.01, 0.02, 0.1, 0.2])
def test_a_reversal_at_full_speed_takes_what_the_limits_say(dt):
    """V3: from +0.6 to -0.6 m/s at 1.5 m/s2 (0.8 s), not before, and soon after."""
    limiter = Limiter(GO2)
    drive(limiter, [(0.6, 0.0, 0.0)] * round(4 / dt), dt)
    assert limiter.values[0] == 0.6
    sent = drive(limiter, [(-0.6, 0.0, 0.0)] * round(4 / dt), dt)[:, 0]
    reached = np.flatnonzero(sent <= -0.6 + 1e-9)[0] * dt
    assert 0.8 - 1e-9 <= reached <= 0.8 + 3 * 1.5 / 15 + 2 * dt
    assert (np.diff(sent) <= 1e-12).all()


def test_where_the_jerk_cannot_bind_a_velocity_is_reached_exactly_in_v_over_a():
    """At the control rate the Go2 may reverse its acceleration within one period."""
    sent = drive(Limiter(GO2), [(0.6, 0.0, 0.0)] * 4, 0.2)[:, 0]
    assert sent == pytest.approx([0.0, 0.3, 0.6, 0.6, 0.6], abs=1e-15)


# ---------------------------------------------------------------------- stops
@settings(max_examples=40, deadline=None)
@given(seeds, steps)
def test_braking_obeys_the_acceleration_alone_and_ends_at_rest(seed, dt):
    rng = np.random.default_rng(seed)
    limiter = Limiter(G1)
    limiter.hold(REST)
    drive(limiter, wander(rng, G1, 40), dt)
    before, sent = limiter.values, []
    for _ in range(1000):
        limiter.brake(dt)
        sent.append(limiter.values)
        if limiter.resting:
            break
    assert limiter.resting
    sent = np.array([before, *sent])
    assert (sent >= G1.low).all() and (sent <= G1.high).all()
    change = np.abs(np.diff(sent, axis=0))
    bound = np.where(POSITIONS, G1.speed, G1.acceleration)
    assert (change <= bound * dt * (1 + EXACT)).all()
    longest = max(np.where(POSITIONS, np.divide(G1.speed, G1.acceleration), 0.3))
    assert len(sent) - 1 <= math.ceil(longest / dt) + 1


def test_a_halt_is_no_velocity_and_positions_where_they_are():
    limiter = Limiter(G1)
    limiter.hold(REST)
    drive(limiter, [np.array(G1.high)] * 5, 0.1)
    before = np.array(limiter.values)
    limiter.halt()
    np.testing.assert_array_equal(limiter.values, np.where(POSITIONS, before, 0.0))
    assert limiter.resting


def test_positions_are_unknown_until_somebody_says_them():
    assert Limiter(GO2).known and not Limiter(G1).known
    limiter = Limiter(G1)
    limiter.hold(np.array(G1.high) + 1)
    assert limiter.known
    np.testing.assert_array_equal(limiter.values, np.where(POSITIONS, G1.high, 0.0))


def test_no_time_is_no_change():
    limiter = Limiter(GO2)
    limiter.step((0.6, 0.0, 0.0), 0.0)
    limiter.brake(0.0)
    assert limiter.values == (0.0, 0.0, 0.0)
