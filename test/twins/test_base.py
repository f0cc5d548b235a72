"""The registry of twins, and the switches of their peers."""

from types import SimpleNamespace

from dmo_ros.core.tasks import TaskError, TASKS
from dmo_ros.twins.base import harm, make_peer, make_twin, moved, TWINS
import numpy as np
import pytest


def test_every_task_has_a_twin_and_an_operator():
    assert set(TWINS) == set(TASKS)


def test_the_pusher_has_no_protocol_and_an_unknown_task_no_twin():
    assert make_peer('pusher', make_twin('pusher'), 7) is None
    with pytest.raises(TaskError, match='nowhere'):
        make_twin('nowhere')


def test_a_stick_is_a_velocity_or_a_rate():
    spec = TASKS['grab_box']
    rest = np.array([[field.rest for field in spec.actions]])
    motion = np.full_like(rest, 0.1)
    command = moved(rest, motion, spec)
    velocity = np.array([field.is_velocity for field in spec.actions])
    np.testing.assert_allclose(command[:, velocity], 0.1)
    np.testing.assert_allclose(command[:, ~velocity], rest[:, ~velocity] + 0.1 * spec.period)
    far = moved(command, np.full_like(rest, 1e6), spec)
    np.testing.assert_array_equal(far[0], [field.high for field in spec.actions])


def test_a_switch_is_thrown_by_its_name():
    said = []
    faults = SimpleNamespace(mute=False, drop=0)
    peer = SimpleNamespace(faults=faults, kill=lambda: said.append('kill'), force=said.append)
    assert harm(peer, 'faults.mute 1') == '' and faults.mute is True
    assert harm(peer, 'faults.drop 3') == '' and faults.drop == 3
    assert harm(peer, 'kill') == '' and harm(peer, 'force 1001') == ''
    assert said == ['kill', 1001]


@pytest.mark.parametrize(
    'line', ['', 'nothing 1', 'faults.mute yes', '__class__.x 1', 'faults..mute 1', 'faults.a b']
)
def test_a_switch_that_is_not_there_is_a_sentence(line):
    peer = SimpleNamespace(faults=SimpleNamespace(mute=False))
    assert 'no switch' in harm(peer, line)
    assert peer.faults.mute is False
