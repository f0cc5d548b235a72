"""The recorder as real processes: services, limits, kill -9, a full disk, drops."""

import contextlib
from itertools import pairwise
import json
import os
from pathlib import Path
import random
import resource
import signal
import subprocess
import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from dmo_ros.core.rosbag import recover
import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

SOURCE = Path(__file__).with_name('recorder_source.py')
pytestmark = pytest.mark.ros


@contextlib.contextmanager
def process(*command, **options):
    """Run a process in a session of its own; it is gone afterwards."""
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


def recorder(path, *parameters, **options):
    pairs = [f'path:={path}', 'reserve_mb:=0', *parameters]
    return process(
        '-m',
        'dmo_ros.nodes.recorder',
        '--ros-args',
        *(word for pair in pairs for word in ('-p', pair)),
        **options,
    )


@pytest.fixture(scope='module')
def source():
    """Publish frames, commands and labels at 100 Hz, numbered by their stamps."""
    with process(SOURCE, '100') as child:
        assert child.stdout.readline().strip() == 'publishing'
        yield child


@pytest.fixture(scope='module')
def client():
    rclpy.init()
    node = rclpy.create_node('test_client')
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def call(node, service):
    caller = node.create_client(Trigger, service)
    assert caller.wait_for_service(10), f'no service {service}'
    future = caller.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=15)
    node.destroy_client(caller)
    assert future.done(), f'no answer from {service}'
    return future.result()


def wait_for(condition, seconds=40.0):
    """Wait until a condition holds; returns what it returned."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, 'waited in vain'
        time.sleep(0.02)
    return found


def wait_for_bytes(path, count):
    def enough():
        return sum(f.stat().st_size for f in path.glob('*.mcap')) > count

    wait_for(enough)


def holds(path, text):
    return any(text in file.read_bytes() for file in path.glob('*.mcap'))


def said(child, text, seconds=60.0):
    """Wait until a process says something; returns the line.  Discovery may take its time."""
    watchdog = threading.Timer(seconds, child.kill)
    watchdog.start()
    try:
        for line in child.stdout:
            if text in line:
                return line
    finally:
        watchdog.cancel()
    raise AssertionError(f'it never said {text!r}')


def stamps(path, topic='/image_raw'):
    """Return (header stamp, log time) of a topic, in seconds, by rosbags' reader."""
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        found = []
        for connection, log, raw in reader.messages(wanted):
            stamp = reader.deserialize(raw, connection.msgtype).header.stamp
            found.append((stamp.sec + stamp.nanosec / 1e9, log / 1e9))
        return found


def steps(found):
    """Return the set of distances between stamps, in periods of the source."""
    return {round((b - a) * 100) for (a, _), (b, _) in pairwise(found)}


def test_start_and_stop_by_service(source, client, tmp_path):
    with recorder(tmp_path / 'play_{n}', 'autostart:=false') as child:
        assert not call(client, '/recorder/stop').success
        assert call(client, '/recorder/start').success
        again = call(client, '/recorder/start')
        assert not again.success and 'already recording' in again.message
        wait_for_bytes(tmp_path / 'play_000', 100_000)
        stopped = call(client, '/recorder/stop')
        assert stopped.success, stopped.message
        facts = json.loads(stopped.message)
        assert facts['state'] == 'finished' and facts['frames'] > 10
        assert (
            facts['written']['/image_raw'] == facts['frames'] == len(stamps(tmp_path / 'play_000'))
        )
        assert 0 < facts['labelled'] < facts['frames']
        assert call(client, '/recorder/start').success  # the next one gets the next number
        wait_for((tmp_path / 'play_001').is_dir)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    assert (tmp_path / 'play_001' / 'metadata.yaml').exists()


def test_a_limit_ends_the_recording_and_the_node(source, tmp_path):
    with recorder(tmp_path / 'bag', 'limit:=50') as child:
        output = child.communicate(timeout=30)[0]
    assert child.returncode == 0, output
    found = stamps(tmp_path / 'bag')
    assert 50 <= len(found) <= 90
    assert 'finished' in output and 'dropped none' in output
    assert steps(found) == {1}  # nothing is missing: the source numbers its stamps


def test_sigterm_finishes_the_recording(source, tmp_path):
    with recorder(tmp_path / 'bag') as child:
        wait_for_bytes(tmp_path / 'bag', 50_000)
        child.terminate()
        assert child.wait(10) == 0
    assert not recover(tmp_path / 'bag')['changed']


def test_an_existing_folder_is_refused_in_one_sentence(source, tmp_path):
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'mine.txt').write_text('precious')
    with recorder(tmp_path / 'bag') as child:
        output = child.communicate(timeout=30)[0]
    assert child.returncode == 2
    assert 'never overwritten; choose another name' in output and 'Traceback' not in output
    assert [p.name for p in (tmp_path / 'bag').iterdir()] == ['mine.txt']


def test_of_two_recorders_the_second_is_refused_and_the_first_unharmed(source, tmp_path):
    with recorder(tmp_path / 'bag') as first:
        wait_for_bytes(tmp_path / 'bag', 30_000)
        with recorder(tmp_path / 'bag') as second:
            assert second.wait(30) == 2
        first.send_signal(signal.SIGINT)
        assert first.wait(10) == 0
    assert len(stamps(tmp_path / 'bag')) > 5


