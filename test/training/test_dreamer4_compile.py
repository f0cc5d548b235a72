"""One frame of a rollout is one graph without questions to the device; its operations are laws."""

from dmo_training.models.dreamer4 import fused
from dmo_training.models.dreamer4.attention import rotate, Turn, turn_of
from dmo_training.models.dreamer4.config import (
    Dreamer4Config,
    DynamicsConfig,
    HeadConfig,
    TokenizerConfig,
    TrunkConfig,
)
from dmo_training.models.dreamer4.model import Dreamer4
from dmo_training.models.dreamer4.rollout import Noise, Rollout, RolloutConfig
import pytest
import torch
from torch.nn import functional as F

WINDOW, LATENTS, DEPTH, ACTIONS = 5, 3, 4, 2
TRUNK = TrunkConfig(16, 2, 2, kv_heads=1, time_every=2, window=WINDOW)
CONFIG = Dreamer4Config(
    TokenizerConfig(8, 4, LATENTS, DEPTH, TRUNK, streams=1, drop=1, perceptual='none'),
    DynamicsConfig(ACTIONS, LATENTS, DEPTH, TRUNK, registers=1, levels=16),
    HeadConfig(hidden=8, ahead=2),
)


@pytest.fixture(name='begun')
def fixture_begun():
    """A function that begins a rollout of two rows with the same weights and context."""
    torch.manual_seed(0)
    model = Dreamer4(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    latent = torch.randn(2, 3, LATENTS, DEPTH).tanh()
    action = torch.randn(2, 3, ACTIONS)

    def begin(**config):
        rollout = Rollout(model, 2, RolloutConfig(**config))
        rollout.begin(latent, action, torch.ones(2, 3, dtype=torch.bool))
        return rollout

    return begin


def draw(generator):
    noise = (torch.randn(2, 1, LATENTS, DEPTH, generator=generator) for _ in range(2))
    return torch.randn(2, 1, ACTIONS, generator=generator), Noise(*noise)


def compare(one, other, frames):
    """Both see the same noise; frames may differ by one level where rounding decides."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(frames):
        given = draw(generator)
        mine, theirs = one(*given), other(*given)
        torch.testing.assert_close(mine.latent, theirs.latent, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.reward, theirs.reward, rtol=1e-4, atol=1e-5)
        assert (mine.frames.int() - theirs.frames.int()).abs().max() <= 1


@pytest.mark.slow
def test_a_compiled_frame_is_one_graph_and_the_same_before_and_after_the_wrap(begun):
    torch._dynamo.reset()
    eager, compiled = begun(), begun()
    imagine = torch.compile(compiled.imagine, fullgraph=True, dynamic=False)
    with torch.no_grad():
        compare(eager.imagine, imagine, 1)
        with torch.compiler.set_stance('fail_on_recompile'):
            compare(eager.imagine, imagine, 2 * WINDOW)


def test_a_frame_is_traced_whole_and_once(begun):
    """As above without generating code: no break, no question about a tensor's value."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    eager, traced = begun(), begun()
    imagine = torch.compile(traced.imagine, fullgraph=True, dynamic=False, backend=count)
    with torch.no_grad():
        compare(eager.imagine, imagine, 2 * WINDOW)
    assert len(graphs) == 1
    asked = {str(node.target) for node in graphs[0].graph.nodes}
    assert not asked & {'item', 'tolist', 'cpu', 'nonzero', 'aten.nonzero', 'aten._local_scalar'}


@pytest.mark.parametrize('chunk', [1, 2])
def test_reading_only_the_filled_slots_changes_nothing(begun, chunk):
    """A step narrows the rings until they wrap; imagine reads them whole."""
    whole, narrowed = begun(chunk=chunk), begun(chunk=chunk)
    generator = torch.Generator().manual_seed(5)
    for _ in range(2 * WINDOW):
        action = torch.randn(2, chunk, ACTIONS, generator=generator)
        both(whole, narrowed, action)


def both(whole, narrowed, action):
    """Step one rollout, and let the other imagine the same with all that its rings hold."""
    state = narrowed.generator.get_state()
    mine = narrowed.step(action)
    whole.generator.set_state(state)
    noise = Noise(*(whole._draw(*action.shape[:2]) for _ in range(2)))
    with torch.no_grad():
        other = whole.imagine(action, noise)
    torch.testing.assert_close(mine.latent, other.latent, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.reward, other.reward, rtol=1e-4, atol=1e-5)


def test_rows_that_begin_anew_do_not_hide_what_longer_rows_remember(begun):
    whole, narrowed = begun(), begun()
    generator = torch.Generator().manual_seed(7)
    latent, action = torch.randn(1, 1, LATENTS, DEPTH), torch.randn(1, 1, ACTIONS)
    for number in range(WINDOW):
        if number == 1:
            whole.generator.set_state(narrowed.generator.get_state())
            for rollout in (whole, narrowed):
                known = torch.ones(1, 1, dtype=torch.bool)
                rollout.begin(latent, action, known, torch.tensor([0]))
        both(whole, narrowed, torch.randn(2, 1, ACTIONS, generator=generator))


def plain_heads(qkv, scale, turn, key_heads):
    qk, value = qkv.split((qkv.shape[-2] - key_heads, key_heads), dim=-2)
    turned = rotate(F.rms_norm(qk, (64,), eps=fused.NORM_EPS) * scale, turn)
    return (*turned.split((qk.shape[-2] - key_heads, key_heads), dim=-2), value)


@pytest.mark.parametrize('graded', [True, False])
def test_fused_operations_equal_plain_ones(graded, monkeypatch):
    monkeypatch.setattr(fused, 'FEW', 0)
    generator = torch.Generator().manual_seed(1)
    sizes = (2, 3, 10), (10,), (4, 10)
    x, weight, matrix = (torch.randn(*s, generator=generator) for s in sizes)
    qkv, scale = (torch.randn(*s, generator=generator) for s in ((1, 2, 3, 4, 64), (3, 64)))
    turn = turn_of(torch.arange(2)[None, :, None])
    with torch.set_grad_enabled(graded):
        torch.testing.assert_close(
            fused.rms_norm(x, weight), F.rms_norm(x, (10,), weight, fused.NORM_EPS)
        )
        plain = F.linear(F.rms_norm(x, (10,), weight, fused.NORM_EPS), matrix)
        torch.testing.assert_close(fused.normed_linear(x, weight, matrix), plain)
        folded = fused.normed_linear(x, None, matrix * weight)
        torch.testing.assert_close(folded, plain)
        first, second = plain.chunk(2, dim=-1)
        made = fused.normed_gate(x, weight, matrix)
        torch.testing.assert_close(made, F.silu(first) * second)
        made = fused.heads(qkv, scale, *turn, 1)
        for mine, other in zip(made, plain_heads(qkv, scale, turn, 1), strict=True):
            torch.testing.assert_close(mine, other)


def test_one_query_attends_as_many_do():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 3, n, 64, generator=generator) for n in (1, 7, 7))
    mask = torch.zeros(2, 1, 1, 7)
    mask[0, ..., 3:] = -torch.inf
    with torch.no_grad():
        torch.testing.assert_close(
            fused.one_query(query, key, value, mask),
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
        )


