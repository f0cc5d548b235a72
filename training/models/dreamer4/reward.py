"""
The reward head on the agent token: what the operator's label will be, now and for some frames.

It is trained after the dynamics on play labels (intent, milestone), on batches of which half were
drawn for holding a label, so its raw probability is too high.  ``calibrate`` fits two numbers on
held-out play, and the reward of imagined frames is the calibrated one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import HeadConfig
from ..two_hot import TwoHot

NEWTON_STEPS = 50


class RewardHead(nn.Module):
    """Agent output (..., width) -> the rewards of the next ``ahead`` frames, its own first."""

    slope: Tensor
    offset: Tensor

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(width, config.hidden)
        self.outputs: nn.ModuleList
        if config.kind == 'binary':
            self.outputs = nn.ModuleList(nn.Linear(config.hidden, 1) for _ in range(config.ahead))
        else:
            self.outputs = nn.ModuleList(
                TwoHot(config.hidden, config.bins, config.span) for _ in range(config.ahead)
            )
        self.register_buffer('slope', torch.ones(()))
        self.register_buffer('offset', torch.zeros(()))

    def forward(self, agent: Tensor) -> Tensor:
        """Return the calibrated reward (...) of the agent's own frame."""
        return self.calibrated(self.raw(agent))

    def calibrated(self, raw: Tensor) -> Tensor:
        """Return the rewards that raw outputs (...) stand for."""
        raw = raw.float() * self.slope + self.offset
        return raw.sigmoid() if self.config.kind == 'binary' else raw

    def raw(self, agent: Tensor) -> Tensor:
        """Return what is calibrated: the logit of the label, or the expected number."""
        first = self.outputs[0](F.silu(self.hidden(agent)))
        return first.squeeze(-1) if self.config.kind == 'binary' else first

    def loss(self, agent: Tensor, reward: Tensor) -> Tensor:
        """
        Return the mean cross-entropy over all frames and offsets that lie within the sequence.

        :param agent: (B, T, width).
        :param reward: (B, T) float; labels 0 and 1 for the binary head, any number otherwise.
        """
        features, terms = F.silu(self.hidden(agent)), []
        for offset, output in enumerate(self.outputs[: reward.shape[1]]):
            made = features[:, : reward.shape[1] - offset]
            target = reward[:, offset:].to(made.dtype)
            if isinstance(output, TwoHot):
                terms.append(output.loss(made, target))
            else:
                logit = output(made).squeeze(-1)
                terms.append(F.binary_cross_entropy_with_logits(logit, target, reduction='none'))
        return torch.cat([term.flatten() for term in terms]).mean()

    @torch.no_grad()
    def calibrate(self, raw: Tensor, reward: Tensor) -> None:
        """
        Fit slope and offset on held-out frames, by logistic or linear regression.

        :param raw: :meth:`raw` of those frames (N,).
        :param reward: their labels (N,).
        """
        raw, reward = raw.double().flatten(), reward.double().flatten()
        fit = fit_logistic if self.config.kind == 'binary' else fit_line
        slope, offset = fit(raw, reward)
        self.slope.fill_(slope)
        self.offset.fill_(offset)


def fit_logistic(raw: Tensor, label: Tensor) -> tuple[float, float]:
    """
    Fit P(label) = sigmoid(slope raw + offset): Platt, "Probabilistic outputs ..." (1999).

    His targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) keep the fit finite where the labels can be
    separated; a label between 0 and 1 counts as that share of a positive.  Newton's method on
    standardised inputs, halving steps that go too far.
    """
    positives = float(label.sum())
    negatives = len(label) - positives
    least, most = 1 / (negatives + 2), (positives + 1) / (positives + 2)
    target = least + (most - least) * label.double()
    raw = raw.double()
    centre, spread = float(raw.mean()), max(float(raw.std(unbiased=False)), 1e-6)
    inputs = torch.stack(((raw - centre) / spread, torch.ones_like(raw)), dim=-1)

    def cost(weight: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(inputs @ weight, target))

    weight = torch.zeros(2, dtype=torch.float64, device=raw.device)
    weight[1] = target.mean().logit()
    damping = 1e-9 * torch.eye(2, dtype=torch.float64, device=raw.device)
    for _ in range(NEWTON_STEPS):
        probability = (inputs @ weight).sigmoid()
        gradient = inputs.T @ (probability - target) / len(raw)
        curvature = (inputs.T * (probability * (1 - probability))) @ inputs / len(raw)
        step = torch.linalg.solve(curvature + damping, gradient)
        while cost(weight - step) > cost(weight) and float(step.abs().max()) > 1e-10:
            step = step / 2  # too far: the cost is convex, so half of it will do
        if float(step.abs().max()) < 1e-10:
            break
        weight = weight - step
    slope = float(weight[0]) / spread
    return slope, float(weight[1]) - slope * centre


def fit_line(raw: Tensor, value: Tensor) -> tuple[float, float]:
    """Fit value = slope raw + offset by least squares; a constant raw keeps slope 1."""
    raw, value = raw.double(), value.double()
    spread = (raw - raw.mean()).square().mean()
    slope = 1.0
    if float(spread) > 1e-12:
        slope = float(((raw - raw.mean()) * (value - value.mean())).mean() / spread)
    return slope, float(value.mean() - slope * raw.mean())


def expected_calibration_error(
    probability: np.ndarray, label: np.ndarray, bins: int = 10
) -> float:
    """Return the mean gap of confidence and frequency over equally wide bins, by their counts."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(float(probability[which == index].mean() - label[which == index].mean()))
        * float(np.mean(which == index))
        for index in np.unique(which)
    ]
    return float(sum(gaps))


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Return the probability that a labelled frame scores above another; ties count half."""
    positive, negative = np.sort(score[label > 0.5]), np.sort(score[label <= 0.5])
    if not len(positive) or not len(negative):
        return float('nan')
    below = np.searchsorted(negative, positive, side='left')
    upto = np.searchsorted(negative, positive, side='right')
    return float((below + upto).mean() / 2 / len(negative))


def judge(reward: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Return the figures of a calibrated head on held-out frames (N,)."""
    return {
        'auroc': auroc(reward, label),
        'brier': float(np.square(reward - label).mean()),
        'calibration_error': expected_calibration_error(reward, label),
        'labelled': float(np.mean(label > 0.5)),
    }
