"""Recordings: read by others' readers, and rescued from every kind of cut."""

import fcntl
import shutil

from dmo_ros.core.rosbag import BagWriter, recover, RosbagError, Topic
import numpy as np
import pytest

TIME = 'int32 sec\nuint32 nanosec\n'
QOS = """- history: 1
  depth: 10
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
KIND = 'builtin_interfaces/msg/Time'


def payload(number):
    return b'\x00\x01\x00\x00' + np.array([number, 7], dtype='<i4').tobytes()


def record(folder, count=200, every=10, close=True, custom=None):
    """Write two topics, a chunk every so many messages; returns what was written."""
    writer = BagWriter(folder, custom or {'task': '{"name": "pusher"}'})
    topics = [writer.add_topic(Topic(name, KIND, TIME, qos=QOS)) for name in ('/a', '/b')]
    rows = []
    for number in range(count):
        topic = number % 2
        writer.write(topics[topic], 1000 + number, 900 + number, number, payload(number))
        rows.append((('/a', '/b')[topic], 1000 + number, payload(number)))
        if number % every == every - 1:
            writer.sync()
    if close:
        writer.close({'recorder': '{"drops": 0}'})
    else:
        writer.abandon()
    return rows


def by_rosbags(folder):
    highlevel = pytest.importorskip('rosbags.highlevel')
    with highlevel.AnyReader([folder]) as reader:
        return [(c.topic, t, bytes(raw)) for c, t, raw in reader.messages()]


def by_mcap(folder):
    reader = pytest.importorskip('mcap.reader')
    with open(next(folder.glob('*.mcap')), 'rb') as file:
        found = reader.make_reader(file, validate_crcs=True)
        return [(c.topic, m.log_time, m.data) for _, c, m in found.iter_messages()]


def test_both_readers_find_every_message(tmp_path):
    rows = record(tmp_path / 'bag')
    assert by_rosbags(tmp_path / 'bag') == rows
    assert by_mcap(tmp_path / 'bag') == rows


def test_the_mcap_library_agrees_with_the_summary(tmp_path):
    reader = pytest.importorskip('mcap.reader')
    record(tmp_path / 'bag')
    with open(tmp_path / 'bag' / 'bag_0.mcap', 'rb') as file:
        found = reader.make_reader(file)
        summary = found.get_summary()
        assert found.get_header().profile == 'ros2'
        metadata = {record.name: record.metadata for record in found.iter_metadata()}
    statistics = summary.statistics
    assert (statistics.message_count, statistics.chunk_count) == (200, 20)
    assert statistics.channel_message_counts == {1: 100, 2: 100}
    assert (statistics.message_start_time, statistics.message_end_time) == (1000, 1199)
    assert {c.topic for c in summary.channels.values()} == {'/a', '/b'}
    assert metadata['dmo_ros'] == {'task': '{"name": "pusher"}', 'recorder': '{"drops": 0}'}
    assert 'message_count: 200' in metadata['rosbag2']['serialized_metadata']


def test_metadata_is_what_ros2_bag_info_expects(tmp_path):
    """Every key that rosbag2_storage/yaml.hpp asks of version 8, in the type it asks for."""
    yaml = pytest.importorskip('yaml')
    record(tmp_path / 'bag')
    info = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['version'] == 8 and info['storage_identifier'] == 'mcap'
    assert info['relative_file_paths'] == ['bag_0.mcap']
    assert info['duration'] == {'nanoseconds': 199}
    assert info['starting_time'] == {'nanoseconds_since_epoch': 1000}
    assert info['message_count'] == 200
    assert info['compression_format'] == info['compression_mode'] == ''
    assert info['files'] == [
        {
            'path': 'bag_0.mcap',
            'message_count': 200,
            'starting_time': {'nanoseconds_since_epoch': 1000},
            'duration': {'nanoseconds': 199},
        }
    ]
    first = info['topics_with_message_count'][0]
    assert first['message_count'] == 100
    assert set(first['topic_metadata']) == {
        'name',
        'type',
        'serialization_format',
        'offered_qos_profiles',
        'type_description_hash',
    }
    assert all(isinstance(value, str) for value in first['topic_metadata'].values())
    assert yaml.safe_load(first['topic_metadata']['offered_qos_profiles'])[0]['durability'] == 1
    assert isinstance(info['ros_distro'], str)
    assert all(isinstance(value, str) for value in info['custom_data'].values())


def test_qos_is_read_back_by_rosbags(tmp_path):
    highlevel = pytest.importorskip('rosbags.highlevel')
    record(tmp_path / 'bag')
    with highlevel.AnyReader([tmp_path / 'bag']) as reader:
        (profile,) = reader.connections[0].ext.offered_qos_profiles
    assert (profile.depth, profile.durability.name) == (10, 'TRANSIENT_LOCAL')


def test_an_empty_recording_is_still_a_recording(tmp_path):
    BagWriter(tmp_path / 'bag').close()
    assert by_mcap(tmp_path / 'bag') == []
    assert recover(tmp_path / 'bag')['messages'] == 0


def test_two_recorders_never_share_a_folder(tmp_path):
    rows = record(tmp_path / 'bag')
    with pytest.raises(RosbagError, match='never overwritten'):
        BagWriter(tmp_path / 'bag')
    assert by_mcap(tmp_path / 'bag') == rows


def test_recover_keeps_its_hands_off_a_recording_in_progress(tmp_path):
    writer = BagWriter(tmp_path / 'bag')
    with pytest.raises(RosbagError, match='still being recorded'):
        recover(tmp_path / 'bag')
    writer.close()


def test_a_whole_recording_is_left_as_it_is(tmp_path):
    record(tmp_path / 'bag')
    before = (tmp_path / 'bag' / 'bag_0.mcap').read_bytes()
    assert not recover(tmp_path / 'bag')['changed']
    assert (tmp_path / 'bag' / 'bag_0.mcap').read_bytes() == before
    assert not list((tmp_path / 'bag').glob('*.found'))


def test_a_killed_recording_loses_only_what_was_not_synced(tmp_path):
    rows = record(tmp_path / 'bag', count=195, close=False)
    facts = recover(tmp_path / 'bag')
    assert facts['changed'] and facts['messages'] == 190
    assert facts['topics'] == {'/a': 95, '/b': 95}
    assert by_rosbags(tmp_path / 'bag') == by_mcap(tmp_path / 'bag') == rows[:190]
    assert facts['custom']['task'] == '{"name": "pusher"}'
    assert not recover(tmp_path / 'bag')['changed']


@pytest.mark.parametrize('cuts', [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a_cut_at_any_place_gives_an_exact_prefix(tmp_path, cuts):
    rows = record(tmp_path / 'whole', count=100, every=7)
    data = (tmp_path / 'whole' / 'whole_0.mcap').read_bytes()
    rng = np.random.default_rng(0)
    longest = 0
    for cut in [*sorted(rng.integers(0, len(data), cuts).tolist()), len(data) - 1]:
        folder = tmp_path / 'bag'
        folder.mkdir()
        (folder / 'bag_0.mcap').write_bytes(data[:cut])
        if cut < 8:
            with pytest.raises(RosbagError, match='does not begin like'):
                recover(folder)
        else:
            facts = recover(folder)
            assert by_mcap(folder) == rows[: facts['messages']]
            assert facts['messages'] >= longest
            longest = facts['messages']
        shutil.rmtree(folder)
    assert longest == 100


def test_a_flipped_bit_costs_one_chunk_and_is_counted(tmp_path):
    rows = record(tmp_path / 'bag', count=100, every=10)
    path = tmp_path / 'bag' / 'bag_0.mcap'
    data = bytearray(path.read_bytes())
    data[data.index(payload(55)) + 5] ^= 0x10
    path.write_bytes(data)
    facts = recover(tmp_path / 'bag')
    assert facts['damaged'] == 1 and facts['messages'] == 90
    assert by_rosbags(tmp_path / 'bag') == rows[:50] + rows[60:]
    assert (tmp_path / 'bag' / 'bag_0.mcap.found').read_bytes() == bytes(data)


def test_random_damage_never_raises_anything_but_a_sentence(tmp_path):
    record(tmp_path / 'whole', count=60, every=7)
    data = (tmp_path / 'whole' / 'whole_0.mcap').read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(50):
        harmed = bytearray(data)
        for place in rng.integers(0, len(data), 3).tolist():
            harmed[place] = int(rng.integers(256))
        folder = tmp_path / 'bag'
        folder.mkdir()
        (folder / 'bag_0.mcap').write_bytes(harmed)
        try:
            assert recover(folder)['messages'] <= 60
            by_mcap(folder)
        except RosbagError:
            pass
        shutil.rmtree(folder)


def test_a_foreign_recording_is_rescued_too(tmp_path):
    rosbag2 = pytest.importorskip('rosbags.rosbag2')
    typesys = pytest.importorskip('rosbags.typesys')
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    with rosbag2.Writer(
        tmp_path / 'bag', version=8, storage_plugin=rosbag2.StoragePlugin.MCAP
    ) as writer:
        connection = writer.add_connection('/a', KIND, typestore=store)
        for number in range(30):
            writer.write(connection, number, payload(number))
            if number % 10 == 9:
                writer.storage.close_chunk()
    path = tmp_path / 'bag' / 'bag.mcap'
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(payload(29)) - 3])
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    assert recover(tmp_path / 'bag')['messages'] == 20
    assert [raw for _, _, raw in by_rosbags(tmp_path / 'bag')] == list(map(payload, range(20)))


class FullDisk:
    """A file on a disk that takes ``room`` bytes in all."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        left = self.room - self.file.tell()
        if left <= 0:
            raise OSError(28, 'No space left on device')
        return self.file.write(data[:left])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize('room', [1500, 2500, 4000])
def test_a_full_disk_cuts_back_to_the_last_whole_chunk(tmp_path, room):
    writer = BagWriter(tmp_path / 'bag')
    writer._file = writer._mcap._file = FullDisk(writer._file, room)
    topic = writer.add_topic(Topic('/a', KIND, TIME))
    kept = 0
    with pytest.raises(OSError, match='No space'):
        for number in range(1000):
            writer.write(topic, number, number, number, payload(number))
            if number % 10 == 9:
                writer.sync()
                kept = number + 1
    writer._file.room = 10**9  # someone makes room
    writer.close()
    assert kept and [raw for _, _, raw in by_mcap(tmp_path / 'bag')] == list(
        map(payload, range(kept))
    )


def test_the_lock_goes_with_the_process_that_held_it(tmp_path):
    record(tmp_path / 'bag', close=False)
    with open(tmp_path / 'bag' / 'bag_0.mcap', 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