@pytest.mark.parametrize('autocast', [True, False])
def test_adding_while_multiplying_is_the_sum(autocast):
    """And what is added to stays float32 where products are bfloat16."""
    generator = torch.Generator().manual_seed(1)
    sizes = (2, 3, 5), (2, 3, 7), (5, 7)
    x, y, weight = (torch.randn(*size, generator=generator) for size in sizes)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        made, plain = fused.plus_linear(x, y, weight), x + F.linear(y, weight)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, plain)


def test_heads_of_bfloat16_are_worked_on_as_float32():
    generator = torch.Generator().manual_seed(1)
    qkv, scale = (torch.randn(*s, generator=generator) for s in ((1, 2, 3, 4, 64), (3, 64)))
    turn, rough = turn_of(torch.arange(2)[None, :, None]), qkv.bfloat16().requires_grad_()
    made = fused.heads(rough, scale, *turn, 1)
    for mine, other in zip(made, plain_heads(rough.float(), scale, turn, 1), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, other.bfloat16())
    made[0].float().square().sum().backward()
    assert rough.grad.dtype == torch.bfloat16 and rough.grad.isfinite().all()


def test_gradients_of_fused_operations_are_those_of_plain_ones():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused.rms_norm, (x, weight))
    matrix = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused.normed_linear, (x, weight, matrix))
    assert torch.autograd.gradcheck(fused.normed_gate, (x, weight, matrix))
    qkv = torch.randn(1, 2, 2, 4, 64, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    turn = Turn(*turn_of(torch.arange(2)[None, :, None], exact=True))
    towards = [torch.randn(1, 2, 2, n, 64, dtype=torch.float64) for n in (2, 1, 1)]
    gradients = []
    for made in (fused.heads(qkv, scale, *turn, 1), plain_heads(qkv, scale, turn, 1)):
        total = sum((part * way).sum() for part, way in zip(made, towards, strict=True))
        gradients.append(torch.autograd.grad(total, (qkv, scale)))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)
