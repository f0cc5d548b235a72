"""
Baseline: PPO in the same learned worlds, rewards and starts as DMO's (paper section 4).

It sees stacks of frames through a CNN, as it would on the robot.  The forward model is the only
model it uses: what it needs in samples is the price of doing without the local one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from dmo_ros.core.tasks import get_task, TaskSpec
import torch
from torch import nn

from . import engine
from .baselines.ppo import build_ppo, learn, PpoConfig, side_by_side, WorldVecEnv
from .data import PlayDataset
from .deploy import PpoNetwork, StackPolicy
from .train_policy import make_world, PlayContexts
from .world import Context, WorldStep


@dataclass(frozen=True)
class Config:
    """One run; ``forward`` and ``denoising_steps`` mean what they mean for the policy stage."""

    task: str
    data: Path
    global_model: Path
    reward: Path
    out: Path
    agent: PpoConfig = field(default_factory=PpoConfig)
    forward: str = 'global'
    denoising_steps: int = 3
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 10_000
    episodes: int = 64


def train(config: Config, resume: bool = False) -> Path:
    """
    Train PPO and return its checkpoint.

    :raises ValueError: for ``resume``: the library keeps its rollouts to itself.
    """
    if resume:
        raise ValueError('a PPO run cannot be resumed; start it again with another --out')
    if config.threads:
        torch.set_num_threads(config.threads)
    engine.seed_everything(config.seed)
    spec = get_task(config.task)
    dataset = PlayDataset.open(config.data, spec)
    # It reads the fields that both stages' configs have.
    world = make_world(cast(Any, config))
    length = max(spec.context_length, spec.frame_stack)
    env = WorldVecEnv(
        world,
        PlayContexts(dataset, length, config.seed + 1),
        len(spec.driven),
        config.agent.episode_length,
        spec.frame_stack,
    )
    model = build_ppo(env, replace(config.agent, seed=config.seed))
    log = engine.RunLog(config.out, config)

    def score() -> dict[str, float]:
        figures = success(model, spec, config)
        log.write(model.num_timesteps, figures)
        return figures

    curve = learn(model, config.agent.samples, config.evaluate_every, score)
    log.close()
    path = config.out / 'ppo.safetensors'
    engine.save_checkpoint(
        path,
        {
            'stage': 'ppo',
            'task': spec.to_dict(),
            'config': engine.plain_config(config),
            'samples': model.num_timesteps,
            'curve': curve,
            'policy': model.policy.state_dict(),
        },
    )
    return path


def success(model: Any, spec: TaskSpec, config: Config) -> dict[str, float]:
    """Success of the policy as it stands on the batched twin, for the learning curve only."""
    from .evaluate import evaluate_batched

    policy = StackPolicy(PpoNetwork(model.policy), spec.frame_stack).eval()
    result = evaluate_batched(policy, spec.name, config.episodes, config.seed + 7)
    return {'strict': result['strict']['rate'], 'relaxed': result['relaxed']['rate']}


class _Blank:
    """Stands in for world and contexts where only the shapes of the networks are wanted."""

    def __init__(self, spec: TaskSpec) -> None:
        self.batch, self.side = 1, spec.frame_size

    def sample(self, count: int) -> Context:
        frames = torch.zeros(count, 1, self.side, self.side, 3, dtype=torch.uint8)
        return Context(frames, torch.zeros(count, 0, 1))

    def reset(self, context: Context, rows: torch.Tensor | None = None) -> None:
        """Nothing to reset."""

    def step(self, action: torch.Tensor) -> WorldStep:
        raise NotImplementedError('there is no world behind a loaded policy')


def load_ppo(checkpoint: Path) -> tuple[StackPolicy, TaskSpec, dict[str, Any]]:
    """
    Rebuild the deployable policy of a PPO checkpoint.

    :returns: the module that ``export`` takes, its task, and its provenance as plain JSON.
    :raises CheckpointError: a file of another stage.
    """
    state = engine.load_checkpoint(checkpoint)
    if state.get('stage') != 'ppo':
        raise engine.CheckpointError(
            f'{checkpoint} is a checkpoint of stage {state.get("stage")!r}, not one of PPO'
        )
    spec, config = TaskSpec.from_dict(state['task']), state['config']
    blank = _Blank(spec)
    env = WorldVecEnv(blank, blank, len(spec.driven), 1, spec.frame_stack, side_by_side)
    agent = PpoConfig(**{**config['agent'], 'hidden': tuple(config['agent']['hidden'])})
    policy: nn.Module = build_ppo(env, agent).policy
    policy.load_state_dict(state['policy'])
    provenance = {
        'method': 'ppo',
        'samples': state['samples'],
        'seed': config['seed'],
        'forward': config['forward'],
        'data': Path(config['data']).name,
        'revision': engine.git_revision(),
    }
    return StackPolicy(PpoNetwork(policy), spec.frame_stack).eval(), spec, provenance
