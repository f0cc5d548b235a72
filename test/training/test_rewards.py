"""Global rewards: targets, ranking, bounds, what is not computed, and that they learn."""

from dataclasses import replace
import time

from dmo_training.models.rewards import (
    anticipated,
    bradley_terry,
    GoalEnergy,
    IntentHead,
    RewardConfig,
    RewardModel,
    to_pixels,
)
from dmo_training.train_reward import _shift, auroc
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
import torch

SMALL = RewardConfig(frame_size=16, channels=4, units=16, members=2, goals=3, milestone_weight=0.5)


def frames(count=6, seed=0, size=16):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    )


def filled(config, seed=0):
    """A model as a training leaves it: goals and starts are frames, energies are standardised."""
    torch.manual_seed(seed)
    model = RewardModel(config)
    model.goals.copy_(to_pixels(frames(config.goals, 1, config.frame_size)))
    model.starts.copy_(to_pixels(frames(config.goals, 2, config.frame_size)))
    scores = model.raw_energy(to_pixels(frames(64, 3, config.frame_size)))
    model.centre.copy_(scores.mean(-1))
    model.spread.copy_(scores.std(-1))
    return model


# Targets of the labels --------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=25), st.floats(0, 1), st.integers(0, 30))
@settings(deadline=None)
def test_anticipation_is_the_discount_to_the_power_of_the_steps_left(labels, discount, steps):
    target = anticipated(torch.tensor(labels), discount, steps)
    for t, value in enumerate(target.tolist()):
        ahead = next((k for k in range(len(labels) - t) if labels[t + k]), None)
        within = ahead is not None and (ahead == 0 or ahead <= steps)
        expected = 1.0 if ahead == 0 else (discount**ahead if within else 0.0)
        assert value == pytest.approx(expected, abs=1e-6)


def test_without_discount_the_target_is_the_label():
    labels = torch.tensor([True, False, False, True, False])
    assert torch.equal(anticipated(labels, 0.0, 30), labels.float())


@given(st.lists(st.booleans(), min_size=2, max_size=20), st.data())
@settings(deadline=None)
def test_nothing_is_anticipated_from_the_past(labels, data):
    """Changing labels before t leaves the targets from t on as they are."""
    t = data.draw(st.integers(1, len(labels) - 1))
    other = [not label for label in labels[:t]] + labels[t:]
    one, two = (anticipated(torch.tensor(x), 0.9, 30) for x in (labels, other))
    assert torch.equal(one[t:], two[t:])


# Ranking ----------------------------------------------------------------------------------------


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
@settings(deadline=None)
def test_bradley_terry_is_a_symmetric_law_of_differences(a, b, shift):
    def probability(later, earlier):
        return float(
            torch.exp(
                -bradley_terry(
                    torch.tensor(later, dtype=torch.double),
                    torch.tensor(earlier, dtype=torch.double),
                )
            )
        )

    assert probability(a, b) + probability(b, a) == pytest.approx(1)
    assert probability(a + shift, b + shift) == pytest.approx(probability(a, b))
    assert (probability(a, b) > 0.5) == (a > b) or a == pytest.approx(b)
    assert probability(a, b) == pytest.approx(1 / (1 + np.exp(b - a)))


