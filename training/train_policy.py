r"""
Stage 4: the policy, trained from scratch inside the world models by DMO-SAPO (paper, Algorithm 1).

    dmo train policy --task pusher --preset demo --data DATASET \
        --global RUN --reward RUN --local RUN --out RUN
    (a few minutes on two cores)

Forward through the global model, gradients through the local one.  Each epoch fits the local model
on what the global one has generated so far (and on play), unrolls a decoupled window, and updates
actor, temperature and critics.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError
import numpy as np
import torch

from . import engine
from .data import PlayDataset, Segment
from .models.rssm import Latent, Rssm
from .rl.agent import DmoSapo, DmoSapoConfig
from .rl.replay import Replay
from .rl.window import Actors, Transition
from .train_local import load_local, LocalTrainer
from .train_reward import label_dataset, load_reward
from .world import Context, ResumableModel


@dataclass(frozen=True)
class Config:
    """
    One run of this stage.

    ``forward`` chooses the forward model: 'global' (the method), 'twin' (the simulator itself).
    ``play_share`` is how much of a local model's batch is real play.
    """

    task: str
    data: Path
    global_model: Path
    reward: Path
    local_model: Path
    out: Path
    agent: DmoSapoConfig = field(default_factory=DmoSapoConfig)
    forward: str = 'global'
    denoising_steps: int = 3
    model_updates: int = 8
    model_batch: int = 16
    model_length: int = 64
    model_lr: float = 1e-4
    model_grad_clip: float = 1000.0
    play_share: float = 0.5
    replay: int = 1_000_000
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 0
    save_every: int = 25


IN_MEMORY = 200_000  # a larger replay's frames live in the run folder and not in its checkpoints


class PlayContexts:
    """Episodes start from windows of real play, ``length`` frames long."""

    def __init__(self, dataset: PlayDataset, length: int, seed: int) -> None:
        self.dataset, self.length = dataset, length
        self.rng = np.random.default_rng(seed)

    def sample(self, count: int) -> Context:
        """Draw ``count`` contexts."""
        segment = self.dataset.sample(self.rng, count, self.length)
        return Context(segment.frames, segment.action[:, :-1])


class Recorder:
    """Fills the replay with what the actors see; a context's last frame has no reward yet."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.frame = torch.zeros(replay.actors, *replay.frames.shape[2:], dtype=torch.uint8)
        self.reward = torch.full((replay.actors,), torch.nan)

    def begin(self, rows: torch.Tensor, context: Context) -> None:
        """Start episodes."""
        self.frame[rows] = context.observation[:, -1]
        self.reward[rows] = torch.nan

    def add(self, transition: Transition) -> None:
        """Store the frame an action was taken at; the next one waits for its own action."""
        self.replay.add(self.frame, transition.action, self.reward, transition.first)
        self.frame, self.reward = transition.observation.clone(), transition.reward.clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the frames that wait."""
        return {'frame': self.frame, 'reward': self.reward}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.frame, self.reward = state['frame'], state['reward']


class Training:
    """Everything one run holds, so that it can be saved and carried on."""

    def __init__(self, config: Config) -> None:
        c = self.config = config
        self.rng = engine.seed_everything(c.seed)
        self.spec = get_task(c.task)
        self.dataset = PlayDataset.open(c.data, self.spec)
        reward = load_reward(c.reward, self.spec)
        label_dataset(reward, self.dataset)
        self.local = load_local(c.local_model, self.spec)
        self.trainer = LocalTrainer(self.local, c.model_lr, c.model_grad_clip)
        self.world = make_world(c, reward)
        self.replay = Replay(
            c.replay,
            c.agent.actors,
            self.spec.frame_size,
            len(self.spec.actions),
            c.out / 'replay' if c.replay > IN_MEMORY else None,
        )
        self.recorder = Recorder(self.replay)
        self.contexts = PlayContexts(self.dataset, self.spec.context_length, c.seed + 1)
        self.actors = Actors(
            self.world, self.local, self.contexts, c.agent.episode_length, self.recorder
        )
        self.agent = DmoSapo(
            self.local.features_width, len(self.spec.driven), replace(c.agent, seed=c.seed)
        )

    def epoch(self) -> dict[str, float]:
        """Run one epoch of Algorithm 1 and return its figures."""
        figures: dict[str, float] = {}
        for _ in range(self.config.model_updates):
            parts = self.trainer.update(*self._model_batch())
            figures = {f'model_{name}': value for name, value in parts.items()}
        window = self.actors.rollout(
            self.agent.actor, self.config.agent.horizon, self.agent.generator
        )
        return figures | self.agent.update(window)

    def _model_batch(self) -> tuple[Segment, torch.Tensor]:
        """Mix play and generated experience into one batch of segments."""
        c = self.config
        play = c.model_batch
        if self.replay.ready(c.model_length):
            play = round(c.play_share * c.model_batch)
        real = self.dataset.sample(self.rng, play, c.model_length) if play else None
        first = torch.zeros(play, c.model_length, dtype=torch.bool)
        if real is not None and play == c.model_batch:
            return real, first
        dreamt, starts = self.replay.sample(self.rng, c.model_batch - play, c.model_length)
        if real is None:
            return dreamt, starts
        assert real.reward is not None and dreamt.reward is not None
        return Segment(
            torch.cat([real.frames, dreamt.frames]),
            torch.cat([real.action, dreamt.action]),
            torch.cat([real.intent, dreamt.intent]),
            torch.cat([real.reward, dreamt.reward]),
        ), torch.cat([first, starts])

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {
            'agent': self.agent.state_dict(),
            'trainer': self.trainer.state_dict(),
            'actors': self.actors.state_dict(),
            'recorder': self.recorder.state_dict(),
            'replay': self.replay.state_dict(),
            'world': self.world.state_dict(),
            'contexts': engine.rng_state(self.contexts.rng),
            'rng': engine.rng_state(self.rng),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on where :meth:`state_dict` was taken."""
        self.agent.load_state_dict(state['agent'])
        self.trainer.load_state_dict(state['trainer'])
        self.actors.load_state_dict(state['actors'], lambda latent: Latent(*latent))
        self.recorder.load_state_dict(state['recorder'])
        self.replay.load_state_dict(state['replay'])
        self.world.load_state_dict(state['world'])
        engine.restore_rng(self.contexts.rng, state['contexts'])
        engine.restore_rng(self.rng, state['rng'])


