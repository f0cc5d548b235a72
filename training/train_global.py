"""
Stage 1: the global model, by the kind that the task names (``TaskSpec.global_model``).

    dmo train global --task pusher --preset demo --data DATASET --out RUN

This is only the door.  ``train_diamond`` is the stage of DIAMOND, and its names can be had here;
``train_dynamics`` is that of the DreamerV4 type, which needs a run of stage tokenizer first.
"""

from __future__ import annotations

import importlib
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

from dmo_ros.core.tasks import get_task, TaskError

from .command import main, require_config
from .train_diamond import Config, load_denoiser, load_world, PRESETS

__all__ = ['Config', 'PRESETS', 'load_denoiser', 'load_world', 'script', 'train']

SCRIPTS = {'diamond': 'train_diamond', 'dreamer4': 'train_dynamics'}


def script(task: str) -> ModuleType:
    """Return the script of a task's kind of global model; TaskError where there is none."""
    kind = get_task(task).global_model
    if kind not in SCRIPTS:
        raise TaskError(
            f'task {task!r} has a global model of kind {kind!r}, which cannot be trained here; '
            f'choose a task with one of {", ".join(SCRIPTS)}'
        )
    return importlib.import_module(f'.{SCRIPTS[kind]}', __package__)


def train(config: Any, resume: bool = False, until: int | None = None) -> Path:
    """
    Train the global model of the config's task; returns its checkpoint.

    :param config: the ``Config`` of :func:`script` for that task.
    :raises TaskError: it is the config of another kind of model.
    """
    stage = script(config.task)
    require_config(config, stage)
    path: Path = stage.train(config, resume, until)
    return path


if __name__ == '__main__':
    sys.exit(main('global', sys.argv[1:]))
