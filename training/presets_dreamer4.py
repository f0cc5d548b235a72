"""
Sizes of the stages of a DreamerV4-type global model, see ``presets``.

``demo`` is for two cores, ``mid`` for a single GPU, ``paper`` has Table 4's column of the task.
The paper names no numbers of updates; here they stand for some tens of passes over the play.

The demo's three stages take 34 minutes of one core: an update of the tokenizer costs 0.3 s, of the
dynamics and of the head 0.5 s (an EPYC with bfloat16, one thread).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmo_ros.core.tasks import TaskSpec

from .models.dreamer4.config import Dreamer4Config, HeadConfig, size, TrunkConfig
from .models.dreamer4.shortcut import ShortcutConfig

Presets = dict[str, dict[str, dict[str, Any]]]

# Long windows are longer than the dynamics' own, which has to slide in a rollout.
_DEMO_SHORTCUT = ShortcutConfig(
    bootstrap_from=500, short=12, long=36, long_share=0.2, long_end=0.2
)
# After 250 updates on push_cube this decoded 19.5 dB; windows of four frames, nine tenths of the
# patches hidden at most and the perceptual term from the 100th update 18.4 dB (mean image: 15.9).
_DEMO_TOKENIZER: dict[str, Any] = {'mask_most': 0.5}
_DEMO_WINDOW = 2
_SMOKE_SHORTCUT = ShortcutConfig(bootstrap_every=2, bootstrap_from=2, short=8, long=12)


def dreamer4_presets(spec: TaskSpec) -> Presets:
    """Return the presets of the stages tokenizer, global and reward for a task."""
    actions, proprio = len(spec.actions), len(spec.proprioception)
    # Table 4 has a column for a robot that feels its joints, and one for a robot that does not.
    column = 'grab_box' if proprio else 'push_cube'
    sizes = {
        name: size(column if name == 'paper' else name, actions, proprio)
        for name in ('demo', 'mid', 'paper')
    }
    sizes['demo'] = _quick(sizes['demo'])
    sizes['smoke'] = _smallest(sizes['demo'])
    found = {
        stage: {name: {**fields, **_model(stage, sizes[name])} for name, fields in named.items()}
        for stage, named in _FIELDS.items()
    }
    for stage, named in found.items():
        rows, accumulate = _ROWS[column]
        named['paper'] |= {'batch': rows, 'accumulate': accumulate}
        if stage != 'tokenizer':
            named['paper']['long_batch'] = rows
    return found


def _model(stage: str, sizes: Dreamer4Config) -> dict[str, Any]:
    if stage == 'tokenizer':
        return {'model': sizes.tokenizer}
    return {'model': sizes.dynamics} if stage == 'global' else {'head': sizes.head}


def _quick(sizes: Dreamer4Config) -> Dreamer4Config:
    """
    Return sizes whose tokenizer learns in minutes.

    It is trained on as many frames as it ever sees, so what it encodes along an episode is like
    what it was trained on.
    """
    tokenizer = sizes.tokenizer
    trunk = replace(tokenizer.trunk, window=_DEMO_WINDOW)
    return replace(sizes, tokenizer=replace(tokenizer, trunk=trunk, **_DEMO_TOKENIZER))


def _smallest(sizes: Dreamer4Config) -> Dreamer4Config:
    """Return sizes that turn every wheel once."""
    trunk = TrunkConfig(32, 2, 1, time_every=2, window=16)
    return Dreamer4Config(
        replace(sizes.tokenizer, image_size=32, latents=4, bottleneck=8, trunk=trunk),
        replace(sizes.dynamics, latents=4, bottleneck=8, trunk=trunk),
        HeadConfig(sizes.head.kind, hidden=16),
    )


_GPU: dict[str, Any] = {'updates': 100_000}
# Rows of a micro-batch on all GPUs together, and how many of those make an update.
_ROWS = {'push_cube': (24, 10), 'grab_box': (64, 4)}

_FIELDS: Presets = {
    'tokenizer': {
        'smoke': {'updates': 5, 'batch': 4, 'length': 4, 'judge_rows': 2, 'judge_length': 8},
        'demo': {
            'updates': 2500,
            'batch': 8,
            'length': _DEMO_WINDOW,
            'learning_rate': 1e-3,
            'betas': (0.9, 0.99),
            'average': 0.995,
            'perceive_from': 0.25,
            'judge_rows': 32,
        },
        'mid': {**_GPU, 'batch': 16, 'length': 32, 'learning_rate': 3e-4},
        'paper': {**_GPU},
    },
    'global': {
        'smoke': {
            'updates': 5,
            'batch': 4,
            'shortcut': _SMOKE_SHORTCUT,
            'context': 8,
            'judge_rows': 2,
            'judge_horizon': 4,
            'judge_fine': 8,
        },
        'demo': {
            'updates': 2000,
            'batch': 6,
            'shortcut': _DEMO_SHORTCUT,
            'learning_rate': 1e-3,
            'betas': (0.9, 0.99),
            'average': 0.995,
            'judge_rows': 32,
        },
        'mid': {**_GPU, 'batch': 32, 'learning_rate': 3e-4},
        'paper': {**_GPU, 'weight_decay': 0.1},
    },
    'reward': {
        'smoke': {'updates': 5, 'batch': 4, 'shortcut': _SMOKE_SHORTCUT},
        'demo': {
            'updates': 300,
            'batch': 6,
            'shortcut': replace(_DEMO_SHORTCUT, bootstrap_from=0),
            'learning_rate': 5e-4,
            'betas': (0.9, 0.99),
            'average': 0.99,
            # On the way is worth less than there, or a policy would take its time.
            'intent_value': 0.5,
        },
        'mid': {'updates': 10_000, 'batch': 32},
        'paper': {'updates': 10_000, 'weight_decay': 0.1},
    },
}
