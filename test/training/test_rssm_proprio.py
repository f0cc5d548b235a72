"""Proprioception in the local model: felt, predicted, SI units outside, of order one inside."""

from dataclasses import replace

from dmo_training.models import rssm as module
from dmo_training.models.rssm import Latent, mode, Rssm, RssmConfig
from dmo_training.world import Context
import pytest
import torch

CONFIG = RssmConfig(
    frame_size=8,
    actions=3,
    recurrent=12,
    groups=4,
    classes=5,
    units=10,
    multiplier=2,
    mlp_layers=1,
    reward_bins=11,
    proprio=4,
)
B, T = 3, 5


@pytest.fixture(name='model')
def fixture_model():
    torch.manual_seed(0)
    model = Rssm(CONFIG).double()
    play = 2 + torch.randn(50, 4, dtype=torch.double)
    model.standardise(play, torch.full((4,), 0.01))
    return model


@pytest.fixture(name='play')
def fixture_play():
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (B, T, 8, 8, 3), generator=generator).to(torch.uint8)
    action = 2 * torch.rand(B, T, 3, generator=generator, dtype=torch.double) - 1
    proprio = 2 + torch.randn(B, T, 4, generator=generator, dtype=torch.double)
    return frames, action, proprio


def test_filtered_and_observed_latents_agree(model, play, monkeypatch):
    """What the rollout starts from is what the training sees, proprioception included."""
    monkeypatch.setattr(module, 'sample', mode)
    frames, action, proprio = play
    begun = model.begin(Context(frames, action[:, :-1], proprio))
    observed = model.observe(frames, action, proprio=proprio)[0]
    assert torch.equal(begun.h, observed.h[:, -1])
    step = model.begin(Context(frames[:, :-1], action[:, :-2], proprio[:, :-1]))
    last = model.correct(model.predict(step, action[:, -2]), frames[:, -1], proprio[:, -1])
    assert torch.equal(last.h, begun.h) and torch.equal(last.z, begun.z)


def test_the_context_is_seen_at_the_policys_size(model, play):
    """Large frames are the global model's; a local model that took them would fail by shape."""
    frames, action, proprio = play
    large = torch.zeros(B, T, 16, 16, 3, dtype=torch.uint8)
    torch.manual_seed(3)
    plain = model.begin(Context(frames, action[:, :-1], proprio))
    torch.manual_seed(3)
    seen = model.begin(Context(large, action[:, :-1], proprio, frames))
    assert torch.equal(plain.h, seen.h) and torch.equal(plain.z, seen.z)
    rows = torch.tensor([True, False, True])
    assert torch.equal(Context(large, action, proprio, frames).rows(rows).seen, frames[rows])


def test_what_is_felt_changes_the_latent(model, play):
    frames, action, proprio = play
    probabilities = [
        model.observe(frames, action, proprio=own)[2][:, 0] for own in (proprio, proprio + 0.5)
    ]
    assert float((probabilities[0] - probabilities[1]).abs().max().detach()) > 1e-3


def test_units_do_not_matter(model, play):
    """Degrees for radians, with the statistics of degrees: the same losses."""
    frames, action, proprio = play
    reward = torch.zeros(B, T, dtype=torch.double)
    scale = 180 / torch.pi
    other = Rssm(CONFIG).double()
    other.load_state_dict(model.state_dict())
    other.proprio_mean.mul_(scale)
    other.proprio_spread.mul_(scale)
    figures = []
    for one, own in ((model, proprio), (other, proprio * scale)):
        torch.manual_seed(5)
        figures.append(one.loss(frames, action, reward, proprio=own)[0])
    assert figures[0].item() == pytest.approx(figures[1].item(), rel=1e-9)


def test_a_latent_says_its_proprioception_in_si_units(model):
    with torch.no_grad():
        model.proprio_head[-1].weight.zero_()
        model.proprio_head[-1].bias.fill_(2.0)
    said = model.decode_proprio(model.initial(2))
    expected = model.proprio_mean + 2 * model.proprio_spread
    assert torch.allclose(said, expected.expand(2, 4))


def test_a_joint_that_rested_in_play_does_not_shout_when_it_moves(model):
    """One hundredth of its range is a deviation at least, and ten of them are the most."""
    model.standardise(torch.ones(20, 4, dtype=torch.double), torch.tensor([0.05] * 4))
    felt = torch.tensor([[1.0, 1.05, 0.9, 9.0]], dtype=torch.double)
    expected = torch.tensor([[0.0, 1.0, -2.0, 10.0]], dtype=torch.double)
    assert torch.allclose(model._standard(felt), expected, atol=1e-6)


def test_the_loss_teaches_feeling_and_predicting(model, play):
    frames, action, proprio = play
    reward = torch.zeros(B, T, dtype=torch.double)
    total, parts = model.loss(frames, action, reward, proprio=proprio)
    latent = model.observe(frames, action, proprio=proprio)[0]
    wrong = model.proprio_head(model.features(Latent(*(x.flatten(0, 1) for x in latent))))
    assert wrong.shape == (B * T, 4) and float(parts['proprio']) > 0
    total.backward()
    for part in (model.proprio_net, model.proprio_head):
        assert all(float(p.grad.abs().max()) > 0 for p in part.parameters())
    light = Rssm(replace(CONFIG, proprio_scale=0.0)).double()
    light.load_state_dict(model.state_dict())
    light.loss(frames, action, reward, proprio=proprio)[0].backward()
    assert all(float(p.grad.abs().max()) == 0 for p in light.proprio_head.parameters())


def test_missing_proprioception_is_refused(model, play):
    frames, action, _ = play
    with pytest.raises(ValueError, match='reads 4 proprioceptive numbers with every frame; give'):
        model.begin(Context(frames, action[:, :-1]))


def test_a_model_without_it_says_nothing_of_it(play):
    frames, action, proprio = play
    model = Rssm(replace(CONFIG, proprio=0)).double()
    assert not [name for name in model.state_dict() if 'proprio' in name]
    assert model.decode_proprio(model.initial(1)) is None
    assert 'proprio' not in model.loss(frames, action, torch.zeros(B, T), proprio=proprio)[1]
