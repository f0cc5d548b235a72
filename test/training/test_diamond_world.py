"""Laws of the global model's seam: rows are independent, contexts hold what was given, resume."""

from dmo_training.models.diamond.context import ContextPool
from dmo_training.models.diamond.denoiser import Denoiser, DenoiserConfig
from dmo_training.models.diamond.sampler import SamplerConfig
from dmo_training.models.diamond.unet import NetworkConfig
from dmo_training.models.diamond.world import denoiser_config, DiamondWorld
from dmo_training.world import Context
import numpy as np
import pytest
import torch

SMALL = NetworkConfig(
    channels=(8, 16), depths=(1, 1), attention=(False, False), cond_size=16, patch=2
)
BATCH = 4


def brightness(frames):
    return frames.float().mean(dim=(1, 2, 3))


@pytest.fixture(name='denoiser')
def fixture_denoiser():
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(network=SMALL, precision='fp32'))
    for parameter in denoiser.parameters():
        if not parameter.any():  # layers that start at zero would hide the actions
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def make(denoiser, seed=0):
    return DiamondWorld(denoiser, BATCH, brightness, SamplerConfig(2), seed)


def context(batch=BATCH, length=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(
        0, 256, (batch, length, 8, 8, 3), generator=generator, dtype=torch.uint8
    )
    return Context(frames, torch.randn(batch, length - 1, 2, generator=generator))


def test_a_step_gives_uint8_frames_and_their_reward(denoiser):
    world = make(denoiser)
    world.reset(context())
    step = world.step(torch.zeros(BATCH, 2))
    assert step.observation.shape == (BATCH, 8, 8, 3)
    assert step.observation.dtype == torch.uint8
    torch.testing.assert_close(step.reward, brightness(step.observation))
    assert not step.terminated.any()


def test_equal_seeds_repeat_and_the_action_matters(denoiser):
    frames = []
    for seed, action in ((0, 1.0), (0, 1.0), (0, -1.0)):
        world = make(denoiser, seed)
        world.reset(context())
        frames.append(world.step(torch.full((BATCH, 2), action)).observation)
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_the_context_after_steps_holds_the_newest_frames_and_actions(denoiser):
    world, given = make(denoiser), context()
    world.reset(given)
    actions = torch.randn(3, BATCH, 2)
    steps = [world.step(action) for action in actions]
    expected = torch.stack([given.observation[:, 3], *(s.observation for s in steps)], dim=1)
    assert torch.equal(world.frames, expected)
    assert torch.equal(world.action[:, :3], actions.transpose(0, 1))


def test_resetting_a_row_leaves_the_others_untouched(denoiser):
    one, other, fresh = make(denoiser), make(denoiser), context(batch=1, seed=9)
    rows = torch.tensor([False, True, False, False])
    for world in (one, other):
        world.reset(context())
        world.step(torch.ones(BATCH, 2))
    before = one.frames.clone(), one.action.clone()
    one.reset(fresh, rows)
    assert torch.equal(one.frames[~rows], before[0][~rows])
    assert torch.equal(one.action[~rows, :3], before[1][~rows, :3])
    assert torch.equal(one.frames[rows], fresh.observation)
    action = torch.randn(BATCH, 2)
    with_reset, without = (world.step(action).observation for world in (one, other))
    assert torch.equal(with_reset[~rows], without[~rows])
    assert not torch.equal(with_reset[rows], without[rows])


def test_longer_contexts_are_cut_to_the_newest_frames(denoiser):
    long = context(length=6)
    short = Context(long.observation[:, -4:], long.action[:, -3:])
    frames = []
    for given in (long, short):
        world = make(denoiser)
        world.reset(given)
        frames.append(world.step(torch.ones(BATCH, 2)).observation)
    assert torch.equal(*frames)


def test_a_resumed_world_goes_on_bit_for_bit(denoiser):
    world = make(denoiser)
    world.reset(context())
    world.step(torch.ones(BATCH, 2))
    state = {name: value.clone() for name, value in world.state_dict().items()}
    resumed = make(denoiser, seed=5)
    resumed.load_state_dict(state)
    for action in torch.randn(3, BATCH, 2):
        assert torch.equal(world.step(action).observation, resumed.step(action).observation)


@pytest.mark.parametrize(
    'given, rows, message',
    [
        (context(length=3), None, 'draw longer ones'),
        (context(batch=2), None, 'one for each selected world'),
        (context(batch=1), torch.tensor([True, False, False, False]), 'start all worlds'),
    ],
)
def test_a_reset_that_does_not_fit_says_why(denoiser, given, rows, message):
    with pytest.raises(ValueError, match=message):
        make(denoiser).reset(given, rows)


def test_a_step_before_a_reset_says_what_to_do(denoiser):
    with pytest.raises(RuntimeError, match='reset the worlds'):
        make(denoiser).step(torch.zeros(BATCH, 2))


def test_a_configuration_survives_json_and_an_unknown_key_is_refused(denoiser):
    from dmo_training.engine import plain_config

    plain = plain_config(denoiser.config)
    assert denoiser_config(plain) == denoiser.config
    with pytest.raises(ValueError, match='unexpected keyword'):
        denoiser_config({**plain, 'sigma_dta': 1})


def test_a_pool_hands_out_every_example_once_with_the_real_target(denoiser):
    """Contexts hold real frames, then the model's own; target and actions are the real ones."""
    frames, depth = context(batch=3, length=8).observation, 3
    frames[:] = torch.arange(24, dtype=torch.uint8).view(3, 8, 1, 1, 1) * 10
    action = torch.arange(24.0).view(3, 8, 1).expand(3, 8, 2)
    pool, rng = ContextPool(4), np.random.default_rng(0)
    pool.fill(denoiser, frames, action, SamplerConfig(1), rng)
    assert len(pool) == 3 * (depth + 1)
    examples = [pool.take(5), pool.take(5), pool.take(5)]
    assert [len(part.target) for part in examples] == [5, 5, 2]
    targets = torch.cat([part.target for part in examples])[:, 0, 0, 0] // 10
    assert sorted(targets.tolist()) == sorted(8 * row + t for row in range(3) for t in range(4, 8))
    for part in examples:
        number = part.target[:, 0, 0, 0].long() // 10
        assert torch.equal(part.action[:, -1, 0].long(), number - 1)
        for row, target in enumerate(number.tolist()):
            real = max(0, 8 - target % 8)  # of the four frames, those before the first own one
            oldest = part.context[row, :real, 0, 0, 0].long()
            assert torch.equal(oldest, (torch.arange(target - 4, target)[:real]) * 10)


def test_a_pool_resumes_with_what_was_left(denoiser):
    given = context(batch=2, length=7)
    action = torch.randn(2, 7, 2)
    pool, rng = ContextPool(4), np.random.default_rng(0)
    pool.fill(denoiser, given.observation, action, SamplerConfig(1), rng)
    pool.take(2)
    resumed = ContextPool(4)
    resumed.load_state_dict(pool.state_dict())
    for mine, other in zip(pool.take(3), resumed.take(3)):
        assert torch.equal(mine, other)
