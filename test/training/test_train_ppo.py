"""The PPO stage from play data to a policy that can be exported."""

import pytest

pytest.importorskip('stable_baselines3')

from dmo_ros.core.episode import Episode
from dmo_ros.core.tasks import TASKS
from dmo_ros.twins.pusher import PusherTwin
from dmo_ros.twins.pusher_operator import PusherOperator
from dmo_training import engine, train_ppo, train_reward
from dmo_training.baselines.ppo import PpoConfig
import numpy as np
import torch

SPEC = TASKS['pusher']


def dataset():
    twin, operator = PusherTwin(1, seed=0), PusherOperator(1, seed=0)
    frames, actions, labels = [], [], []
    for _ in range(40):
        action, label = operator.act(twin.state)
        frames.append(twin.render()[0])
        actions.append(action[0] / SPEC.actions[0].high)
        labels.append(label[0])
        twin.step(action)
    return Episode(
        frames=np.stack(frames),
        action=np.stack(actions).astype(np.float32),
        intent=np.array(labels, np.uint8),
        valid=np.ones(40, bool),
        stamp=np.arange(40) * 0.2,
        proprio=np.zeros((40, 0), np.float32),
        info={},
    )


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(
        train_ppo.PlayDataset, 'open', classmethod(lambda cls, folder, spec: cls([dataset()]))
    )
    monkeypatch.setattr(
        train_reward,
        'load_reward',
        lambda path, spec: lambda frames: frames.float().mean(dim=(1, 2, 3)) / 255,
    )
    return train_ppo.Config(
        'pusher',
        tmp_path,
        tmp_path,
        tmp_path,
        tmp_path / 'run',
        PpoConfig(
            actors=4,
            horizon=8,
            samples=64,
            mini_batch=16,
            mini_epochs=1,
            episode_length=5,
            hidden=(8,),
        ),
        forward='twin',
        evaluate_every=32,
        episodes=2,
    )


def test_a_run_learns_is_saved_and_acts_the_same_after_loading(config):
    path = train_ppo.train(config)
    state = engine.load_checkpoint(path)
    assert state['samples'] == 64 and [p['samples'] for p in state['curve']] == [32, 64]
    policy, spec, provenance = train_ppo.load_ppo(path)
    assert spec == SPEC and provenance['method'] == 'ppo'
    image = torch.randint(0, 255, (3, SPEC.frame_stack, 32, 32, 3), dtype=torch.uint8)
    first, again = (
        module(image, torch.zeros(3, 2), torch.ones(3, 1))[0]
        for module in (policy, train_ppo.load_ppo(path)[0])
    )
    assert first.shape == (3, 2) and torch.equal(first, again) and first.abs().max() <= 1


def test_what_ppo_trains_is_what_is_deployed(config):
    """The library's own mean action and the deployed module's agree on the same frames."""
    from dmo_training.baselines.ppo import build_ppo, deterministic, side_by_side, WorldVecEnv
    from dmo_training.deploy import PpoNetwork, StackPolicy

    blank = train_ppo._Blank(SPEC)
    env = WorldVecEnv(blank, blank, 2, 5, SPEC.frame_stack)
    model = build_ppo(env, PpoConfig(hidden=(8,)))
    image = torch.randint(0, 255, (5, SPEC.frame_stack, 32, 32, 3), dtype=torch.uint8)
    theirs = deterministic(model, side_by_side(image))
    with torch.no_grad():
        ours = StackPolicy(PpoNetwork(model.policy), SPEC.frame_stack)(image, None, None)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_run_cannot_be_resumed_and_says_so(config):
    with pytest.raises(ValueError, match='cannot be resumed'):
        train_ppo.train(config, resume=True)


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    engine.save_checkpoint(tmp_path / 'x.safetensors', {'stage': 'local'})
    with pytest.raises(engine.CheckpointError, match="stage 'local'"):
        train_ppo.load_ppo(tmp_path / 'x.safetensors')
