"""Evaluation of a policy that feels the joints: the twin tells them as the robot's bridge does."""

from types import SimpleNamespace

from dmo_ros.core.actions import fill, to_normalised, to_si
from dmo_ros.core.tasks import get_task, TaskError
from dmo_training import evaluate
import numpy as np
import pytest
import torch
from torch import nn

SPEC = get_task('grab_box')
NAMES = tuple(field.name for field in SPEC.proprioception)


class Room:
    """A room without physics: joints are where they were told to go; it keeps what it was told."""

    names = ('base_x', 'base_y', *reversed(NAMES), 'box_z')
    spec = SPEC

    def __init__(self, batch, seed):
        self.rng, self.commands = np.random.default_rng(seed), []
        self.state = np.zeros((batch, len(self.names)))

    def reset(self, rows=None, state=None):
        assert rows is None
        self.state = np.array(state)

    def step(self, action):
        self.commands.append(action)
        command = dict(zip([field.name for field in SPEC.actions], action.T, strict=True))
        self.state = np.stack([command.get(name, np.zeros(len(action))) for name in self.names], 1)

    def render(self):
        return np.zeros((len(self.state), 288, 384, 3), np.uint8)

    def distance(self, state=None):
        return np.ones(len(self.state if state is None else state))


class Mirror(nn.Module):
    """Commands each driven joint to half of where it feels it is; remembers what it felt."""

    frame_stack, state_shapes = 1, {}

    def __init__(self):
        super().__init__()
        self.felt = []

    def forward(self, image, prev_action, is_first, proprio):
        self.felt.append(proprio.numpy().copy())
        driven = [NAMES.index(name) for name in SPEC.policy_actions]
        half = to_normalised(0.5 * proprio.numpy()[:, driven], SPEC.driven)
        return (torch.from_numpy(half.astype(np.float32)),)


@pytest.fixture
def rooms(monkeypatch):
    made = []

    def make(task, batch=1, seed=0):
        made.append(Room(batch, seed))
        return made[-1]

    rng = np.random.default_rng(4)
    begin = rng.uniform(-0.4, 0.4, (3, len(Room.names)))
    monkeypatch.setattr(evaluate, 'make_twin', make)
    monkeypatch.setattr(evaluate, 'starts', lambda task, episodes, seed: begin[:episodes])
    return SimpleNamespace(made=made, begin=begin)


def test_the_policy_feels_the_twins_joints_by_name_and_the_rest_stays_at_rest(rooms):
    mirror = Mirror()
    result = evaluate.evaluate_batched(mirror, 'grab_box', episodes=3)
    (room,) = rooms.made
    columns = [Room.names.index(name) for name in NAMES]
    assert len(mirror.felt) == SPEC.success.episode_steps
    np.testing.assert_allclose(mirror.felt[0], rooms.begin[:, columns].astype(np.float32))
    for before, command in zip(mirror.felt, room.commands, strict=True):
        for number, field in enumerate(SPEC.actions):
            if field.name in SPEC.policy_actions:
                wanted = np.clip(0.5 * before[:, NAMES.index(field.name)], field.low, field.high)
                np.testing.assert_allclose(command[:, number], wanted, atol=1e-5)
            else:
                np.testing.assert_array_equal(command[:, number], field.rest)
    assert result['task'] == 'grab_box' and result['strict']['successes'] == 0


def test_a_twin_that_does_not_tell_a_joint_is_a_sentence(rooms, monkeypatch):
    monkeypatch.setattr(Room, 'names', Room.names[3:])
    with pytest.raises(TaskError, match='does not tell right_hand'):
        evaluate.proprioception(Room(1, 0))


def test_a_task_without_proprioception_gives_none():
    from dmo_ros.twins.pusher import PusherTwin

    assert evaluate.proprioception(PusherTwin(2)) is None


def test_the_twins_columns_are_its_joints_in_the_tasks_order_and_units():
    pytest.importorskip('mujoco')
    from dmo_ros.twins.grab_box import GrabBoxTwin

    twin = GrabBoxTwin(2, seed=3)
    command = np.array(fill(to_si(np.full(11, 0.3), SPEC.driven), SPEC))
    for _ in range(4):
        twin.step(np.tile(command, (2, 1)))
    rows = evaluate.proprioception(twin)
    assert rows.dtype == np.float32 and rows.shape == (2, 19)
    np.testing.assert_array_equal(rows, twin.joint_position.astype(np.float32))
    right = NAMES.index('right_hand')  # told to close by 0.65: on its way, in closures
    assert (rows[:, right] > 0.05).all() and (rows[:, right] < 0.7).all()
