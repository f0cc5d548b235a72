"""
The Go2 adapter, with the real SportClient, against a peer in another process over DDS on loopback.

Every test has a peer of its own: a robot that was killed stays matched for ten seconds.
"""

import json
import math
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.core.tasks import get_task
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from dmo_ros.robots.go2 import Go2, RANGES, STOP_WITHIN
from dmo_ros.robots.go2_camera import Go2Camera
from dmo_ros.robots.go2_remote import Go2Remote, KEYS, to_joy
from dmo_ros.twins.go2_process import PeerProcess
import pytest

try:
    unitree.sdk()
except RobotError as error:
    pytest.skip(str(error), allow_module_level=True)

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
USED = {1, 1002, 1003, 1004, 1008}  # all that a bridge may ask of the sport service
TOLERANCE = 0.3  # s, of a loaded machine


def until(condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.01)


def domain():
    return int(os.environ['ROS_DOMAIN_ID'])


@pytest.fixture
def start():
    """Start peers, and robots that are closed in the end."""
    opened = []

    def make(robot=None, **settings):
        peer = PeerProcess(domain(), **settings)
        opened.append(peer)
        go2 = Go2(twin_dds_domain(domain()), **(robot or {}))
        opened.append(go2)
        return go2, peer

    yield make
    for item in reversed(opened):
        item.close()


@pytest.fixture
def driven(start):
    """A robot that stands and obeys."""
    go2, peer = start(posture=1013)
    go2.connect()
    go2.engage()
    return go2, peer


class Driver:
    """Sends the newest command at 20 Hz, as the bridge's sender does."""

    def __init__(self, go2):
        self.go2, self.ended = go2, threading.Event()
        self.errors = []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.wait(0.05):
            try:
                self.go2.tick(0.05)
            except RobotError as error:
                self.errors.append(str(error))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(PATIENCE)


# ---------------------------------------------------------------------- becoming ready
def test_it_is_found_identified_and_heard_before_anything_moves(start):
    go2, peer = start(posture=1013)
    go2.connect()
    assert peer.ask()['apis'] == [1]
    health = go2.health()
    assert health.ok and health.values['posture'] == 'balance stand (1013)'
    until(lambda: go2.health().values['battery'] == 87)
    assert go2.health().values['bad_checksums'] == 0


def test_a_lying_robot_stands_up_and_is_not_driven_before_it_obeys(start):
    go2, peer = start(posture=1001, stand_time=0.3, dead_time=0.8)
    go2.connect()
    assert not go2.health().ok and 'damping' in go2.health().reason
    began = time.monotonic()
    go2.engage()
    assert time.monotonic() - began >= 0.8  # it would have answered 0 to every Move all the while
    assert go2.health().ok
    report = peer.ask()
    assert report['posture'] == 1013
    assert all(move[1:] == [0.0, 0.0, 0.0] for move in report['moves'])
    assert set(report['apis']) <= USED


def test_a_robot_that_never_gets_ready_is_given_up_in_time(start):
    go2, peer = start({'engage_within': 0.8}, posture=1002, dead_time=1e6)
    peer.ask('fall 1001')
    go2.connect()
    with pytest.raises(RobotError, match='1001|1002'):
        go2.engage()
    assert peer.ask()['velocity'] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize('posture', [1006, 4321])
def test_a_robot_in_the_middle_of_something_is_refused(start, posture):
    go2, peer = start(posture=posture)
    go2.connect()
    with pytest.raises(RobotError, match=str(posture)):
        go2.engage()
    assert 1004 not in peer.ask()['apis']


def test_no_robot_is_a_sentence(monkeypatch):
    monkeypatch.setattr('dmo_ros.robots.go2.FIRST_STATE', 0.6)
    go2 = Go2(twin_dds_domain(domain()))
    try:
        with pytest.raises(RobotError, match='no Go2 is heard'):
            go2.connect()
        assert not go2.health().ok and go2.state() is None
        with pytest.raises(RobotError, match='no Go2 is connected'):
            go2.damp()
    finally:
        go2.close()


# ---------------------------------------------------------------------- driving
def test_it_moves_as_told_and_tells_where_it_is(driven):
    go2, peer = driven
    go2.command((0.4, 0.1, 0.3))
    with Driver(go2) as driver:
        until(lambda: go2.state().twist == pytest.approx((0.4, 0.1, 0.3), abs=1e-6))
        until(lambda: go2.state().pose[0] > 0.2)
    assert not driver.errors
    assert go2.stop()
    until(lambda: go2.state().twist == (0.0, 0.0, 0.0))
    pose = peer.ask()['pose']
    until(lambda: go2.state().pose == pytest.approx(pose, abs=1e-5))
    assert set(peer.ask()['apis']) <= USED


