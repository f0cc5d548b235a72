"""
The command line of the stages: ``dmo train STAGE ...``, or one script under torchrun.

Nothing heavy is imported before the words are read and what they name is found.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

STAGES = ('tokenizer', 'global', 'reward', 'local', 'policy', 'ppo')

# The runs a stage builds on, as fields of its config; by kind of global model where it matters.
NEEDS: dict[str, tuple[str, ...]] = {
    'tokenizer': (),
    'global': (),
    'reward': (),
    'local': ('reward',),
    'policy': ('global_model', 'reward', 'local_model'),
    'ppo': ('global_model', 'reward'),
}
NEEDS_OF_KIND: dict[str, dict[str, tuple[str, ...]]] = {
    'dreamer4': {'global': ('tokenizer',), 'reward': ('global_model',)},
}


def parser(prog: str, stage: str | None = None) -> argparse.ArgumentParser:
    """
    Return the parser of a stage's options.

    :param stage: which, where it is not the first word.
    """
    made = argparse.ArgumentParser(
        prog=prog, description='Train one stage; --resume carries on where a run was stopped.'
    )
    if stage is None:
        made.add_argument('stage', choices=STAGES)
    made.add_argument('--task', default='pusher')
    made.add_argument('--preset', default='demo', help='demo, or a paper size')
    made.add_argument('--data', type=Path, required=True, help='the dataset')
    made.add_argument('--out', type=Path, required=True, help='folder of the run')
    made.add_argument('--tokenizer', type=Path, help='run of stage tokenizer')
    made.add_argument('--global', dest='global_model', type=Path, help='run of stage global')
    made.add_argument('--reward', type=Path, help='run of stage reward')
    made.add_argument('--local', dest='local_model', type=Path, help='run of stage local')
    made.add_argument('--forward', choices=('global', 'twin'), help='of policy and ppo')
    made.add_argument('--sharding', choices=('ddp', 'fsdp2'), help='of several processes')
    made.add_argument('--seed', type=int, default=0)
    made.add_argument('--threads', type=int, default=0, help="torch's; 0: all cores")
    made.add_argument('--resume', action='store_true')
    return made


def main(stage: str, words: Sequence[str]) -> int:
    """Train one stage as the words say; what ``python -m dmo_training.train_...`` runs."""
    given = parser(f'train_{stage}', stage).parse_args(words)
    path = train_as_given(stage, given)
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(path)
    return 0


def train_as_given(stage: str, given: argparse.Namespace) -> Path:
    """Train a stage with the options of :func:`parser`."""
    return train(
        stage,
        given.task,
        given.preset,
        given.data,
        given.out,
        {name: getattr(given, name) for name in needs(stage, given.task)},
        given.resume,
        seed=given.seed,
        threads=given.threads,
        **{
            name: getattr(given, name)
            for name in ('forward', 'sharding')
            if getattr(given, name) is not None
        },
    )


def needs(stage: str, task: str) -> tuple[str, ...]:
    """Return the fields of a stage's config that name other runs."""
    from dmo_ros.core.tasks import get_task

    return NEEDS_OF_KIND.get(get_task(task).global_model, {}).get(stage, NEEDS[stage])


def train(
    stage: str,
    task: str,
    preset: str,
    data: Path,
    out: Path,
    runs: dict[str, Path | None],
    resume: bool = False,
    **fields: Any,
) -> Path:
    """Train a stage with a preset; ``runs`` names the folders of the stages it builds on."""
    # First what costs nothing to find out: the libraries of a stage take seconds to load.
    inputs = {name: _checkpoint(name, run, fields) for name, run in runs.items()}
    from .presets import preset as preset_of

    script = importlib.import_module(f'.train_{stage}', __package__)
    if hasattr(script, 'script'):  # a door: the task decides
        script = script.script(task)
    values = {**preset_of(stage, preset, task), **inputs, **fields}
    path: Path = script.train(script.Config(task=task, data=data, out=out, **values), resume)
    return path


def require_config(config: Any, script: ModuleType) -> None:
    """Raise TaskError unless a config is of the script that trains its task."""
    if isinstance(config, script.Config):
        return
    from dmo_ros.core.tasks import TaskError

    raise TaskError(
        f'this is a config of {type(config).__module__}, but task {config.task!r} is trained by '
        f'{script.__name__}; make it with script(task).Config'
    )


def _checkpoint(name: str, run: Path | None, fields: dict[str, Any]) -> Path:
    """Return the checkpoint of a run folder, or the file itself."""
    stage = name.removesuffix('_model')
    if run is None:
        if stage == 'global' and fields.get('forward') == 'twin':
            return Path()
        raise ValueError(f'this stage builds on the {stage} model: name its run with --{stage}')
    return run / f'{stage}.safetensors' if run.is_dir() else run
