"""The local model: shapes, time, gradients through the prior and through nothing else, losses."""

from dataclasses import replace

from dmo_training.models import rssm as module
from dmo_training.models.rssm import (
    divergence,
    Latent,
    mode,
    moving,
    Rssm,
    RssmConfig,
    sample,
)
from dmo_training.models.rssm_nets import levels
from dmo_training.models.two_hot import symexp, symlog, TwoHot
from dmo_training.world import Context
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

SMALL = RssmConfig(
    frame_size=16,
    recurrent=12,
    groups=4,
    classes=5,
    units=10,
    multiplier=2,
    mlp_layers=2,
    reward_bins=11,
)
B, T = 3, 6


@pytest.fixture(name='model')
def fixture_model():
    torch.manual_seed(0)
    return Rssm(SMALL).double()


def segment(seed=1, batch=B, length=T):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch, length, 16, 16, 3), generator=generator)
    action = 2 * torch.rand(batch, length, 2, generator=generator, dtype=torch.double) - 1
    return frames.to(torch.uint8), action


@pytest.fixture(name='greedy')
def fixture_greedy(monkeypatch):
    """Take the most likely class instead of a draw: then equal latents are equal bit for bit."""
    monkeypatch.setattr(module, 'sample', mode)


# Sizes ------------------------------------------------------------------------------------------


def parameters(*modules):
    return sum(p.numel() for part in modules for p in part.parameters())


def test_the_defaults_are_the_papers_push_t_model():
    """
    Layer for layer as Table 4 and the preprint have it.

    The preprint's 32.4 M count a continue head as deep as the reward's; no task here terminates.
    """
    model = Rssm(RssmConfig())
    d, sk, units, m = 1024, 32 * 32, 640, 48
    e = 8 * m * 16
    convolutions = 16 * m * (3 + 2 * m + 8 * m + 32 * m)

    def norm(width):
        return 2 * width

    def dense(inputs, width=units):
        return inputs * width + norm(width)

    assert model.encoder.width == e and model.features_width == d + sk
    assert parameters(model.encoder) == convolutions + norm(15 * m)
    assert parameters(model.inputs) == dense(sk + 2)
    assert parameters(model.cell, model.cell_norm) == (units + d) * 3 * d + norm(3 * d)
    head = units * sk + sk
    assert parameters(model.prior_net) == dense(d) + head
    assert parameters(model.posterior_net) == dense(d + e) + head
    assert parameters(model.decoder) == (d + sk + 1) * e + convolutions + 3 + norm(7 * m)
    assert parameters(model.reward_net) == dense(d + sk) + 2 * dense(units)
    assert parameters(model.reward_head) == units * 101 + 101
    assert parameters(model) == 30_224_936
    without_output = parameters(model.reward_net)
    assert round((parameters(model) + without_output + units + 1) / 1e6, 1) == 32.4


@pytest.mark.parametrize(('size', 'count'), [(8, 1), (16, 2), (32, 3), (64, 4), (128, 5)])
def test_every_level_halves_the_frame_down_to_four_pixels(size, count):
    assert levels(size) == count
    model = Rssm(replace(SMALL, frame_size=size))
    assert model.encoder.width == 2 * 2 ** (count - 1) * 16
    assert model.encoder(torch.zeros(2, size, size, 3, dtype=torch.uint8)).shape[1] == (
        model.encoder.width
    )
    assert model.decode(model.initial(2)).shape == (2, size, size, 3)


@pytest.mark.parametrize('size', [0, 3, 4, 12, 63, 65, 96, 100])
def test_other_frame_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f'8, 16, 32, 64, 128, ... pixels, not {size}'):
        Rssm(replace(SMALL, frame_size=size))


def test_shapes_are_as_documented(model):
    frames, action = segment()
    latent, prior, posterior = model.observe(frames, action)
    assert latent.h.shape == (B, T, 12)
    assert latent.z.shape == prior.shape == posterior.shape == (B, T, 4, 5)
    last = Latent(latent.h[:, -1], latent.z[:, -1])
    prediction = model.predict(last, action[:, -1])
    assert prediction.h.shape == (B, 12) and prediction.prior.shape == (B, 4, 5)
    assert model.features(last).shape == (B, model.features_width) == (B, 32)
    assert model.features(latent).shape == (B, T, 32)
    assert model.reward(last).shape == (B,)
    assert model.decode(last).dtype == torch.uint8


def test_probabilities_are_probabilities_with_a_floor(model):
    with torch.no_grad():
        model.prior_net[-1].bias[0] = 1e4  # one class takes everything
    prior = model.predict(model.initial(2), torch.zeros(2, 2, dtype=torch.double)).prior
    assert torch.allclose(prior.sum(-1), torch.ones(2, 4, dtype=torch.double))
    assert float(prior.detach().min()) >= 0.01 / 5 - 1e-12


