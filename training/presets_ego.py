"""
Sizes of local model and policy of the ego-centric tasks, see ``presets``.

The task fits frame size, actions and proprioception to the local model; what is chosen here is
how much there is of it, and how long it learns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmo_ros.core.tasks import TaskSpec

from .models.rssm import RssmConfig
from .rl.agent import DmoSapoConfig

Presets = dict[str, dict[str, dict[str, Any]]]

# Episodes and samples the paper names: 64 steps, four million (128 actors, 16 steps, 1953 epochs).
_PAPER_AGENT = DmoSapoConfig(epochs=1953)
_PAPER_LOCAL = RssmConfig(recurrent=4096, units=1024, multiplier=96, mlp_layers=5)

# A local model that two cores train in minutes; ``presets`` has the pusher's of it.
SMALL_LOCAL = RssmConfig(
    recurrent=128,
    groups=16,
    classes=16,
    units=128,
    multiplier=8,
    mlp_layers=1,
    reward_scale=10.0,
    action_noise=0.1,
)
# An epoch of push_cube costs 4.2 s of one core: 256 imagined frames, two updates of the local
# model and, every fourth time, 16 contexts of 32 frames.  The light local model's Jacobian loses
# its direction over many steps, so gamma is short-sighted.
_DEMO_AGENT = DmoSapoConfig(
    actors=16,
    horizon=16,
    episode_length=64,
    epochs=120,
    gamma=0.9,
    alpha_init=0.02,
    target_entropy='auto',
    mini_batch=64,
    mini_epochs=4,
    actor_hidden=(128, 128),
    critic_hidden=(128, 128),
)


def ego_presets(spec: TaskSpec) -> Presets:
    """Return the presets of the stages local and policy for a task with a DreamerV4 model."""
    # A walking robot's whole view changes, so what moves says nothing; a standing one's hand does.
    local = replace(SMALL_LOCAL, motion_weight=5.0 if spec.body else 0.0)
    return {
        'local': {
            'smoke': {'model': local, 'updates': 10, 'batch': 4, 'length': 8},
            'demo': {
                'model': local,
                'updates': 1200,
                'batch': 16,
                'length': 16,
                'learning_rate': 1e-3,
                'final_rate': 0.3,
            },
            'mid': {'model': RssmConfig()},
            'paper': {'model': _PAPER_LOCAL},
        },
        'policy': {
            'smoke': {
                'agent': replace(_DEMO_AGENT, actors=4, epochs=2),
                'denoising_steps': 2,
                'model_updates': 1,
                'model_batch': 4,
                'model_length': 8,
                'replay': 1000,
                'evaluate_every': 1,
                'evaluate_episodes': 2,
            },
            'demo': {
                'agent': _DEMO_AGENT,
                'denoising_steps': 1,
                'model_updates': 2,
                'model_batch': 16,
                'model_length': 16,
                'model_lr': 3e-4,
                'replay': 20_000,
                # An episode on the twin costs half a second (push_cube) to two (grab_box).
                'evaluate_every': 30,
                'evaluate_episodes': 16,
                'save_every': 30,
            },
            'mid': {'agent': replace(_PAPER_AGENT, actors=64), 'denoising_steps': 4},
            'paper': {'agent': _PAPER_AGENT, 'denoising_steps': 4},
        },
    }
