"""An exported policy drives the robots' twins: camera, gate, bridge and peer, in lockstep."""

import importlib.util
import json

from dmo_ros.core.episode import load_dataset
from dmo_ros.core.proprioception import arrange
from dmo_ros.core.tasks import get_task
from dmo_ros.doctor_robots import check_gl
import numpy as np
import pytest

pytestmark = pytest.mark.slow
PEERS = {'push_cube': (), 'grab_box': ('zmq', 'msgpack')}


def need(task):
    modules = ('mujoco', 'unitree_sdk2py', 'torch', 'onnxscript', 'onnxruntime', *PEERS[task])
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f'not installed: {", ".join(absent)}')
    gl = check_gl()
    if gl.state != 'ok':
        pytest.skip(f'{gl.detail}; {gl.fix}')


def untrained(task, folder):
    """Export a small policy of the kind that `dmo train policy` makes, with random weights."""
    from dmo_training.deploy import RssmPolicy
    from dmo_training.export import export
    from dmo_training.models.actor_critic import Actor
    from dmo_training.models.rssm import Rssm, RssmConfig
    import torch

    torch.manual_seed(2)
    spec = get_task(task)
    sizes = {'frame_size': spec.policy_size, 'actions': len(spec.actions)}
    small = {'recurrent': 16, 'groups': 4, 'classes': 4, 'units': 16, 'multiplier': 2}
    rssm = Rssm(RssmConfig(proprio=len(spec.proprioception), **sizes, **small))
    module = RssmPolicy(rssm, Actor(rssm.features_width, len(spec.driven), (16,)), spec)
    return export(module, spec, folder / f'{task}.onnx', parity_steps=10).path


@pytest.mark.parametrize('task', ['push_cube', 'grab_box'])
def test_dmo_eval_reports_what_a_policy_does_through_bridge_and_peer(task, tmp_path, capsys):
    need(task)
    from dmo_training import evaluate

    bag, spec = tmp_path / 'bag', get_task(task)
    words = [str(untrained(task, tmp_path)), '--task', task, '--graph', '--episodes', '1']
    assert evaluate.main([*words, '--record', str(bag), '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report['task'], report['how'], report['episodes']) == (task, 'graph', 1)
    assert report['episode_steps'] == spec.success.episode_steps
    assert report['missed_states'] < 0.05 * report['episode_steps']
    assert 0.0 <= report['strict']['rate'] <= report['relaxed']['rate'] <= 1.0
    judge(bag, spec)
    learnable(bag, spec, tmp_path / 'data')


def judge(path, spec):
    """Nearly every frame was answered; what a policy does not drive was at rest."""
    from dmo_training.bag import Bag, command_values

    with Bag(path) as bag:
        streams = bag.streams()
        answers = streams['/cmd_policy']
        values = [command_values(m, answers.kind, spec) for m in bag.decode(answers)]
        images, felt = streams['/image_raw'], []
        if spec.proprioception:
            told, true = streams['/joint_states'], streams['/twin/state']
            rows = [arrange(m.name, m.position, spec) for m in bag.decode(told)]
            stamps, first = np.unique(told.stamp, return_index=True)
            felt = {s: rows[n] for s, n in zip(stamps.tolist(), first.tolist(), strict=True)}
            states = dict(zip(true.stamp.tolist(), bag.decode(true), strict=True))
    begun = images.stamp[images.stamp >= answers.stamp.min()]
    assert np.isin(begun, answers.stamp).mean() > 0.95
    for field, column in zip(spec.actions, np.array(values).T, strict=True):
        if field.name in spec.policy_actions:
            assert np.ptp(column) > 1e-3, f'{field.name} was driven'
        else:
            np.testing.assert_array_equal(column, field.rest, err_msg=field.name)
    if spec.proprioception:
        # The bridge tells, in order and units, what the twin's columns say of the same moment.
        both = sorted(states.keys() & felt.keys())
        true = [arrange(states[s].name, states[s].position, spec) for s in both]
        apart = np.abs(np.array(true) - [felt[s] for s in both])
        assert len(both) > 100 and np.median(apart, axis=0).max() < 1e-3
        assert (
            np.ptp(true, axis=0)[[f.name for f in spec.proprioception].index('right_hand')] > 0.1
        )


def learnable(bag, spec, out):
    """What was recorded converts as play does."""
    from dmo_training.convert import convert

    totals = convert(bag, out, spec)
    assert totals['valid'] > 0.9 * totals['frames'] > 100
    for episode in load_dataset(out, spec):
        assert episode.proprio.shape[1] == len(spec.proprioception)
