from dmo_ros.core.actions import to_si
from dmo_ros.core.policy import Policy
from dmo_ros.core.tasks import get_task
from dmo_ros.episodes import run_episodes
from dmo_ros.nodes import evaluator
from dmo_ros.nodes.parameters import ParameterError
from dmo_ros.stacks import StackError
from dmo_ros.twins.pusher import PusherTwin
from dmo_ros.twins.pusher_operator import PusherOperator
import numpy as np
import pytest

SPEC = get_task('pusher')


def starts(count):
    return np.concatenate([PusherTwin(1, 50 + index).state for index in range(count)])


def batched(begin, act):
    twin = PusherTwin(len(begin))
    twin.reset(state=begin.copy())
    states = [twin.state]
    for _ in range(SPEC.success.episode_steps):
        twin.step(act(twin))
        states.append(twin.state)
    return np.stack(states, axis=1)


def test_the_operators_episodes_are_those_of_the_batch():
    begin = starts(2)
    states = run_episodes('expert', 'pusher', begin)
    operator = PusherOperator(2, skill='expert')
    expected = batched(begin, lambda twin: operator.act(twin.state)[0])
    seen = np.isfinite(states).all(axis=2)
    assert states.shape == expected.shape and seen[:, 0].all() and seen.mean() > 0.95
    # With the object on the goal the operator's direction hangs on the last bit of it, and the
    # pad's axes are float32.
    away = np.linalg.norm(expected[..., 2:] - PusherTwin(1).goal, axis=-1) > 1e-3
    compared = np.minimum.accumulate(away, axis=1) & seen
    assert compared.sum() > 20
    np.testing.assert_allclose(states[compared], expected[compared], atol=1e-4)


def test_a_policy_file_plays_through_the_graph_what_it_plays_without(tmp_path):
    torch = pytest.importorskip('torch')
    pytest.importorskip('onnxscript')
    from dmo_training.deploy import StackPolicy
    from dmo_training.export import export

    torch.manual_seed(4)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(12, 8, 8, 8), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(128, 2)
    )
    path, begin = tmp_path / 'policy.onnx', starts(3)
    export(StackPolicy(network, SPEC.frame_stack), SPEC, path, parity_steps=10)
    loop = Policy.load(path, SPEC).loop(len(begin))
    expected = batched(begin, lambda twin: to_si(loop.step(twin.render()), SPEC.driven))
    states = run_episodes(str(path), 'pusher', begin)
    seen = np.isfinite(states).all(axis=2)
    assert seen[:, 0].all() and seen.mean() > 0.95
    np.testing.assert_allclose(states[seen], expected[seen], atol=1e-6)
    assert np.ptp(expected[..., :2], axis=1).max() > 0.05  # it did move


def test_a_policy_that_is_not_there_starts_nothing():
    with pytest.raises(StackError, match='dmo export'):
        run_episodes('nowhere.onnx', 'pusher', starts(1))


@pytest.mark.parametrize('array', [np.zeros((3, 3)), np.zeros((0, 4)), np.zeros(4)])
def test_starts_of_another_shape_are_refused(tmp_path, array):
    np.save(tmp_path / 'starts.npy', array)
    with pytest.raises(ParameterError, match='starts'):
        evaluator._read(str(tmp_path / 'starts.npy'), 'out', PusherTwin.names)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / 'starts.npy').write_bytes(b'x' * 300)
    for name in ('starts.npy', 'none.npy', '.'):
        with pytest.raises(ParameterError, match='no file of starts'):
            evaluator._read(str(tmp_path / name), 'out', PusherTwin.names)
    np.save(tmp_path / 'good.npy', np.zeros((1, 4)))
    with pytest.raises(ParameterError, match='out'):
        evaluator._read(str(tmp_path / 'good.npy'), '', PusherTwin.names)
