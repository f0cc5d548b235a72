"""The G1 against its peer in a process of its own, which can be killed."""

import time

import numpy as np
import pytest


@pytest.fixture
def remote(start_g1_peer, bench):
    """Return a function that makes a robot and its peer; the robot ends before the peer."""

    def build(**changed):
        peer = start_g1_peer()
        return bench.robot(**changed), peer

    return build


@pytest.mark.parametrize('path', ['sonic', 'arm_sdk'])
def test_it_drives_a_peer_in_another_process(remote, bench, path):
    robot, peer = remote(path=path)
    ticker = bench.drive(robot, upper=0.2, hand=0.5, walk=(0.2, 0.0, 0.0))

    def there():
        told = peer.tell()
        wanted = np.array(bench.command(upper=0.2, hand=0.5)[:19])
        return told['base'][0] > 0.1 and np.allclose(told['joints'], wanted, atol=0.01)

    bench.until(there)
    ticker.end()
    robot.stop()
    bench.until(lambda: not any(peer.tell()['velocity']))
    told = peer.tell()
    assert not told['counts'].get('refused') and not told['counts'].get('violations')
    assert not told['dds'].get('bad_crc')
    assert not ticker.errors


@pytest.mark.parametrize('path', ['sonic', 'arm_sdk'])
def test_a_killed_robot_is_noticed_and_driven_again_only_when_engaged(
    remote, bench, start_g1_peer, path
):
    robot, peer = remote(path=path)
    ticker = bench.drive(robot)
    bench.until(lambda: robot.health().ok)
    peer.kill()
    killed = time.monotonic()
    bench.until(lambda: not robot.health().ok)
    assert time.monotonic() - killed < 3.0  # 0.5 s of silence, on a machine that has time
    bench.until(lambda: ticker.errors)
    assert ticker.errors
    robot.stop()
    again = start_g1_peer()
    if path == 'sonic':
        time.sleep(1.0)
        assert again.tell()['state'] == 'WAIT_FOR_CONTROL'  # nothing re-engages by itself
        assert not robot.health().ok
        robot.engage()
    bench.until(lambda: robot.health().ok)


def test_mute_in_the_other_process_is_silence_and_passes(remote, bench):
    robot, peer = remote()
    bench.until(lambda: robot.health().ok)
    peer.say('mute 1')
    bench.until(lambda: not robot.health().ok)
    peer.say('mute 0')
    bench.until(lambda: robot.health().ok)


def test_killing_our_side_ends_in_the_peer_standing_by_itself(remote, bench):
    robot, peer = remote()
    ticker = bench.drive(robot, walk=(0.3, 0.0, 0.0))
    bench.until(lambda: peer.tell()['velocity'][0] > 0.29)
    ticker.end()
    robot.way.link.send = lambda message: None  # as after kill -9: not another word
    bench.until(lambda: not any(peer.tell()['velocity']), 10.0)
    assert peer.tell()['counts']['timeouts'] == 1