# Time -------------------------------------------------------------------------------------------


def test_observing_filtering_and_stepping_agree(model, greedy):
    """The three ways to the same latent: training, context and decoupled step, bit for bit."""
    frames, action = segment()
    latent, _, _ = model.observe(frames, action)
    for t in range(1, T):
        begun = model.begin(Context(frames[:, :t], action[:, : t - 1]))
        assert torch.equal(begun.h, latent.h[:, t - 1]), t
        assert torch.equal(begun.z, latent.z[:, t - 1]), t
        following = model.correct(model.predict(begun, action[:, t - 1]), frames[:, t])
        assert torch.equal(following.h, latent.h[:, t])
        assert torch.equal(following.z, latent.z[:, t])


def test_sampled_latents_are_one_hot_exactly(model):
    latent, _, _ = model.float().observe(segment()[0], segment()[1].float())
    assert set(latent.z.unique().tolist()) == {0.0, 1.0}
    assert bool((latent.z.sum(-1) == 1).all())


def test_no_frame_and_no_action_changes_an_earlier_latent(model, greedy):
    frames, action = segment()
    before, prior, posterior = model.observe(frames, action)
    for t in range(T):
        other, moved = frames.clone(), action.clone()
        other[:, t] = 255 - other[:, t]
        moved[:, t] = -moved[:, t]
        after, prior2, posterior2 = model.observe(other, moved)
        for one, two in ((before.h, after.h), (prior, prior2)):
            assert torch.equal(one[:, : t + 1], two[:, : t + 1]), 'the state of t has seen frame t'
        assert torch.equal(before.z[:, :t], after.z[:, :t])
        assert torch.equal(posterior[:, :t], posterior2[:, :t])
        assert not torch.equal(posterior[:, t], posterior2[:, t]), 'frame t is not looked at'
        if t + 1 < T:
            assert not torch.equal(before.h[:, t + 1], after.h[:, t + 1]), 'action t has no effect'


def test_a_first_frame_is_a_fresh_start(model, greedy):
    """Rows that begin anew in the middle equal segments of their own; other rows do not notice."""
    frames, action = segment()
    first = torch.zeros(B, T, dtype=torch.bool)
    first[0, 2] = first[1, 4] = True
    latent, prior, _ = model.observe(frames, action, first)
    plain, plain_prior, _ = model.observe(frames, action)
    assert torch.equal(latent.h[2], plain.h[2]) and torch.equal(prior[2], plain_prior[2])
    for row, t in ((0, 2), (1, 4)):
        alone, alone_prior, _ = model.observe(frames[row : row + 1, t:], action[row : row + 1, t:])
        assert torch.allclose(latent.h[row, t:], alone.h[0], atol=1e-12)
        assert torch.equal(latent.z[row, t:], alone.z[0])
        assert torch.allclose(prior[row, t:], alone_prior[0], atol=1e-12)
        assert torch.equal(latent.h[row, :t], plain.h[row, :t])


def test_a_first_frame_at_the_start_changes_nothing(model, greedy):
    frames, action = segment()
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = True
    marked, plain = model.observe(frames, action, first)[0], model.observe(frames, action)[0]
    assert torch.equal(marked.h, plain.h)


def test_no_gradient_crosses_a_first_frame(model):
    frames, action = segment()
    first = torch.zeros(B, T, dtype=torch.bool)
    first[0, 3] = True
    action.requires_grad_()
    latent, _, _ = model.observe(frames, action, first)
    (slope,) = torch.autograd.grad(latent.h[:, -1].sum(), action)
    assert bool((slope[0, :3] == 0).all()) and bool((slope[0, 3] != 0).any())
    assert bool((slope[1, :3] != 0).any())


# The decoupled step -----------------------------------------------------------------------------


def step_with_gradient(model):
    frames, action = segment()
    latent = model.begin(Context(frames[:, :3], action[:, :2]))
    action = action[:, 2].clone().requires_grad_()
    prediction = model.predict(latent, action)
    return prediction, frames[:, 3], action


def test_the_gradient_of_z_is_the_priors_and_its_value_the_posteriors(model, greedy):
    prediction, frame, action = step_with_gradient(model)
    latent = model.correct(prediction, frame)
    expected = mode(model.posterior(prediction.h, model.encoder(frame)))
    assert torch.equal(latent.z, expected)
    weight = torch.randn_like(latent.z)
    (through,) = torch.autograd.grad((latent.z * weight).sum(), action, retain_graph=True)
    (prior,) = torch.autograd.grad((prediction.prior * weight).sum(), action, retain_graph=True)
    assert torch.equal(through, prior) and float(through.abs().sum()) > 0
    assert latent.h is prediction.h