def test_what_the_robot_does_not_take_is_not_sent(driven):
    go2, peer = driven
    before = peer.ask()['move_count']
    for values in ((math.nan, 0, 0), (0, math.inf, 0), (0, 0, 4.1), (-2.6, 0, 0), (0, 0)):
        with pytest.raises(RobotError):
            go2.command(values)
    go2.tick(0.02)
    until(lambda: peer.ask()['move_count'] == before + 1)
    assert peer.ask()['moves'][-1][1:] == [0.0, 0.0, 0.0]


def test_the_task_stays_within_what_the_robot_takes():
    for field, (name, low, high) in zip(get_task('push_cube').actions, RANGES, strict=True):
        assert field.name == name and low <= field.low and field.high <= high


def test_a_move_is_held_for_a_second_of_silence_and_no_longer(driven):
    go2, peer = driven
    go2.command((0.5, 0.0, 0.0))
    go2.tick(0.02)
    until(lambda: go2.state().pose[0] > 0.05)
    until(lambda: go2.state().twist == (0.0, 0.0, 0.0))
    assert peer.ask()['pose'][0] == pytest.approx(0.5, abs=1e-6)
    assert peer.ask()['posture'] == 1013


def test_stop_is_confirmed_by_the_robot_and_repeatable(driven):
    go2, peer = driven
    go2.command((0.6, 0.0, 0.0))
    go2.tick(0.02)
    until(lambda: peer.ask()['velocity'] == [0.6, 0.0, 0.0])
    assert go2.stop() and go2.stop()
    report = peer.ask()
    assert report['velocity'] == [0.0, 0.0, 0.0] and 1003 in report['apis']
    go2.tick(0.02)  # what was commanded before a stop is forgotten
    until(lambda: peer.ask()['move_count'] > report['move_count'])
    assert peer.ask()['velocity'] == [0.0, 0.0, 0.0]


def test_moves_at_5_hz_all_arrive(driven):
    go2, peer = driven
    before = peer.ask()['move_count']
    for number in range(10):
        go2.command((0.01 * number, 0.0, 0.0))
        go2.tick(0.2)
        time.sleep(0.2)
    moves = peer.ask('moves')['moves'][before:]
    assert [round(move[1] / 0.01) for move in moves] == list(range(10))


def test_damping_happens_on_a_word_only_and_is_a_fault(driven):
    go2, peer = driven
    go2.stop()
    go2.close()
    assert 1001 not in peer.ask()['apis']
    go2.connect()
    go2.damp()
    until(lambda: not go2.health().ok)
    assert go2.health().fault and 'damping' in go2.health().reason


# ---------------------------------------------------------------------- what goes wrong
def test_a_mute_robot_is_not_said_to_have_stopped(driven):
    go2, peer = driven
    peer.ask('set mute 1')
    began = time.monotonic()
    assert not go2.stop()
    assert time.monotonic() - began < STOP_WITHIN + TOLERANCE
    assert go2.counts[unitree.TIMED_OUT] >= 1
    assert go2.health().values['code_3104'] >= 1
    peer.ask('set mute 0')
    assert go2.stop()


def test_a_frozen_clock_is_a_fault_although_everything_answers(driven):
    go2, peer = driven
    peer.ask('set frozen 1')
    until(lambda: not go2.health().ok)
    assert go2.health().fault and 'frozen' in go2.health().reason
    assert go2.stop()
    peer.ask('set frozen 0')
    until(lambda: go2.health().ok)


def test_a_silent_robot_is_not_driven(driven):
    go2, peer = driven
    peer.ask('set silent 1')
    until(lambda: not go2.health().ok)
    assert 'not been heard' in go2.health().reason and not go2.health().fault
    assert go2.health().values['state_age'] > 0.5


@pytest.mark.parametrize('posture', [1001, 1007])
def test_a_robot_that_changes_its_posture_by_itself_is_a_fault(driven, posture):
    go2, peer = driven
    peer.ask(f'fall {posture}')
    until(lambda: not go2.health().ok)
    assert go2.health().fault and str(posture) in go2.health().reason


def test_a_killed_robot_shows_in_its_state_although_moves_go_out(driven):
    go2, peer = driven
    peer.kill()
    go2.tick(0.02)  # returns 0, as the vendor's client does for ten seconds
    until(lambda: not go2.health().ok)
    began = time.monotonic()
    assert not go2.stop()
    assert time.monotonic() - began < STOP_WITHIN + TOLERANCE


def test_a_restarted_robot_is_heard_again_without_a_new_connection(start, driven):
    go2, peer = driven
    peer.kill()
    until(lambda: not go2.health().ok)
    with PeerProcess(domain(), posture=1013) as again:
        until(lambda: go2.health().ok)
        until(go2.stop)
        assert 1003 in again.ask()['apis']


