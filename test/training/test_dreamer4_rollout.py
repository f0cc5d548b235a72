"""Laws of imagined frames: cached = uncached, rows on their own, one graph, the seam, resume."""

from dmo_training.engine import load_checkpoint, save_checkpoint
from dmo_training.models.dreamer4.config import (
    Dreamer4Config,
    DynamicsConfig,
    HeadConfig,
    TokenizerConfig,
    TrunkConfig,
)
from dmo_training.models.dreamer4.model import Dreamer4
from dmo_training.models.dreamer4.rollout import Noise, Rollout, RolloutConfig
from dmo_training.models.dreamer4.shortcut import mix
from dmo_training.models.dreamer4.world import Dreamer4World
from dmo_training.world import Context
import pytest
import torch

WINDOW, LATENTS, DEPTH, ACTIONS, PROPRIO, SIDE = 5, 3, 4, 2, 3, 8
TRUNK = TrunkConfig(16, 2, 2, kv_heads=1, time_every=2, window=WINDOW)
CONFIG = Dreamer4Config(
    TokenizerConfig(
        SIDE, 4, LATENTS, DEPTH, TRUNK, drop=1, proprio_size=PROPRIO, perceptual='none'
    ),
    DynamicsConfig(ACTIONS, LATENTS, DEPTH, TRUNK, registers=1, levels=16),
    HeadConfig(hidden=8, ahead=2),
)


