"""Laws of the decoupled step where a policy drives some actions and a robot feels itself."""

from dataclasses import replace

from dmo_ros.core.tasks import TASKS
from dmo_training.models import rssm as module
from dmo_training.models.driven import Driven
from dmo_training.models.rssm import mode, Rssm, RssmConfig
from dmo_training.rl.dmo import decoupled_step
from dmo_training.rl.window import Actors
from dmo_training.world import Context, WorldStep
import pytest
import torch

SPEC = replace(TASKS['push_cube'], policy_actions=('wz', 'vx'))  # 2 of 3, in another order
COLUMNS = [2, 0]
B, H, P = 4, 6, 5
CONFIG = RssmConfig(
    frame_size=8,
    actions=3,
    recurrent=12,
    groups=4,
    classes=5,
    units=10,
    multiplier=2,
    mlp_layers=1,
    reward_bins=11,
    proprio=P,
)


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    """Float64 and the most likely class, so that equal things are equal bit for bit."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(module, 'sample', mode)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(name='model')
def fixture_model():
    torch.manual_seed(0)
    model = Rssm(CONFIG)
    torch.nn.init.normal_(model.reward_head.linear.weight, std=0.5)
    return model


class World:
    """Frames and joints that follow from the step's number and the action, without gradient."""

    batch = B

    def __init__(self, shift=0.0):
        self.count, self.shift, self.seen = 0, shift, []

    def reset(self, context, rows=None):
        self.count = 0

    def step(self, action):
        assert not action.requires_grad and action.shape == (B, 3)
        self.count += 1
        generator = torch.Generator().manual_seed(self.count)
        frames = torch.randint(0, 256, (B, 8, 8, 3), generator=generator).to(torch.uint8)
        joints = torch.randn(B, P, generator=generator) + action.sum(-1, keepdim=True)
        step = WorldStep(
            frames,
            torch.randn(B, generator=generator),
            torch.zeros(B, dtype=torch.bool),
            joints + self.shift,
        )
        self.seen.append((frames, joints + self.shift))
        return step


class Contexts:
    def sample(self, count):
        generator = torch.Generator().manual_seed(7)
        frames = torch.randint(0, 256, (count, 2, 8, 8, 3), generator=generator)
        return Context(
            frames.to(torch.uint8),
            torch.randn(count, 1, 3, generator=generator),
            torch.randn(count, 2, P, generator=generator),
        )


class Leaves:
    """A policy of given actions, whose gradient one can ask for."""

    def __init__(self, actions):
        self.actions, self.next = actions, 0

    def sample(self, features, generator=None):
        self.next += 1
        action = self.actions[self.next - 1]
        return action, torch.zeros(len(action))


def rollout(model, actions, world=None, expand=None):
    policy = Leaves([action.clone().requires_grad_() for action in actions])
    extra = {} if expand is None else {'expand': expand}
    actors = Actors(world or World(), model, Contexts(), 1000, **extra)
    window = actors.rollout(policy, len(actions))
    weight = torch.arange(1.0, window.features.shape[-1] + 1)
    gain = window.reward.sum() + (window.next_features[-1] * weight).sum()
    return torch.stack(torch.autograd.grad(gain, policy.actions)), window


def test_the_gradient_of_the_driven_is_that_of_the_whole_restricted_to_it(model):
    generator = torch.Generator().manual_seed(1)
    driven = 2 * torch.rand(H, B, 2, generator=generator) - 1
    expand = Driven(SPEC)
    part, of_part = rollout(model, driven, expand=expand)
    whole, of_whole = rollout(model, expand(driven))
    assert torch.equal(of_part.next_features, of_whole.next_features)
    assert torch.equal(of_part.reward, of_whole.reward)
    assert torch.equal(part, whole[..., COLUMNS])
    assert float(part.abs().min()) > 0 and of_part.action.shape == (H, B, 2)


def test_latents_have_the_value_of_what_the_global_model_shows_and_feels(model):
    """Every latent of a window is the filter's on the global model's frames and joints."""
    world, expand = World(), Driven(SPEC)
    driven = 2 * torch.rand(H, B, 2) - 1
    _, window = rollout(model, driven, world, expand)
    start = Contexts().sample(B)
    frames = torch.cat([start.observation, torch.stack([f for f, _ in world.seen], 1)], 1)
    joints = torch.cat([start.proprio, torch.stack([p for _, p in world.seen], 1)], 1)
    action = torch.cat([start.action, expand(driven).transpose(0, 1)], 1)
    truth = model.features(model.begin(Context(frames, action, joints)))
    assert torch.equal(window.next_features[-1], truth)
    other = rollout(model, driven, World(shift=3.0), expand)[1]
    assert not torch.equal(window.next_features, other.next_features)


def test_the_jacobian_is_the_local_models_at_that_latent(model):
    """Of the next latent with respect to the action: h's own, and the prior's for z."""
    latent = model.begin(Contexts().sample(B))
    driven = torch.zeros(B, 2, requires_grad=True)
    expand, weight = Driven(SPEC), torch.randn(model.features_width)
    done = decoupled_step(World(shift=1.0), model, latent, expand(driven))
    (decoupled,) = torch.autograd.grad((model.features(done.latent) @ weight).sum(), driven)
    prediction = model.predict(latent, expand(driven))
    alone = torch.cat([prediction.h, prediction.prior.flatten(1)], dim=-1)
    (local,) = torch.autograd.grad((alone @ weight).sum(), driven)
    assert torch.equal(decoupled, local) and float(local.abs().min()) > 0
    assert torch.equal(done.reward, done.step.reward)


def test_a_listener_hears_all_fields_and_the_joints(model):
    """The replay teaches the local model, which takes whole actions."""
    heard, world = [], World()

    class Ear:
        def begin(self, rows, context):
            heard.clear()

        def add(self, transition):
            heard.append(transition)

    policy = Leaves([torch.full((B, 2), 0.5)] * 3)
    Actors(world, model, Contexts(), 1000, Ear(), Driven(SPEC)).rollout(policy, 3)
    assert all(torch.equal(t.action, torch.tensor([[0.5, 0.0, 0.5]] * B)) for t in heard)
    assert all(torch.equal(t.proprio, p) for t, (_, p) in zip(heard, world.seen, strict=True))
