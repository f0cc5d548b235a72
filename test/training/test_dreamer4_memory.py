"""Laws of attention along time: cached = uncached, causal, windowed, isolated, conditioned."""

from dmo_training.models.dreamer4.attention import turn_of
from dmo_training.models.dreamer4.config import DynamicsConfig, TrunkConfig
from dmo_training.models.dreamer4.dynamics import Dynamics
from dmo_training.models.dreamer4.memory import Append, Prefill, Ring, Sequence
import pytest
import torch

WINDOW, LATENTS, DEPTH, ACTIONS = 5, 3, 4, 2
TIGHT = {'rtol': 0, 'atol': 1e-11}  # everything here is float64


def make(seed=0, layers=4, kv_heads=1, time_every=2, **trunk):
    """A small dynamics in float64 whose zero-initialised output does something."""
    torch.manual_seed(seed)
    trunk = TrunkConfig(
        16, layers, heads=2, kv_heads=kv_heads, time_every=time_every, window=WINDOW, **trunk
    )
    config = DynamicsConfig(ACTIONS, LATENTS, DEPTH, trunk, registers=1, levels=8)
    model = Dynamics(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def clip(frames, batch=2, seed=1):
    """Noisy latents, actions, levels and steps of a batch of clips."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(batch, frames, *shape, generator=generator, dtype=torch.float64)

    level = torch.randint(0, 8, (batch, frames), generator=generator)
    step = torch.randint(0, 4, (batch, frames), generator=generator)
    return draw(LATENTS, DEPTH), draw(ACTIONS), level, step


def cut(inputs, begin, end, rows=slice(None)):
    return tuple(part[rows, begin:end] for part in inputs)


def agree(left, right):
    torch.testing.assert_close(left.latent, right.latent, **TIGHT)
    torch.testing.assert_close(left.agent, right.agent, **TIGHT)


OPTIONS = [
    {},
    {'kv_heads': 2},
    {'qk_norm': False, 'final_norm': False},
    {'soft_cap': 5.0},
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('chunk', [1, 3])
def test_frames_appended_to_a_ring_equal_the_whole_sequence(chunk, options):
    """Before the ring is full, while it fills, and long after it wrapped."""
    model, inputs = make(**options), clip(16)
    whole = model(*inputs, agent=True)
    ring = model.ring(2, chunk)
    start = Prefill(ring, torch.arange(2), 4)
    agree(model(*cut(inputs, 0, 4), memory=start, agent=True), cut_of(whole, 0, 4))
    start.commit()
    for begin in range(4, 16, chunk):
        end = min(begin + chunk, 16)
        memory = Append(ring, end - begin)
        agree(
            model(*cut(inputs, begin, end), memory=memory, agent=True), cut_of(whole, begin, end)
        )
        memory.commit()


def cut_of(estimate, begin, end, rows=slice(None)):
    return type(estimate)(*(part[rows, begin:end] for part in estimate))


def test_a_ring_may_be_larger_than_it_has_to_be():
    """Slots beyond the window hold frames that are not seen."""
    model, inputs = make(), clip(20)
    whole = model(*inputs, agent=True)
    sizes = {'world': (model.config.tokens, 2), 'agent': (1, 2)}
    where = torch.device('cpu'), torch.float64
    ring = Ring(model.config.trunk, sizes, 2, 2, *where, align=8)
    assert ring.capacity == 8
    for begin in range(0, 20, 2):
        memory = Append(ring, 2)
        found = model(*cut(inputs, begin, begin + 2), memory=memory, agent=True)
        agree(found, cut_of(whole, begin, begin + 2))
        memory.commit()


@pytest.mark.parametrize('length', [3, 5, 8, 13])
def test_a_prefill_of_any_length_equals_the_whole_sequence(length):
    """Also one that is longer than the window and than the ring."""
    model, inputs = make(), clip(length + 2)
    whole = model(*inputs, agent=True)
    ring = model.ring(2, 2)
    start = Prefill(ring, torch.arange(2), length)
    model(*cut(inputs, 0, length), memory=start, agent=True)
    start.commit()
    found = model(*cut(inputs, length, length + 2), memory=Append(ring, 2), agent=True)
    agree(found, cut_of(whole, length, length + 2))


@pytest.mark.parametrize('chunk', [1, 2])
def test_rows_of_different_lengths_share_a_batch(chunk):
    """Row 0 has 2 frames when row 1 has 7 and row 2 has 12, and each goes on as if alone."""
    model, lengths = make(), (2, 7, 12)
    inputs = clip(max(lengths) + 6, batch=3)
    whole = model(*inputs, agent=True)
    ring = model.ring(3, chunk)
    for row, length in enumerate(lengths):
        start = Prefill(ring, torch.tensor([row]), length)
        model(*cut(inputs, 0, length, [row]), memory=start, agent=True)
        start.commit()
    for ahead in range(0, 6, chunk):
        parts = [
            cut(inputs, length + ahead, length + ahead + chunk, [row])
            for row, length in enumerate(lengths)
        ]
        memory = Append(ring, chunk)
        found = model(*(torch.cat(same) for same in zip(*parts)), memory=memory, agent=True)
        memory.commit()
        for row, length in enumerate(lengths):
            expected = cut_of(whole, length + ahead, length + ahead + chunk, [row])
            agree(cut_of(found, 0, chunk, [row]), expected)


def test_passes_that_are_not_committed_leave_no_trace():
    """Denoising writes the new frame's slot again and again, at other levels."""
    model, inputs, other = make(), clip(9), clip(9, seed=7)
    whole = model(*inputs, agent=True)
    ring = model.ring(2)
    for t in range(9):
        memory = Append(ring, 1)
        for _ in range(2):
            model(*cut(other, t, t + 1), memory=memory)
        agree(model(*cut(inputs, t, t + 1), memory=memory, agent=True), cut_of(whole, t, t + 1))
        memory.commit()


@pytest.mark.parametrize('layers', [3, 4])
def test_remembering_is_the_same_pass_without_the_latents(layers):
    """Whether the last layer is one of space or of time."""
    model, inputs = make(layers=layers), clip(9)
    whole = model(*inputs, agent=True)
    ring = model.ring(2)
    for t in range(9):
        memory = Append(ring, 1)
        noisy, action, level, step = cut(inputs, t, t + 1)
        agent = model.remember(noisy, action, level, step, memory)
        torch.testing.assert_close(agent, whole.agent[:, t : t + 1], **TIGHT)
        memory.commit()


def test_starting_a_row_anew_forgets_it_and_leaves_the_others_alone():
    model, inputs, fresh = make(), clip(12), clip(6, batch=1, seed=3)
    whole, alone = model(*inputs, agent=True), model(*fresh, agent=True)
    ring = model.ring(2)
    for t in range(9):
        memory = Append(ring, 1)
        model(*cut(inputs, t, t + 1), memory=memory, agent=True)
        memory.commit()
    for tensor in ring.tensors:
        tensor[1] = torch.nan  # what went wrong in a row must not outlive its reset
    start = Prefill(ring, torch.tensor([1]), 3)
    model(*cut(fresh, 0, 3), memory=start, agent=True)
    start.commit()
    for ahead in range(3):
        parts = (
            torch.cat((a[:1, 9 + ahead : 10 + ahead], b[:, 3 + ahead : 4 + ahead]))
            for a, b in zip(inputs, fresh)
        )
        memory = Append(ring, 1)
        found = model(*parts, memory=memory, agent=True)
        memory.commit()
        agree(cut_of(found, 0, 1, [0]), cut_of(whole, 9 + ahead, 10 + ahead, [0]))
        agree(cut_of(found, 0, 1, [1]), cut_of(alone, 3 + ahead, 4 + ahead))


def test_only_the_difference_of_positions_counts():
    """So keys may be stored rotated by their absolute index; there is no table that ends."""
    model, inputs = make(), clip(8)
    memory = Sequence(model.config.trunk, 8, torch.device('cpu'), torch.float64)
    near = model(*inputs, memory=memory, agent=True)
    position = torch.arange(8)[None, :, None]
    memory.turn = turn_of(position + 1_000_000, exact=True)
    far = model(*inputs, memory=memory, agent=True)
    torch.testing.assert_close(near.latent, far.latent, rtol=0, atol=1e-7)
    memory.turn = turn_of(2 * position, exact=True)
    assert not torch.allclose(model(*inputs, memory=memory).latent, near.latent)


def test_a_trunk_that_never_attends_along_time_has_no_ring():
    with pytest.raises(ValueError, match='nothing to remember'):
        make(layers=1).ring(1)


def test_a_chunk_larger_than_the_ring_was_made_for_is_refused():
    with pytest.raises(ValueError, match='larger chunk'):
        Append(make().ring(1, 2), 3)


def dependence(output, source):
    """(frame of the output, frame of the source) -> whether the one depends on the other."""
    frames = output.shape[1]
    rows = []
    for t in range(frames):
        (gradient,) = torch.autograd.grad(output[:, t].sum(), source, retain_graph=True)
        rows.append(gradient.abs().flatten(2).amax(dim=(0, 2)) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize('part', [0, 1], ids=['latents', 'actions'])
def test_no_frame_depends_on_a_later_one_nor_on_one_beyond_the_window(part):
    """One temporal layer: the window is seen as it is."""
    model, inputs = make(layers=2), list(clip(9))
    inputs[part] = inputs[part].clone().requires_grad_()
    estimate = model(*inputs, agent=True)
    time = torch.arange(9)
    gap = time[:, None] - time
    expected = (gap >= 0) & (gap < WINDOW)
    for output in estimate:
        assert torch.equal(dependence(output, inputs[part]), expected)


def test_later_frames_change_no_earlier_bit():
    model, inputs, other = make(), clip(9), clip(9, seed=5)
    mixed = [torch.cat((a[:, :6], b[:, 6:]), dim=1) for a, b in zip(inputs, other)]
    one, two = model(*inputs, agent=True), model(*mixed, agent=True)
    for left, right in zip(one, two):
        assert torch.equal(left[:, :6], right[:, :6])
        assert not torch.equal(left[:, 6:], right[:, 6:])


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_latents_are_bit_equal_with_and_without_the_agent_token(dtype):
    model = make().to(dtype)
    inputs = [part.to(dtype) if part.is_floating_point() else part for part in clip(9)]
    assert torch.equal(model(*inputs).latent, model(*inputs, agent=True).latent)
    ring, bare = model.ring(2), model.ring(2, agent=False)
    for t in range(9):
        pair = []
        for memory, agent in ((Append(ring, 1), True), (Append(bare, 1), False)):
            pair.append(model(*cut(inputs, t, t + 1), memory=memory, agent=agent).latent)
            memory.commit()
        assert torch.equal(*pair)


def test_no_gradient_of_the_agent_reaches_the_world_and_none_is_lost():
    """The agent reads world tokens; the latents do not read it."""
    model, inputs = make(), clip(4)
    agent = model.agent.requires_grad_()
    estimate = model(*inputs, agent=True)
    assert not estimate.latent.requires_grad
    (gradient,) = torch.autograd.grad(estimate.agent.sum(), agent)
    assert gradient.abs().min() > 0


def test_every_latent_depends_on_its_own_frames_action():
    """Also where attention in space is the only way: a mask once cut the actions off."""
    for layers in (1, 2, 4):
        model, inputs = make(layers=layers), list(clip(3))
        action = inputs[1] = inputs[1].clone().requires_grad_()
        latent = model(*inputs).latent
        for t in range(3):
            for token in range(LATENTS):
                for number in range(DEPTH):
                    (gradient,) = torch.autograd.grad(
                        latent[0, t, token, number], action, retain_graph=True
                    )
                    assert gradient[0, t].abs().min() > 1e-9


def test_an_unknown_action_is_the_base_action():
    model, inputs = make(), list(clip(3))
    nothing = model(inputs[0], None, *inputs[2:]).latent
    unknown = model(*inputs, known=torch.zeros(2, 3, dtype=torch.bool)).latent
    torch.testing.assert_close(nothing, unknown, **TIGHT)
    first = torch.tensor([False, True, True]).expand(2, 3)
    found = model(*inputs, known=first).latent
    inputs[1][:, 0] = 9.0
    torch.testing.assert_close(model(*inputs, known=first).latent, found, **TIGHT)


def test_recomputing_activations_changes_no_gradient():
    gradients = []
    for recompute in (False, True):
        model = make(recompute=recompute).requires_grad_()
        model(*clip(7), agent=True).latent.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, **TIGHT)
