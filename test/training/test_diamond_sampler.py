"""Laws of the sampler: schedule values, results on the 256 levels, reproducible noise."""

from itertools import pairwise

from dmo_training.models.diamond.denoiser import Denoiser, DenoiserConfig
from dmo_training.models.diamond.sampler import roll, sample, SamplerConfig, schedule
from dmo_training.models.diamond.unet import NetworkConfig
import pytest
import torch

SMALL = NetworkConfig(
    channels=(8, 16), depths=(1, 1), attention=(False, False), cond_size=16, patch=2
)


@pytest.fixture(name='denoiser')
def fixture_denoiser():
    torch.manual_seed(0)
    denoiser = Denoiser(
        DenoiserConfig(network=SMALL, precision='fp32'), (0.1, 0.0, -0.2), (0.3, 0.4, 0.5)
    )
    for parameter in denoiser.parameters():
        if not parameter.any():  # layers that start at zero would hide the actions
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def context(seed=1, batch=2):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch, 4, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return frames, torch.randn(batch, 12, 2, generator=generator)


@pytest.mark.parametrize(
    'steps, levels',
    [
        (1, [5, 0]),
        (2, [5, 0.002, 0]),
        (3, [5, 0.283082, 0.002, 0]),
        (5, [5, 1.377025, 0.283082, 0.036547, 0.002, 0]),
    ],
)
def test_the_schedule_has_the_golden_levels(steps, levels):
    assert schedule(SamplerConfig(steps)) == pytest.approx(levels, abs=1e-6)


@pytest.mark.parametrize(
    'config', [{'steps': 1}, {'steps': 3}, {'steps': 3, 'order': 2}, {'steps': 3, 'churn': 1.0}]
)
@torch.no_grad()
def test_a_sampled_frame_lies_on_the_256_levels(denoiser, config):
    frames, action = context()
    frame = sample(denoiser, denoiser.encode(frames), action[:, :4], SamplerConfig(**config))
    assert torch.equal(denoiser.encode(denoiser.decode(frame)), frame)


@torch.no_grad()
def test_euler_with_one_step_is_one_denoising_of_unit_noise(denoiser):
    frames, action = context()
    encoded, noise = denoiser.encode(frames), torch.randn(2, 3, 8, 8)
    expected = denoiser.denoise(noise, torch.full((2,), 5.0), encoded.flatten(1, 2), action[:, :4])
    found = sample(denoiser, encoded, action[:, :4], SamplerConfig(1), initial=noise)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_steps_follow_the_ordinary_differential_equation(denoiser, monkeypatch):
    """With a denoiser that always answers mu, an Euler step interpolates noise and mu exactly."""
    frames, action = context()
    mu, seen = torch.full((2, 3, 8, 8), 0.25), []

    def constant(noisy, sigma, *_):
        seen.append((noisy, float(sigma[0])))
        return mu

    monkeypatch.setattr(denoiser, 'denoise', constant)
    noise = torch.randn(2, 3, 8, 8)
    for order in (1, 2):
        seen.clear()
        sample(
            denoiser,
            denoiser.encode(frames),
            action[:, :4],
            SamplerConfig(3, order=order),
            initial=noise,
        )
        levels = [level for _, level in seen]
        assert levels == pytest.approx(
            {1: [5, 0.283082, 0.002], 2: [5, 0.283082, 0.283082, 0.002, 0.002]}[order], abs=1e-6
        )
        for (x, level), (after, following) in pairwise(seen):
            torch.testing.assert_close(after - mu, (x - mu) * (following / level))


@torch.no_grad()
def test_equal_seeds_give_equal_rollouts_and_other_seeds_do_not(denoiser):
    frames, action = context()
    runs = [
        roll(denoiser, frames, action, 5, SamplerConfig(2), torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].shape == (2, 5, 8, 8, 3)


@torch.no_grad()
def test_a_rollout_continues_on_its_own_frames_and_not_on_later_actions(denoiser):
    frames, action = context()
    config = SamplerConfig(1, initial_noise=0.0)
    whole = roll(denoiser, frames, action, 4, config)
    first = roll(denoiser, frames, action, 2, config)
    rest = roll(denoiser, torch.cat((frames, first), dim=1)[:, 2:], action[:, 2:], 2, config)
    assert torch.equal(whole, torch.cat((first, rest), dim=1))
    action = action.clone()
    action[:, 5:] += 1  # in force after the frame at index 5, which is the second one generated
    changed = roll(denoiser, frames, action, 4, config)
    assert torch.equal(whole[:, :2], changed[:, :2])
    assert not torch.equal(whole[:, 2], changed[:, 2])


@pytest.mark.parametrize('fault', [{'steps': 0}, {'order': 3}])
def test_an_impossible_sampler_is_refused(fault):
    with pytest.raises(ValueError, match='Euler'):
        SamplerConfig(**fault)
