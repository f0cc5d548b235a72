"""From recordings of the twin to datasets, and back to the twin."""

from dataclasses import replace

from dmo_ros.core.actions import to_normalised, to_si
from dmo_ros.core.episode import EpisodeError, load_dataset, read_meta
from dmo_ros.core.images import to_observation
from dmo_ros.core.rosbag import recover
from dmo_ros.core.tasks import TaskError, TASKS
from dmo_ros.twins.pusher import PusherTwin
from dmo_training.bag import Bag, BagError
from dmo_training.convert import convert, ConvertConfig
import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg

SPEC = TASKS['pusher']
PERIOD = 200_000_000
BODY = """std_msgs/Header header
string task
float64[19] upper_body
float64[3] locomotion
"""


def test_frames_actions_and_labels_come_out_as_they_went_in(twin_bag, tmp_path):
    bag, states, actions, labels = twin_bag(100)
    totals = convert(bag, tmp_path / 'data', 'pusher')
    assert (totals['frames'], totals['valid'], totals['episodes']) == (100, 100, 1)
    (episode,) = load_dataset(tmp_path / 'data', SPEC)
    np.testing.assert_array_equal(episode.intent, labels)
    np.testing.assert_allclose(episode.action, to_normalised(actions, SPEC.actions), atol=1e-6)
    np.testing.assert_allclose(episode.stamp, np.arange(100) / SPEC.rate_hz, atol=1e-9)
    twin = PusherTwin(100)
    twin.reset(state=states)
    np.testing.assert_array_equal(episode.frames, twin.render())
    assert totals['labelled_share'] == pytest.approx((labels > 0).mean())


def test_frame_then_action_then_next_frame(twin_bag, tmp_path):
    """The convention, tested on the physics: action t carries frame t to frame t + 1."""
    bag, states, _, _ = twin_bag(60)
    convert(bag, tmp_path / 'data', SPEC)
    (episode,) = load_dataset(tmp_path / 'data', SPEC)
    twin = PusherTwin(59)
    twin.reset(state=states[:-1])
    twin.step(to_si(episode.action[:-1], SPEC.actions))
    gap = np.abs(twin.render().astype(int) - episode.frames[1:])
    assert gap.max() <= 1  # float32 actions may round a shade


def test_a_missing_frame_is_marked_and_a_gap_splits(twin_bag, tmp_path):
    bag, _, _, _ = twin_bag(100, skip={20, *range(50, 54)})
    totals = convert(bag, tmp_path / 'data', SPEC)
    first, second = load_dataset(tmp_path / 'data', SPEC)
    assert (len(first), len(second)) == (50, 46)
    assert np.flatnonzero(~first.valid).tolist() == [20] and second.valid.all()
    np.testing.assert_array_equal(first.frames[20], first.frames[19])  # never one of the future
    assert totals['parts'] == 2 and 'marked invalid' in totals['notes'][0]


def test_late_images_take_their_place_by_stamp(bag_maker, tmp_path):
    maker = bag_maker()
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    for step in [*range(10), 11, 10, *range(12, 40)]:  # two arrive in the wrong order
        maker.image(step * PERIOD, frames[step], log=step * PERIOD + 50_000_000)
        maker.command(step * PERIOD, (0.1, 0.0))
    convert(maker.close(), tmp_path / 'data', SPEC)
    (episode,) = load_dataset(tmp_path / 'data', SPEC)
    np.testing.assert_array_equal(episode.frames[:, 0, 0, 0], np.arange(40))


