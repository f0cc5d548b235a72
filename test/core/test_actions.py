from dmo_ros.core.actions import ActionError, bounds, to_normalised, to_si
from dmo_ros.core.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

ALL = pytest.mark.parametrize('spec', TASKS.values(), ids=TASKS)


@ALL
def test_the_ends_map_to_the_ends(spec):
    low, high = bounds(spec.actions)
    width = len(spec.actions)
    np.testing.assert_allclose(to_si(-np.ones(width), spec.actions), low)
    np.testing.assert_allclose(to_si(np.ones(width), spec.actions), high)
    np.testing.assert_allclose(to_si(np.zeros(width), spec.actions), (low + high) / 2)
    assert (low < high).all()


@ALL
def test_there_and_back(spec):
    action = np.random.default_rng(0).uniform(-1, 1, (7, 5, len(spec.actions)))
    np.testing.assert_allclose(
        to_normalised(to_si(action, spec.actions), spec.actions), action, atol=1e-12
    )


@given(hnp.arrays(np.float64, (3, 2), elements=st.floats(-1e12, 1e12)))
def test_nothing_leaves_the_range(action):
    fields = TASKS['pusher'].actions
    low, high = bounds(fields)
    si = to_si(action, fields)
    assert (si >= low).all() and (si <= high).all()
    assert (np.abs(to_normalised(action, fields)) <= 1).all()


@ALL
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_not_finite_number_is_refused_and_its_field_named(spec, bad):
    for index, field in enumerate(spec.actions):
        action = np.zeros((2, len(spec.actions)))
        action[1, index] = bad
        for convert in (to_si, to_normalised):
            with pytest.raises(ActionError, match=field.name):
                convert(action, spec.actions)


@ALL
def test_another_width_is_refused(spec):
    for width in (0, 1, len(spec.actions) + 1):
        if width != len(spec.actions):
            with pytest.raises(ActionError, match=spec.actions[0].name):
                to_si(np.zeros(width), spec.actions)


def test_the_given_array_is_left_alone():
    action = np.array([5.0, -5.0])
    to_si(action, TASKS['pusher'].actions)
    np.testing.assert_array_equal(action, [5.0, -5.0])
