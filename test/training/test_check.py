"""The check finds what would make training useless, and does not cry wolf."""

import json

from dmo_ros.core.episode import Episode, EpisodeError, load_dataset, write_meta
from dmo_ros.core.tasks import TASKS
from dmo_training.alignment import Alignment, estimate_lag
from dmo_training.bag import BagError
from dmo_training.check import _judge_lag, check, main, Report
from dmo_training.convert import convert
import numpy as np
import pytest

SPEC = TASKS['pusher']
PERIOD = 200_000_000


def texts(report, level):
    return [finding.text for finding in report.findings if finding.level == level]


@pytest.fixture
def dataset(twin_bag, tmp_path):
    bag, *_ = twin_bag(400, seed=1)
    convert(bag, tmp_path / 'data', SPEC)
    return tmp_path / 'data'


def rewrite(dataset, number=0, **arrays):
    """Replace arrays of a stored episode, as damage would."""
    for name, array in arrays.items():
        np.save(dataset / f'episodes/{number:06d}/{name}.npy', array)


@pytest.mark.parametrize('seed', range(3))
def test_good_play_is_fit_for_training(twin_bag, seed):
    report = check(twin_bag(400, seed=seed)[0], 'pusher')
    assert report.exit_code == 0, report.findings
    assert report.alignment.sure and report.alignment.lag == 0
    assert report.rows['/image_raw']['hz'] == pytest.approx(5.0)
    assert sum(report.figures['labels'].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(('own', 'kind'), [(0.27, 'note'), (0.2, 'error')])
def test_a_robot_that_answers_late_is_told_from_a_recording_that_is_a_step_off(own, kind):
    report = Report('play', 'push_cube')
    _judge_lag(report, Alignment(-1, {-1: 0.31, 0: own, 1: 0.1}, True))
    assert [finding.level for finding in report.findings] == [kind]


@pytest.mark.parametrize('lag', [-2, -1, 1, 2])
def test_actions_of_another_frame_are_an_error(twin_bag, lag):
    bag, *_ = twin_bag(400, lag=lag, start=PERIOD * 10)
    report = check(bag, 'pusher')
    assert report.exit_code == 1 and report.alignment.lag == lag
    assert f'{abs(lag)} step(s) {"later" if lag > 0 else "earlier"}' in texts(report, 'error')[0]


def test_one_step_off_is_found_in_a_dataset_too(dataset):
    (episode,) = load_dataset(dataset, SPEC)
    rewrite(dataset, action=np.roll(episode.action, 1, axis=0))
    assert check(dataset).alignment.lag == 1 and main(str(dataset)) == 1


def test_what_cannot_be_told_is_not_claimed(twin_bag):
    report = check(twin_bag(100)[0], 'pusher')
    assert report.exit_code == 0 and not report.alignment.sure
    assert 'too few' in texts(report, 'note')[-1]


def test_noise_explains_nothing():
    rng = np.random.default_rng(0)
    episode = Episode(
        rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (600, 2)).astype(np.float32),
        np.zeros(600, np.uint8),
        np.ones(600, bool),
        np.arange(600) / 5,
        np.zeros((600, 0), np.float32),
    )
    assert not estimate_lag([episode]).sure


def test_a_dead_camera_is_an_error(bag_maker):
    rng, maker = np.random.default_rng(0), bag_maker()
    for step in range(300):
        frozen = min(step, 100)
        maker.image(step * PERIOD, np.full((32, 32, 3), frozen, np.uint8))
        maker.command(step * PERIOD, rng.uniform(0.1, 0.4, 2))
    report = check(maker.close(), 'pusher')
    assert any('stood still' in text for text in texts(report, 'error'))