def test_a_fast_command_stream_is_averaged(bag_maker, tmp_path):
    maker = bag_maker()
    for step in range(20):
        maker.image(step * PERIOD, np.zeros((32, 32, 3), np.uint8))
        for beat in range(10):
            maker.command(step * PERIOD + beat * PERIOD // 10, (0.04 * beat, -0.1))
    convert(maker.close(), tmp_path / 'data', SPEC)
    (episode,) = load_dataset(tmp_path / 'data', SPEC)
    np.testing.assert_allclose(
        to_si(episode.action, SPEC.actions), np.tile([0.18, -0.1], (20, 1)), atol=1e-6
    )


def test_long_play_is_cut_so_that_episodes_can_be_held_out(twin_bag, tmp_path):
    bag, _, actions, _ = twin_bag(100)
    totals = convert(bag, tmp_path / 'data', SPEC, ConvertConfig(episode_frames=40))
    episodes = load_dataset(tmp_path / 'data', SPEC)
    assert totals['episodes'] == 3 and [len(e) for e in episodes] == [33, 34, 33]
    joined = np.concatenate([e.action for e in episodes])
    np.testing.assert_allclose(joined, to_normalised(actions, SPEC.actions), atol=1e-6)


def test_several_bags_and_append_make_one_dataset(twin_bag, tmp_path):
    one, two, three = (twin_bag(40, name=n, seed=i)[0] for i, n in enumerate('abc'))
    convert([one, two], tmp_path / 'data', SPEC)
    totals = convert(three, tmp_path / 'data', SPEC, append=True)
    assert totals['episodes'] == 3 and totals['frames'] == 120
    meta = read_meta(tmp_path / 'data', SPEC)
    assert [source['bag'] for source in meta['sources']] == ['a', 'b', 'c']
    assert [e.info['bag'] for e in load_dataset(tmp_path / 'data', SPEC)] == ['a', 'b', 'c']


def test_an_existing_dataset_is_refused(twin_bag, tmp_path):
    bag, *_ = twin_bag(40)
    convert(bag, tmp_path / 'data', SPEC)
    with pytest.raises(BagError, match='exists already'):
        convert(bag, tmp_path / 'data', SPEC)


def test_a_dataset_of_another_task_is_not_appended_to(twin_bag, tmp_path):
    bag, *_ = twin_bag(40)
    convert(bag, tmp_path / 'data', SPEC)
    other = replace(SPEC, rate_hz=10.0)
    with pytest.raises(TaskError, match='rate_hz'):
        convert(bag, tmp_path / 'data', other, append=True)


def test_too_short_a_recording_leaves_no_dataset(twin_bag, tmp_path):
    bag, *_ = twin_bag(10)
    with pytest.raises(BagError, match='record longer'):
        convert(bag, tmp_path / 'data', SPEC)
    with pytest.raises(EpisodeError, match='no dataset'):
        load_dataset(tmp_path / 'data', SPEC)


def test_the_cameras_size_must_be_the_tasks(bag_maker, tmp_path):
    maker = bag_maker()
    for step in range(20):
        maker.image(step * PERIOD, np.zeros((24, 32, 3), np.uint8))
        maker.command(step * PERIOD, (0, 0))
    with pytest.raises(BagError, match='32x24.*32x32'):
        convert(maker.close(), tmp_path / 'data', SPEC)


def test_two_clocks_in_one_bag_are_refused(bag_maker, tmp_path):
    maker = bag_maker()
    for step in range(20):
        maker.image(step * PERIOD, np.zeros((32, 32, 3), np.uint8))
        maker.command(step * PERIOD + 10**18, (0, 0))
    with pytest.raises(BagError, match='different clocks'):
        convert(maker.close(), tmp_path / 'data', SPEC)


def test_two_runs_in_one_bag_are_refused(bag_maker, tmp_path):
    maker = bag_maker()
    for run in range(2):
        for step in range(20):
            stamp, log = (step + 1) * PERIOD, (run * 20 + step + 1) * PERIOD
            maker.image(stamp, np.zeros((32, 32, 3), np.uint8), log=log)
            maker.command(stamp, (0, 0), log=log)
    with pytest.raises(BagError, match='fell back at image 20'):
        convert(maker.close(), tmp_path / 'data', SPEC)


@pytest.mark.parametrize(
    ('missing', 'sentence'), [('image', "no topic 'image_raw'"), ('command', "no topic 'cmd'")]
)
def test_a_missing_topic_is_named_with_what_there_is(bag_maker, tmp_path, missing, sentence):
    maker = bag_maker()
    maker.label(0, 1)
    if missing != 'image':
        maker.image(0, np.zeros((32, 32, 3), np.uint8))
    if missing != 'command':
        maker.command(0, (0, 0))
    with pytest.raises(BagError, match=f'{sentence}; it holds .*intent'):
        convert(maker.close(), tmp_path / 'data', SPEC)


def test_without_labels_everything_is_play_and_it_says_so(bag_maker, tmp_path):
    maker = bag_maker()
    for step in range(20):
        maker.image(step * PERIOD, np.zeros((32, 32, 3), np.uint8))
        maker.command(step * PERIOD, (0, 0))
    totals = convert(maker.close(), tmp_path / 'data', SPEC)
    assert totals['labelled'] == 0 and 'no intent was recorded' in totals['notes'][0]


def test_a_namespace_does_not_matter_but_ambiguity_does(bag_maker, tmp_path):
    maker = bag_maker()
    for robot in ('left', 'right'):
        for step in range(20):
            frame = np.zeros((32, 32, 3), np.uint8)
            maker.image(step * PERIOD, frame, topic=f'/{robot}/image_raw')
            maker.command(step * PERIOD, (0, 0), topic=f'/{robot}/cmd')
    path = maker.close()
    with pytest.raises(BagError, match='/left/image_raw or /right/image_raw'):
        convert(path, tmp_path / 'data', SPEC)
    config = ConvertConfig(image='/left/image_raw', command='/left/cmd')
    assert convert(path, tmp_path / 'data', SPEC, config)['frames'] == 20


def test_a_cut_recording_is_refused_and_converts_once_recovered(twin_bag, tmp_path):
    bag, *_ = twin_bag(100)
    path = next(bag.glob('*.mcap'))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BagError, match='dmo recover'):
        convert(bag, tmp_path / 'data', SPEC)
    assert recover(bag)['changed']
    assert convert(bag, tmp_path / 'data', SPEC)['frames'] == 100