def test_a_certain_ranking_is_finite():
    loss = bradley_terry(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    assert loss.tolist() == [0.0, 2e4]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_auroc_counts_the_pairs(pairs):
    """Ties count half; the same as Mann and Whitney's U over the number of pairs."""
    score, truth = (torch.tensor(column) for column in zip(*pairs))
    value = auroc(score.float(), truth.bool())
    good = [s for s, t in pairs if t]
    bad = [s for s, t in pairs if not t]
    if not good or not bad:
        assert np.isnan(value)
        return
    counted = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    assert value == pytest.approx(counted, abs=1e-6)
    statistic = stats.mannwhitneyu(good, bad, method='asymptotic').statistic
    assert value == pytest.approx(statistic / (len(good) * len(bad)), abs=1e-6)


# The reward -------------------------------------------------------------------------------------


def test_pixels_are_centred_channels_first():
    picture = torch.zeros(2, 5, 4, 6, 3, dtype=torch.uint8)
    picture[..., 1] = 255
    pixels = to_pixels(picture)
    assert pixels.shape == (2, 5, 3, 4, 6)
    assert pixels[0, 0, :, 0, 0].tolist() == [-0.5, 0.5, -0.5]


@pytest.mark.parametrize('size', [8, 16, 32, 64])
def test_both_nets_take_the_tasks_frame_size(size):
    config = replace(SMALL, frame_size=size)
    pixels = torch.zeros(2, 3, size, size)
    assert GoalEnergy(config)(pixels, pixels, pixels).shape == (2,)
    assert IntentHead(config)(pixels).shape == (2, 2)


@pytest.mark.parametrize('scale', [1.0, 1e6])
def test_the_reward_is_bounded_however_large_the_energies_are(scale):
    config = replace(SMALL, intent_weight=0.25, energy_weight=2.0)
    model = filled(config)
    with torch.no_grad():
        for energy in model.energies:
            energy.net[-1].weight.mul_(scale)
    reward = model(frames(50, 7))
    assert reward.shape == (50,) and bool(torch.isfinite(reward).all())
    bound = 2.0 * config.energy_bound
    assert float(reward.max()) <= bound + 0.75
    assert float(reward.min()) >= -bound - 2.0 * config.caution * config.energy_bound


def test_play_scores_zero_on_average_whatever_the_energies_units_are():
    """Standardised per goal and member over play; nothing is left of the nets' own scale."""
    config = replace(SMALL, milestone_weight=0.0, caution=0.0, energy_bound=100.0)
    model = filled(config)
    scores = model.raw_energy(to_pixels(frames(64, 3))) - model.centre[..., None]
    scores = scores / model.spread[..., None]
    assert scores.mean(-1).abs().max() < 1e-4
    assert torch.allclose(scores.std(-1), torch.ones(2, 3), atol=1e-4)
    assert abs(float(model(frames(64, 3)).mean())) < 1e-4


def test_disagreement_lowers_the_reward():
    model = filled(replace(SMALL, milestone_weight=0.0))
    bold, seen = filled(replace(SMALL, milestone_weight=0.0, caution=0.0)), frames(20, 8)
    assert bool((model(seen) < bold(seen)).all())
    single = filled(replace(SMALL, milestone_weight=0.0, members=1))
    alone = filled(replace(SMALL, milestone_weight=0.0, members=1, caution=0.0))
    assert torch.equal(single(seen), alone(seen)), 'one member cannot disagree'


def test_each_frame_is_scored_on_its_own():
    """In any company, in any order."""
    model, seen = filled(SMALL), frames(9, 4)
    together = model(seen)
    assert torch.allclose(together.flip(0), model(seen.flip(0)), atol=1e-5)
    assert torch.allclose(together[3:4], model(seen[3:4]), atol=1e-5)


def test_terms_of_weight_zero_are_not_computed(monkeypatch):
    def never(*_):
        raise AssertionError('computed')

    model = filled(replace(SMALL, milestone_weight=0.0))
    monkeypatch.setattr(model.intent, 'forward', never)
    assert list(model.terms(frames())) == ['energy']
    model(frames())
    model = filled(replace(SMALL, energy_weight=0.0, intent_weight=1.0))
    monkeypatch.setattr(model, 'raw_energy', never)
    assert set(model.terms(frames())) == {'intent', 'milestone'}
    model(frames())


def test_the_reward_is_the_weighted_sum_of_its_terms():
    config = replace(SMALL, energy_weight=0.3, intent_weight=2.0, milestone_weight=-1.0)
    model, seen = filled(config), frames(5, 5)
    terms = model.terms(seen)
    expected = 0.3 * terms['energy'] + 2.0 * terms['intent'] - terms['milestone']
    assert torch.allclose(model(seen), expected)


def test_a_reward_of_nothing_is_refused():
    with pytest.raises(ValueError, match='every weight is 0'):
        RewardConfig(energy_weight=0.0)


# Augmentation -----------------------------------------------------------------------------------


def test_a_shift_moves_all_frames_of_a_sample_alike():
    """The picture keeps its content; what is ranked against each other stays comparable."""
    pixels = torch.zeros(4, 5, 3, 16, 16)
    pixels[:, :, :, 6:9, 7:10] = 1.0
    moved = _shift(pixels, 2, np.random.default_rng(0))
    assert moved.shape == pixels.shape
    assert bool((moved == moved[:1]).all()), 'frames of a sample moved differently'
    assert bool((moved.sum((-1, -2)) == 9).all())
    places = {tuple(sample.nonzero()[0].tolist()) for sample in moved[0, :, 0]}
    assert len(places) > 1, 'every sample moved alike'
    assert torch.equal(_shift(pixels, 0, np.random.default_rng(0)), pixels)


# Learning ---------------------------------------------------------------------------------------


def approach(count, seed):
    """A bright square nears the right edge: (earlier, later, start, goal), pixels each."""
    rng = np.random.default_rng(seed)
    place = np.sort(np.stack([rng.permutation(12)[:2] for _ in range(count)]), axis=1)
    columns = [place[:, 0], place[:, 1], np.zeros(count, int), np.full(count, 12)]
    picture = np.zeros((4, count, 16, 16, 3), np.uint8)
    for kind, column in enumerate(columns):
        for row in range(count):
            picture[kind, row, 6:10, column[row] : column[row] + 4] = 255
    return to_pixels(torch.from_numpy(picture)).unbind(0)


def test_an_obvious_ranking_is_learned_in_seconds():
    torch.manual_seed(0)
    energy, begun = GoalEnergy(SMALL), time.process_time()
    optimiser = torch.optim.Adam(energy.parameters(), 3e-3)
    for step in range(60):
        earlier, later, start, goal = approach(32, step)
        loss = bradley_terry(energy(later, start, goal), energy(earlier, start, goal)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    earlier, later, start, goal = approach(200, 999)
    with torch.no_grad():
        right = energy(later, start, goal) > energy(earlier, start, goal)
    assert float(right.float().mean()) > 0.9
    assert time.process_time() - begun < 30
