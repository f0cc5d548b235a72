"""The driven fields in the whole action: training and robot fill the others alike."""

from dataclasses import replace

from dmo_ros.core.actions import fill, to_si
from dmo_ros.core.tasks import TASKS
from dmo_training.models.driven import Driven
import numpy as np
import pytest
import torch

SHUFFLED = replace(TASKS['push_cube'], policy_actions=('wz', 'vx'))
TASKS_AND_MORE = [*TASKS.values(), SHUFFLED]


@pytest.mark.parametrize('spec', TASKS_AND_MORE, ids=lambda spec: '-'.join(spec.policy_actions))
def test_what_the_world_model_gets_is_what_the_gate_would_send(spec):
    """In SI units, every field in its place: core.actions.fill is the robot's side of it."""
    generator = torch.Generator().manual_seed(0)
    driven = 2 * torch.rand(7, len(spec.policy_actions), generator=generator) - 1
    whole = Driven(spec)(driven)
    assert whole.shape == (7, len(spec.actions)) and whole.dtype == driven.dtype
    sent = np.array([fill(to_si(row, spec.driven), spec) for row in driven.numpy()])
    assert np.abs(to_si(whole.numpy(), spec.actions) - sent).max() < 1e-6


@pytest.mark.parametrize('spec', TASKS_AND_MORE, ids=lambda spec: '-'.join(spec.policy_actions))
def test_driven_fields_pass_bit_for_bit_and_take_all_the_gradient(spec):
    names = [field.name for field in spec.actions]
    driven = torch.rand(3, 2, len(spec.policy_actions), dtype=torch.double, requires_grad=True)
    whole = Driven(spec)(driven)
    columns = [names.index(name) for name in spec.policy_actions]
    assert torch.equal(whole[..., columns], driven)
    weight = torch.arange(1.0, len(names) + 1, dtype=torch.double)
    (slope,) = torch.autograd.grad((whole * weight).sum(), driven)
    assert torch.equal(slope, weight[columns].expand_as(driven))


def test_it_has_nothing_to_store():
    """A policy's checkpoint and file hold the task, which says the same."""
    module = Driven(TASKS['grab_box'])
    assert not module.state_dict() and not list(module.parameters())