def test_another_gradient_route_has_the_same_values(model, greedy):
    """Only the gradient tells the routes apart: a test of returns would never see a wrong one."""
    prediction, frame, action = step_with_gradient(model)
    latent = model.correct(prediction, frame)
    posterior = model.posterior(prediction.h, model.encoder(frame).detach())
    wrong = Latent(prediction.h, module.graft(mode(posterior), posterior))
    assert torch.equal(wrong.z, latent.z)
    weight = torch.randn_like(latent.z)
    slopes = [
        torch.autograd.grad((z * weight).sum(), action, retain_graph=True)[0]
        for z in (latent.z, wrong.z)
    ]
    assert not torch.allclose(*slopes)


def test_encoder_and_posterior_get_no_gradient_from_a_step(model):
    torch.nn.init.normal_(model.reward_head.linear.weight)
    prediction, frame, action = step_with_gradient(model)
    latent = model.correct(prediction, frame)
    (model.reward(latent).sum() + model.features(latent).square().sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(('encoder', 'posterior_net', 'decoder')):
            assert parameter.grad is None, name
    assert float(action.grad.abs().sum()) > 0
    assert float(model.prior_net[-1].weight.grad.abs().sum()) > 0


def test_a_context_carries_no_gradient(model):
    frames, action = segment()
    latent = model.begin(Context(frames, action[:, :-1].requires_grad_()))
    assert not latent.h.requires_grad and not latent.z.requires_grad


def test_training_reaches_every_parameter(model):
    torch.nn.init.normal_(model.reward_head.linear.weight)
    frames, action = segment()
    total, parts = model.loss(frames, action, torch.randn(B, T, dtype=torch.double))
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
    assert set(parts) == {'image', 'reward', 'dynamics', 'representation'}
    c = SMALL
    assert float(total.detach()) == pytest.approx(
        float(
            c.image_scale * parts['image']
            + c.reward_scale * parts['reward']
            + c.dynamics_scale * parts['dynamics']
            + c.representation_scale * parts['representation']
        )
    )


# Losses -----------------------------------------------------------------------------------------


def test_frames_without_a_score_do_not_count(model):
    frames, action = segment()
    reward = torch.randn(B, T, dtype=torch.double)
    torch.nn.init.normal_(model.reward_head.linear.weight)

    def reward_loss(value):
        torch.manual_seed(5)
        return float(model.loss(frames, action, value)[1]['reward'])

    full = reward_loss(reward)
    half = reward.clone()
    half[:, ::2] = torch.nan
    other = half.clone()
    other[:, ::2] = torch.inf
    assert reward_loss(half) == reward_loss(other) != full


def test_the_loss_is_finite_when_no_frame_is_scored(model):
    frames, action = segment()
    total, parts = model.loss(frames, action, torch.full((B, T), torch.nan, dtype=torch.double))
    total.backward()
    assert float(parts['reward']) == 0 and bool(torch.isfinite(total))
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)


def test_divergence_is_zero_at_equality_and_positive_elsewhere():
    p, q = (torch.rand(7, 4, 5).softmax(-1) for _ in range(2))
    assert float(divergence(p, p).abs().max()) < 1e-6
    assert float(divergence(p, q).min()) > 0 and divergence(p, q).shape == (7,)


def test_below_the_free_nats_the_divergence_does_not_pull(model):
    """A prior that agrees well enough is left alone: the clamp is on the sum over groups."""
    model.config = replace(SMALL, free_nats=1e6)
    frames, action = segment()
    total, parts = model.loss(frames, action, torch.zeros(B, T, dtype=torch.double))
    assert float(parts['dynamics']) == float(parts['representation']) == 1e6
    total.backward()
    assert float(model.prior_net[-1].weight.grad.abs().sum()) == 0


def test_moving_pixels_are_marked_in_both_frames_of_a_change():
    frames = torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8)
    frames[0, 2, 3, 5, 1] = 200  # appears in frame 2, is gone in frame 3
    frames[0, 1:, 0, 0] = 12  # at the threshold: noise, not motion
    marks = moving(frames)
    expected = torch.zeros(1, 4, 8, 8)
    expected[0, 1:, 3, 5] = 1
    assert torch.equal(marks, expected)


def test_a_cut_between_episodes_is_no_motion():
    frames = torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8)
    frames[:, 2:] = 255
    first = torch.zeros(2, 4, dtype=torch.bool)
    first[0, 2] = True
    marks = moving(frames, first)
    assert float(marks[0].sum()) == 0
    assert marks[1, :, 0, 0].tolist() == [0, 1, 1, 0]


