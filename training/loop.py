"""
The loop that the stages of the DreamerV4 model share: update, log, save, stop, resume.

A stage gives a :class:`Trainer` that turns (step, micro-batch) into a loss.  Everything that is
drawn derives from the seed and the step, so a checkpoint holds no generators, and a run that was
stopped goes on as if it had not; processes draw the global batch alike and take their rows of it,
so their number changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

from dmo_ros.core.tasks import get_task, TaskSpec
import numpy as np
import torch
from torch import nn, Tensor

from . import engine, sharded
from .distributed import Stopped, Team
from .models.diamond.denoiser import bf16_is_native
from .models.dreamer4.trunk import is_matrix, Layer


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """
    What every stage of this model is told.

    An update takes ``accumulate`` micro-batches of ``batch`` rows in all, whatever the number of
    processes.  The learning rate warms up over a share ``warmup`` of the ``updates`` and falls
    along half a cosine.  With a ``matrix_rate`` the matrices inside transformers are optimised by
    Muon at that rate, and the rest by AdamW.  ``average`` is the decay of the averaged weights
    that are used afterwards (0: none).  ``precision`` is that of matrix products: 'fp32', 'bf16',
    or 'auto' for bfloat16 where the processor has it.  ``sharding`` is 'ddp' or 'fsdp2', see
    :class:`distributed.Team`.
    """

    task: str
    data: Path
    out: Path
    updates: int
    batch: int
    accumulate: int = 1
    learning_rate: float = 1e-4
    matrix_rate: float = 0.0
    warmup: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    average: float = 0.0
    precision: str = 'auto'
    sharding: str = 'ddp'
    seed: int = 0
    threads: int = 0
    device: str = 'auto'
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        if self.precision not in ('auto', 'fp32', 'bf16'):
            raise ValueError(f"precision is {self.precision!r}; use 'auto', 'fp32' or 'bf16'")
        if self.average and self.sharding != 'ddp':
            raise ValueError(
                f'averaged weights need a whole copy of the model, and {self.sharding!r} cuts it '
                "up; set average to 0, or sharding to 'ddp'"
            )
        if self.matrix_rate and self.sharding != 'ddp':
            raise ValueError(
                f'Muon needs whole matrices, and {self.sharding!r} cuts them up; set matrix_rate '
                "to 0, or sharding to 'ddp'"
            )


class Trainer:
    """A module, its averaged weights and its optimiser: what a checkpoint holds."""

    def __init__(self, config: LoopConfig, team: Team, module: nn.Module) -> None:
        self.config, self.team, self.module = config, team, module
        self.call = team.wrap(module, config.sharding, Layer)
        self.learned = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {}
        if config.average:
            self.average = {name: p.detach().clone() for name, p in self.learned.items()}
        self.optimisers = optimisers(config, self.learned)
        self.step = self.skipped = 0

    def loss(self, micro: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of this process's rows of a micro-batch, and figures for the log."""
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        """Take one optimiser step; a gradient that is not finite is skipped and counted."""
        c, figures = self.config, dict[str, float]()
        for optimiser, most in zip(self.optimisers, (c.learning_rate, c.matrix_rate)):
            for group in optimiser.param_groups:
                group['lr'] = most * rate(c, self.step)
        self.module.train()
        for micro in range(c.accumulate):
            with self.team.accumulate(self.call, last=micro == c.accumulate - 1):
                loss, parts = self.loss(micro)
                (loss / c.accumulate).backward()
            figures.update(parts)
        norm = self.team.clip(self.module, c.grad_clip)
        if bool(torch.isfinite(norm)):
            for optimiser in self.optimisers:
                optimiser.step()
        else:
            self.skipped += 1
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        return {**figures, 'grad_norm': float(norm), 'skipped': self.skipped}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights; early on they follow fast."""
        if self.average:
            decay = min(self.config.average, (1 + self.step) / (10 + self.step))
            there = [self.learned[name].detach() for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), there, 1 - decay)

    def precise(self) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed."""
        device, wanted = self.team.device, self.config.precision
        if wanted == 'bf16' or (wanted == 'auto' and bf16_is_native(device)):
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

    def rows(self, *key: int) -> np.random.Generator:
        """Return numpy's generator of this step: alike on all processes, see ``share``."""
        return self.team.rng(self.config.seed, self.step, *key)

    def noise(self, *key: int) -> torch.Generator:
        """Return torch's generator of this step on the team's device."""
        return self.team.generator(self.config.seed, self.step, *key)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        return {
            'module': dict(self.module.state_dict()),
            'average': self.average,
            'optimisers': [sharded.optimiser_state(self.module, o) for o in self.optimisers],
            'step': self.step,
            'skipped': self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        self.module.load_state_dict(state['module'])
        for name, tensor in self.average.items():
            tensor.copy_(state['average'][name])
        for optimiser, stored in zip(self.optimisers, state['optimisers'], strict=True):
            sharded.load_optimiser_state(self.module, optimiser, stored)
        self.step, self.skipped = int(state['step']), int(state['skipped'])

    def weights(self) -> dict[str, Tensor]:
        """
        Return the module's state with the averaged weights.

        All processes have to call this; tensors that lie in shares are put together.
        """
        state = {**self.module.state_dict(), **self.average}
        return {
            name: getattr(tensor, 'full_tensor', tensor.detach)() for name, tensor in state.items()
        }


def part(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state of a submodule from that of the whole."""
    mine = f'{name}.'
    return {k.removeprefix(mine): v for k, v in weights.items() if k.startswith(mine)}


def rate(config: LoopConfig, step: int) -> float:
    """Return the learning rate as a share: linear warm-up, then half a cosine to 2 percent."""
    done = step / config.updates
    share = min(1.0, (step + 1) / max(1.0, config.warmup * config.updates))
    return share * (0.51 + 0.49 * math.cos(math.pi * min(1.0, done)))


def optimisers(
    config: LoopConfig, learned: Mapping[str, nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon for the matrices inside transformers where it has a rate."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in learned.items():
        inner = config.matrix_rate and is_matrix(name, parameter)
        (matrices if inner else others).append(parameter)
    groups = parameter_groups(others, config.weight_decay)
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, config.learning_rate, betas=config.betas, fused=True)
    ]
    if matrices:
        # Rates like AdamW's: an update has its size.
        kind, decay = 'match_rms_adamw', config.weight_decay
        muon = torch.optim.Muon(
            matrices, config.matrix_rate, weight_decay=decay, adjust_lr_fn=kind
        )
        made.append(muon)
    return made


def parameter_groups(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Decay matrices; not biases, norms and learned tokens of one row."""
    return [
        {'params': [p for p in parameters if p.ndim > 1], 'weight_decay': decay},
        {'params': [p for p in parameters if p.ndim <= 1], 'weight_decay': 0.0},
    ]


# Of the module's state: the key 'model' of the checkpoint, and figures for the log.
Finish = Callable[[dict[str, Tensor]], tuple[dict[str, Any], dict[str, float]]]


def run(
    stage: str,
    trainer: Trainer,
    finish: Finish,
    resume: bool = False,
    until: int | None = None,
) -> Path:
    """
    Train to the end, judge, and return the checkpoint; only a finished one has a ``model``.

    :param finish: judges the weights that were learned; called on the first process.
    :param until: stop after this many updates, without judging (a job with a time limit).
    :raises Stopped: the processes were asked to stop, and have saved.
    """
    config, team = trainer.config, trainer.team
    path, spec = config.out / f'{stage}.safetensors', get_task(config.task)
    if resume and path.is_file():
        state = engine.load_to_resume(path, stage, config, spec)
        state = team.complete(path, state, trainer.module)
        trainer.load_state_dict(state['trainer'])
    log = engine.RunLog(config.out, config, resume, trainer.step) if team.main else None
    plain = {'stage': stage, 'task': spec.to_dict(), 'config': engine.plain_config(config)}

    def save(**more: Any) -> None:
        team.save(path, {**plain, 'step': trainer.step, 'trainer': trainer.state_dict(), **more})

    end, begun = min(config.updates, until or config.updates), trainer.step
    latest: dict[str, float] = {}  # of each kind of micro-batch, not only of the one logged at
    for step in _steps(end, begun, stage, team.main):
        latest |= trainer.update()
        if (step + 1) % config.log_every == 0:
            figures = team.mean(latest)
            if log:
                log.write(step + 1, figures)
        stopping = team.stopping and step + 1 < end
        if stopping or (step + 1) % config.save_every == 0 or step + 1 == end:
            save()
        if stopping:
            raise Stopped
    if end == config.updates:
        weights = trainer.weights()
        model, judged = finish(weights) if team.main else ({}, {})
        save(model=model)
        if log:
            log.write(end, judged)
    if log:
        log.close()
    return path


def _steps(end: int, start: int, stage: str, main: bool) -> Iterator[int]:
    """Yield step numbers; the first process shows a progress bar."""
    yield from engine.progress(end, start, stage) if main else range(start, end)


def load_finished(path: Path, stage: str, spec: TaskSpec | None = None) -> dict[str, Any]:
    """
    Return the ``model`` of a finished stage.

    :raises CheckpointError: the file is missing, damaged, unfinished or of another stage.
    :raises TaskError: it was trained for another task than ``spec``.
    """
    state = engine.load_stage(path, stage, spec)
    if 'model' not in state:
        total = state['config']['updates']
        raise engine.CheckpointError(
            f'{path} is unfinished: {state["step"]} of {total} updates; carry on with --resume'
        )
    model: dict[str, Any] = state['model']
    return model