def test_gaps_and_missing_labels_are_warnings(twin_bag, bag_maker):
    report = check(twin_bag(300, skip={50, *range(100, 108)})[0], 'pusher')
    assert report.exit_code == 0 and report.figures['parts'] == 2
    assert any('marked invalid' in text for text in texts(report, 'warning'))
    maker = bag_maker('unlabelled')
    for step in range(50):
        maker.image(step * PERIOD, np.full((32, 32, 3), step, np.uint8))
        maker.command(step * PERIOD, (0.1, 0.1))
    report = check(maker.close(), 'pusher')
    assert any('no intent was recorded' in text for text in texts(report, 'warning'))
    assert any('labelled as intent' in text for text in texts(report, 'warning'))


def test_a_slow_camera_is_measured_by_its_real_stamps(bag_maker):
    maker = bag_maker()
    for step in range(60):
        maker.image(step * 250_000_000, np.full((32, 32, 3), step, np.uint8))
        maker.command(step * 250_000_000, (0.1, -0.1))
    report = check(maker.close(), 'pusher')
    assert any('4.00 Hz, the task wants 5 Hz' in text for text in texts(report, 'warning'))


def test_actions_that_are_all_zero_are_an_error(bag_maker):
    maker = bag_maker()
    for step in range(50):
        maker.image(step * PERIOD, np.full((32, 32, 3), step, np.uint8))
        maker.command(step * PERIOD, (0.0, 0.0))
    assert any('no action differs' in t for t in texts(check(maker.close(), 'pusher'), 'error'))


def _harm(name, row, value):
    def harm(episode):
        array = np.array(getattr(episode, name))
        array[row] = value
        return {name: array}

    return harm


@pytest.mark.parametrize(
    ('harm', 'sentence'),
    [
        (_harm('action', 7, np.nan), 'action.npy: row 7 is not finite'),
        (_harm('action', 8, 1.5), 'action.npy: row 8 is outside'),
        (_harm('intent', 9, 77), 'intent.npy: row 9 is no label'),
        (_harm('stamp', 10, 0.1), 'stamp.npy: row 10 is not after the one before'),
        (
            _harm('stamp', slice(11, None), 1e6 + np.arange(389) / 5),
            'stamp.npy: row 11 comes after',
        ),
        (lambda e: {'intent': e.intent.astype(np.int32)}, 'intent is (400,) int32'),
        (lambda e: {'action': np.delete(e.action, 12, axis=0)}, 'wants'),
    ],
)
def test_damage_is_named_by_file_and_row(dataset, twin_bag, harm, sentence):
    bag, *_ = twin_bag(400, name='second', seed=2)
    convert(bag, dataset, SPEC, append=True)
    rewrite(dataset, **harm(load_dataset(dataset, SPEC)[0]))
    report = check(dataset)
    assert report.exit_code == 1
    assert any(sentence in text and '000000' in text for text in texts(report, 'error'))


def test_episodes_that_are_gone_are_missed(dataset, twin_bag):
    import shutil

    bag, *_ = twin_bag(300, name='second', seed=2)
    convert(bag, dataset, SPEC, append=True)
    shutil.rmtree(dataset / 'episodes' / '000001')
    assert any('meta.json says 700' in text for text in texts(check(dataset), 'error'))


def test_an_unreadable_place_is_exit_code_2(tmp_path, capsys):
    assert main(str(tmp_path / 'nothing'), as_json=True) == 2
    assert 'no recording at' in json.loads(capsys.readouterr().out)['error']
    write_meta(tmp_path, SPEC, totals={'frames': 0})
    with pytest.raises(EpisodeError, match='no readable episode'):
        check(tmp_path)


def test_a_recording_without_a_task_asks_for_one(twin_bag):
    with pytest.raises(BagError, match='name it'):
        check(twin_bag(40)[0])


def test_json_and_picture(dataset, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    assert main(str(dataset), as_json=True, picture=str(tmp_path / 'check.png')) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['exit_code'] == 0 and report['alignment']['lag'] == 0
    assert (tmp_path / 'check.png').read_bytes()[:4] == b'\x89PNG'
    assert main(str(dataset)) == 0
    assert 'fit for training' in capsys.readouterr().out