def test_a_flipped_bit_is_refused_and_leaves_no_dataset(twin_bag, tmp_path):
    bag, *_ = twin_bag(100)
    (bag / 'metadata.yaml').unlink()
    recover(bag)  # it writes checksums, which rosbags' own writer does not
    path = next(bag.glob('*.mcap'))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BagError, match=r'checksum.*dmo recover'):
        convert(bag, tmp_path / 'data', SPEC)
    assert not (tmp_path / 'data' / 'meta.json').exists()


def test_compressed_pictures_of_a_big_camera(bag_maker, tmp_path):
    cv2 = pytest.importorskip('cv2')
    task, maker = TASKS['push_t'], bag_maker()
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[:, 320:] = (250, 20, 40)
    data = cv2.imencode('.png', frame[..., ::-1])[1].ravel()
    for step in range(20):
        maker.write(
            '/image_raw',
            maker.make(
                'sensor_msgs/msg/CompressedImage',
                header=maker.header(step * PERIOD + 1),
                format='png',
                data=data,
            ),
            step * PERIOD,
        )
        maker.command(step * PERIOD + 1, (0.1, 0.0))
    convert(maker.close(), tmp_path / 'data', task)
    (episode,) = load_dataset(tmp_path / 'data', task)
    np.testing.assert_array_equal(episode.frames[3], to_observation(frame, task))


