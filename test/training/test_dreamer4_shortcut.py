"""Laws of shortcut forcing: both losses as the paper writes them, levels, and batch plans."""

from collections import Counter

from dmo_training.models.dreamer4.shortcut import (
    bootstrap_error,
    by_level,
    draw_levels,
    flow_error,
    mix,
    plan,
    ShortcutConfig,
    weigh,
)
import pytest
import torch

LEVELS, SHAPE = 8, (3, 5)
RAMP = ShortcutConfig().ramp


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(*SHAPE, 4, 2, generator=generator, dtype=torch.float64)

    return draw(), draw(), generator


def network(noisy, level, step):
    """Frames see each other, level and step; float64."""
    seen = noisy.flatten(2).cumsum(dim=1).unflatten(2, noisy.shape[2:])
    at = (level + 10 * step + 1.0).double()[..., None, None]
    return (0.3 * noisy + 0.1 * seen.sin()) * at.log()


def tau_of(level):
    return (level.double() / LEVELS)[..., None, None]


def test_the_flow_loss_is_the_direct_formula():
    clean, noise, generator = batch()
    at = draw_levels(SHAPE, LEVELS, False, generator=generator)
    tau = tau_of(at.level)
    estimate = network((1 - tau) * noise + tau * clean, *at)
    direct = (0.9 * tau + 0.1).squeeze() * (estimate - clean).pow(2).mean(dim=(2, 3))
    found = weigh(flow_error(network, clean, noise, at, LEVELS), at.level, LEVELS, RAMP)
    torch.testing.assert_close(found, direct, rtol=1e-12, atol=0)


def test_the_bootstrap_loss_is_the_direct_formula():
    """The one with the divisions; ours has none, so that it is also right next to tau = 1."""
    clean, noise, generator = batch()
    at = draw_levels(SHAPE, LEVELS, True, generator=generator)
    tau, size = tau_of(at.level), (0.5 ** at.step.double())[..., None, None]
    noisy = (1 - tau) * noise + tau * clean
    half = at.step + 1
    b1 = (network(noisy, at.level, half) - noisy) / (1 - tau)
    midway = noisy + b1 * size / 2
    there = at.level + (size / 2 * LEVELS).round().long()[..., 0, 0]
    b2 = (network(midway, there, half) - midway) / (1 - tau - size / 2)
    velocity = (network(noisy, *at) - noisy) / (1 - tau)
    direct = (1 - tau) ** 2 * (velocity - (b1 + b2) / 2) ** 2
    direct = (0.9 * tau + 0.1).squeeze() * direct.mean(dim=(2, 3))
    found = weigh(bootstrap_error(network, clean, noise, at, LEVELS), at.level, LEVELS, RAMP)
    torch.testing.assert_close(found, direct, rtol=1e-10, atol=0)


def test_a_network_that_knows_the_clean_latents_has_no_loss():
    """Its velocity is the same from everywhere, so steps of every size agree."""
    clean, noise, generator = batch()

    def knows(noisy, level, step):
        return clean

    for bootstrap, error in ((False, flow_error), (True, bootstrap_error)):
        at = draw_levels(SHAPE, LEVELS, bootstrap, generator=generator)
        assert float(error(knows, clean, noise, at, LEVELS).max()) < 1e-25


def test_no_gradient_flows_through_the_two_half_steps():
    clean, noise, generator = batch()
    at = draw_levels(SHAPE, LEVELS, True, generator=generator)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    other = torch.ones((), dtype=torch.float64, requires_grad=True)
    error = bootstrap_error(
        lambda *x: weight * network(*x), clean, noise, at, LEVELS, lambda *x: other * network(*x)
    )
    gradient, none = torch.autograd.grad(error.sum(), (weight, other), allow_unused=True)
    assert gradient.abs() > 0
    assert none is None


def test_clipping_bounds_the_teacher():
    clean, noise, generator = batch()
    at = draw_levels(SHAPE, LEVELS, True, generator=generator)

    def wild(noisy, level, step):
        return noisy + 1e6

    def zero(noisy, level, step):
        return noisy

    bounded = bootstrap_error(zero, clean, noise, at, LEVELS, wild, clip=4.0)
    assert float(bounded.max()) <= 16 + 1e-9
    assert float(bootstrap_error(zero, clean, noise, at, LEVELS, wild).max()) > 1e6


def test_flow_takes_the_finest_step_from_every_level():
    at = draw_levels((100, 100), LEVELS, False)
    assert (at.step == 3).all()
    assert Counter(at.level.flatten().tolist()).keys() == set(range(LEVELS))


def test_bootstrap_takes_every_coarser_step_from_its_own_multiples():
    at = draw_levels((100, 100), LEVELS, True)
    found = set(zip(at.step.flatten().tolist(), at.level.flatten().tolist()))
    expected = {(j, i * LEVELS // 2**j) for j in range(3) for i in range(2**j)}
    assert found == expected


def test_the_noisy_end_counts_a_tenth_of_the_clean_one():
    level = torch.tensor([0, LEVELS])
    torch.testing.assert_close(weigh(torch.ones(2), level, LEVELS, RAMP), torch.tensor([0.1, 1.0]))


def test_mixing_at_signal_one_is_clean_and_at_zero_noise():
    clean, noise, _ = batch()
    assert torch.equal(mix(noise, clean, 0.0), noise)
    torch.testing.assert_close(mix(noise, clean, 1.0), clean)
    assert torch.equal(mix(noise, clean, 0.25), noise + (clean - noise) * 0.25)


def test_plans_need_no_message_between_processes():
    """Every process finds the same from (seed, update); resuming finds it again."""
    config = ShortcutConfig(bootstrap_from=100)
    plans = [plan(config, 7, t, 2000, t) for t in range(2000)]
    assert plans == [plan(config, 7, t, 2000, t) for t in range(2000)]
    assert plans != [plan(config, 8, t, 2000, t) for t in range(2000)]
    long = [p.frames == config.long for p in plans]
    assert all(long[1800:])
    assert sum(long[:1800]) / 1800 == pytest.approx(0.15, abs=0.03)
    assert not any(p.bootstrap for p in plans[:100])
    assert [p.bootstrap for p in plans[100:108]] == [False, False, False, True] * 2


def test_micro_batches_of_one_update_are_equally_long_and_of_both_kinds():
    config = ShortcutConfig(bootstrap_from=0)
    plans = [plan(config, 0, 5, 100, 5 * 8 + micro) for micro in range(8)]
    assert len({p.frames for p in plans}) == 1
    assert sum(p.bootstrap for p in plans) == 2


def test_errors_are_told_apart_by_signal_level():
    level = torch.tensor([[0, 1, 6, 7]])
    figures = by_level(torch.tensor([[1.0, 3.0, 5.0, 7.0]]), level, LEVELS)
    assert figures == {'error_tau_0.00': 2.0, 'error_tau_0.75': 6.0}
