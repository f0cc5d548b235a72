"""Laws of the decoupled step's gradient, in float64 on a differentiable pendulum."""

from dmo_training.models.actor_critic import Actor
from dmo_training.models.state_model import StateModel
from dmo_training.rl.dmo import graft
from dmo_training.rl.sapo import objective
from dmo_training.rl.window import Actors, frozen
from dmo_training.world import Context, WorldStep
import pytest
import torch

ACTORS, HORIZON = 24, 16


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def dynamics(state, action, bias=0.0):
    """A torque-limited pendulum; (..., 2) angle and speed."""
    angle, speed = state[..., 0], state[..., 1]
    speed = speed + 0.05 * (15 * torch.sin(angle) + 6 * action[..., 0]) + bias
    return torch.stack([angle + 0.05 * speed, speed], dim=-1)


def reward(state):
    return torch.cos(state[..., 0]) - 0.01 * state[..., 1].square()


def features(state):
    return torch.stack([torch.cos(state[..., 0]), torch.sin(state[..., 0]), state[..., 1]], -1)


class World:
    """The true pendulum, never differentiated; ``end_at`` terminates an actor at a step."""

    def __init__(self, batch=ACTORS, end_at=None):
        self.batch, self.end_at, self.count = batch, end_at, 0

    def reset(self, context, rows=None):
        fresh = context.observation[:, -1]
        if rows is None:
            self.state = fresh.clone()
        else:
            self.state = self.state.clone()
            self.state[rows] = fresh

    def step(self, action):
        self.state = dynamics(self.state, action)
        terminated = torch.zeros(self.batch, dtype=torch.bool)
        if self.end_at is not None and self.count == self.end_at:
            terminated[0] = True
        self.count += 1
        return WorldStep(self.state, reward(self.state), terminated)


class Local:
    """The same pendulum as a local model, with a constant error of its value."""

    def __init__(self, bias=0.0):
        self.bias = bias

    def begin(self, context):
        return context.observation[:, -1]

    def predict(self, latent, action):
        return dynamics(latent, action, self.bias)

    def correct(self, prediction, observation, proprio=None):
        return graft(observation, prediction)

    def reward(self, latent):
        return reward(latent) + self.bias

    def features(self, latent):
        return features(latent)


class Contexts:
    def __init__(self, seed=3):
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, count):
        state = torch.randn(count, 2, generator=self.generator)
        return Context(state[:, None], torch.zeros(count, 0, 1))


def gradient(window, actor, gamma=0.97):
    zero = torch.zeros_like(window.reward)
    gain = objective(window.reward, zero, window.terminated, window.truncated, gamma)
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(gain, list(actor.parameters()), allow_unused=True)
            if g is not None
        ]
    )


def plain_backprop(actor, gamma=0.97):
    """Ordinary backpropagation through the true model, written independently of the rollout."""
    state = Contexts().sample(ACTORS).observation[:, -1]
    generator, total = torch.Generator().manual_seed(9), 0.0
    for h in range(HORIZON):
        action, _ = actor.sample(features(state), generator)
        state = dynamics(state, action)
        total = total + gamma**h * reward(state)
    gain = total.mean() / HORIZON
    return torch.cat([g.flatten() for g in torch.autograd.grad(gain, list(actor.parameters()))])


def decoupled(actor, bias=0.0):
    actors = Actors(World(), Local(bias), Contexts(), episode_length=1000)
    return gradient(actors.rollout(actor, HORIZON, torch.Generator().manual_seed(9)), actor)


@pytest.mark.parametrize('bias', [0.0, 0.05, 0.2, 0.5])
def test_gradient_equals_plain_backprop_when_the_jacobians_coincide(bias):
    actor = Actor(3, 1, (16,))
    truth = plain_backprop(actor)
    error = (decoupled(actor, bias) - truth).norm() / truth.norm()
    assert error <= 1e-12


def test_biased_model_used_in_both_directions_gives_another_gradient():
    actor = Actor(3, 1, (16,))
    biased = World()
    biased.step = lambda action: _biased_step(biased, action)
    actors = Actors(biased, Local(0.5), Contexts(), 1000)
    own = gradient(actors.rollout(actor, HORIZON, torch.Generator().manual_seed(9)), actor)
    truth = plain_backprop(actor)
    assert (own - truth).norm() / truth.norm() > 0.5


def _biased_step(world, action):
    world.state = dynamics(world.state, action, 0.5)
    return WorldStep(world.state, reward(world.state), torch.zeros(ACTORS, dtype=torch.bool))


def test_directional_derivative_agrees_with_finite_differences():
    actor = Actor(3, 1, (16,))
    parameters = list(actor.parameters())
    slope = decoupled(actor)
    start = [p.detach().clone() for p in parameters]
    direction = torch.randn_like(slope)
    direction /= direction.norm()

    def value(step):
        offset = 0
        for p, origin in zip(parameters, start):
            part = direction[offset : offset + p.numel()].view_as(p)
            p.data = origin + step * part
            offset += p.numel()
        actors = Actors(World(), Local(), Contexts(), 1000)
        window = actors.rollout(actor, HORIZON, torch.Generator().manual_seed(9))
        zero = torch.zeros_like(window.reward)
        return objective(window.reward, zero, window.terminated, window.truncated, 0.97).item()

    numeric = (value(1e-5) - value(-1e-5)) / 2e-5
    assert numeric == pytest.approx(float(slope @ direction), rel=1e-6)


