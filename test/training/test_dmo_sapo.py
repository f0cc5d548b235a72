"""Laws of the objective, the returns, the temperature and the agent."""

import dataclasses
import math

from dmo_training.rl.agent import DmoSapo, DmoSapoConfig
from dmo_training.rl.dmo import graft
from dmo_training.rl.returns import lambda_returns, lambda_returns_by_sum, segment_discount
from dmo_training.rl.sapo import critic_targets, normalised_entropy, objective, Temperature
from dmo_training.rl.tree import replace_rows
from dmo_training.rl.window import Actors
from dmo_training.world import Context, WorldStep
import pytest
import torch

SMALL = DmoSapoConfig(
    actors=16,
    horizon=1,
    episode_length=1,
    epochs=60,
    alpha_init=0.01,
    target_entropy=-1.0,
    actor_hidden=(16,),
    critic_hidden=(16,),
    mini_epochs=1,
    mini_batch=8,
)


class Bandit:
    """A world of one step: the reward is highest for the action 0.6."""

    batch = 16

    def reset(self, context, rows=None):
        self.state = torch.zeros(self.batch, 1)

    def step(self, action):
        return WorldStep(
            action.clone(),
            -(action[:, 0] - 0.6).square(),
            torch.ones(self.batch, dtype=torch.bool),
        )


class BanditModel:
    """Knows the slope of the bandit's reward and nothing of its value."""

    def begin(self, context):
        return context.observation[:, -1]

    def predict(self, latent, action):
        return action

    def correct(self, prediction, observation, proprio=None):
        return graft(observation, prediction)

    def reward(self, latent):
        return 7.0 - (latent[:, 0] - 0.6).square()

    def features(self, latent):
        return torch.ones_like(latent)


class Zeros:
    def sample(self, count):
        return Context(torch.zeros(count, 1, 1), torch.zeros(count, 0, 1))


def train(agent, actors, epochs, horizon=1):
    return [
        agent.update(actors.rollout(agent.actor, horizon, agent.generator)) for _ in range(epochs)
    ]


def bandit(**changes):
    agent = DmoSapo(1, 1, dataclasses.replace(SMALL, **changes))
    return agent, Actors(Bandit(), BanditModel(), Zeros(), 1)


def test_the_actor_climbs_the_reward():
    agent, actors = bandit(epochs=150)
    stats = train(agent, actors, 150)
    assert agent.actor.mode(torch.ones(1, 1)).item() == pytest.approx(0.6, abs=0.12)
    assert stats[-1]['reward'] > stats[0]['reward']
    assert stats[0]['reward_residual'] == pytest.approx(-7.0, abs=1e-4)


def test_a_large_temperature_raises_the_entropy():
    quiet, loud = (
        bandit(log_std_init=-2.0, alpha_init=0.001),
        bandit(log_std_init=-2.0, alpha_init=5.0),
    )
    entropies = [train(*one, 40)[-1]['entropy'] for one in (quiet, loud)]
    assert entropies[1] > entropies[0] + 0.5


def test_the_temperature_follows_the_entropy():
    temperature = Temperature(0.5, target_entropy=-2.0)
    for entropy, sign in ((0.0, 1), (-5.0, -1)):
        temperature.log_alpha.grad = None
        temperature.loss(torch.full((4,), entropy)).backward()
        # Descent moves alpha against this: too much entropy lowers alpha, too little raises it.
        assert math.copysign(1, temperature.log_alpha.grad.item()) == sign


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match='must be positive'):
        Temperature(0.0, -1.0)


def test_normalised_entropy_is_zero_at_the_target():
    assert normalised_entropy(torch.tensor([-6.0, 0.0, 6.0]), -6.0).tolist() == [0.0, 0.5, 1.0]


def test_automatic_target_entropy_is_minus_half_the_dimensions():
    assert DmoSapoConfig(target_entropy='auto').entropy_target(11) == -5.5
    assert DmoSapoConfig().entropy_target(11) == -6.0
    with pytest.raises(ValueError, match="or 'auto'"):
        DmoSapoConfig(target_entropy='off').entropy_target(2)


