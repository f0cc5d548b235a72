from dmo_ros.core.proprioception import arrange, ProprioceptionError, StateWatch
from dmo_ros.core.tasks import get_task
import numpy as np
import pytest

SPEC = get_task('grab_box')
NAMES = [field.name for field in SPEC.proprioception]
MS = 1_000_000
START = 50_000 * MS


def posture(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, len(NAMES))


@pytest.fixture
def watch():
    return StateWatch(SPEC)


def hear(watch, at, seed=0, now=None, names=NAMES, **wrong):
    """Tell the watch of a posture ``at`` (ms), some joints of which are ``wrong``."""
    values = dict(zip(names, posture(seed))) | wrong
    now = at / 1000 if now is None else now
    return watch.hear(START + at * MS, now, list(values), list(values.values()))


def pair(watch, at, now=None):
    return watch.pair(START + at * MS, at / 1000 if now is None else now)


def test_the_order_of_joints_in_a_message_does_not_matter():
    values, rng = posture(), np.random.default_rng(1)
    expected = values.astype(np.float32)
    for _ in range(50):
        order = rng.permutation(len(NAMES))
        names = [NAMES[number] for number in order]
        row = arrange(['left_ankle', *names], [9.0, *values[order]], SPEC)
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, expected)


def test_a_task_without_proprioception_asks_for_nothing():
    assert arrange(['x'], [1.0], get_task('pusher')).shape == (0,)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize('name', ['waist_yaw', 'right_hand'])
def test_a_number_that_is_not_finite_is_refused_by_its_joint(bad, name):
    values = posture()
    values[NAMES.index(name)] = bad
    with pytest.raises(ProprioceptionError, match=f'not finite in {name};'):
        arrange(NAMES, values, SPEC)


def test_a_joint_that_nobody_asked_for_may_be_anything():
    arrange([*NAMES, 'left_ankle'], [*posture(), np.nan], SPEC)


@pytest.mark.parametrize(
    'names,count,match',
    [
        (NAMES[:-2], 17, 'lacks left_hand, right_hand of task'),
        (NAMES[1:], 18, 'lacks waist_yaw of'),
        ([], 0, 'lacks waist_yaw, waist_roll, waist_pitch, left_.* and 15 more'),
        (NAMES, 18, '19 joints and gives 18 positions'),
        ([*NAMES, 'waist_roll'], 20, 'waist_roll more than once'),
    ],
)
def test_a_message_that_does_not_tell_the_posture_is_refused_with_the_reason(names, count, match):
    with pytest.raises(ProprioceptionError, match=match):
        arrange(names, [0.0] * count, SPEC)


def test_a_frame_goes_with_the_newest_state_not_later_than_it(watch):
    for number in range(20):
        assert hear(watch, 20 * number, seed=number) == ''
    for at, number in ((380, 19), (399, 19), (379, 18), (360, 18), (100, 5)):
        np.testing.assert_array_equal(pair(watch, at, now=0.38), posture(number).astype('f4'))
    assert watch.reached(START + 380 * MS) and not watch.reached(START + 381 * MS)


def test_before_the_first_state_there_is_a_reason(watch):
    with pytest.raises(ProprioceptionError, match='no joint state has come'):
        pair(watch, 0)


def test_a_state_more_than_a_period_older_than_the_frame_is_stale(watch):
    hear(watch, 0)
    pair(watch, 100, now=0.01)
    with pytest.raises(ProprioceptionError, match='0.12 s older than the frame'):
        pair(watch, 120, now=0.01)


def test_states_that_ceased_to_come_are_stale_whatever_the_stamps_say(watch):
    hear(watch, 0, now=10.0)
    pair(watch, 50, now=10.0 + SPEC.limits.frame_timeout - 0.01)
    with pytest.raises(ProprioceptionError, match='came 0.31 s ago'):
        pair(watch, 50, now=10.0 + SPEC.limits.frame_timeout + 0.01)


def test_a_state_from_after_the_frame_is_not_taken(watch):
    hear(watch, 500)
    with pytest.raises(ProprioceptionError, match='0.40 s newer.*clock'):
        pair(watch, 100, now=0.5)


@pytest.mark.parametrize('wrong', [{'waist_yaw': np.nan}, {'right_hand': np.inf}])
def test_after_a_refused_state_nothing_is_known_until_a_good_one(watch, wrong):
    hear(watch, 0)
    assert 'not finite' in hear(watch, 20, **wrong)
    for at in (0, 20, 30):
        with pytest.raises(ProprioceptionError, match='not finite'):
            pair(watch, at)
    assert not watch.reached(START)
    assert hear(watch, 40, seed=2) == ''
    np.testing.assert_array_equal(pair(watch, 45), posture(2).astype('f4'))
    assert watch.counts['states_refused'] == 1


def test_a_missing_joint_takes_what_was_known_with_it(watch):
    hear(watch, 0)
    hear(watch, 20, names=NAMES[:-1])
    with pytest.raises(ProprioceptionError, match='lacks right_hand'):
        pair(watch, 30)


def test_a_state_without_a_stamp_is_refused(watch):
    assert 'no stamp' in watch.hear(0, 0.0, NAMES, posture())


def test_a_state_that_was_overtaken_changes_nothing(watch):
    hear(watch, 40, seed=1)
    assert 'older' in hear(watch, 20, seed=2, now=0.05, waist_yaw=np.nan)
    np.testing.assert_array_equal(pair(watch, 60, now=0.06), posture(1).astype('f4'))


def test_a_later_word_on_the_same_moment_counts(watch):
    """A twin's clock stands still while it waits, its bridge goes on telling."""
    hear(watch, 40, seed=1)
    hear(watch, 40, seed=2, now=0.06)
    np.testing.assert_array_equal(pair(watch, 40, now=0.06), posture(2).astype('f4'))


def test_a_clock_that_was_set_back_costs_a_timeout(watch):
    hear(watch, 5000, seed=1, now=1.0)
    assert hear(watch, 1000, seed=2, now=1.1)
    assert hear(watch, 1000, seed=2, now=1.4) == ''
    np.testing.assert_array_equal(pair(watch, 1050, now=1.4), posture(2).astype('f4'))
    assert not watch.reached(START + 5000 * MS)


def test_what_is_remembered_stays_small(watch):
    for number in range(5000):
        hear(watch, number, now=number / 1000)
    assert len(watch._states) <= 1001
