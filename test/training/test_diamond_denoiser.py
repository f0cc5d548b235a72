"""Laws of the denoiser: EDM's identities and golden values, 256 levels, masks, no future leak."""

from dataclasses import replace

from dmo_training.models.diamond.denoiser import Denoiser, DenoiserConfig
from dmo_training.models.diamond.unet import DiamondNetwork, NetworkConfig, parameter_count
import pytest
import torch

SMALL = NetworkConfig(
    channels=(8, 16), depths=(1, 1), attention=(False, False), cond_size=16, patch=2
)


def make(seed=0, mean=(0.1, 0.0, -0.2), std=(0.3, 0.4, 0.5), network=SMALL, **config):
    """Build a small float32 denoiser whose zero-initialised layers do something."""
    torch.manual_seed(seed)
    denoiser = Denoiser(DenoiserConfig(network=network, precision='fp32', **config), mean, std)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def segment(batch=3, length=7, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(
        0, 256, (batch, length, size, size, 3), generator=generator, dtype=torch.uint8
    )
    return frames, torch.randn(batch, length, 2, generator=generator)


@pytest.mark.parametrize(
    'sigma, c_in, c_out, c_skip, c_noise',
    [
        (0.002, 1.71498, 0.25725, 0.73529, -0.30099),
        (0.13, 1.67389, 0.27364, 0.70048, -0.27948),
        (0.5, 1.30189, 0.37956, 0.42373, -0.13485),
        (1.0, 0.86387, 0.45095, 0.18657, 0.01077),
        (5.0, 0.19865, 0.49753, 0.00987, 0.40281),
        (20.0, 0.04998, 0.49984, 0.00062, 0.74896),
    ],
)
def test_coefficients_have_the_golden_values(sigma, c_in, c_out, c_skip, c_noise):
    found = make().coefficients(torch.tensor([sigma]))
    expected = (c_in, c_out, c_skip, c_noise)
    assert [float(c) for c in found] == pytest.approx(expected, abs=6e-6)


def test_coefficients_keep_input_and_target_at_unit_variance():
    """EDM's conditions: c_in scales the noisy input, c_out the target, both to variance one."""
    denoiser, sigma = make(), torch.logspace(-3, 1.5, 50, dtype=torch.float64)
    c = denoiser.coefficients(sigma)
    data, level = 0.5, (sigma**2 + 0.3**2).view(-1, 1, 1, 1)
    torch.testing.assert_close(c.c_in**2 * (level + data**2), torch.ones_like(c.c_in))
    target = (1 - c.c_skip) ** 2 * data**2 + c.c_skip**2 * level
    torch.testing.assert_close(target, c.c_out**2)


def test_training_noise_levels_follow_the_log_normal_draw():
    denoiser = make()
    sigma = denoiser.training_sigma(200_000, torch.Generator().manual_seed(0))
    quantiles = torch.quantile(sigma, torch.tensor([0.05, 0.5, 0.95]))
    torch.testing.assert_close(quantiles, torch.tensor([0.093, 0.67, 4.82]), rtol=0.02, atol=0)
    assert sigma.min() >= 2e-3
    assert sigma.max() <= 20


def test_every_level_of_a_camera_survives_the_round_trip():
    """Including the network's space being shifted and scaled to the data."""
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3)
    for rounding in ('round', 'floor'):
        denoiser = make(rounding=rounding)
        assert torch.equal(denoiser.decode(denoiser.encode(levels)), levels)


def test_a_denoised_frame_lies_on_the_levels_and_is_rounded_to_the_nearest():
    denoiser = make()
    frames, action = segment()
    context = denoiser.encode(frames[:, :4]).flatten(1, 2)
    estimate = denoiser.denoise(
        torch.randn(3, 3, 16, 16), torch.full((3,), 5.0), context, action[:, :4]
    )
    assert torch.equal(denoiser.encode(denoiser.decode(estimate)), estimate)
    between = denoiser.encode(torch.full((1, 1, 3), 100, dtype=torch.uint8))
    step = denoiser.scale / 127.5
    assert (denoiser.decode(between + 0.4 * step) == 100).all()
    assert (denoiser.decode(between + 0.6 * step) == 101).all()
    floor = make(rounding='floor')
    assert (floor.decode(between + 0.6 * step) == 100).all()


def test_the_loss_vanishes_for_a_network_that_knows_the_answer():
    """The target of F is what makes D the clean frame."""
    denoiser, (frames, action) = make(), segment(length=5)
    clean = denoiser.encode(frames[:, 4])

    def knows(noisy, c, context, action, context_sigma=None):
        return (clean - c.c_skip * noisy) / c.c_out

    denoiser.evaluate = knows
    loss, estimate = denoiser.frame_loss(denoiser.encode(frames[:, :4]), action[:, :4], clean)
    assert float(loss) < 1e-10
    assert torch.equal(denoiser.decode(estimate), frames[:, 4])


def test_no_estimate_depends_on_later_frames_or_actions():
    denoiser, (frames, action) = make(), segment(length=8)
    seen = []

    def spy(context, action, target, mask=None, generator=None):
        loss, estimate = Denoiser.frame_loss(denoiser, context, action, target, mask, generator)
        seen.append(estimate)
        return loss, estimate

    denoiser.frame_loss = spy
    for change in (False, True):
        if change:
            frames, action = frames.clone(), action.clone()
            frames[:, 6:] = 255 - frames[:, 6:]
            action[:, 6:] += 1
        denoiser.segment_loss(frames, action, generator=torch.Generator().manual_seed(5))
    before, after = seen[:4], seen[4:]
    for index in (0, 1):  # targets 4 and 5, made from frames and actions up to 4
        assert torch.equal(before[index], after[index])
    assert not torch.equal(before[2], after[2])


