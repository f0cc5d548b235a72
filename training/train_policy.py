r"""
Stage 4: the policy, trained from scratch inside the world models by DMO-SAPO (paper, Algorithm 1).

    dmo train policy --task pusher --preset demo --data DATASET \
        --global RUN --reward RUN --local RUN --out RUN
    (a few minutes on two cores)

Forward through the global model, gradients through the local one.  Each epoch fits the local model
on what the global one has generated so far (and on play), unrolls a decoupled window, and updates
actor, temperature and critics.

Contexts reach the global model at the dataset's size; local model, replay and policy see frames of
``policy_size``, which is what the worlds show.  The actor moves the driven fields; the models get
all of them, the others at rest.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError
import numpy as np
import torch

from . import engine
from .data import PlayDataset, Segment
from .models.driven import Driven
from .models.rssm import Latent
from .rl.agent import DmoSapo, DmoSapoConfig
from .rl.replay import Replay
from .rl.tree import nbytes
from .rl.window import Actors, Transition
from .small_frames import at_policy_size
from .train_local import load_local, LocalTrainer
from .world import Context, ResumableModel
from .worlds import label, load_world


@dataclass(frozen=True)
class Config:
    """
    One run of this stage.

    ``forward`` chooses the forward model: 'global' (the method), 'twin' (the simulator itself).
    ``play_share`` is how much of a local model's batch is real play.  ``denoising_steps`` of a
    dreamer4 is a power of two.  ``evaluate_every`` (epochs, 0: never) puts a point on the learning
    curve by ``evaluate_episodes`` on the twin.
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
    device: str = 'auto'
    evaluate_every: int = 0
    evaluate_episodes: int = 64
    save_every: int = 25


IN_MEMORY = 200_000  # a larger replay's frames live in the run folder and not in its checkpoints
MEMORY = (
    2**32
)  # bytes; worlds that remember more are not stored, and a resumed run begins episodes