@pytest.fixture(name='model', scope='module')
def fixture_model():
    torch.manual_seed(0)
    model = Dreamer4(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.frozen()


def real(batch, frames, seed=1):
    """Latents as an encoder would give, and actions."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, frames, LATENTS, DEPTH, generator=generator).tanh()
    return latent, torch.randn(batch, frames, ACTIONS, generator=generator)


def known(action):
    mask = torch.ones(action.shape[:2], dtype=torch.bool)
    mask[:, 0] = False
    return mask


class Uncached:
    """The same frames without any memory: the whole past is computed again for every pass."""

    def __init__(self, model, steps):
        self.model, self.steps = model, steps
        self.clean, self.blurred, self.action, self.known = (None,) * 4

    def begin(self, latent, action, mask, noise):
        at = self.model.dynamics.config.context_level / 16
        self.clean, self.blurred = latent, mix(noise, latent, at)
        self.action, self.known = action, mask

    def run(self, latent, action, level, step, agent=False):
        """Run past and new frames; returns what belongs to the new ones."""
        past, new = self.blurred.shape[:2], latent.shape[1]
        dynamics = self.model.dynamics
        levels = torch.full((past[0], past[1] + new), dynamics.config.context_level)
        steps = torch.full_like(levels, 4)
        levels[:, past[1] :], steps[:, past[1] :] = level, step
        mask = torch.cat((self.known, torch.ones(past[0], new, dtype=torch.bool)), dim=1)
        return dynamics(
            torch.cat((self.blurred, latent), dim=1),
            torch.cat((self.action, action), dim=1),
            levels, steps, mask, agent=agent,
        )  # fmt: skip

    def imagine(self, action, noise):
        new, latent = action.shape[1], noise.initial
        for k in range(self.steps):
            clean = self.run(latent, action, k * 16 // self.steps, self.steps.bit_length() - 1)
            velocity = (clean.latent[:, -new:] - latent) / (1 - k / self.steps)
            latent = latent + velocity / self.steps
        latent = latent.clamp(-1, 1)
        blurred = mix(noise.context, latent, self.model.dynamics.config.context_level / 16)
        agent = self.run(
            blurred, action, self.model.dynamics.config.context_level, 4, agent=True
        ).agent
        self.clean = torch.cat((self.clean, latent), dim=1)
        self.blurred = torch.cat((self.blurred, blurred), dim=1)
        self.action = torch.cat((self.action, action), dim=1)
        self.known = torch.cat((self.known, torch.ones(len(action), new, dtype=torch.bool)), 1)
        frames, proprio = self.model.tokenizer.decode(self.clean)
        reward = self.model.head(agent[:, -new:])
        return latent, reward, frames[:, -new:], proprio[:, -new:]


def near(found, expected):
    for one, other in zip(found, expected, strict=True):
        if one.dtype == torch.uint8:  # a level of 256 may round the other way
            assert (one.int() - other.int()).abs().max() <= 1
        else:
            torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


@pytest.mark.parametrize('steps', [1, 4])
@pytest.mark.parametrize('chunk', [1, 3])
def test_imagined_frames_equal_those_without_a_memory(model, chunk, steps):
    """Rows of lengths 2 and 7, until the rings of all have wrapped."""
    lengths, references = (2, 7), []
    rollout = Rollout(model, 2, RolloutConfig(steps, chunk))
    for row, length in enumerate(lengths):
        latent, action = real(1, length, seed=row)
        reference, state = Uncached(model, steps), rollout.generator.get_state()
        rollout.begin(latent, action, known(action), torch.tensor([row]))
        rollout.generator.set_state(state)
        reference.begin(latent, action, known(action), rollout._draw(1, length))
        references.append(reference)
    generator = torch.Generator().manual_seed(5)
    for _ in range(9 // chunk):
        action = torch.randn(2, chunk, ACTIONS, generator=generator)
        shape = (2, chunk, LATENTS, DEPTH)
        noise = Noise(*(torch.randn(shape, generator=generator) for _ in range(2)))
        found = rollout.imagine(action, noise)
        for row, reference in enumerate(references):
            own = Noise(*(part[row : row + 1] for part in noise))
            expected = reference.imagine(action[row : row + 1], own)
            near([part[row : row + 1] for part in found], expected)


def test_a_prefill_in_parts_is_the_same_prefill(model):
    latent, action = real(5, 4)
    memories = []
    for rows in (2, 16):
        rollout = Rollout(model, 5, RolloutConfig(prefill_rows=rows))
        reward = rollout.begin(latent, action, known(action))
        memories.append([reward, *rollout.ring.tensors, *rollout.screen.tensors])
    for one, other in zip(*memories, strict=True):
        torch.testing.assert_close(one, other)


def test_frames_are_one_graph_that_is_never_made_again(model):
    """What CUDA graphs and torch.compile need: no shape and no branch depends on the past."""
    import torch._dynamo

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled, plain = (Rollout(model, 2, RolloutConfig(steps=2)) for _ in range(2))
    imagine = torch.compile(compiled.imagine, fullgraph=True, backend=backend, dynamic=False)
    latent, action = real(2, 3)
    for rollout in (compiled, plain):
        rollout.begin(latent, action, known(action))
    with torch.no_grad():
        for t in range(WINDOW + 2):  # over the wrap
            command = torch.full((2, 1, ACTIONS), float(t))
            noise = Noise(*real(2, 2, seed=t)[0][:, :, None].unbind(1))
            for one, other in zip(imagine(command, noise), plain.imagine(command, noise)):
                torch.testing.assert_close(one, other)
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_buffers_stay_where_they_are(model):
    """A captured graph holds their addresses."""
    rollout = Rollout(model, 2)
    tensors = [*rollout.ring.tensors, *rollout.screen.tensors, rollout.ring.length]
    places = [tensor.data_ptr() for tensor in tensors]
    latent, action = real(2, 3)
    rollout.begin(latent, action, known(action))
    for _ in range(WINDOW + 2):
        rollout.step(action[:, :1])
    rollout.load_state_dict(rollout.state_dict())
    tensors = [*rollout.ring.tensors, *rollout.screen.tensors, rollout.ring.length]
    assert [tensor.data_ptr() for tensor in tensors] == places


def test_latents_alone_reserve_no_memory_for_pictures(model):
    rollout = Rollout(model, 1, RolloutConfig(decode=False))
    latent, action = real(1, 3)
    rollout.begin(latent, action, known(action))
    made = rollout.step(action[:, :1])
    assert made.frames is None
    assert made.latent.abs().max() <= 1


def test_bfloat16_frames_are_close(model):
    latent, action = real(2, 4)
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        rollout = Rollout(model, 2, seed=3, dtype=dtype)
        rollout.begin(latent, action, known(action))
        made.append(rollout.step(action[:, :1]))
    assert rollout.ring.tensors[0].dtype == torch.bfloat16
    assert made[1].latent.dtype == made[1].reward.dtype == torch.float32
    assert (made[0].latent - made[1].latent).abs().mean() < 0.1


@pytest.mark.parametrize(
    'config, word',
    [({'steps': 3}, 'power of two'), ({'chunk': 0}, 'at least 1'), ({'steps': 32}, 'at most 16')],
)
def test_rollouts_that_cannot_be_are_refused(model, config, word):
    with pytest.raises(ValueError, match=word):
        Rollout(model, 1, RolloutConfig(**config))


# The seam ------------------------------------------------------------------------------------


def context(batch=3, length=4, seed=1, side=16):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, length, side, side, 3)
    return Context(
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        torch.randn(batch, length - 1, ACTIONS, generator=generator),
        torch.randn(batch, length, PROPRIO, generator=generator),
    )


def test_a_step_gives_frames_of_the_asked_size_and_the_heads_reward(model):
    world = Dreamer4World(model, 3, size=4)
    world.reset(context())
    step = world.step(torch.zeros(3, ACTIONS))
    assert step.observation.shape == (3, 4, 4, 3)
    assert step.observation.dtype == torch.uint8
    assert step.proprio.shape == (3, PROPRIO)
    assert ((step.reward > 0) & (step.reward < 1)).all()
    assert not step.terminated.any()


def test_a_reward_of_frames_may_take_the_heads_place(model):
    world = Dreamer4World(model, 3, reward=lambda frames: frames.float().mean((1, 2, 3)))
    world.reset(context())
    step = world.step(torch.zeros(3, ACTIONS))
    torch.testing.assert_close(step.reward, step.observation.float().mean((1, 2, 3)))


def test_equal_seeds_repeat_and_the_action_matters(model):
    frames = []
    for seed, action in ((0, 3.0), (0, 3.0), (0, -3.0), (1, 3.0)):
        world = Dreamer4World(model, 3, seed=seed)
        world.reset(context())
        frames.append(world.step(torch.full((3, ACTIONS), action)).observation)
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])
    assert not torch.equal(frames[0], frames[3])


def test_resetting_a_row_leaves_the_others_untouched(model):
    one, other = (Dreamer4World(model, 3) for _ in range(2))
    for world in (one, other):
        world.reset(context())
        world.step(torch.ones(3, ACTIONS))
    row = torch.tensor([False, True, False])
    one.reset(context(batch=1, seed=9), row)
    other.rollout.generator.set_state(one.rollout.generator.get_state())
    first, second = (world.step(torch.ones(3, ACTIONS)) for world in (one, other))
    assert torch.equal(first.observation[~row], second.observation[~row])
    assert not torch.equal(first.observation[row], second.observation[row])


def test_a_row_that_was_reset_is_as_one_that_never_was_anything_else(model):
    """Also after its ring had wrapped."""
    world, alone = Dreamer4World(model, 2), Dreamer4World(model, 1)
    world.reset(context(batch=2))
    for _ in range(WINDOW + 2):
        world.step(torch.ones(2, ACTIONS))
    for used, rows in ((world, torch.tensor([True, False])), (alone, None)):
        used.rollout.generator.manual_seed(4)
        used.reset(context(batch=1, seed=9), rows)
    noise = Noise(*(torch.randn(2, 1, LATENTS, DEPTH) for _ in range(2)))
    action = torch.ones(2, 1, ACTIONS)
    both = world.rollout.imagine(action, noise)
    single = alone.rollout.imagine(action[:1], Noise(*(part[:1] for part in noise)))
    near([part[:1] for part in both], single)


def test_a_saved_world_goes_on_as_if_it_had_not_stopped(model, tmp_path):
    worlds = [Dreamer4World(model, 2, seed=seed) for seed in (0, 5)]
    worlds[0].reset(context(batch=2))
    worlds[0].step(torch.ones(2, ACTIONS))
    save_checkpoint(tmp_path / 'world.safetensors', worlds[0].state_dict())
    worlds[1].load_state_dict(load_checkpoint(tmp_path / 'world.safetensors'))
    for _ in range(WINDOW + 1):
        steps = [world.step(torch.ones(2, ACTIONS)) for world in worlds]
        assert torch.equal(steps[0].observation, steps[1].observation)
        assert torch.equal(steps[0].reward, steps[1].reward)


def test_a_stored_model_is_the_same_model(model, tmp_path):
    save_checkpoint(tmp_path / 'model.safetensors', model.describe())
    again = Dreamer4.rebuild(load_checkpoint(tmp_path / 'model.safetensors'))
    assert again.config == model.config
    frames = []
    for one in (model, again):
        world = Dreamer4World(one, 3)
        world.reset(context())
        frames.append(world.step(torch.ones(3, ACTIONS)).observation)
    assert torch.equal(*frames)


def test_an_action_of_a_context_stands_at_the_frame_it_led_to(model, monkeypatch):
    """And the first frame has none."""
    world, given, seen = Dreamer4World(model, 3), context(), []
    monkeypatch.setattr(world.rollout, 'begin', lambda *args: seen.extend(args))
    world.reset(given, torch.tensor([True, True, True]))
    latent, action, mask, rows = seen
    assert torch.equal(action[:, 1:], given.action)
    assert mask.tolist() == [[False, True, True, True]] * 3
    assert rows.tolist() == [0, 1, 2]
    expected = model.tokenizer.encode(given.observation, given.proprio)
    torch.testing.assert_close(latent, expected)


def test_a_context_may_be_a_single_frame(model):
    world, one = Dreamer4World(model, 3), context(length=1)
    assert one.action.shape[1] == 0
    world.reset(one)
    assert world.step(torch.ones(3, ACTIONS)).reward.isfinite().all()


def test_contexts_that_do_not_fit_are_refused(model):
    world, good = Dreamer4World(model, 3), context()
    with pytest.raises(RuntimeError, match='no context'):
        world.step(torch.zeros(3, ACTIONS))
    for bad, word in (
        (context(batch=2), '2 contexts'),
        (Context(good.observation.float(), good.action, good.proprio), 'uint8'),
        (Context(good.observation, good.action[:, 1:], good.proprio), 'actions'),
        (Context(good.observation, good.action), 'proprioceptive'),
    ):
        with pytest.raises(ValueError, match=word):
            world.reset(bad)
    with pytest.raises(ValueError, match='decode'):
        Dreamer4World(model, 1, RolloutConfig(decode=False))
    weights = model.describe()
    weights['config']['head'] = {**weights['config']['head'], 'ahead': 3}
    with pytest.raises(ValueError, match='another version'):
        Dreamer4.rebuild(weights)
