"""Laws of an update of the dynamics: its parts, who learns from what, and that it does learn."""

import copy

from dmo_training.models.dreamer4.config import DynamicsConfig, HeadConfig, TrunkConfig
from dmo_training.models.dreamer4.dynamics import Dynamics
from dmo_training.models.dreamer4.objective import Batch, Objective
from dmo_training.models.dreamer4.reward import RewardHead
from dmo_training.models.dreamer4.shortcut import ShortcutConfig
import pytest
import torch

CONFIG = DynamicsConfig(2, 3, 4, TrunkConfig(16, 2, 2, time_every=2, window=4), 1, levels=8)


def make(head=False, **kwargs):
    torch.manual_seed(0)
    dynamics = Dynamics(CONFIG)
    torch.nn.init.normal_(dynamics.clean.weight, std=0.3)
    head = RewardHead(HeadConfig(hidden=8, ahead=2), 16) if head else None
    return Objective(dynamics, ShortcutConfig(), head, **kwargs)


def batch(rows=4, frames=6, reward=False, uniform=None):
    generator = torch.Generator().manual_seed(1)
    known = torch.ones(rows, frames, dtype=torch.bool)
    known[:, 0] = False
    return Batch(
        torch.randn(rows, frames, 3, 4, generator=generator).tanh(),
        torch.randn(rows, frames, 2, generator=generator),
        known,
        torch.randint(0, 2, (rows, frames), generator=generator).float() if reward else None,
        uniform,
    )


def run(objective, data, bootstrap=False, **kwargs):
    return objective(data, bootstrap, generator=torch.Generator().manual_seed(2), **kwargs)


@pytest.mark.parametrize('head', [False, True])
@pytest.mark.parametrize('bootstrap', [False, True])
def test_every_weight_that_learns_has_a_gradient(bootstrap, head):
    """Distributed training would wait for one that has none."""
    objective = make(head)
    run(objective, batch(reward=head), bootstrap)[0].backward()
    idle = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert (objective.dynamics.agent.grad is not None) == head


def test_a_frozen_base_stays_as_it_is():
    objective = make(True, freeze_base=True)
    run(objective, batch(reward=True))[0].backward()
    learning = {n for n, p in objective.named_parameters() if p.grad is not None}
    assert learning == {n for n, p in objective.named_parameters() if p.requires_grad}
    assert all(name == 'dynamics.agent' or name.startswith('head.') for name in learning)
    with pytest.raises(ValueError, match='nothing to train'):
        make(freeze_base=True)


def test_the_agent_is_read_as_a_rollout_reads_it():
    """At the signal of context and the finest step, so that the calibration holds there."""
    objective, data, seen = make(True), batch(), []
    network = objective.dynamics.forward
    objective.dynamics.forward = lambda *args, **kwargs: (
        seen.append(args) or network(*args, **kwargs)
    )
    objective.as_context(data)
    noisy, _, level, step, _ = seen[0]
    assert level.unique().tolist() == [CONFIG.context_level]
    assert step.unique().tolist() == [CONFIG.step_sizes - 1]
    share = CONFIG.context_level / CONFIG.levels
    noise = (noisy - share * data.latent) / (1 - share)
    assert float(noise.std()) == pytest.approx(1, abs=0.2)


def test_flow_and_bootstrap_are_each_divided_by_their_own_rms():
    objective = make()
    for bootstrap, kind in ((False, 'flow'), (True, 'bootstrap')):
        loss, figures = run(objective, batch(), bootstrap)
        assert float(loss.detach()) == pytest.approx(1, rel=1e-3)  # the first value sets the scale
        assert float(objective.scale[kind].square) == pytest.approx(figures[kind] ** 2, rel=1e-4)
        assert all(name.startswith(kind) for name in figures)


def test_rows_drawn_for_their_label_do_not_teach_the_dynamics():
    """They would tell it that labels are as frequent as not."""
    uniform = torch.tensor([False, False, True, True])
    data, losses = batch(reward=True, uniform=uniform), []
    for change in (0.0, 0.5):
        latent = data.latent.clone()
        latent[:2] += change
        losses.append(run(make(True), data._replace(latent=latent))[1])
    assert losses[0]['flow'] == pytest.approx(losses[1]['flow'])
    assert losses[0]['reward'] != losses[1]['reward']
    nobody = run(make(True), data._replace(uniform=torch.zeros(4, dtype=torch.bool)))
    assert nobody[1]['flow'] == 0
    assert nobody[0].isfinite()


def test_a_teacher_makes_the_half_steps():
    objective = make()
    teacher = copy.deepcopy(objective.dynamics)
    same = run(make(), batch(), True, teacher=teacher)[1]['bootstrap']
    assert same == pytest.approx(run(make(), batch(), True)[1]['bootstrap'])
    torch.nn.init.normal_(teacher.clean.weight)
    assert run(make(), batch(), True, teacher=teacher)[1]['bootstrap'] != pytest.approx(same)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_it_learns_what_actions_do():
    """One number that each action adds to: the loss with foreign actions is far higher."""
    torch.manual_seed(0)
    objective = Objective(Dynamics(CONFIG), ShortcutConfig())
    optimiser = torch.optim.AdamW(objective.parameters(), 5e-3)
    objective.dynamics.agent.requires_grad_(False)

    def draw():
        action = torch.rand(16, 6, 2) * 2 - 1
        latent = 0.5 * action[..., :1].cumsum(dim=1).sin()[..., None].expand(16, 6, 3, 4)
        return Batch(latent, action, torch.ones(16, 6, dtype=torch.bool))

    for _ in range(100):
        optimiser.zero_grad()
        objective(draw(), False)[0].backward()
        optimiser.step()
    data = draw()
    own = run(objective, data)[1]['flow']
    foreign = run(objective, data._replace(action=data.action.flip(0)))[1]['flow']
    assert foreign > 1.5 * own
