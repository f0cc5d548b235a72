"""
What is deployed: the part of the trained networks that maps a camera's frames to actions.

These modules satisfy :class:`~dmo_training.export.ExportablePolicy`; the decoder, the prior, the
reward head and the critics stay behind.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
from pathlib import Path
from typing import Any, cast

from dmo_ros.core.episode import EpisodeError, load_dataset
from dmo_ros.core.images import to_observation
from dmo_ros.core.tasks import TaskSpec
import numpy as np
import torch
from torch import nn, Tensor

from . import engine
from .models.actor_critic import Actor
from .models.driven import Driven
from .models.rssm import Latent, mode, Rssm, RssmConfig


class RssmPolicy(nn.Module):
    """
    Encoder, posterior and actor of DMO; h and z are fed back by whoever runs it.

    The latent is the posterior's mode and the action the mean's tanh, so the graph draws nothing
    at random and one sequence of frames has one sequence of actions.  The actor may drive some of
    the local model's actions; the others are at rest, in the graph as on the robot.
    """

    def __init__(self, rssm: Rssm, actor: Actor, spec: TaskSpec | None = None) -> None:
        """
        Put the parts together.

        :param spec: the task; may be left out where the actor drives every action and there is no
            proprioception.
        :raises ValueError: parts that do not fit each other or the task.
        """
        super().__init__()
        _require_fit(rssm.config, cast(nn.Linear, actor.net[-1]).out_features // 2, spec)
        self.rssm, self.actor = rssm, actor
        self.whole = nn.Identity() if spec is None else Driven(spec)
        self.frame_stack = 1
        c = rssm.config
        self.state_shapes: Mapping[str, tuple[int, ...]] = {
            'h': (c.recurrent,),
            'z': (c.groups, c.classes),
        }

    def forward(
        self, image: Tensor, prev_action: Tensor, is_first: Tensor, *more: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Filter one frame (B, 1, H, W, 3) into the latent and act on it.

        ``more`` is h, z, and before them proprioception (B, P) if the task has any.  The action
        before an episode's first frame is zero in all fields, as in training, not at rest.
        """
        *felt, h, z = more
        keep = 1.0 - is_first
        latent = Latent(h * keep, z * keep[..., None])
        h = self.rssm.advance(latent, self.whole(prev_action) * keep)
        seen = self.rssm.embed(image[:, -1], *felt)
        z = mode(self.rssm.posterior(h, seen))
        action = self.actor.mode(self.rssm.features(Latent(h, z)))
        return action, h, z


def _require_fit(config: RssmConfig, driven: int, spec: TaskSpec | None) -> None:
    """Refuse an actor or a local model of another task; ValueError says what differs."""
    if spec is None and driven != config.actions:
        raise ValueError(
            f'the actor drives {driven} of the {config.actions} actions of its local model; give '
            'the task, which says where the others rest'
        )
    if spec is not None and (driven, config.actions) != (len(spec.driven), len(spec.actions)):
        raise ValueError(
            f'the actor drives {driven} of {config.actions} actions, task {spec.name!r} drives '
            f'{len(spec.driven)} of {len(spec.actions)}; take parts trained for this task'
        )
    if config.proprio and (spec is None or config.proprio != len(spec.proprioception)):
        has = 'no task is given' if spec is None else f'it has {len(spec.proprioception)}'
        raise ValueError(
            f'the local model reads {config.proprio} proprioceptive numbers of its task, {has}'
        )


class StackPolicy(nn.Module):
    """A policy without memory: a network of the newest frames, such as the PPO baseline's."""

    def __init__(self, network: nn.Module, frame_stack: int) -> None:
        """``network`` maps (B, 3 * S, H, W) float32 in [0, 1], oldest frame first, to (B, A)."""
        super().__init__()
        self.network, self.frame_stack = network, frame_stack
        self.state_shapes: Mapping[str, tuple[int, ...]] = {}

    def forward(
        self, image: Tensor, prev_action: Tensor, is_first: Tensor, *proprio: Tensor
    ) -> tuple[Tensor]:
        """
        Act on a stack (B, S, H, W, 3); actions beyond [-1, 1] are clipped as in training.

        Nothing else is looked at, also where the task offers proprioception.
        """
        pixels = image.permute(0, 1, 4, 2, 3).flatten(1, 2).to(torch.float32) / 255.0
        return (self.network(pixels).clamp(-1.0, 1.0),)


class PpoNetwork(nn.Module):
    """The actor's part of a stable-baselines3 policy with a CNN, as StackPolicy's network."""

    def __init__(self, policy: Any) -> None:
        """``policy`` is ``PPO(...).policy``."""
        super().__init__()
        self.features, self.mean = policy.features_extractor, policy.action_net
        self.hidden = policy.mlp_extractor.policy_net

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the mean action (B, A) for pixels (B, 3 * S, H, W) in [0, 1]."""
        action: Tensor = self.mean(self.hidden(self.features(pixels)))
        return action


def load_policy(checkpoint: Path) -> tuple[RssmPolicy, TaskSpec, dict[str, Any]]:
    """
    Rebuild the policy of a checkpoint of the policy stage.

    :returns: the deployable module, the task it was trained for, and its provenance as plain JSON.
    :raises CheckpointError: a file of another stage, or a damaged one.
    """
    state = engine.load_checkpoint(checkpoint)
    if state.get('stage') != 'policy':
        raise engine.CheckpointError(
            f'{checkpoint} is a checkpoint of stage {state.get("stage")!r}; a policy is exported '
            'from one that `dmo train policy` wrote'
        )
    spec, config = TaskSpec.from_dict(state['task']), state['config']
    rssm = Rssm(RssmConfig(**state['local']))
    rssm.load_state_dict(state['training']['trainer']['model'])
    agent = config['agent']
    actor = Actor(
        rssm.features_width,
        len(spec.driven),
        agent['actor_hidden'],
        agent['log_std_init'],
        tuple(agent['log_std_range']),
    )
    actor.load_state_dict(state['training']['agent']['actor'])
    provenance = {
        'method': 'dmo-sapo',
        'epoch': state['epoch'],
        'seed': config['seed'],
        'forward': config['forward'],
        'data': Path(config['data']).name,
        'checkpoint_sha256': _sha256(checkpoint),
        'revision': engine.git_revision(),
    }
    return RssmPolicy(rssm, actor, spec), spec, provenance


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def golden_play(
    dataset: Path, spec: TaskSpec, count: int = 200
) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Return the first ``count`` moments of a dataset that are fit to be learned from.

    :returns: frames (N, H, W, 3) uint8 at the policy's size, and proprioception (N, P) float32,
        None where the task has none.
    """
    frames: list[np.ndarray] = []
    felt: list[np.ndarray] = []
    for episode in load_dataset(dataset, spec):
        rows = np.flatnonzero(episode.valid)[: count - len(frames)]
        frames += [to_observation(episode.frames[row], spec, spec.policy_size) for row in rows]
        felt += list(episode.proprio[rows])
        if len(frames) == count:
            break
    if not frames:
        raise EpisodeError(f'{dataset} holds no valid frame; look at it with `dmo check`')
    return np.stack(frames), np.stack(felt) if spec.proprioception else None
