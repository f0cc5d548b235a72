"""A global model as a vectorised environment, and that PPO's library accepts it."""

import pytest

pytest.importorskip('stable_baselines3')

from dmo_training.baselines.ppo import build_ppo, PpoConfig, WorldVecEnv
from dmo_training.world import Context, WorldStep
import numpy as np
import torch


class Counter:
    """Frames (or states) that show the step's number; actor 0 may terminate at a step."""

    def __init__(self, shape, dtype, end_at=None):
        self.batch, self.shape, self.dtype, self.end_at = 3, shape, dtype, end_at

    def reset(self, context, rows=None):
        rows = torch.ones(3, dtype=torch.bool) if rows is None else rows
        if not hasattr(self, 'count'):
            self.count = torch.zeros(3)
        self.count[rows] = context.observation[:, -1].flatten(1)[:, 0].float()

    def step(self, action):
        self.count = self.count + 1
        seen = self.count.view(3, *[1] * len(self.shape)).expand(3, *self.shape).to(self.dtype)
        ended = torch.zeros(3, dtype=torch.bool)
        ended[0] = self.end_at is not None and self.count[0] == self.end_at
        return WorldStep(seen, self.count.clone(), ended)


class Tens:
    """Contexts of two observations that show 9 and 10."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def sample(self, count):
        seen = torch.tensor([9, 10]).view(1, 2, *[1] * len(self.shape))
        return Context(seen.expand(count, 2, *self.shape).to(self.dtype), torch.zeros(count, 1, 2))


def env(stack=1, length=3, shape=(4,), dtype=torch.float32, end_at=None):
    return WorldVecEnv(Counter(shape, dtype, end_at), Tens(shape, dtype), 2, length, stack)


def advance(worlds):
    return worlds.step(np.zeros((3, 2), np.float32))


def test_episodes_end_at_the_time_limit_with_their_true_last_observation():
    worlds = env(length=2)
    assert worlds.reset()[:, 0].tolist() == [10, 10, 10]
    _, reward, done, _ = advance(worlds)
    assert reward.tolist() == [11, 11, 11] and not done.any()
    seen, _, done, infos = advance(worlds)
    assert done.all() and seen[:, 0].tolist() == [10, 10, 10]
    assert infos[1]['terminal_observation'][0] == 12
    assert infos[1]['TimeLimit.truncated'] is True


def test_termination_is_not_truncation():
    worlds = env(length=100, end_at=11)
    worlds.reset()
    seen, _, done, infos = advance(worlds)
    assert done.tolist() == [True, False, False] and seen[:, 0].tolist() == [10, 11, 11]
    assert infos[0]['TimeLimit.truncated'] is False


@pytest.mark.parametrize('stack,first', [(2, [9, 10]), (3, [9, 9, 10])])
def test_stacks_are_back_filled_and_slide(stack, first):
    worlds = env(stack, shape=(1,))
    assert worlds.reset()[0].tolist() == first
    assert advance(worlds)[0][0].tolist() == [*first[1:], 11]


def test_frames_keep_time_in_their_channels_and_train_a_cnn():
    worlds = env(stack=2, shape=(16, 16, 3), dtype=torch.uint8, length=8)
    seen = worlds.reset()
    assert seen.dtype == np.uint8 and seen.shape == (3, 16, 16, 6)
    assert seen[0, 0, 0].tolist() == [9, 9, 9, 10, 10, 10]
    model = build_ppo(worlds, PpoConfig(horizon=4, mini_batch=6, mini_epochs=1, hidden=(8,)))
    model.learn(12)
    action, _ = model.predict(seen, deterministic=True)
    assert action.shape == (3, 2) and np.abs(action).max() <= 1


def test_ppo_is_seeded():
    def learn(seed):
        model = build_ppo(env(), PpoConfig(horizon=8, mini_batch=8, hidden=(8,), seed=seed))
        model.learn(24)
        return model.predict(np.ones((1, 4), np.float32), deterministic=True)[0]

    assert np.array_equal(learn(0), learn(0))
    assert not np.array_equal(learn(0), learn(1))
