"""
The Go2 peer as the twin node uses it, in this process: time, odometry, state and pictures.

Its protocol is tested with the real client from another process, in test/robots/test_go2.py.
"""

import json
import math
import os
import threading
import time

import cv2
from dmo_ros.core.addresses import twin_dds_domain
from dmo_ros.robots import unitree
from dmo_ros.robots.base import RobotError
from dmo_ros.twins.go2_peer import Go2Peer, Odometry
from dmo_ros.twins.go2_process import FlatTwin
import numpy as np
import pytest

try:
    unitree.sdk()
except RobotError as error:
    pytest.skip(str(error), allow_module_level=True)

PATIENCE = 20.0


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.01)


def domain():
    return int(os.environ['ROS_DOMAIN_ID'])


@pytest.fixture
def peer(request):
    """A standing peer on a plane; lockstep where a test is parametrised with True."""
    lockstep = getattr(request, 'param', True)
    made = Go2Peer(FlatTwin(), domain(), lockstep=lockstep)
    noted = threading.Event()
    made.start(noted.set)
    made.noted = noted
    yield made
    made.stop()


@pytest.fixture
def client(peer):
    kit = unitree.open_channel(twin_dds_domain(domain()))
    made = unitree.open_client(kit.SportClient, 2.0)
    until(lambda: made.GetServerApiVersion() == (0, '1.0.0.1'))
    yield made
    unitree.close_client(made)


def send(peer, client, *velocity):
    before = peer.pending
    peer.noted.clear()
    assert client.Move(*velocity) == 0
    assert peer.noted.wait(PATIENCE)
    until(lambda: peer.pending == before + 1)


def test_in_lockstep_a_period_needs_one_move(peer, client):
    assert peer.burst == 1 and peer.pending == 0
    send(peer, client, 0.5, 0.0, 0.0)
    peer.advance(0.2)
    assert peer.pending == 0
    assert peer.twin.state[0] == pytest.approx((0.1, 0.0, 0.0))


def test_a_reset_forgets_what_was_asked_and_keeps_the_odometry(peer, client):
    send(peer, client, 0.5, 0.0, 0.0)
    peer.advance(0.2)
    send(peer, client, 0.5, 0.0, 0.0)
    peer.twin.state[0] = 3.0, 3.0, 1.0
    peer.reset()
    assert peer.pending == 0
    peer.advance(0.2)
    assert peer.twin.state[0] == pytest.approx((3.0, 3.0, 1.0))
    assert peer.odometry.pose == pytest.approx((0.1, 0.0, 0.0))


def test_stop_move_empties_the_queue(peer, client):
    send(peer, client, 0.5, 0.0, 0.0)
    assert client.StopMove() == 0
    assert peer.pending == 0
    peer.advance(0.2)
    assert peer.twin.state[0] == pytest.approx((0.0, 0.0, 0.0))


def test_every_request_is_kept_with_its_time(peer, client):
    began = time.monotonic()
    send(peer, client, 0.1, 0.2, 0.3)
    client.StopMove()
    kept = [request for request in peer.requests if request.api_id != 1]
    assert [(request.api_id, request.noreply) for request in kept] == [(1008, True), (1003, False)]
    assert json.loads(kept[0].parameter) == {'x': 0.1, 'y': 0.2, 'z': 0.3}
    assert began <= kept[0].arrived <= kept[1].arrived <= time.monotonic()


def test_the_state_goes_on_while_the_robots_time_waits(peer):
    kit = unitree.sdk()
    full = unitree.Subscription('rt/sportmodestate', kit.go.SportModeState_)
    low = unitree.Subscription('rt/lf/lowstate', kit.go.LowState_)
    until(lambda: full.count > 1 and low.count > 0)
    first = full.sample.stamp
    until(lambda: full.sample.stamp != first)  # nobody has called advance
    assert full.sample.error_code == 1013
    assert low.sample.bms_state.soc == peer.charge
    assert low.sample.crc == unitree.crc32(low.sample)
    peer.frozen = True
    time.sleep(0.05)
    count, stamp = full.count, full.sample.stamp
    until(lambda: full.count > count + 3)
    assert full.sample.stamp == stamp
    full.close()
    low.close()


def test_its_mode_is_told_as_the_switcher_tells_it(peer):
    client = unitree.make_client('motion_switcher', '1.0.0.1', (1001, 1003), 2.0)
    until(lambda: client.GetServerApiVersion()[0] == 0)
    code, data = client._Call(1001, '{}')
    assert code == 0 and json.loads(data)['name']
    assert client._Call(1003, '{}')[0] == 3203
    unitree.close_client(client)


def test_the_camera_serves_what_was_shown_last(peer):
    kit = unitree.sdk()
    client = unitree.open_client(kit.VideoClient, 2.0)
    until(lambda: client.GetServerApiVersion()[0] == 0)
    assert client.GetImageSample()[0] != 0  # nothing was shown yet
    for shade in (40, 200):
        peer.show(np.full((72, 128, 3), (shade, 0, 0), np.uint8))
        code, data = client.GetImageSample()
        assert code == 0
        picture = cv2.imdecode(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (72, 128, 3)
        assert abs(int(picture[36, 64, 2]) - shade) < 8  # OpenCV: red comes last
    unitree.close_client(client)


@pytest.mark.parametrize('peer', [False], indirect=True)
def test_in_real_time_it_is_found_lying(peer, client):
    assert peer.firmware.posture == 1001
    assert client.StandUp() == 0
    peer.advance(0.5)
    assert client.BalanceStand() == 0
    peer.advance(0.5)
    assert peer.firmware.posture == 1013


def test_it_ends_without_a_trace():
    before = set(threading.enumerate())
    peer = Go2Peer(FlatTwin(), domain())
    peer.start()
    peer.stop()
    peer.stop()
    assert set(threading.enumerate()) == before


def test_odometry_follows_the_legs_through_a_curve():
    twin = FlatTwin()
    twin.state[0] = 2.0, -1.0, 2.5
    odometry = Odometry(twin)
    for _ in range(100):
        twin.advance(np.array([[0.5, 0.1, 0.8]]), 0.01)
        odometry.update(0.01)
    x, y, yaw = odometry.pose
    assert yaw == pytest.approx(0.8)
    there = twin.state[0, :2] - (2.0, -1.0)
    back = (
        math.cos(-2.5) * there[0] - math.sin(-2.5) * there[1],
        math.sin(-2.5) * there[0] + math.cos(-2.5) * there[1],
    )
    assert (x, y) == pytest.approx(back, abs=1e-9)
    assert odometry.twist == pytest.approx((0.5, 0.1, 0.8), abs=1e-6)


def test_in_lockstep_every_step_is_told(peer, client):
    kit = unitree.sdk()
    full = unitree.Subscription('rt/lf/sportmodestate', kit.go.SportModeState_)
    until(lambda: full.count > 0)
    for number in range(1, 6):
        send(peer, client, 0.5, 0.0, 0.0)
        peer.advance(0.2)
        until(lambda x=0.1 * number: full.sample.position[0] == pytest.approx(x, abs=1e-6))
    full.close()
