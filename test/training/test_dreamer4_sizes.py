"""Parameter counts: the readings of Table 4, counted on the meta device, and configs as JSON."""

from dataclasses import asdict, replace
import json

from dmo_training.models.dreamer4.config import (
    Dreamer4Config,
    DynamicsConfig,
    HeadConfig,
    restore,
    size,
    TokenizerConfig,
    TrunkConfig,
)
from dmo_training.models.dreamer4.dynamics import Dynamics
from dmo_training.models.dreamer4.reward import RewardHead
from dmo_training.models.dreamer4.tokenizer import Decoder, Encoder
import pytest
import torch

# The published code's counts (reference/dreamerv4.md section 2): encoder, decoder, dynamics with
# a two-hot head.
PUBLISHED = {
    'push_cube': (156_564_496, 156_417_024, 681_553_416),
    'grab_box': (378_601_504, 378_601_216, 681_631_768),
}
ACTIONS = {'push_cube': 3, 'grab_box': 22}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def counts(config):
    with torch.device('meta'):
        dynamics = Dynamics(config.dynamics)
        head = RewardHead(config.head, config.dynamics.trunk.width)
        parts = Encoder(config.tokenizer), Decoder(config.tokenizer)
        return (*map(count, parts), count(dynamics) + count(head))


def bare(config):
    """The published reading: no QK norm, no final norm, a two-hot head."""

    def strip(trunk):
        return replace(trunk, qk_norm=False, final_norm=False)

    tokenizer = replace(config.tokenizer, trunk=strip(config.tokenizer.trunk))
    dynamics = replace(config.dynamics, trunk=strip(config.dynamics.trunk))
    return replace(
        config, tokenizer=tokenizer, dynamics=dynamics, head=replace(config.head, kind='twohot')
    )


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_two_stream_reading_has_the_published_number_of_parameters(name):
    """To the last one, after what is built differently is named."""
    config = bare(size(name, ACTIONS[name]))
    trunk = config.tokenizer.trunk
    encoder, decoder, dynamics = counts(config)
    # The published tokenizer norms queries and keys apart, in every stream of every layer, and
    # the stream it drops ends with an output and an MLP that nothing reads.
    norms = (2 * trunk.layers - config.tokenizer.drop) * trunk.width
    idle = trunk.width * (trunk.width + 1 + 3 * trunk.mlp_width)
    base_action = config.dynamics.trunk.width
    found = encoder + norms + idle, decoder + norms + idle, dynamics - base_action
    assert found == PUBLISHED[name]


@pytest.mark.parametrize(
    'name, streams, millions',
    [
        ('push_cube', 2, 983.9),
        ('grab_box', 2, 1419.9),
        ('push_cube', 1, 852.9),
        ('grab_box', 1, 1086.5),
    ],
)
def test_the_readings_come_to_the_sums_that_are_stated(name, streams, millions):
    """In the docstring of config.py."""
    config = bare(size(name, ACTIONS[name]))
    config = replace(config, tokenizer=replace(config.tokenizer, streams=streams))
    assert sum(counts(config)) / 1e6 == pytest.approx(millions, abs=0.06)


def test_one_stream_has_the_parameters_of_the_later_release():
    """Which counts neither patch embedding nor pixel head (reference section 2: 85.2, 201.6)."""
    for name, (encoder, decoder) in {
        'push_cube': (85.2, 85.0),
        'grab_box': (201.6, 201.6),
    }.items():
        config = bare(size(name, ACTIONS[name]))
        found = counts(replace(config, tokenizer=replace(config.tokenizer, streams=1)))
        width, depth = config.tokenizer.trunk.width, config.tokenizer.depth
        assert (found[0] - width * (depth + 1)) / 1e6 == pytest.approx(encoder, abs=0.06)
        assert (found[1] - depth * (width + 1)) / 1e6 == pytest.approx(decoder, abs=0.06)


def test_six_key_value_heads_take_the_dynamics_to_595_million():
    trunk = TrunkConfig(1536, 24, 24, kv_heads=6)
    with torch.device('meta'):
        assert count(Dynamics(DynamicsConfig(trunk=trunk))) / 1e6 == pytest.approx(595, abs=0.5)


@pytest.mark.parametrize(
    'name, kv_heads, world, screen',
    [('push_cube', 0, 884, 198), ('push_cube', 6, 221, 198), ('grab_box', 0, 884, 672)],
)
def test_a_rollouts_memory_is_what_the_roofline_reckons_with(name, kv_heads, world, screen):
    """In MiB of bfloat16 (reference section 4.1); decoder latents end before its last layers."""
    config = size(name, ACTIONS[name])
    trunk = replace(config.dynamics.trunk, kv_heads=kv_heads)
    with torch.device('meta'):
        dynamics = Dynamics(replace(config.dynamics, trunk=trunk)).bfloat16()
        decoder = Decoder(config.tokenizer).bfloat16()
        rings = dynamics.ring(1, agent=False), decoder.trunk.ring(1)
    for ring, mebibytes in zip(rings, (world, screen)):
        total = sum(tensor.numel() * tensor.element_size() for tensor in ring.tensors)
        assert total / 2**20 == pytest.approx(mebibytes, abs=0.6)


def test_the_small_presets_stay_small():
    assert sum(counts(size('demo', 3))) < 5e6
    assert 1e8 < sum(counts(size('mid', 3))) < 3e8
    assert counts(size('demo', 22, 19))[0] > counts(size('demo', 22))[0]


def test_a_config_survives_json_and_an_unknown_field_is_refused_by_name():
    config = size('grab_box', 22, 19)
    plain = json.loads(json.dumps(asdict(config)))
    assert restore(Dreamer4Config, plain) == config
    plain['tokenizer']['colour'] = 3
    with pytest.raises(ValueError, match='colour'):
        restore(Dreamer4Config, plain)


@pytest.mark.parametrize(
    'build, word',
    [
        (lambda: TrunkConfig(heads=12, kv_heads=5), 'divisor'),
        (lambda: TrunkConfig(window=0), 'window'),
        (lambda: TokenizerConfig(image_size=100), 'patches'),
        (lambda: TokenizerConfig(streams=3), 'streams'),
        (lambda: TokenizerConfig(drop=0), 'drop'),
        (lambda: DynamicsConfig(levels=100), 'power of two'),
        (lambda: HeadConfig(kind='best'), 'twohot'),
        (lambda: Dreamer4Config(dynamics=DynamicsConfig(latents=64)), 'latents'),
        (lambda: size('huge', 3), 'push_cube'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()