class PlayContexts:
    """Episodes start from windows of real play, ``length`` frames long."""

    def __init__(
        self,
        dataset: PlayDataset,
        length: int,
        seed: int,
        small: PlayDataset | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        """
        Draw from ``dataset``.

        :param small: the same play at the policy's size, where that is another.  The large frames
            then stay where they are: the global model takes them in parts.
        """
        self.dataset, self.small, self.length, self.device = dataset, small, length, device
        self.rng = np.random.default_rng(seed)

    def sample(self, count: int) -> Context:
        """Draw ``count`` contexts."""
        picks = self.dataset.draw(self.rng, count, self.length)
        large = self.dataset.at(picks, self.length)
        action = large.action[:, :-1].to(self.device)
        proprio = None if large.proprio is None else large.proprio.to(self.device)
        if self.small is None or self.small is self.dataset:
            return Context(large.frames.to(self.device), action, proprio)
        view = self.small.at(picks, self.length).frames.to(self.device)
        return Context(large.frames, action, proprio, view)


class Recorder:
    """Fills the replay with what the actors see; a context's last frame has no reward yet."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.frame = torch.zeros(replay.actors, *replay.frames.shape[2:], dtype=torch.uint8)
        self.reward = torch.full((replay.actors,), torch.nan)
        self.proprio: torch.Tensor | None = None
        if replay.proprio is not None:
            self.proprio = torch.zeros(replay.actors, replay.proprio.shape[2])

    def begin(self, rows: torch.Tensor, context: Context) -> None:
        """Start episodes."""
        rows = rows.cpu()
        self.frame[rows] = context.seen[:, -1].cpu()
        self.reward[rows] = torch.nan
        if self.proprio is not None and context.proprio is not None:
            self.proprio[rows] = context.proprio[:, -1].cpu()

    def add(self, transition: Transition) -> None:
        """Store the frame an action was taken at; the next one waits for its own action."""
        self.replay.add(self.frame, transition.action, self.reward, transition.first, self.proprio)
        self.frame, self.reward = transition.observation.cpu().clone(), transition.reward.cpu()
        if self.proprio is not None and transition.proprio is not None:
            self.proprio = transition.proprio.float().cpu().clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the frames that wait."""
        return {'frame': self.frame, 'reward': self.reward, 'proprio': self.proprio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.frame, self.reward = state['frame'], state['reward']
        self.proprio = state['proprio']


class Training:
    """Everything one run holds, so that it can be saved and carried on."""

    def __init__(self, config: Config) -> None:
        c = self.config = config
        self.rng = engine.seed_everything(c.seed)
        self.spec = get_task(c.task)
        self.device = engine.pick_device('cpu' if c.forward == 'twin' else c.device)
        dataset = PlayDataset.open(c.data, self.spec)
        label(c.reward, dataset, self.spec)
        self.dataset = at_policy_size(dataset, self.spec)
        self.local = load_local(c.local_model, self.spec).to(self.device)
        self.trainer = LocalTrainer(self.local, c.model_lr, c.model_grad_clip)
        self.world = make_world(c, self.device)
        self.replay = Replay(
            c.replay,
            c.agent.actors,
            self.spec.policy_size,
            len(self.spec.actions),
            c.out / 'replay' if c.replay > IN_MEMORY else None,
            len(self.spec.proprioception),
        )
        self.recorder = Recorder(self.replay)
        self.contexts = PlayContexts(
            dataset, self.spec.context_length, c.seed + 1, self.dataset, self.device
        )
        self.driven = Driven(self.spec).to(self.device)
        self.actors = Actors(
            self.world,
            self.local,
            self.contexts,
            c.agent.episode_length,
            self.recorder,
            self.driven,
        )
        self.agent = DmoSapo(
            self.local.features_width,
            len(self.spec.driven),
            replace(c.agent, seed=c.seed),
            self.device,
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
        return real.join(dreamt), torch.cat([first, starts])

    def state_dict(self) -> dict[str, Any]:
        """
        Return all that the next epoch depends on.

        Worlds that remember more than ``MEMORY`` are left out, and where their actors stand: a
        hundred of the paper's remember as much as a hundred checkpoints.
        """
        world = self.world.state_dict()
        kept = nbytes(world) <= MEMORY
        return {
            'agent': self.agent.state_dict(),
            'trainer': self.trainer.state_dict(),
            'actors': self.actors.state_dict() if kept else None,
            'recorder': self.recorder.state_dict(),
            'replay': self.replay.state_dict(),
            'world': world if kept else None,
            'contexts': engine.rng_state(self.contexts.rng),
            'rng': engine.rng_state(self.rng),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on where :meth:`state_dict` was taken."""
        self.agent.load_state_dict(state['agent'])
        self.trainer.load_state_dict(state['trainer'])
        if state['world'] is not None:
            self.world.load_state_dict(state['world'])
            self.actors.load_state_dict(state['actors'], self._latent)
        self.recorder.load_state_dict(state['recorder'])
        self.replay.load_state_dict(state['replay'])
        engine.restore_rng(self.contexts.rng, state['contexts'])
        engine.restore_rng(self.rng, state['rng'])

    def _latent(self, latent: Any) -> Latent:
        """Rebuild a latent of what a checkpoint made of it."""
        return Latent(*(part.to(self.device) for part in latent))


def make_world(config: Config, device: torch.device | str = 'cpu') -> ResumableModel:
    """Build the forward model the run asks for."""
    if config.forward == 'twin':
        if config.task != 'pusher':
            raise TaskError(
                f"forward 'twin' is there for task 'pusher', not for {config.task!r}; "
                "use forward 'global'"
            )
        from .train_reward import load_reward
        from .twin_world import TwinWorld

        reward = load_reward(config.reward, get_task(config.task))
        return TwinWorld(config.agent.actors, reward, config.seed)
    if config.forward != 'global':
        raise ValueError(f"forward is 'global' or 'twin', not {config.forward!r}")
    return load_world(
        config.global_model,
        config.reward,
        config.agent.actors,
        get_task(config.task),
        config.denoising_steps,
        config.seed,
        device,
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
            log.write(samples, score(training))
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


def score(training: Training) -> dict[str, float]:
    """Success of the policy as it stands on the batched twin, for the learning curve only."""
    from .deploy import RssmPolicy
    from .evaluate import evaluate_batched

    config = training.config
    local, actor = copy.deepcopy(training.local).cpu(), copy.deepcopy(training.agent.actor).cpu()
    policy = RssmPolicy(local, actor, get_task(config.task))
    seed, episodes = config.seed + 7, config.evaluate_episodes
    result = evaluate_batched(policy, config.task, episodes, seed)
    return {'strict': result['strict']['rate'], 'relaxed': result['relaxed']['rate']}