def test_lost_requests_are_asked_again(driven):
    go2, peer = driven
    peer.ask('set drop 3')
    assert all(go2.stop() for _ in range(6))


def test_closing_stops_it_and_ends_all_threads(start):
    before = set(threading.enumerate())
    go2, peer = start(posture=1013)
    go2.connect()
    go2.engage()
    go2.command((0.5, 0.0, 0.0))
    go2.tick(0.02)
    go2.close()
    go2.close()
    assert peer.ask()['velocity'] == [0.0, 0.0, 0.0]
    assert set(threading.enumerate()) == before


# ---------------------------------------------------------------------- options
def test_obstacle_avoidance_drives_through_its_own_service(start):
    go2, peer = start({'avoid_obstacles': True}, posture=1013)
    go2.connect()
    go2.engage()
    go2.command((0.2, 0.0, 0.1))
    go2.tick(0.02)
    until(lambda: peer.ask()['velocity'] == [0.2, 0.0, 0.1])
    assert 1008 not in peer.ask()['apis']
    assert go2.stop()


def test_a_speed_level_is_asked_for_when_wanted(start):
    go2, peer = start({'speed_level': -1}, posture=1013)
    go2.connect()
    go2.engage()
    assert 1015 in peer.ask()['apis']


# ---------------------------------------------------------------------- camera and remote
def test_the_camera_gives_each_picture_with_its_age(start):
    start(posture=1013)
    camera = Go2Camera(twin_dds_domain(domain()))
    try:
        camera.connect()
        until(lambda: camera.frames >= 3)
        picture, age = camera.take()
        assert camera.take() is None or camera.frames > 3
        assert picture.shape == (720, 1280, 3) and picture.dtype == 'uint8'
        assert picture[360, 200] == pytest.approx((220, 30, 30), abs=8)  # red stays red: RGB
        assert picture[360, 1000] == pytest.approx((128, 128, 128), abs=8)
        assert 0.0 < age < PATIENCE
    finally:
        camera.stop()


def test_a_camera_that_falls_silent_says_so_and_comes_back(start):
    _, peer = start(posture=1013)
    camera = Go2Camera(twin_dds_domain(domain()))
    try:
        camera.connect()
        until(lambda: camera.frames > 0)
        peer.ask('set mute 1')
        until(lambda: camera.failures > 0)
        assert '3104' in camera.error
        while camera.take() is not None:
            pass
        time.sleep(0.2)
        assert camera.take() is None  # an old picture is never handed out as a new one
        peer.ask('set mute 0')
        seen = camera.frames
        until(lambda: camera.frames > seen and not camera.error)
    finally:
        camera.stop()


def test_a_camera_elsewhere_is_refused_in_a_process_that_has_a_robot(start):
    start(posture=1013)[0].connect()
    camera = Go2Camera(twin_dds_domain(domain()) + 1)
    with pytest.raises(RobotError, match='another'):
        camera.connect()
    camera.stop()


def test_the_remote_speaks_as_a_pad_does(start):
    _, peer = start(posture=1013)
    heard = []
    remote = Go2Remote(twin_dds_domain(domain()), 'lo', lambda *pad: heard.append(pad))
    remote.connect()
    assert remote.age == math.inf
    keys = KEYS['L1'] | KEYS['A'] | KEYS['up']

    def press():
        peer.ask(f'press 0.25 1.0 -0.5 0.0 {keys}')
        return heard

    try:
        until(press)
        axes, buttons = heard[-1]
        assert axes == (-0.25, 1.0, 1.0, 0.5, 0.0, 1.0, 0.0, 1.0)
        assert [i for i, held in enumerate(buttons) if held] == [0, 4]
        assert remote.age < PATIENCE
    finally:
        remote.close()


@pytest.mark.parametrize(
    ('key', 'button'), [('A', 0), ('B', 1), ('L1', 4), ('R1', 5), ('start', 7)]
)
def test_the_remotes_keys_are_where_the_pads_maps_expect_them(key, button):
    assert to_joy(0, 0, 0, 0, KEYS[key])[1].index(1) == button


def test_forward_left_and_a_left_turn_are_positive():
    axes, _ = to_joy(-1.0, 1.0, -1.0, 0.0, 0)  # Unitree's sticks: right and up are positive
    assert axes[0] == 1.0 and axes[1] == 1.0 and axes[3] == 1.0


# ---------------------------------------------------------------------- the long run
@pytest.mark.slow
def test_moves_at_5_hz_all_arrive_for_ten_minutes():
    command = [sys.executable, 'docs/go2_link.py', '--seconds', '600', '--json']
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=900.0
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['sent'] == found['arrived'] == 3000, found
    assert found['failed_calls'] == found['duplicated'] == 0, found