def test_the_motion_weight_counts_moving_pixels_more(model, greedy):
    frames, action = segment()
    reward = torch.zeros(B, T, dtype=torch.double)

    def image(weight, pictures=frames):
        model.config = replace(SMALL, motion_weight=weight)
        return float(model.loss(pictures, action, reward)[1]['image'])

    still = frames[:, :1].expand_as(frames)
    assert image(7.0, still) == image(0.0, still)
    assert image(7.0) > 4 * image(0.0)  # noise moves nearly everywhere


def test_action_noise_blurs_training_only(model, greedy):
    frames, action = segment()
    model.config = replace(SMALL, action_noise=0.5)
    one, two = (model.observe(frames, action)[0].h for _ in range(2))
    assert torch.equal(one[:, 0], two[:, 0]) and not torch.equal(one, two)
    context = Context(frames, action[:, :-1])
    assert torch.equal(model.begin(context).h, model.begin(context).h)


def test_samples_follow_their_probabilities():
    torch.manual_seed(0)
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])
    drawn = sample(probabilities.expand(20_000, 2, 3))
    assert bool((drawn.sum(-1) == 1).all())
    assert torch.allclose(drawn.mean(0), probabilities, atol=0.015)


def test_a_few_steps_learn_one_segment():
    """Mechanics: frames and rewards of one segment are fitted."""
    torch.manual_seed(0)
    model = Rssm(replace(SMALL, multiplier=8, units=32, recurrent=32))
    frames, action = segment()
    frames[:, :, 4:12] = 255
    reward = torch.linspace(-1, 1, B * T).view(B, T)
    optimiser, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(80):
        total, parts = model.loss(frames, action.float(), reward)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append({name: float(part) for name, part in parts.items()})
    assert losses[-1]['image'] < 0.6 * losses[0]['image']
    assert losses[-1]['reward'] < 0.7 * losses[0]['reward']


# The two-hot head -------------------------------------------------------------------------------


def head(bins=101, span=10.0):
    return TwoHot(3, bins, span)


@given(st.floats(-2e4, 2e4))
@settings(deadline=None)
def test_a_target_is_a_distribution_whose_mean_is_the_value(value):
    target = head().target(torch.tensor([value]))[0]
    assert float(target.sum()) == pytest.approx(1, abs=1e-6)
    assert int((target > 0).sum()) <= 2 and float(target.min()) >= 0
    mean = float((target.double() * torch.linspace(-10, 10, 101, dtype=torch.double)).sum())
    assert mean == pytest.approx(float(symlog(torch.tensor(value).double())), abs=6e-6)  # float32


@pytest.mark.parametrize('bins', [2, 11, 101, 255])
def test_the_bins_themselves_are_hit_exactly(bins):
    """Also the middle one, zero, by far the most frequent reward, and both ends."""
    two_hot = head(bins)
    target = two_hot.target(symexp(torch.linspace(-10, 10, bins, dtype=torch.double)))
    assert torch.allclose(target, torch.eye(bins, dtype=torch.double), atol=2e-5)
    if bins % 2:
        assert float(two_hot.target(torch.zeros(1))[0, bins // 2]) == 1


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=2))
@settings(deadline=None)
def test_reading_a_target_gives_the_value_back(values):
    """A head whose softmax is the target reads symexp of its mean: the inverse of target()."""
    two_hot, value = head(), symexp(torch.tensor(values))
    with torch.no_grad():
        for row in range(2):
            two_hot.linear.bias.copy_(two_hot.target(value)[row].clamp(min=1e-30).log())
            read = two_hot(torch.zeros(3))
            assert float(symlog(read)) == pytest.approx(values[row], abs=1e-4)


def test_values_beyond_the_span_are_held_at_its_ends():
    target = head().target(torch.tensor([-1e9, 1e9, torch.inf]))
    assert target[0, 0] == target[1, -1] == target[2, -1] == 1


def test_an_untrained_head_says_zero_and_the_loss_is_least_at_the_target():
    two_hot = head(11)
    value = torch.tensor([3.0])
    assert float(two_hot(torch.randn(1, 3)).detach().abs()) < 1e-5
    target = two_hot.target(value)[0]
    entropy = -float((target[target > 0] * target[target > 0].log()).sum())
    with torch.no_grad():
        assert float(two_hot.loss(torch.zeros(1, 3), value)) > entropy
        two_hot.linear.bias.copy_(target.clamp(min=1e-12).log())
        assert float(two_hot.loss(torch.zeros(1, 3), value)) == pytest.approx(entropy, abs=1e-4)


@given(st.floats(-1e4, 1e4))
@settings(deadline=None)
def test_symlog_and_symexp_undo_each_other(value):
    x = torch.tensor(value, dtype=torch.double)
    assert float(symexp(symlog(x))) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert float(symlog(-x)) == -float(symlog(x))