def test_lambda_return_recursion_equals_the_sum_form():
    torch.manual_seed(0)
    none = torch.zeros(9, 5, dtype=torch.bool)
    reward, value = torch.randn(2, 9, 5, dtype=torch.float64)
    for gamma, lam in ((0.99, 0.95), (0.9, 0.0), (0.97, 1.0), (1.0, 0.5)):
        recursion = lambda_returns(reward, value, none, none, gamma, lam)
        assert torch.allclose(
            recursion, lambda_returns_by_sum(reward, value, gamma, lam), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize('cut', ['terminated', 'truncated'])
def test_targets_do_not_look_beyond_an_episode_end(cut):
    torch.manual_seed(0)
    reward, value = torch.randn(2, 6, 1, dtype=torch.float64)
    ends = {
        'terminated': torch.zeros(6, 1, dtype=torch.bool),
        'truncated': torch.zeros(6, 1, dtype=torch.bool),
    }
    ends[cut][2] = True
    targets = lambda_returns(reward, value, **ends, gamma=0.9, lam=0.95)
    last = reward[2] + (0.9 * value[2] if cut == 'truncated' else 0.0)
    assert torch.allclose(targets[2], last)
    changed = lambda_returns(
        torch.cat([reward[:3], reward[3:] + 9]), value, **ends, gamma=0.9, lam=0.95
    )
    assert torch.equal(changed[:3], targets[:3])
    assert not torch.equal(changed[3:], targets[3:])


def test_objective_bootstraps_where_truncated_and_not_where_terminated():
    shape = (3, 1)
    ends = torch.zeros(shape, dtype=torch.bool)
    ends[0] = True
    none = torch.zeros(shape, dtype=torch.bool)
    reward, value = torch.tensor([[1.0], [10.0], [100.0]]), torch.tensor([[3.0], [5.0], [7.0]])
    rest = 10 + 0.5 * 100 + 0.25 * 7  # the new segment's discount starts at 1 again
    truncated = objective(reward, value, none, ends, 0.5)
    terminated = objective(reward, value, ends, none, 0.5)
    assert truncated.item() == pytest.approx((1 + 0.5 * 3 + rest) / 3)
    assert terminated.item() == pytest.approx((1 + rest) / 3)


def test_discount_restarts_per_actor():
    ended = torch.tensor([[False, True], [True, False], [False, False]])
    assert segment_discount(ended, 0.5).tolist() == [[1, 1], [0.5, 1], [1, 0.5]]


def test_bootstrap_is_the_value_of_the_latent_after_the_step():
    class Count:
        """Latents count steps: the critic that reads them tells where it was asked."""

        batch = 16

        def reset(self, context, rows=None):
            self.state = torch.zeros(self.batch, 1)

        def step(self, action):
            self.state = self.state + 1
            return WorldStep(self.state, torch.zeros(16), torch.zeros(16, dtype=torch.bool))

    class CountModel(BanditModel):
        def predict(self, latent, action):
            return latent + 1 + 0 * action

        def features(self, latent):
            return latent

    window = Actors(Count(), CountModel(), Zeros(), 4).rollout(DmoSapo(1, 1, SMALL).actor, 4)
    assert window.features[:, 0, 0].tolist() == [0, 1, 2, 3]
    # The last latent is the episode's own end, not the start of the next one.
    assert window.next_features[:, 0, 0].tolist() == [1, 2, 3, 4]
    assert window.truncated[:, 0].tolist() == [False, False, False, True]
    targets = critic_targets(
        window.reward, window.next_features[..., 0], window.terminated, window.truncated, 0.5, 0.0
    )
    assert targets[:, 0].tolist() == [0.5, 1.0, 1.5, 2.0]


def test_resumed_training_is_bit_exact():
    whole, actors = bandit()
    train(whole, actors, 10)
    first, actors = bandit()
    train(first, actors, 5)
    second = DmoSapo(1, 1, dataclasses.replace(SMALL))
    second.load_state_dict(first.state_dict())
    resumed = Actors(Bandit(), BanditModel(), Zeros(), 1)
    resumed.load_state_dict(actors.state_dict())
    resumed.world.reset(None)
    train(second, resumed, 5)
    for mine, theirs in (
        (whole.actor, second.actor),
        (whole.critics, second.critics),
        (whole.temperature, second.temperature),
    ):
        for a, b in zip(mine.parameters(), theirs.parameters()):
            assert torch.equal(a, b)
    assert second.epoch == 10


def test_gradient_report_tells_the_paths_apart():
    agent, actors = bandit()
    window = actors.rollout(agent.actor, 1, agent.generator)
    report = agent.gradient_report(window)
    # Every bandit step terminates, so no value is bootstrapped and none pulls.
    assert report['grad_value'] == 0 and report['grad_reward'] > 0 and report['grad_entropy'] > 0
    agent.update(window)


def test_same_seed_same_run_and_another_seed_another_run():
    runs = []
    for seed in (0, 0, 1):
        agent, actors = bandit(seed=seed)
        runs.append(train(agent, actors, 3)[-1]['objective'])
    assert runs[0] == runs[1] != runs[2]


def test_learning_rates_fall_linearly_and_the_temperature_keeps_its_own():
    agent, actors = bandit(epochs=4)
    rates = [stats['actor_lr'] for stats in train(agent, actors, 6)]
    span = SMALL.actor_lr - SMALL.final_lr
    expected = [SMALL.final_lr + span * left for left in (1, 0.75, 0.5, 0.25, 0, 0)]
    assert rates == pytest.approx(expected)
    assert agent.optimisers['temperature'].param_groups[0]['lr'] == SMALL.temperature_lr


def test_a_reward_that_is_not_finite_is_refused_before_anything_is_learned():
    agent, actors = bandit()
    window = actors.rollout(agent.actor, 1, agent.generator)
    broken = dataclasses.replace(window, reward=window.reward * float('nan'))
    before = [p.clone() for p in agent.actor.parameters()]
    with pytest.raises(FloatingPointError, match='are not finite'):
        agent.update(broken)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.actor.parameters()))


def test_replaced_rows_take_the_new_value_and_lose_the_old_gradient():
    old = torch.ones(3, 2, requires_grad=True)
    rows = torch.tensor([False, True, False])
    zero = torch.zeros(1, 2)
    mixed = replace_rows((old * 2, {'h': old}), rows, (zero, {'h': zero}))
    assert mixed[0][1].tolist() == [0, 0] and mixed[1]['h'][0].tolist() == [1, 1]
    (mixed[0].sum() + mixed[1]['h'].sum()).backward()
    assert old.grad.tolist() == [[3, 3], [0, 0], [3, 3]]