def make_world(config: Config, reward: torch.nn.Module) -> ResumableModel:
    """Build the forward model the run asks for."""
    if config.forward == 'twin':
        if config.task != 'pusher':
            raise TaskError(
                f"forward 'twin' is there for task 'pusher', not for {config.task!r}; "
                "use forward 'global'"
            )
        from .twin_world import TwinWorld

        return TwinWorld(config.agent.actors, reward, config.seed)
    if config.forward != 'global':
        raise ValueError(f"forward is 'global' or 'twin', not {config.forward!r}")
    from .train_global import load_world

    return load_world(
        config.global_model,
        config.agent.actors,
        reward,
        steps=config.denoising_steps,
        seed=config.seed,
        spec=get_task(config.task),
    )


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Train the policy; returns its checkpoint.

    :param until: stop after this many epochs (a job with a time limit).
    """
    engine.keep_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    path, agent = config.out / 'policy.safetensors', config.agent
    state = None
    if resume and path.is_file():
        state = engine.load_to_resume(path, 'policy', config, get_task(config.task))
    training = Training(config)
    if state is not None:
        training.load_state_dict(state['training'])
    per_epoch = agent.actors * agent.horizon
    log = engine.RunLog(config.out, config, resume, training.agent.epoch * per_epoch)
    end = min(agent.epochs, until or agent.epochs)
    for epoch in engine.progress(end, training.agent.epoch, 'policy'):
        samples = (epoch + 1) * per_epoch
        log.write(samples, training.epoch())
        if (epoch + 1) % config.save_every == 0 or epoch + 1 == end:
            _save(path, training)
        if config.evaluate_every and (epoch + 1) % config.evaluate_every == 0:
            log.write(samples, score(training.local, training.agent, config))
    log.close()
    return path


def _save(path: Path, training: Training) -> None:
    engine.save_checkpoint(
        path,
        {
            'stage': 'policy',
            'task': training.spec.to_dict(),
            'config': engine.plain_config(training.config),
            'epoch': training.agent.epoch,
            'local': engine.plain_config(training.local.config),
            'training': training.state_dict(),
        },
    )


def score(local: Rssm, agent: DmoSapo, config: Config) -> dict[str, float]:
    """Success of the policy as it stands on the batched twin, for the learning curve only."""
    from .deploy import RssmPolicy
    from .evaluate import evaluate_batched

    result = evaluate_batched(RssmPolicy(local, agent.actor), config.task, 64, config.seed + 7)
    return {'strict': result['strict']['rate'], 'relaxed': result['relaxed']['rate']}