def test_later_contexts_of_a_segment_hold_the_models_own_frames():
    denoiser, (frames, action) = make(), segment(length=6)
    contexts, estimates = [], []

    def spy(context, action, target, mask=None, generator=None):
        loss, estimate = Denoiser.frame_loss(denoiser, context, action, target, mask, generator)
        contexts.append(context)
        estimates.append(estimate)
        return loss, estimate

    denoiser.frame_loss = spy
    denoiser.segment_loss(frames, action)
    assert torch.equal(contexts[1][:, -1], estimates[0])
    assert torch.equal(contexts[1][:, :-1], denoiser.encode(frames[:, 1:4]))
    assert not estimates[0].requires_grad


def test_rows_without_a_target_do_not_count_and_all_masked_is_finite():
    denoiser, (frames, action) = make(), segment(batch=4, length=5)
    arguments = denoiser.encode(frames[:, :4]), action[:, :4], denoiser.encode(frames[:, 4])
    mask = torch.tensor([True, False, True, False])
    loss = [
        denoiser.frame_loss(*arguments, mask, torch.Generator().manual_seed(0))[0],
    ]
    changed = denoiser.encode(frames[:, 4]).clone()
    changed[~mask] = 0
    loss.append(
        denoiser.frame_loss(*arguments[:2], changed, mask, torch.Generator().manual_seed(0))[0]
    )
    assert float(loss[0].detach()) == float(loss[1].detach()) > 0
    nothing, _ = denoiser.frame_loss(*arguments, torch.zeros(4, dtype=torch.bool))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in denoiser.parameters() if p.grad is not None)


def test_changed_pixels_weigh_more_and_the_mean_weight_is_one():
    denoiser, (frames, _) = make(changed_weight=5.0), segment(length=5)
    frames[:] = 100
    frames[:, 4, 3, 5] = 140
    weight = denoiser._weights(denoiser.encode(frames[:, :4]), denoiser.encode(frames[:, 4]))
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[0, 0, 3, 5] / weight[0, 0, 0, 0]) == pytest.approx(5)


def test_a_noised_context_tells_the_network_its_level():
    denoiser = make(network=replace(SMALL, noisy_context=True))
    frames, action = segment(length=5)
    context = denoiser.encode(frames[:, :4]).flatten(1, 2)
    augmented, sigma = denoiser._augment(context, torch.Generator().manual_seed(0))
    assert sigma.max() <= denoiser.config.context_sigma_max
    spread = ((augmented - context) / sigma.view(-1, 1, 1, 1)).std()
    assert float(spread) == pytest.approx(1, abs=0.05)
    c = denoiser.coefficients(torch.full((3,), 1.0))
    noisy = torch.randn(3, 3, 16, 16)
    outputs = [
        denoiser.evaluate(noisy, c, context, action[:, :4], torch.full((3,), level))
        for level in (0.1, 0.9)
    ]
    assert not torch.equal(*outputs)


@pytest.mark.parametrize('depth, count', [(2, 4_405_891), (4, 7_264_387)])
def test_the_paper_sizes_have_the_original_structure(depth, count):
    """4.41 M (the paper's text) and 7.26 M (its Table 4), linear embedding of two actions."""
    assert parameter_count(DiamondNetwork(NetworkConfig(depths=(depth,) * 4))) == count


def test_sizes_that_do_not_halve_evenly_are_padded_and_cropped():
    network = DiamondNetwork(replace(SMALL, patch=1))
    frame, context = torch.randn(2, 3, 15, 17), torch.randn(2, 12, 15, 17)
    output = network(frame, torch.zeros(2), context, torch.zeros(2, 4, 2))
    assert output.shape == frame.shape


def test_a_frozen_copy_agrees_and_does_not_follow_training():
    denoiser, (frames, action) = make(), segment(length=5)
    context = denoiser.encode(frames[:, :4]).flatten(1, 2)
    arguments = torch.randn(3, 3, 16, 16), torch.full((3,), 5.0), context, action[:, :4]
    exact = denoiser.frozen()
    assert torch.equal(exact.denoise(*arguments), denoiser.denoise(*arguments))
    rough = Denoiser(replace(denoiser.config, precision='bf16'))
    rough.load_state_dict(denoiser.state_dict())
    half = rough.frozen()
    assert half.network.conv_in.weight.dtype == torch.bfloat16
    gap = (half.denoise(*arguments) - denoiser.denoise(*arguments)).abs().mean()
    assert gap < 0.02
    with torch.no_grad():
        denoiser.network.conv_out.bias += 1
    assert not torch.equal(exact.denoise(*arguments), denoiser.denoise(*arguments))


@pytest.mark.parametrize(
    'fault, message',
    [
        ({'depths': (1,)}, 'give each one entry per level'),
        ({'cond_size': 18}, 'divisible by context'),
    ],
)
def test_a_network_that_cannot_be_built_says_why(fault, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **fault)


@pytest.mark.parametrize('fault', [{'rounding': 'up'}, {'precision': 'fp8'}])
def test_an_unknown_option_names_the_known_ones(fault):
    with pytest.raises(ValueError, match='use '):
        DenoiserConfig(**fault)
