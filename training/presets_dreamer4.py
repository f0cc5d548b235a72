"""
Sizes of the stages of a DreamerV4-type global model, see ``presets``.

``demo`` is for two cores, ``mid`` for a single GPU, ``paper`` has Table 4's column of the task.
The paper names no numbers of updates; here they stand for some tens of passes over the play.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmo_ros.core.tasks import TaskSpec

from .models.dreamer4.config import Dreamer4Config, HeadConfig, size, TrunkConfig
from .models.dreamer4.shortcut import ShortcutConfig

Presets = dict[str, dict[str, dict[str, Any]]]

# Short and long windows, and when the bootstrap begins: nothing to learn from in the beginning.
_DEMO_SHORTCUT = ShortcutConfig(
    bootstrap_every=4, bootstrap_from=500, short=12, long=36, long_share=0.15, long_end=0.15
)
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
    sizes['smoke'] = _smallest(sizes['demo'])
    found = {
        stage: {name: {**fields, **_model(stage, sizes[name])} for name, fields in named.items()}
        for stage, named in _FIELDS.items()
    }
    for stage in ('global', 'reward'):
        found[stage]['paper'] |= _ROWS[column]
    return found


def _model(stage: str, sizes: Dreamer4Config) -> dict[str, Any]:
    if stage == 'tokenizer':
        return {'model': sizes.tokenizer}
    return {'model': sizes.dynamics} if stage == 'global' else {'head': sizes.head}


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
_ROWS = {
    'push_cube': {'batch': 24, 'accumulate': 10, 'long_batch': 24},
    'grab_box': {'batch': 64, 'accumulate': 4, 'long_batch': 64},
}

_FIELDS: Presets = {
    'tokenizer': {
        'smoke': {'updates': 5, 'batch': 4, 'length': 4, 'judge_rows': 2, 'judge_length': 8},
        'demo': {
            'updates': 3000,
            'batch': 4,
            'length': 4,
            'learning_rate': 1e-3,
            'average': 0.995,
            'judge_rows': 32,
            'judge_length': 16,
        },
        'mid': {**_GPU, 'batch': 16, 'length': 32, 'learning_rate': 3e-4},
        'paper': {**_GPU, 'batch': 24, 'accumulate': 5},
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
            'updates': 2500,
            'batch': 6,
            'shortcut': _DEMO_SHORTCUT,
            'learning_rate': 1e-3,
            'average': 0.995,
            'judge_rows': 32,
        },
        'mid': {**_GPU, 'batch': 32, 'learning_rate': 3e-4},
        'paper': {**_GPU, 'weight_decay': 0.1},
    },
    'reward': {
        'smoke': {'updates': 5, 'batch': 4, 'shortcut': _SMOKE_SHORTCUT},
        'demo': {
            'updates': 400,
            'batch': 6,
            'shortcut': replace(_DEMO_SHORTCUT, bootstrap_from=0),
            'learning_rate': 5e-4,
            'average': 0.99,
        },
        'mid': {'updates': 10_000, 'batch': 32},
        'paper': {'updates': 10_000, 'weight_decay': 0.1},
    },
}
