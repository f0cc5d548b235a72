"""
Sizes of the DreamerV4-type global model, and the presets of the ego-centric tasks.

The paper's text says 1.4 B parameters; its Table 4 leaves open how the tokenizer is built.  What
the readings come to, in millions (encoder + decoder + dynamics with a two-hot reward head):

========================================  =====================  =======
reading                                   parts                      sum
========================================  =====================  =======
Push Cube column, two streams, published  156.6 + 156.4 + 681.6    994.5
Push Cube column, two streams, here       151.2 + 151.1 + 681.6    983.9
G1 Grab Box column, two streams, publ.    378.6 + 378.6 + 681.6  1 438.8
G1 Grab Box column, two streams, here     369.1 + 369.1 + 681.6  1 419.9
Push Cube column, one stream               85.8 +  85.6 + 681.6    852.9
G1 Grab Box column, one stream            202.4 + 202.4 + 681.6  1 086.5
========================================  =====================  =======

So 1.4 B is the G1 column with two streams, and the Push Cube column is 1.0 B; no size here is
tuned to hit the number.  "Published" are the classes of the authors' repository: their tokenizer
drops a stream before its last two layers but still builds (and computes) the output and the MLP of
the layer before, which nothing reads; these, 5.3 M and 9.4 M per coder, are not built here.

Six key-value heads instead of 24 take 84.9 M off the dynamics and three quarters off its cache.
The presets have QK norms, final norms and a base action on top (10 k), and grab_box its
proprioception (0.1 M).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints, TypeVar

HEAD_SIZE = 64  # of every attention head, all columns of Table 4

Config = TypeVar('Config')


@dataclass(frozen=True)
class TrunkConfig:
    """
    Size of a block-causal transformer.

    A layer is one attention and one MLP; every ``time_every``-th attends along time, the others
    within a frame.  ``window`` counts frames, the current one included.  ``kv_heads`` 0 means one
    per head, ``hidden`` 0 means floor(8 width / 3), ``soft_cap`` 0 means none (a cap c bends the
    logits s to c tanh(s / c) and costs the fused attention).  ``recompute`` trades time for memory
    in training.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 0
    hidden: int = 0
    time_every: int = 4
    window: int = 96
    qk_norm: bool = True
    soft_cap: float = 0.0
    final_norm: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(
                f'{self.heads} heads cannot share {self.kv_heads} key-value heads evenly; choose '
                'a divisor, or 0 for one per head'
            )
        if self.window < 1 or self.time_every < 1 or self.layers < 1:
            raise ValueError(
                f'window {self.window}, time_every {self.time_every} and layers {self.layers} '
                'each have to be at least 1'
            )

    @property
    def key_heads(self) -> int:
        """Return the number of key-value heads."""
        return self.kv_heads or self.heads

    @property
    def mlp_width(self) -> int:
        """Return the MLP's hidden width."""
        return self.hidden or 8 * self.width // 3


