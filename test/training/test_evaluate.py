import json
import math

from dmo_ros.core.policy import Policy
from dmo_ros.core.tasks import get_task, TaskError
from dmo_ros.twins.pusher import PusherTwin
from dmo_training import evaluate
from dmo_training.deploy import PpoNetwork, StackPolicy
from dmo_training.export import export
import numpy as np
import pytest
import torch
from torch import nn

SPEC = get_task('pusher')


def cnn():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(12, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    return StackPolicy(network, SPEC.frame_stack)


def test_the_operator_and_chance_are_far_apart():
    expert = evaluate.evaluate_batched('expert', episodes=200)
    chance = evaluate.evaluate_batched('random', episodes=200)
    assert expert['strict']['rate'] > 0.95 and chance['relaxed']['rate'] < 0.15
    assert expert['strict']['low'] > chance['relaxed']['high']
    assert expert['steps']['n'] == expert['strict']['successes']
    assert 0 < expert['straightness']['mean'] <= 1 and expert['curvature']['mean'] > 0
    assert expert['steps']['mean'] > SPEC.success.hold_steps


def test_results_are_plain_json_and_repeat():
    first, again = (evaluate.evaluate_batched('expert', episodes=10, seed=3) for _ in range(2))
    text = json.dumps(first, allow_nan=False)
    assert json.loads(text) == first
    first.pop('seconds'), again.pop('seconds')
    assert first == again
    assert evaluate.evaluate_batched('expert', episodes=10, seed=4)['steps'] != first['steps']


def test_an_episodes_start_depends_on_nothing_but_its_seed():
    many = evaluate.starts('pusher', 6, 10)
    np.testing.assert_array_equal(many[2:5], evaluate.starts('pusher', 3, 12))
    assert len(np.unique(many, axis=0)) == 6


def test_many_episodes_are_the_single_ones():
    together = evaluate.evaluate_batched('expert', episodes=5, seed=20)
    alone = [evaluate.evaluate_batched('expert', episodes=1, seed=20 + i) for i in range(5)]
    steps = [result['steps']['mean'] for result in alone]
    assert together['steps']['mean'] == pytest.approx(np.mean(steps))


def test_onnx_and_torch_play_the_same_episodes(tmp_path):
    pytest.importorskip('onnxscript')
    module, path = cnn(), tmp_path / 'policy.onnx'
    export(module, SPEC, path, parity_steps=10)
    results = [
        evaluate.evaluate_batched(policy, episodes=20)
        for policy in (module, path, str(path), Policy.load(path, SPEC))
    ]
    for result in results:
        assert result.pop('policy') and result.pop('seconds') >= 0
    assert results[1] == results[2] == results[3]
    assert results[0]['strict'] == results[1]['strict']


def test_a_policy_that_copies_the_operator_is_scored_as_the_operator(monkeypatch):
    class Copycat(nn.Module):
        """Reads tool and object off the frame and pushes as the operator would."""

        frame_stack, state_shapes = 1, {}

        def forward(self, image, prev_action, is_first):
            from dmo_ros.core.actions import to_normalised
            from dmo_ros.twins.pusher import locate
            from dmo_ros.twins.pusher_operator import PusherOperator

            state = locate(image[:, 0].numpy())
            action, _ = PusherOperator(len(state), skill='expert').act(state)
            return (torch.from_numpy(to_normalised(action, SPEC.driven).astype(np.float32)),)

    result = evaluate.evaluate_batched(Copycat(), episodes=50)
    assert result['strict']['rate'] > 0.9


def test_a_figure_without_successes_is_none_not_nan():
    still = np.tile(np.array([0.1, 0.1, 0.9, 0.9]), (4, 65, 1))
    result = evaluate.summarise(SPEC, still, PusherTwin(1))
    assert result['strict'] == {
        'successes': 0,
        'rate': 0.0,
        'low': 0.0,
        'high': pytest.approx(0.4899, abs=1e-4),
    }
    assert result['steps'] == {'n': 0, 'mean': None, 'std': None}
    assert '| 0% [0%, 49%] |' in evaluate.table([{'policy': 'x', 'how': 'y', **result}])


def test_success_counts_steps_after_the_start():
    goal, hold = PusherTwin(1).goal, SPEC.success.hold_steps
    states = np.tile(np.concatenate([[0.1, 0.1], goal]), (1, 11, 1))
    assert evaluate.summarise(SPEC, states, PusherTwin(1))['steps']['mean'] == hold
    states[0, :3, 2:] = 0.9  # the state at the start and after steps 1 and 2
    assert evaluate.summarise(SPEC, states, PusherTwin(1))['steps']['mean'] == 2 + hold


@pytest.mark.parametrize('angle', [math.pi / 2, math.pi, 2 * math.pi])
def test_the_curvature_of_a_circle_is_its_inverse_radius(angle):
    turn = np.linspace(0, angle, 400)
    circle = 0.25 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert evaluate.path_curvature(circle) == pytest.approx(4.0, rel=0.01)


def test_a_tool_that_trembles_on_the_spot_has_no_curvature():
    rng = np.random.default_rng(0)
    assert math.isnan(evaluate.path_curvature(rng.normal(scale=1e-5, size=(50, 2))))
    line = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    assert evaluate.path_curvature(line) == pytest.approx(0.0, abs=1e-9)


def test_missed_states_repeat_the_one_before():
    states = np.arange(40, dtype=float).reshape(1, 10, 4)
    holes = states.copy()
    holes[0, [3, 4, 9]] = np.nan
    filled = evaluate._fill(holes)
    np.testing.assert_array_equal(filled[0, 3:5], states[0, [2, 2]])
    np.testing.assert_array_equal(filled[0, 9], states[0, 8])
    np.testing.assert_array_equal(filled[0, :3], states[0, :3])


def test_an_unknown_task_is_a_sentence():
    with pytest.raises(TaskError, match='nowhere'):
        evaluate.evaluate_batched('expert', 'nowhere')


def test_ppo_is_exported_as_it_acts(tmp_path):
    pytest.importorskip('stable_baselines3')
    pytest.importorskip('onnxscript')
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticCnnPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Small(BaseFeaturesExtractor):
        """The library's own CNN needs 36 pixels."""

        def __init__(self, space):
            super().__init__(space, 128)
            self.net = nn.Sequential(nn.Conv2d(12, 8, 8, 8), nn.ReLU(), nn.Flatten())

        def forward(self, pixels):
            return self.net(pixels)

    torch.manual_seed(0)
    policy = ActorCriticCnnPolicy(
        spaces.Box(0, 255, (12, 32, 32), np.uint8),
        spaces.Box(-1, 1, (2,), np.float32),
        lambda _: 1e-3,
        net_arch=[16],
        features_extractor_class=Small,
    )
    path = tmp_path / 'ppo.onnx'
    export(StackPolicy(PpoNetwork(policy), 4), SPEC, path, parity_steps=10)
    loop = Policy.load(path, SPEC).loop(8)
    frames = PusherTwin(8, 0).render()
    seen = np.tile(frames.transpose(0, 3, 1, 2), (1, 4, 1, 1))
    theirs, _ = policy.predict(seen, deterministic=True)
    np.testing.assert_allclose(loop.step(frames), theirs, atol=1e-5)


def test_the_command_line_prints_a_table_or_json(capsys):
    assert evaluate.main(['expert', '--episodes', '5']) == 0
    assert '| expert | batched | 5 | 100%' in capsys.readouterr().out
    assert evaluate.main(['random', '--episodes', '5', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['episodes'] == 5


@pytest.mark.parametrize(
    'words,match',
    [
        (['nowhere.onnx'], 'nowhere.onnx'),
        (['expert', '--task', 'fly'], 'fly'),
        (['nowhere.onnx', '--graph'], 'dmo export'),
    ],
)
def test_a_wrong_argument_is_a_sentence(capsys, words, match):
    assert evaluate.main(words) == 2
    assert match in capsys.readouterr().err
