"""A policy that feels the joints and drives half of them: torch, ONNX and the robot agree."""

from dmo_ros.core.actions import fill, to_normalised, to_si
from dmo_ros.core.contract import Contract
from dmo_ros.core.episode import Episode, write_meta
from dmo_ros.core.policy import Policy
from dmo_ros.core.seal import unseal
from dmo_ros.core.tasks import get_task
from dmo_training import engine
from dmo_training.deploy import golden_play, RssmPolicy, StackPolicy
from dmo_training.export import export, export_run, ExportError, torch_loop
from dmo_training.models.actor_critic import Actor
from dmo_training.models.rssm import Latent, mode, Rssm, RssmConfig
from dmo_training.rl.agent import DmoSapo, DmoSapoConfig
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

SPEC = get_task('grab_box')
LOW, HIGH = (np.array([getattr(f, end) for f in SPEC.proprioception]) for end in ('low', 'high'))
SIZES = {'recurrent': 16, 'groups': 4, 'classes': 4, 'units': 16, 'multiplier': 2}


def parts(spec=SPEC, **config):
    """An untrained local model that knows what joints usually do, and an actor with opinions."""
    torch.manual_seed(5)
    own = len(spec.proprioception)
    sizes = {'frame_size': spec.policy_size, 'actions': len(spec.actions), 'proprio': own}
    rssm = Rssm(RssmConfig(**{**SIZES, **sizes, **config}))
    if rssm.config.proprio:
        play = torch.from_numpy(postures(500)).float()
        rssm.standardise(play, torch.full((own,), 0.01))
    actor = Actor(rssm.features_width, len(spec.driven), (16,))
    with torch.no_grad():
        actor.net[-1].weight.mul_(5)
    return rssm, actor


def postures(count, seed=0):
    return np.random.default_rng(seed).uniform(LOW, HIGH, (count, len(LOW)))


def write_play(folder):
    """Two episodes; the first frames of the first are not valid."""
    rng = np.random.default_rng(2)
    rest = to_normalised(np.array([f.rest for f in SPEC.actions]), SPEC.actions)
    for number in range(2):
        Episode(
            frames=rng.integers(0, 256, (12, 256, 256, 3), dtype=np.uint8),
            action=np.tile(rest.astype(np.float32), (12, 1)),
            intent=np.zeros(12, np.uint8),
            valid=np.arange(12) >= (3 if number == 0 else 0),
            stamp=np.arange(12) * SPEC.period,
            proprio=postures(12, seed=number).astype(np.float32),
            info={'task': SPEC.to_dict()},
        ).save(folder / 'episodes' / f'{number:06d}')
    write_meta(folder, SPEC)
    return folder


