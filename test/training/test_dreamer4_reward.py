"""Laws of the reward head: targets, distributions, calibration, figures."""

from dmo_training.models.dreamer4.config import HeadConfig
from dmo_training.models.dreamer4.reward import (
    auroc,
    expected_calibration_error,
    fit_line,
    judge,
    RewardHead,
)
from dmo_training.models.two_hot import TwoHot
import numpy as np
import pytest
import torch

WIDTH = 6


def make(kind, ahead=3, **config):
    torch.manual_seed(0)
    head = RewardHead(HeadConfig(kind, 8, ahead, **config), WIDTH)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def test_two_hot_targets_sum_to_one_and_mean_the_value():
    """Also on a bin, at the last one, and beyond the ends."""
    head = TwoHot(WIDTH, 255, 20.0)
    on_bins = head.bins.sign() * head.bins.abs().expm1()
    values = torch.cat((torch.tensor([0.0, 1.0, -3.5, 1e30, -1e30]), on_bins[100:160]))
    target = head.target(values)
    torch.testing.assert_close(target.sum(dim=-1), torch.ones(len(values)))
    assert (target >= 0).all()
    assert ((target > 0).sum(dim=-1) <= 2).all()
    mean = (target * head.bins).sum(dim=-1)
    expected = (values.sign() * values.abs().log1p()).clamp(-20, 20)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)


def test_the_two_hot_heads_own_distributions_sum_to_one():
    head, agent = make('twohot'), torch.randn(4, 5, WIDTH)
    features = torch.nn.functional.silu(head.hidden(agent))
    for output in head.outputs:
        torch.testing.assert_close(
            output.linear(features).softmax(dim=-1).sum(dim=-1), torch.ones(4, 5)
        )


@pytest.mark.parametrize('kind', ['binary', 'twohot'])
def test_the_loss_is_that_of_every_offset_within_the_sequence(kind):
    head, agent = make(kind), torch.randn(2, 4, WIDTH)
    reward = torch.randint(0, 2, (2, 4)).float()
    features, terms = torch.nn.functional.silu(head.hidden(agent)), []
    for t in range(4):
        for offset in range(min(3, 4 - t)):
            output, target = head.outputs[offset], reward[:, t + offset]
            if kind == 'binary':
                p = output(features[:, t]).squeeze(-1).sigmoid()
                terms.append(-(target * p.log() + (1 - target) * (1 - p).log()))
            else:
                terms.append(output.loss(features[:, t], target))
    torch.testing.assert_close(head.loss(agent, reward), torch.cat(terms).mean())


def test_a_sequence_may_be_shorter_than_what_is_predicted():
    head = make('binary', ahead=8)
    assert head.loss(torch.randn(2, 3, WIDTH), torch.ones(2, 3)).isfinite()


@pytest.mark.parametrize('kind', ['binary', 'twohot'])
def test_a_head_learns_its_labels(kind):
    torch.manual_seed(0)
    head = RewardHead(HeadConfig(kind, 16, 1, bins=41, span=3.0), WIDTH)
    agent = torch.randn(64, 1, WIDTH)
    reward = (agent[..., 0] > 0).float()
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(agent, reward).backward()
        optimiser.step()
    assert (head(agent) - reward).abs().mean() < 0.15


def test_calibration_undoes_the_share_of_labels_in_balanced_batches():
    """A head that thinks labels are as likely as not learns how rare they are."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20000, generator=generator) - 3
    label = (torch.rand(20000, generator=generator) < truth.sigmoid()).float()
    head = make('binary')
    shifted = 2 * (truth + 3)
    head.calibrate(shifted, label)
    assert float(head.slope) == pytest.approx(0.5, abs=0.05)
    assert float(head.offset) == pytest.approx(-3, abs=0.15)
    reward = (shifted * head.slope + head.offset).sigmoid()
    figures = judge(reward.numpy(), label.numpy())
    assert figures['calibration_error'] < 0.01
    assert expected_calibration_error(shifted.sigmoid().numpy(), label.numpy()) > 0.3


def test_calibration_stays_finite_where_labels_can_be_separated():
    head, raw = make('binary'), torch.cat((torch.full((50,), -2.0), torch.full((5,), 2.0)))
    head.calibrate(raw, (raw > 0).float())
    assert head.slope.isfinite()
    assert head.offset.isfinite()
    head.calibrate(raw, torch.zeros(55))  # no label at all
    probability = (raw * head.slope + head.offset).sigmoid()
    assert float(probability.max()) < 0.1


def test_calibration_survives_a_head_that_is_very_sure():
    """Newton's method must not run away from a far start."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(5000, generator=generator)
    label = (torch.rand(5000, generator=generator) < truth.sigmoid()).float()
    head = make('binary')
    head.calibrate(40 * truth + 100, label)
    assert float(head.slope) == pytest.approx(1 / 40, rel=0.1)


def test_a_number_is_calibrated_by_a_line():
    raw = torch.linspace(0, 1, 50)
    slope, offset = fit_line(raw, 0.25 * raw - 0.1)
    assert (slope, offset) == pytest.approx((0.25, -0.1))
    assert fit_line(torch.ones(5), torch.full((5,), 3.0)) == pytest.approx((1.0, 2.0))
    head, agent = make('twohot'), torch.randn(4, WIDTH)
    before = head(agent)
    head.calibrate(head.raw(agent).detach(), 0.5 * head.raw(agent).detach() + 1)
    torch.testing.assert_close(head(agent), 0.5 * before + 1)


def test_auroc_is_the_share_of_pairs_in_order():
    generator = np.random.default_rng(0)
    score, label = generator.integers(0, 6, 40).astype(float), generator.integers(0, 2, 40)
    pairs = [
        (a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]
    ]  # ties count half
    assert auroc(score, label) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(score, np.zeros(40)))