def killed(path, after):
    """Record, kill -9 after so many seconds of recording; returns seconds lost and recovered."""
    with recorder(path) as child:
        wait_for_bytes(path, 20_000)
        time.sleep(after)
        child.kill()
        dead = time.time()
        child.wait()
    facts = recover(path)
    found = stamps(path)
    assert facts['changed'] and steps(found) <= {1}, 'a hole inside'
    assert not recover(path)['changed']
    return dead - found[-1][0], len(found)


def test_kill_9_loses_at_most_the_last_second(source, tmp_path):
    lost, count = killed(tmp_path / 'bag', random.Random(os.getpid()).uniform(0.5, 2.0))
    assert lost <= 1.0 and count > 10


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(source, tmp_path):
    rng, lost = random.Random(0), []
    for number in range(20):
        after = rng.uniform(0.0, 4.0)
        lost.append(killed(tmp_path / f'bag{number}', after)[0])
        print(f'{number:2d} killed {after:.2f} s in: {1000 * lost[-1]:.0f} ms lost')
    print(f'lost: median {1000 * sorted(lost)[10]:.0f} ms, worst {1000 * max(lost):.0f} ms')
    assert max(lost) <= 1.0


def test_a_full_disk_stops_the_recording_and_says_so(source, tmp_path):
    def small():  # a file may grow to 200 kB: to the writer, the disk is full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with recorder(tmp_path / 'bag', 'limit:=100000', preexec_fn=small) as child:
        output = child.communicate(timeout=30)[0]
    assert child.returncode == 1
    assert 'is full; make room and start again' in output and 'Traceback' not in output
    recover(tmp_path / 'bag')
    assert len(stamps(tmp_path / 'bag')) > 10


def test_after_a_full_disk_the_node_stays_and_its_status_says_why(source, client, tmp_path):
    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    seen = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listener = client.create_subscription(
        DiagnosticStatus, '/recorder/status', seen.append, latched
    )
    with recorder(tmp_path / 'bag', preexec_fn=small) as child:

        def failed():
            rclpy.spin_once(client, timeout_sec=0.1)
            return seen and seen[-1].level == DiagnosticStatus.ERROR

        wait_for(failed)
        assert 'is full; make room and start again' in seen[-1].message
        assert not call(client, '/recorder/stop').success
        assert child.poll() is None
    client.destroy_subscription(listener)


def test_too_little_room_is_noticed_before_the_disk_is_full(source, tmp_path):
    free = os.statvfs(tmp_path)
    too_much = min(1_000_000, free.f_bavail * free.f_frsize // 2**20 + 1000)
    with recorder(tmp_path / 'bag', f'reserve_mb:={too_much}', 'limit:=100000') as child:
        output = child.communicate(timeout=30)[0]
    assert child.returncode == 1 and 'MiB left; make room' in output
    assert not recover(tmp_path / 'bag')['changed']  # it was finished properly


def test_what_a_held_up_recorder_missed_is_counted(source, client, tmp_path):
    """A stopped process reads nothing: what the queues cannot hold is lost, and counted."""
    with recorder(tmp_path / 'bag', 'autostart:=true') as child:
        wait_for_bytes(tmp_path / 'bag', 20_000)
        child.send_signal(signal.SIGSTOP)
        time.sleep(8)  # 800 frames; the queues hold about 500
        child.send_signal(signal.SIGCONT)
        time.sleep(1)
        facts = json.loads(call(client, '/recorder/stop').message)
    found = stamps(tmp_path / 'bag')
    published = round((found[-1][0] - found[0][0]) * 100) + 1
    assert facts['topics']['/image_raw']['dropped'] == published - len(found) > 0


@pytest.mark.parametrize(
    ('pair', 'sentence'),
    [
        ('sync_period:=2.0', 'outside'),
        ('pth:=x', "did you mean 'path'"),
        ('task:=nope', 'no task'),
    ],
)
def test_a_bad_parameter_is_one_sentence(tmp_path, pair, sentence):
    with recorder(tmp_path / 'bag', pair) as child:
        output = child.communicate(timeout=30)[0]
    assert child.returncode == 2 and sentence in output and 'Traceback' not in output
    assert not (tmp_path / 'bag').exists()


def test_a_second_camera_on_the_topic_is_warned_of(source, client, tmp_path):
    publisher = client.create_publisher(Image, '/image_raw', 1)
    with recorder(tmp_path / 'bag') as child:
        warned = said(child, '2 publishers on /image_raw')
    client.destroy_publisher(publisher)
    assert 'ROS_DOMAIN_ID' in warned


def test_latched_topics_are_recorded_although_they_spoke_before(client, tmp_path):
    from std_msgs.msg import String

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = client.create_publisher(String, '/said_before', latched)
    publisher.publish(String(data='hello'))
    with recorder(tmp_path / 'bag', 'topics:=[/said_before]') as child:
        wait_for(lambda: holds(tmp_path / 'bag', b'hello'))
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    client.destroy_publisher(publisher)
    assert recover(tmp_path / 'bag')['topics'] == {'/said_before': 1}
