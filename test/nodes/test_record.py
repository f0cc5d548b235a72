"""`dmo record` through real processes, and the convention of time on what it recorded."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from dmo_ros.core.rosbag import inspect, recover
from dmo_ros.core.tasks import TASKS
from dmo_ros.record import record, RecordError
from dmo_ros.twins.pusher import PusherTwin
import numpy as np
import pytest

pytestmark = pytest.mark.ros
SPEC = TASKS['pusher']


def wait_for_bytes(path, child, count=100_000):
    until = time.monotonic() + 30
    while not (path.exists() and sum(f.stat().st_size for f in path.iterdir()) > count):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.1)


def children(pid):
    return [int(word) for word in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


@pytest.fixture(scope='module')
def played(tmp_path_factory):
    """Record 150 frames of the scripted operator through camera, teleop, gate and recorder."""
    path = tmp_path_factory.mktemp('record') / 'play'
    return record('pusher', path, frames=150, speed=200.0, seed=3), path


def test_it_records_what_it_was_asked_for(played):
    facts, path = played
    assert 150 <= facts['frames'] <= 250 and not facts['interrupted']
    assert facts['drops'] == {}
    assert facts['messages']['/image_raw'] == facts['frames'] > 0
    found = inspect(path)
    assert found['whole'] and not found['damaged'] and (path / 'metadata.yaml').exists()


def test_log_times_follow_the_twins_clock(played):
    facts, path = played
    assert inspect(path)['seconds'] == pytest.approx(facts['frames'] * SPEC.period, rel=0.2)


def test_frame_then_action_then_next_frame_holds_through_the_whole_graph(played):
    """The twin, fed with the converted actions, walks through the recorded states."""
    pytest.importorskip('torch')
    from dmo_training.bag import Bag
    from dmo_training.convert import plan

    with Bag(played[1]) as bag:
        streams = bag.streams()
        laid = plan(bag, SPEC, streams=streams)
        state = streams['/twin/state']
        states = np.array([message.position for message in bag.decode(state)])
    assert laid.notes == [] and laid.valid.all() and not laid.part.any()
    assert len(laid.tick) == played[0]['frames']
    states = states[np.searchsorted(state.stamp, laid.tick)]
    twin = PusherTwin(len(states) - 1)
    twin.reset(state=states[:-1])
    twin.step(laid.action[:-1])
    np.testing.assert_allclose(twin.state, states[1:], atol=1e-9)


def test_an_existing_recording_is_refused_before_anything_starts(played):
    begun = time.monotonic()
    with pytest.raises(RecordError, match='never overwritten'):
        record('pusher', played[1], frames=10)
    assert time.monotonic() - begun < 0.5


def test_too_small_a_disk_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(RecordError, match='make room or record fewer'):
        record('pusher', tmp_path / 'play', frames=10**12)


def test_a_killed_recorder_is_named_and_the_way_to_its_data(tmp_path):
    path = tmp_path / 'play'
    script = (
        'from dmo_ros.record import record, RecordError\n'
        f'try: record("pusher", "{path}", frames=0, speed=200.0)\n'
        'except RecordError as error: print(error)'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_bytes(path, child)
        (recorder,) = [
            pid
            for pid in children(child.pid)
            if b'dmo_ros.nodes.recorder' in Path(f'/proc/{pid}/cmdline').read_bytes()
        ]
        os.kill(recorder, signal.SIGKILL)
        output = child.communicate(timeout=30)[0]
    finally:
        child.kill()
        child.wait()
    assert "'recorder' ended with code -9" in output and f'dmo recover {path}' in output
    assert recover(path)['topics']['/image_raw'] > 10


def test_ctrl_c_leaves_a_whole_recording(tmp_path):
    path = tmp_path / 'play'
    script = (
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
        'from dmo_ros.record import record; '
        f'print(record("pusher", "{path}", frames=0, speed=200.0)["interrupted"])'
    )
    child = subprocess.Popen(
        [sys.executable, '-c', script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_bytes(path, child)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30)[0].strip() == 'True'
    finally:
        child.kill()
        child.wait()
    found = inspect(path)
    assert found['whole'] and found['topics']['/image_raw'] > 10
    assert (path / 'metadata.yaml').exists()