@dataclass(frozen=True)
class TokenizerConfig:
    """
    The causal masked-autoencoding tokenizer; encoder and decoder have a ``trunk`` each.

    ``streams`` 2 gives latent tokens and modality tokens weights of their own, 1 shares them.  In
    the last ``drop`` layers, one at least, only the tokens that are read out remain.  ``places``
    gives patches and the decoder's latents a learned embedding of their place besides the rotary
    one: small tokenizers then learn several times faster.  ``proprio_size`` 0 means there is no
    proprioception.  ``mask_most`` is the largest share of masked patches.  ``perceptual`` is
    'none', 'grad_msssim' or 'lpips'; the last one needs the user's weights.
    """

    image_size: int = 128
    patch: int = 16
    latents: int = 256
    bottleneck: int = 16
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    streams: int = 2
    drop: int = 2
    places: bool = False
    proprio_size: int = 0
    proprio_tokens: int = 2
    mask_most: float = 0.9
    perceptual: str = 'grad_msssim'
    perceptual_share: float = 0.2

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(
                f'an image of {self.image_size} pixels does not divide into patches of '
                f'{self.patch}; choose a divisor'
            )
        if not 1 <= self.drop < self.trunk.layers:
            raise ValueError(
                f'drop is {self.drop} of {self.trunk.layers} layers; at least the last layer has '
                'to be without the tokens that nobody reads out, and one has to be with them'
            )
        if self.streams not in (1, 2):
            raise ValueError(f'streams is {self.streams}; use 1 (shared weights) or 2 (separate)')
        if self.perceptual not in ('none', 'grad_msssim', 'lpips'):
            raise ValueError(
                f"perceptual is {self.perceptual!r}; use 'none', 'grad_msssim' or 'lpips'"
            )

    @property
    def patches(self) -> int:
        """Return the number of patches of a frame."""
        return (self.image_size // self.patch) ** 2

    @property
    def depth(self) -> int:
        """Return the numbers of one patch."""
        return 3 * self.patch**2


@dataclass(frozen=True)
class DynamicsConfig:
    """
    The block-causal denoiser of latents.

    ``levels`` is the number of signal levels and of the finest steps, a power of two.
    ``context_level`` is the index at which past frames enter: 115 of 128 is a signal of 0.9.
    """

    action_size: int = 3
    latents: int = 256
    bottleneck: int = 16
    trunk: TrunkConfig = field(
        default_factory=lambda: TrunkConfig(width=1536, layers=24, heads=24)
    )
    registers: int = 4
    levels: int = 128
    context_signal: float = 0.9

    def __post_init__(self) -> None:
        if self.levels < 2 or self.levels & (self.levels - 1):
            raise ValueError(f'levels is {self.levels}; it has to be a power of two')

    @property
    def step_sizes(self) -> int:
        """Return how many step sizes there are: 1, 1/2, ... 1/levels."""
        return self.levels.bit_length()

    @property
    def context_level(self) -> int:
        """Return the index of the signal level at which past frames enter."""
        return int(self.context_signal * self.levels)

    @property
    def tokens(self) -> int:
        """Return the tokens of a frame: action, noise level, registers, latents."""
        return 2 + self.registers + self.latents


@dataclass(frozen=True)
class HeadConfig:
    """
    The reward head on the agent token, which predicts the rewards of ``ahead`` frames.

    ``kind`` 'binary' learns the probability of a label, 'twohot' a number over ``bins`` bins in
    [-span, span] of symlog space.
    """

    kind: str = 'binary'
    hidden: int = 512
    ahead: int = 8
    bins: int = 255
    span: float = 20.0

    def __post_init__(self) -> None:
        if self.kind not in ('binary', 'twohot'):
            raise ValueError(f"kind is {self.kind!r}; use 'binary' or 'twohot'")


@dataclass(frozen=True)
class Dreamer4Config:
    """Everything the weights depend on."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        coded, taken = (
            (part.latents, part.bottleneck) for part in (self.tokenizer, self.dynamics)
        )
        if coded != taken:
            raise ValueError(
                f'the tokenizer makes {coded[0]} latents of {coded[1]}, the dynamics takes '
                f'{taken[0]} of {taken[1]}; give both the same'
            )


def size(name: str, action_size: int, proprio_size: int = 0) -> Dreamer4Config:
    """
    Return a preset for a task with so many actions and proprioceptive numbers.

    ``demo`` trains on two CPU cores, ``mid`` on a single GPU, ``push_cube`` and ``grab_box`` are
    Table 4's columns.  ValueError lists the names.
    """
    if name not in _SIZES:
        raise ValueError(f'there is no size {name!r}; choose one of {", ".join(_SIZES)}')
    image, patch, latents, bottleneck, coder, dynamics, kind = _SIZES[name]
    return Dreamer4Config(
        TokenizerConfig(
            image, patch, latents, bottleneck, coder, proprio_size=proprio_size,
            streams=1 if name in ('demo', 'mid') else 2, drop=1 if name == 'demo' else 2,
            places=name in ('demo', 'mid'),
        ),
        DynamicsConfig(action_size, latents, bottleneck, dynamics),
        HeadConfig(kind, hidden=128 if name == 'demo' else 512),
    )  # fmt: skip


_SMALL = TrunkConfig(128, 4, 2, time_every=4, window=32)
_LARGE = TrunkConfig(width=1536, layers=24, heads=24)
# image, patch, latents, bottleneck, encoder and decoder each, dynamics, reward head
_SIZES: dict[str, tuple[int, int, int, int, TrunkConfig, TrunkConfig, str]] = {
    'demo': (64, 8, 32, 16, _SMALL, replace(_SMALL, layers=8), 'binary'),
    'mid': (128, 16, 128, 16, TrunkConfig(512, 8, 8), TrunkConfig(768, 16, 12, 4), 'binary'),
    'push_cube': (128, 16, 256, 16, TrunkConfig(768, 12, 12), _LARGE, 'binary'),
    'grab_box': (256, 16, 256, 32, TrunkConfig(1024, 16, 16), _LARGE, 'binary'),
}


def restore(kind: type[Config], plain: Mapping[str, Any]) -> Config:
    """
    Rebuild a config dataclass from its JSON form.

    :raises ValueError: it holds a field that this version does not know.
    """
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(plain) - known)
    if unknown:
        raise ValueError(
            f'the stored {kind.__name__} has the unknown field {unknown[0]!r}; it was written by '
            'another version: train it again'
        )
    values: dict[str, Any] = {}
    for name, value in plain.items():
        nested = is_dataclass(hints[name]) and isinstance(value, Mapping)
        values[name] = restore(hints[name], value) if nested else _tuples(value)
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