def test_a_whole_body_with_proprioception(bag_maker, tmp_path):
    task, maker = TASKS['grab_box'], bag_maker()
    maker.store.register(get_types_from_msg(BODY, 'dmo_ros/msg/BodyCommand'))
    names = [field.name for field in task.proprioception]
    targets = to_si(np.linspace(-0.9, 0.9, 22), task.actions)
    frame = np.zeros((480, 640, 3), np.uint8)
    for step in range(40):
        stamp = 10**9 + step * PERIOD // 2
        maker.image(stamp, frame)
        maker.write(
            '/joint_states',
            maker.make(
                'sensor_msgs/msg/JointState',
                header=maker.header(stamp),
                name=['other', *names],
                position=np.append(99.0, np.arange(len(names)) + step / 100),
                velocity=np.zeros(0),
                effort=np.zeros(0),
            ),
            stamp,
        )
        if step >= 5:
            maker.write(
                '/cmd',
                maker.make(
                    'dmo_ros/msg/BodyCommand',
                    header=maker.header(stamp),
                    task='grab_box',
                    upper_body=targets[:19],
                    locomotion=targets[19:],
                ),
                stamp,
            )
    convert(maker.close(), tmp_path / 'data', task)
    (episode,) = load_dataset(tmp_path / 'data', task)
    assert (~episode.valid).sum() == 5  # positions are unknown before the first command
    np.testing.assert_allclose(
        episode.action[5:], np.tile(np.linspace(-0.9, 0.9, 22), (35, 1)), atol=1e-6
    )
    np.testing.assert_allclose(episode.proprio[7], np.arange(len(names)) + 0.07, atol=1e-5)


def test_of_joint_states_with_one_stamp_the_one_before_the_action_counts(bag_maker, tmp_path):
    task, maker = TASKS['grab_box'], bag_maker()
    maker.store.register(get_types_from_msg(BODY, 'dmo_ros/msg/BodyCommand'))
    names = [field.name for field in task.proprioception]
    rest = np.array([field.rest for field in task.actions])
    rng = np.random.default_rng(0)
    for step in range(30):
        stamp = 10**9 + step * PERIOD // 2
        maker.image(stamp, np.zeros((480, 640, 3), np.uint8))
        for offset in (0.0, 0.3, 0.6):
            order = rng.permutation(len(names))
            maker.write(
                '/joint_states',
                maker.make(
                    'sensor_msgs/msg/JointState',
                    header=maker.header(stamp),
                    name=[names[number] for number in order],
                    position=order + step + offset,
                    velocity=np.zeros(0),
                    effort=np.zeros(0),
                ),
                stamp,
            )
        command = maker.make(
            'dmo_ros/msg/BodyCommand',
            header=maker.header(stamp),
            task='grab_box',
            upper_body=rest[:19],
            locomotion=rest[19:],
        )
        maker.write('/cmd', command, stamp)
    convert(maker.close(), tmp_path / 'data', task)
    (episode,) = load_dataset(tmp_path / 'data', task)
    expected = np.arange(len(names)) + np.arange(30)[:, None]
    np.testing.assert_allclose(episode.proprio, expected, atol=1e-5)


@pytest.mark.parametrize('wrong,match', [(np.nan, 'not finite in waist_yaw'), (None, 'lacks')])
def test_joint_states_that_a_policy_would_refuse_are_refused(bag_maker, tmp_path, wrong, match):
    task, maker = TASKS['grab_box'], bag_maker()
    maker.store.register(get_types_from_msg(BODY, 'dmo_ros/msg/BodyCommand'))
    names = [field.name for field in task.proprioception]
    values = np.zeros(len(names))
    values[0] = wrong or 0.0
    if wrong is None:
        names, values = names[1:], values[1:]
    rest = np.array([field.rest for field in task.actions])
    for step in range(30):
        stamp = 10**9 + step * PERIOD // 2
        header = maker.header(stamp)
        maker.image(stamp, np.zeros((480, 640, 3), np.uint8))
        nothing = {'velocity': np.zeros(0), 'effort': np.zeros(0)}
        kind = 'sensor_msgs/msg/JointState'
        state = maker.make(kind, header=header, name=names, position=values, **nothing)
        maker.write('/joint_states', state, stamp)
        parts = {'upper_body': rest[:19], 'locomotion': rest[19:]}
        kind = 'dmo_ros/msg/BodyCommand'
        maker.write('/cmd', maker.make(kind, header=header, task='grab_box', **parts), stamp)
    with pytest.raises(BagError, match=match):
        convert(maker.close(), tmp_path / 'data', task)


def test_a_recording_without_metadata_points_to_recover(twin_bag, tmp_path):
    bag, *_ = twin_bag(40)
    (bag / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match='dmo recover'):
        Bag(bag)
    with pytest.raises(BagError, match='no recording at'):
        Bag(tmp_path / 'nothing')