def moments(count, seed=0):
    """Frames with a blob that wanders, and joints that do."""
    rng, size = np.random.default_rng(seed), SPEC.policy_size
    frames = np.full((count, size, size, 3), 90, np.uint8)
    for step, (x, y) in enumerate(rng.integers(0, size - 16, (count, 2))):
        frames[step, y : y + 16, x : x + 16] = rng.integers(0, 256, 3)
    steps = rng.normal(scale=0.05, size=(count, len(LOW))) * (HIGH - LOW)
    return frames, np.clip(np.cumsum(steps, axis=0), LOW, HIGH).astype(np.float32)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A run folder as the policy stage leaves it: its policy, and what dmo export makes of it."""
    folder = tmp_path_factory.mktemp('body')
    rssm, actor = parts()
    config = DmoSapoConfig(actors=2, actor_hidden=(16,), critic_hidden=(16,))
    agent = DmoSapo(rssm.features_width, len(SPEC.driven), config)
    agent.actor.load_state_dict(actor.state_dict())
    settings = {'agent': engine.plain_config(config), 'seed': 0, 'forward': 'global', 'data': 'x'}
    state = {
        'stage': 'policy',
        'task': SPEC.to_dict(),
        'epoch': 1,
        'config': settings,
        'local': engine.plain_config(rssm.config),
        'training': {'trainer': {'model': rssm.state_dict()}, 'agent': agent.state_dict()},
    }
    engine.save_checkpoint(folder / 'policy.safetensors', state)
    report = export_run(folder, folder / 'policy.onnx', data=write_play(folder / 'play'))
    return RssmPolicy(rssm, actor, SPEC), report


def test_onnx_follows_torch_over_200_closed_loop_steps(exported):
    module, report = exported
    loop, twin = torch_loop(module.eval(), SPEC), Policy.load(report.path, SPEC).loop()
    theirs, ours = [], []
    for frame, row in zip(*moments(200, seed=9), strict=True):
        theirs.append(loop.step(frame[None], row[None])[0])
        ours.append(twin.step(frame[None], row[None])[0])
        for a, b in zip(loop._states, twin._states, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours, axis=0).min() > 1e-2  # it does answer to what it sees and feels
    assert report.steps == 200 and report.largest_difference < 1e-5


def test_what_is_felt_changes_what_is_done(exported):
    policy = Policy.load(exported[1].path, SPEC)
    (frame,), _ = moments(1)
    first, *others = (policy.loop().step(frame[None], row[None]) for row in postures(6, seed=1))
    assert all(np.abs(other - first).max() > 1e-3 for other in others)


def test_the_golden_loop_is_of_play_with_what_was_felt(exported):
    module, report = exported
    contract = Contract.from_json(unseal(report.path.read_bytes()).contract)
    felt = np.concatenate([postures(12)[3:], postures(12, seed=1)]).astype(np.float32)
    np.testing.assert_array_equal(contract.golden.proprio, felt[:8])
    frames, rows = golden_play(report.path.parent / 'play', SPEC)
    np.testing.assert_array_equal(rows, felt)
    np.testing.assert_array_equal(contract.golden.frames, frames[:8])
    assert [state.name for state in contract.states] == list(module.state_shapes) == ['h', 'z']


def test_the_file_ignores_batch_neighbours(exported):
    policy = Policy.load(exported[1].path, SPEC)
    frames, felt = moments(30)
    loop = policy.loop(5)
    together = [loop.step(frames[t : t + 5], felt[t : t + 5]) for t in range(0, 30, 5)]
    for row in range(5):
        alone = policy.loop()
        for t, answer in zip(range(0, 30, 5), together, strict=True):
            own = slice(t + row, t + row + 1)
            np.testing.assert_allclose(
                alone.step(frames[own], felt[own])[0], answer[row], atol=1e-5
            )


def test_the_deployed_policy_filters_as_training_does_with_the_rest_at_rest():
    """Step by step by hand: before the first frame no action; then all fields, as commanded."""
    rssm, actor = parts()
    loop, (frames, felt) = torch_loop(RssmPolicy(rssm, actor, SPEC), SPEC), moments(12)
    latent, before = rssm.initial(1), torch.zeros(1, 22)
    with torch.no_grad():
        for frame, row in zip(frames, felt, strict=True):
            h = rssm.advance(latent, before)
            seen = rssm.embed(torch.from_numpy(frame[None]), torch.from_numpy(row[None]))
            latent = Latent(h, mode(rssm.posterior(h, seen)))
            driven = actor.mode(rssm.features(latent))[0].numpy()
            np.testing.assert_allclose(
                loop.step(frame[None], row[None])[0], driven, rtol=0, atol=1e-5
            )
            command = fill(to_si(driven, SPEC.driven), SPEC)  # what the robot is sent
            whole = to_normalised(np.array(command), SPEC.actions)
            before = torch.from_numpy(whole.astype(np.float32)[None])
    assert np.abs(before.numpy()).max() > 0.1


def test_a_first_frame_forgets_whatever_was_before():
    module, (frames, felt) = RssmPolicy(*parts(), SPEC), moments(1)
    now = torch.from_numpy(frames[:, None]), torch.from_numpy(felt)
    shapes = module.state_shapes.values()
    zeros, other = ([make(1, *s) for s in shapes] for make in (torch.zeros, torch.rand))
    first, (image, row) = torch.ones(1, 1), now
    for a, b in zip(
        module(image, torch.zeros(1, 11), first, row, *zeros),
        module(image, torch.rand(1, 11), first, row, *other),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_whether_the_joints_are_felt_is_the_local_models_matter():
    """The input is the task's: a model that only looks, and a network of pictures, have it too."""
    net = nn.Sequential(nn.Conv2d(3, 2, 16, 16), nn.Flatten(), nn.Linear(32, 11))
    frames, felt = moments(2)
    for module in (RssmPolicy(*parts(proprio=0), SPEC), StackPolicy(net, 1)):
        first, second = (torch_loop(module, SPEC).step(frames[:1], row[None]) for row in felt)
        np.testing.assert_array_equal(first, second)


def test_parts_of_another_task_are_refused():
    rssm, actor = parts()
    with pytest.raises(ValueError, match='11 of the 22 actions.*give the task'):
        RssmPolicy(rssm, actor)
    with pytest.raises(ValueError, match="task 'push_cube' drives 3 of 3"):
        RssmPolicy(rssm, actor, get_task('push_cube'))
    whole = Actor(rssm.features_width, 22, (16,))
    with pytest.raises(ValueError, match='22 of 22'):
        RssmPolicy(rssm, whole, SPEC)
    with pytest.raises(ValueError, match='reads 19 .* no task is given'):
        RssmPolicy(rssm, whole)
    odd = Rssm(RssmConfig(**SIZES, actions=22, proprio=3))
    with pytest.raises(ValueError, match='reads 3 .* it has 19'):
        RssmPolicy(odd, actor, SPEC)


@pytest.mark.parametrize('felt', [np.zeros((5, 18)), np.zeros((4, 19)), np.full((5, 19), np.nan)])
def test_golden_proprioception_of_another_shape_is_refused(tmp_path, felt):
    frames, _ = moments(5)
    with pytest.raises(ExportError, match='golden proprioception'):
        export(RssmPolicy(*parts(), SPEC), SPEC, tmp_path / 'p.onnx', frames=frames, proprio=felt)