def test_first_order_gradient_varies_far_less_than_the_score_function():
    """tr(Cov)/|g|^2 of both estimators on the same rollouts; the reference measured 33 times."""
    actor = Actor(3, 1, (8,))
    first, score = [], []
    for trial in range(30):
        actors = Actors(World(), Local(), Contexts(trial), 1000)
        window = actors.rollout(actor, HORIZON, torch.Generator().manual_seed(trial))
        first.append(gradient(window, actor))
        score.append(_score_gradient(actor, trial))
    ratio = _variance(torch.stack(score)) / _variance(torch.stack(first))
    assert ratio > 10


def _score_gradient(actor, trial, gamma=0.97):
    state = Contexts(trial).sample(ACTORS).observation[:, -1]
    generator = torch.Generator().manual_seed(trial)
    log_probs, rewards = [], []
    for _ in range(HORIZON):
        mean, log_std = actor(features(state))
        with torch.no_grad():
            noise = torch.randn(mean.shape, generator=generator)
            u = mean + log_std.exp() * noise
            state = dynamics(state, torch.tanh(u))
            rewards.append(reward(state))
        spread = log_std.exp()
        log_probs.append((-0.5 * ((u - mean) / spread).square() - log_std).sum(-1))
    discount = gamma ** torch.arange(HORIZON)[:, None]
    togo = (discount * torch.stack(rewards)).flip(0).cumsum(0).flip(0)
    advantage = togo - togo.mean(dim=1, keepdim=True)
    gain = (torch.stack(log_probs) * advantage).sum(0).mean() / HORIZON
    return torch.cat([g.flatten() for g in torch.autograd.grad(gain, list(actor.parameters()))])


def _variance(gradients):
    mean = gradients.mean(dim=0)
    return float((gradients - mean).square().sum(dim=1).mean() / mean.square().sum())


def test_graft_is_bit_exact_even_on_an_infinite_surrogate():
    value = torch.tensor([1.0, -3.7e-9, 2.5], dtype=torch.float32)
    surrogate = torch.tensor([1e4, float('inf'), -1e8], dtype=torch.float32, requires_grad=True)
    out = graft(value, surrogate)
    assert torch.equal(out, value)
    (out * torch.tensor([2.0, 3.0, 4.0])).sum().backward()
    assert torch.equal(surrogate.grad, torch.tensor([2.0, 3.0, 4.0]))


def test_graft_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match='cannot graft'):
        graft(torch.zeros(3, 1), torch.zeros(3))


@pytest.mark.parametrize('how', ['terminated', 'truncated'])
def test_no_gradient_crosses_an_episode_end(how):
    """What happens after the end does not change the gradient of the actions before it."""
    length = 5 if how == 'truncated' else 1000
    end_at = None if how == 'truncated' else 4
    world = World(end_at=end_at)
    actors = Actors(world, Local(), Contexts(), length)
    actor = Recorder(Actor(3, 1, (8,)))
    window = actors.rollout(actor, 10)
    ended = window.terminated if how == 'terminated' else window.truncated
    assert ended[4, 0] and not ended[3, 0] and not ended[5, 0]
    slopes = torch.autograd.grad(window.reward[5:, 0].sum(), actor.actions, allow_unused=True)
    for slope in slopes[:5]:
        assert slope is None or torch.equal(slope[0], torch.zeros(1))
    assert slopes[5][0].abs() > 0


def test_no_gradient_crosses_the_window_boundary():
    actors = Actors(World(), Local(), Contexts(), 1000)
    actor = Recorder(Actor(3, 1, (8,)))
    first = actors.rollout(actor, 3)
    earlier = list(actor.actions)
    second = actors.rollout(actor, 3)
    slopes = torch.autograd.grad(second.reward.sum(), earlier, allow_unused=True)
    assert all(slope is None for slope in slopes)
    # The actors carried on where they stood.
    assert torch.equal(second.features[0], first.next_features[-1].detach())


class Recorder:
    """An actor whose actions are leaves one can ask the gradient of."""

    def __init__(self, actor):
        self.actor, self.actions = actor, []

    def sample(self, features, generator=None):
        action, entropy = self.actor.sample(features, generator)
        self.actions.append(action)
        return action, entropy


def test_local_model_gets_no_gradient_but_lends_its_jacobian():
    local = StateModel(features, 2, 1, hidden=(8,)).double()
    actor = Actor(3, 1, (8,))
    window = Actors(World(), local, Contexts(), 1000).rollout(actor, 4)
    window.reward.sum().backward()
    assert all(p.grad is None and p.requires_grad for p in local.parameters())
    assert all(p.grad is not None for p in actor.parameters())


def test_frozen_restores_only_what_it_froze():
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad and not layer.bias.requires_grad


def test_non_finite_gradients_are_zeroed_and_counted():
    class Broken(Local):
        def reward(self, latent):
            return (latent[:, 0] - latent[:, 0].detach()).abs().sqrt()

    actor = Actor(3, 1, (8,))
    window = Actors(World(), Broken(), Contexts(), 1000).rollout(actor, 3)
    window.reward.sum().backward()
    assert window.guard.count > 0
    assert all(torch.isfinite(p.grad).all() for p in actor.parameters())


def test_entropy_of_the_squashed_gaussian_is_its_log_density():
    actor = Actor(3, 2, (8,))
    x = torch.randn(5, 3)
    action, entropy = actor.sample(x)
    mean, log_std = actor(x)
    u = torch.atanh(action)
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
    log_prob = (density - torch.log1p(-action.square())).sum(-1)
    assert torch.allclose(-log_prob, entropy, rtol=1e-9)
