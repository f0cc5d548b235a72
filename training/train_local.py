"""
Stage 3: pretrain the local model on play with the global reward as its reward (paper section 3.4).

    dmo train local --task pusher --preset demo --data DATASET --reward RUN --out RUN
    (about two minutes on one core)

Every frame of the play is scored once by the global reward model; then the RSSM learns frames and
rewards together.  What the policy gradient needs of it is one accurate step, so that is what the
figures say: the prior's error one step ahead, beside fifteen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
import numpy as np
import torch

from . import engine
from .data import PlayDataset, Segment
from .models.rssm import Latent, mode, Rssm, RssmConfig
from .small_frames import at_policy_size
from .world import Context
from .worlds import label


@dataclass(frozen=True)
class Config:
    """
    One run of this stage; the learning rate falls linearly to ``final_rate`` of itself.

    For the first ``picture_share`` of the updates the image loss counts ``picture_emphasis``
    times: small things must be in the latent at all before the prior can learn to predict it.
    """

    task: str
    data: Path
    reward: Path
    out: Path
    model: RssmConfig = field(default_factory=RssmConfig)
    updates: int = 20000
    batch: int = 16
    length: int = 64
    learning_rate: float = 1e-4
    final_rate: float = 1.0
    picture_share: float = 0.0
    picture_emphasis: float = 10.0
    grad_clip: float = 1000.0
    seed: int = 0
    threads: int = 0
    device: str = 'auto'
    log_every: int = 50
    save_every: int = 500


HORIZON = 15  # of the evaluation, in control steps
STILL = 0.01  # share of a proprioceptive field's range that counts as one deviation at least


class LocalTrainer:
    """The RSSM and its optimiser: one place for pretraining and for fine-tuning."""

    def __init__(self, model: Rssm, learning_rate: float, grad_clip: float) -> None:
        self.model, self.grad_clip = model, grad_clip
        self.optimiser = torch.optim.Adam(model.parameters(), learning_rate, eps=1e-8)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def set_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next update."""
        for group in self.optimiser.param_groups:
            group['lr'] = learning_rate

    def update(
        self, segment: Segment, first: torch.Tensor | None = None, emphasis: float = 1.0
    ) -> dict[str, float]:
        """Take one step on a labelled segment and return the parts of its loss."""
        segment = segment.to(self.device)
        assert segment.reward is not None
        first = None if first is None else first.to(self.device)
        loss, parts = self.model.loss(
            segment.frames, segment.action, segment.reward, first, emphasis, segment.proprio
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        if torch.isfinite(norm):
            self.optimiser.step()
        return {name: float(part) for name, part in parts.items()} | {'grad_norm': float(norm)}

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimiser."""
        return {'model': self.model.state_dict(), 'optimiser': self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.model.load_state_dict(state['model'])
        self.optimiser.load_state_dict(state['optimiser'])


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """
    Pretrain the local model; returns its checkpoint.

    :param until: stop after this many updates, without judging (a job with a time limit).
    """
    engine.keep_memory()
    rng = engine.seed_everything(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    dataset = open_dataset(config)
    model = Rssm(config.model)
    fit_proprioception(model, dataset, get_task(config.task))
    model.to(engine.pick_device(config.device))
    trainer = LocalTrainer(model, config.learning_rate, config.grad_clip)
    path, start = config.out / 'local.safetensors', 0
    if resume and path.is_file():
        state = engine.load_to_resume(path, 'local', config, get_task(config.task))
        trainer.load_state_dict(state['trainer'])
        engine.restore_rng(rng, state['rng'])
        start = int(state['step'])
    log = engine.RunLog(config.out, config, resume, start)
    end = min(config.updates, until or config.updates)
    for step in engine.progress(end, start, 'local'):
        trainer.set_rate(
            config.learning_rate * (1.0 - (1.0 - config.final_rate) * step / config.updates)
        )
        early = step < config.picture_share * config.updates
        figures = trainer.update(
            dataset.sample(rng, config.batch, config.length),
            emphasis=config.picture_emphasis if early else 1.0,
        )
        if (step + 1) % config.log_every == 0:
            log.write(step + 1, figures)
        if (step + 1) % config.save_every == 0 or step + 1 == end:
            _save(path, config, trainer, rng, step + 1)
    if end == config.updates:
        context = get_task(config.task).context_length
        rng = np.random.default_rng(config.seed)
        log.write(end, evaluate(trainer.model, dataset, rng, context))
    log.close()
    return path


def open_dataset(config: Config) -> PlayDataset:
    """
    Open the play as the policy sees it, and score it.

    What does not fit the task or is too short is refused now.
    """
    spec = get_task(config.task)
    check_sizes(config.model, spec)
    dataset = PlayDataset.open(config.data, spec)
    dataset.starts(config.length)
    dataset.starts(spec.context_length + HORIZON, held_out=True)
    label(config.reward, dataset, spec)
    return at_policy_size(dataset, spec)


def check_sizes(model: RssmConfig, spec: TaskSpec) -> None:
    """Refuse a local model that does not fit the task, naming both sides."""
    mine = model.frame_size, model.actions, model.proprio
    wanted = spec.policy_size, len(spec.actions), len(spec.proprioception)
    if mine != wanted:
        numbers = '{} pixels, {} actions and {} proprioceptive numbers'
        raise TaskError(
            f'the local model takes frames of {numbers.format(*mine)}; the policy of task '
            f'{spec.name!r} has {numbers.format(*wanted)}; set frame_size, actions and proprio'
        )


def fit_proprioception(model: Rssm, dataset: PlayDataset, spec: TaskSpec) -> None:
    """Give the model the statistics of the play's proprioception, where the task has any."""
    if not spec.proprioception:
        return
    play = np.concatenate([np.asarray(e.proprio)[np.asarray(e.valid)] for e in dataset.train])
    floor = [STILL * (field.high - field.low) for field in spec.proprioception]
    model.standardise(torch.from_numpy(play), torch.tensor(floor, dtype=torch.float32))


@torch.no_grad()
def evaluate(
    model: Rssm,
    dataset: PlayDataset,
    rng: np.random.Generator,
    context: int = 4,
    horizon: int = HORIZON,
) -> dict[str, float]:
    """
    Compare the prior's frames and rewards with held-out play, 1 and ``horizon`` steps ahead.

    Image errors are root-mean-square in 1/255, of proprioception in its own units and as the mean
    over its numbers; ``copy`` is that of repeating what was seen last.
    """
    segment = dataset.sample(rng, 64, context + horizon, held_out=True).to(model.device)
    assert segment.reward is not None
    own = segment.proprio
    before = None if own is None else own[:, :context]
    state = model.begin(
        Context(segment.frames[:, :context], segment.action[:, : context - 1], before)
    )
    figures = {}
    for ahead in range(1, horizon + 1):
        t = context + ahead - 1
        prediction = model.predict(state, segment.action[:, t - 1])
        state = Latent(prediction.h, mode(prediction.prior))
        if ahead in (1, horizon):
            truth, last = segment.frames[:, t].float(), segment.frames[:, context - 1].float()
            error = (model.decode(state).float() - truth).square().mean().sqrt()
            figures[f'frame_error_{ahead}'] = float(error)
            figures[f'copy_error_{ahead}'] = float((last - truth).square().mean().sqrt())
            reward = (model.reward(state) - segment.reward[:, t]).abs().mean()
            figures[f'reward_error_{ahead}'] = float(reward)
            imagined = model.decode_proprio(state)
            if own is not None and imagined is not None:
                for name, value in (('', imagined), ('copy_', own[:, context - 1])):
                    wrong = (value - own[:, t]).square().mean().sqrt()
                    figures[f'proprio_{name}error_{ahead}'] = float(wrong)
    figures['reward_spread'] = float(segment.reward.std())
    return figures


def _save(
    path: Path, config: Config, trainer: LocalTrainer, rng: np.random.Generator, step: int
) -> None:
    engine.save_checkpoint(
        path,
        {
            'stage': 'local',
            'task': get_task(config.task).to_dict(),
            'step': step,
            'config': engine.plain_config(config),
            'trainer': trainer.state_dict(),
            'rng': engine.rng_state(rng),
        },
    )


def load_local(path: Path, spec: TaskSpec | None = None) -> Rssm:
    """
    Load a pretrained local model.

    :raises CheckpointError: a file of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    state = engine.load_stage(path, 'local', spec)
    model = Rssm(RssmConfig(**state['config']['model']))
    model.load_state_dict(state['trainer']['model'])
    return model
