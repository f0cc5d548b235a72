import json

from dmo_ros.core.contract import Contract
from dmo_ros.core.policy import Policy
from dmo_ros.core.seal import ContractError, unseal
from dmo_ros.core.tasks import get_task
from dmo_training.deploy import RssmPolicy, StackPolicy
from dmo_training.export import export, ExportError, Moments, parity, torch_loop
from dmo_training.models.actor_critic import Actor
from dmo_training.models.rssm import Rssm, RssmConfig
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

SPEC = get_task('pusher')


class GruPolicy(nn.Module):
    """A policy with a stack, a memory and a learned first state, small enough for a test."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.frame_stack, self.state_shapes = SPEC.frame_stack, {'h': (8,)}
        self.conv = nn.Sequential(nn.Conv2d(12, 4, 8, 8), nn.SiLU(), nn.Flatten())
        self.gru, self.head = nn.GRUCell(64 + 2, 8), nn.Linear(8, 2)
        self.first = nn.Parameter(torch.randn(8))
        self.bias = bias

    def forward(self, image, prev_action, is_first, h):
        pixels = image.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 255
        h = torch.where(is_first > 0, self.first, h)
        seen = torch.cat([self.conv(pixels), prev_action * (1 - is_first)], dim=-1)
        h = self.gru(seen, h)
        return torch.tanh(3 * self.head(h) + self.bias), h


def rssm_policy():
    torch.manual_seed(2)
    rssm = Rssm(
        RssmConfig(frame_size=32, recurrent=32, groups=8, classes=8, units=32, multiplier=4)
    )
    return RssmPolicy(rssm, Actor(rssm.features_width, 2, (32, 16)))


def cnn_policy():
    torch.manual_seed(3)
    return StackPolicy(
        nn.Sequential(nn.Conv2d(12, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        SPEC.frame_stack,
    )


def gru_policy():
    torch.manual_seed(1)
    return GruPolicy()


def play(count, seed=0):
    """Frames of the twin with a tool that wanders."""
    from dmo_ros.twins.pusher import PusherTwin

    rng, twin = np.random.default_rng(seed), PusherTwin(1, seed)
    frames = []
    for _ in range(count):
        frames.append(twin.render()[0])
        twin.step(rng.uniform(-0.4, 0.4, (1, 2)))
    return np.stack(frames)


@pytest.fixture(
    scope='module', params=[gru_policy, rssm_policy, cnn_policy], ids=['gru', 'rssm', 'cnn']
)
def exported(request, tmp_path_factory):
    module, out = request.param(), tmp_path_factory.mktemp('export') / 'policy.onnx'
    report = export(module, SPEC, out, provenance={'run': 'here'}, frames=play(30))
    return module, report


def test_onnx_follows_torch_over_200_closed_loop_steps(exported):
    module, report = exported
    policy, frames = Policy.load(report.path, SPEC), play(200, seed=9)
    policy.reset()
    loop = torch_loop(module.eval(), SPEC)
    theirs = np.stack([loop.step(frame[None])[0] for frame in frames])
    ours = np.stack([policy.step(frame) for frame in frames])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours, axis=0).min() > 1e-4  # it does answer to what it sees
    assert report.steps == 200 and report.largest_difference < 1e-5


def test_the_states_follow_too(exported):
    module, report = exported
    loop, twin = torch_loop(module.eval(), SPEC), Policy.load(report.path, SPEC).loop()
    for frame in play(50, seed=4):
        loop.step(frame[None])
        twin.step(frame[None])
        for a, b in zip(loop._states, twin._states, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_batch_of_any_size_is_its_rows(exported):
    _, report = exported
    policy, frames = Policy.load(report.path, SPEC), play(35).reshape(5, 7, 32, 32, 3)
    loop = policy.loop(7)
    together = np.stack([loop.step(row) for row in frames])
    for index in range(7):
        policy.reset()
        alone = np.stack([policy.step(frame) for frame in frames[:, index]])
        np.testing.assert_allclose(together[:, index], alone, atol=1e-5)


def test_the_file_says_what_it_is_and_holds_nothing_of_this_machine(exported):
    module, report = exported
    data = report.path.read_bytes()
    assert len(data) == report.bytes
    contract = Contract.from_json(unseal(data).contract)
    assert contract.frame_stack == module.frame_stack
    assert [state.name for state in contract.states] == list(module.state_shapes)
    assert contract.provenance['run'] == 'here' and contract.provenance['opset'] == 20
    assert contract.golden.first == (0, 4)
    for trace in (b'File "', b'.py', str(report.path.parent).encode()):
        assert trace not in data
    assert [item.name for item in report.path.parent.iterdir()] == ['policy.onnx']


def test_the_trained_module_is_left_alone(tmp_path):
    module = cnn_policy().double().train()
    export(module, SPEC, tmp_path / 'policy.onnx', parity_steps=10)
    assert module.training and next(module.parameters()).dtype == torch.float64


def test_a_first_frame_forgets_whatever_the_states_were():
    for module in (gru_policy(), rssm_policy()):
        frame = torch.from_numpy(play(1)[None].repeat(module.frame_stack, 1))
        first, previous = torch.ones(1, 1), torch.rand(1, 2)
        zeros = [torch.zeros(1, *shape) for shape in module.state_shapes.values()]
        other = [torch.rand(1, *shape) for shape in module.state_shapes.values()]
        for a, b in zip(
            module(frame, torch.zeros(1, 2), first, *zeros),
            module(frame, previous, first, *other),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_deployed_rssm_is_the_trained_one():
    module = rssm_policy()
    rssm, actor = module.rssm, module.actor
    frames, loop = play(12), torch_loop(module, SPEC)
    actions = torch.from_numpy(np.stack([loop.step(frame[None])[0] for frame in frames]))
    from dmo_training.models.rssm import Latent, mode

    latent = rssm.initial(1)
    before = torch.zeros(1, 2)
    with torch.no_grad():
        for frame, action in zip(torch.from_numpy(frames), actions):
            h = rssm.advance(latent, before)
            latent = Latent(h, mode(rssm.posterior(h, rssm.encoder(frame[None]))))
            before = actor.mode(rssm.features(latent))
            torch.testing.assert_close(before[0], action)


def test_the_deployed_part_leaves_the_rest_behind(exported):
    module, report = exported
    if not isinstance(module, RssmPolicy):
        pytest.skip('only the RSSM has a rest')
    names = ('encoder', 'inputs', 'cell', 'cell_norm', 'posterior_net')
    used = (
        sum(
            p.numel()
            for part in (*(getattr(module.rssm, n) for n in names), module.actor)
            for p in part.parameters()
        )
        * 4
    )
    contract = len(unseal(report.path.read_bytes()).contract)
    assert report.bytes < used + contract + 30_000


def test_a_module_that_does_not_export_is_a_sentence(tmp_path):
    class Branches(GruPolicy):
        def forward(self, image, prev_action, is_first, h):
            if is_first.sum() > 0:
                h = self.first.expand_as(h)
            return torch.tanh(self.head(h)), h

    with pytest.raises(ExportError, match='masks instead of if'):
        export(Branches(), SPEC, tmp_path / 'policy.onnx')
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / 'policy.onnx'
    out.write_bytes(b'the old one')

    def broken(*_, **__):
        raise ExportError('differs')

    monkeypatch.setattr('dmo_training.export.parity', broken)
    with pytest.raises(ExportError, match='differs'):
        export(cnn_policy(), SPEC, out)
    assert out.read_bytes() == b'the old one' and len(list(tmp_path.iterdir())) == 1


def test_parity_names_the_first_step_that_differs(exported):
    module, report = exported
    if not isinstance(module, GruPolicy):
        pytest.skip('one module is enough')
    other = gru_policy()
    other.bias = 0.01
    with pytest.raises(ExportError, match='at step 0'):
        parity(other, Policy.load(report.path, SPEC), Moments(play(5)))


@pytest.mark.parametrize(
    'frames',
    [
        np.zeros((5, 64, 64, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((5, 32, 32, 3), np.float32),
    ],
)
def test_golden_frames_of_another_shape_are_refused(tmp_path, frames):
    with pytest.raises(ExportError, match='golden frames'):
        export(cnn_policy(), SPEC, tmp_path / 'policy.onnx', frames=frames)


def test_a_policy_of_another_task_is_refused_at_export_and_at_load(exported, tmp_path):
    _, report = exported
    with pytest.raises(ContractError, match=r'task\.'):
        Policy.load(report.path, get_task('push_t'))


def test_the_larger_task_keeps_its_names(tmp_path):
    spec = get_task('push_cube')
    policy = StackPolicy(nn.Sequential(nn.Conv2d(3, 2, 16, 16), nn.Flatten(), nn.Linear(32, 3)), 1)
    report = export(policy, spec, tmp_path / 'policy.onnx', parity_steps=10)
    loaded = Policy.load(report.path, spec)
    assert loaded.step(np.zeros((720, 1280, 3), np.uint8)).shape == (3,)
    assert json.loads(loaded.contract.to_json())['task']['policy_actions'] == ['vx', 'vy', 'wz']


def test_a_signed_export(tmp_path):
    pytest.importorskip('cryptography')
    from dmo_ros.core.signature import SigningKey

    key = SigningKey.generate(tmp_path / 'key')
    report = export(cnn_policy(), SPEC, tmp_path / 'policy.onnx', key=key, parity_steps=10)
    assert Policy.load(report.path, SPEC, trusted_keys=[key.public]).trust.endswith('trusted')
    with pytest.raises(ContractError, match='trusted keys'):
        Policy.load(report.path, SPEC, trusted_keys=['00' * 32])


@pytest.fixture
def run(tmp_path):
    """A run folder as the policy stage leaves it, and the policy in it."""
    from dmo_training import engine
    from dmo_training.rl.agent import DmoSapo, DmoSapoConfig

    torch.manual_seed(8)
    rssm = Rssm(
        RssmConfig(frame_size=32, recurrent=16, groups=4, classes=4, units=16, multiplier=2)
    )
    config = DmoSapoConfig(actors=2, actor_hidden=(16,), critic_hidden=(16,))
    agent = DmoSapo(rssm.features_width, 2, config)
    engine.save_checkpoint(
        tmp_path / 'policy.safetensors',
        {
            'stage': 'policy',
            'task': SPEC.to_dict(),
            'epoch': 7,
            'config': {
                'agent': engine.plain_config(config),
                'seed': 3,
                'forward': 'global',
                'data': 'some/play',
            },
            'local': engine.plain_config(rssm.config),
            'training': {'trainer': {'model': rssm.state_dict()}, 'agent': agent.state_dict()},
        },
    )
    return tmp_path, RssmPolicy(rssm, agent.actor)


def test_a_run_is_exported_from_the_command_line(run, capsys):
    from dmo_training.export import main

    folder, module = run
    out = folder / 'policy.onnx'
    assert main([str(folder), '-o', str(out), '--json']) == 0
    figures = json.loads(capsys.readouterr().out)
    policy = Policy.load(out, SPEC)
    assert figures['digest'] == policy.digest and figures['largest_difference'] < 1e-4
    assert policy.contract.provenance['epoch'] == 7
    assert policy.contract.provenance['checkpoint_sha256']
    loop = torch_loop(module, SPEC)
    for frame in play(20):
        np.testing.assert_allclose(policy.step(frame), loop.step(frame[None])[0], atol=1e-5)


@pytest.mark.parametrize(
    'damage,match',
    [
        (lambda path: path.unlink(), 'no checkpoint'),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), 'damaged'),
        (lambda path: path.write_bytes(b'x' * 99), 'damaged|no checkpoint'),
    ],
    ids=['missing', 'cut', 'other'],
)
def test_what_is_no_checkpoint_is_a_sentence(run, capsys, damage, match):
    import re

    from dmo_training.export import main

    damage(run[0] / 'policy.safetensors')
    assert main([str(run[0]), '-o', str(run[0] / 'policy.onnx')]) == 2
    assert re.search(match, capsys.readouterr().err)


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    from dmo_training import engine
    from dmo_training.deploy import load_policy

    engine.save_checkpoint(tmp_path / 'local.safetensors', {'stage': 'local'})
    with pytest.raises(engine.CheckpointError, match='dmo train policy'):
        load_policy(tmp_path / 'local.safetensors')


def test_golden_frames_are_those_of_the_play(tmp_path):
    from dmo_ros.core.episode import Episode, write_meta
    from dmo_training.deploy import golden_play

    frames = play(30)
    for number, part in enumerate((frames[:12], frames[12:])):
        length = len(part)
        Episode(
            frames=part,
            action=np.zeros((length, 2), np.float32),
            intent=np.zeros(length, np.uint8),
            valid=np.ones(length, bool),
            stamp=np.arange(length) / SPEC.rate_hz,
            proprio=np.zeros((length, 0), np.float32),
            info={'task': SPEC.to_dict()},
        ).save(tmp_path / 'episodes' / f'{number:06d}')
    write_meta(tmp_path, SPEC)
    seen, felt = golden_play(tmp_path, SPEC, 20)
    np.testing.assert_array_equal(seen, frames[:20])
    assert felt is None
