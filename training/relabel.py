"""
Change the intent labels of a dataset, without touching its frames: a new dataset that shares them.

People press late and let go late.  ``shift`` moves all labels earlier by whole frames, ``reach``
lets a milestone begin earlier, and ``ignore`` clears the validity of frames around each change of
label, so that nothing is learned from moments whose label is in doubt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import os
from pathlib import Path
import shutil
from typing import Any

from dmo_ros.core.episode import (
    ARRAYS,
    Episode,
    episode_folders,
    EpisodeError,
    read_meta,
    sync_folder,
    write_meta,
)
from dmo_ros.core.intent import MILESTONE, PLAY
from dmo_ros.core.tasks import get_task, TaskSpec
import numpy as np

KEPT = tuple(f'{name}.npy' for name in ARRAYS if name not in ('intent', 'valid'))


@dataclass(frozen=True)
class RelabelConfig:
    """All in frames; a negative ``shift`` moves labels later."""

    shift: int = 0
    reach: int = 0
    ignore: int = 0

    def __post_init__(self) -> None:
        if self.reach < 0 or self.ignore < 0:
            raise ValueError('reach and ignore count frames, they cannot be negative')


def relabel(
    dataset: Path | str, out: Path | str, config: RelabelConfig, task: str | TaskSpec | None = None
) -> dict[str, Any]:
    """
    Write ``out``, a copy of ``dataset`` with other labels; frames are shared by hard links.

    :returns: changed (frames with another label), ignored (frames), and the new totals.
    :raises EpisodeError: no dataset, a damaged one, or ``out`` exists; TaskError: another task.
    """
    dataset, out = Path(dataset), Path(out)
    meta = read_meta(dataset, get_task(task) if isinstance(task, str) else task)
    if out.exists():
        raise EpisodeError(f'{out} exists already; choose another name')
    (out / 'episodes').mkdir(parents=True)
    facts = {'changed': 0, 'ignored': 0, 'labelled': 0, 'milestones': 0, 'valid': 0}
    for folder in episode_folders(dataset):
        episode = Episode.load(folder)
        intent, doubt = labels(episode.intent, config)
        valid = episode.valid & ~doubt
        _share(folder, out / 'episodes' / folder.name, intent, valid)
        for name, mask in (
            ('changed', intent != episode.intent),
            ('labelled', intent > 0),
            ('ignored', episode.valid & doubt),
            ('valid', valid),
            ('milestones', intent == MILESTONE),
        ):
            facts[name] += int(mask.sum())
    totals = {**meta['totals'], **{k: facts[k] for k in ('labelled', 'milestones', 'valid')}}
    totals['labelled_share'] = totals['labelled'] / max(totals['frames'], 1)
    write_meta(
        out,
        TaskSpec.from_dict(meta['task']),
        **{
            **{k: v for k, v in meta.items() if k not in ('format', 'task')},
            'totals': totals,
            'relabel': [*meta.get('relabel', []), {'from': dataset.name, **asdict(config)}],
        },
    )
    return {**totals, 'changed': facts['changed'], 'ignored': facts['ignored']}


def labels(intent: np.ndarray, config: RelabelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return new labels (T,) uint8 of one episode, and where they are in doubt (T,) bool."""
    moved = np.full_like(intent, PLAY)
    count, shift = len(intent), config.shift
    if shift >= 0:
        moved[: max(count - shift, 0)] = intent[shift:]
    else:
        moved[-shift:] = intent[:shift]
    starts = np.flatnonzero((moved == MILESTONE) & (np.roll(moved, 1) != MILESTONE))
    for start in starts:
        moved[max(start - config.reach, 0) : start] = MILESTONE
    doubt = np.zeros(count, dtype=bool)
    if config.ignore:
        for change in np.flatnonzero(np.diff(moved)) + 1:
            doubt[max(change - config.ignore, 0) : change + config.ignore] = True
    return moved, doubt


def _share(source: Path, target: Path, intent: np.ndarray, valid: np.ndarray) -> None:
    """Make an episode that shares all but labels and validity with another one."""
    beside = target.with_name(target.name + '.tmp')
    beside.mkdir()
    for name in (*KEPT, 'episode.json'):
        try:
            os.link(source / name, beside / name)
        except OSError:  # another file system, or one without links
            shutil.copy2(source / name, beside / name)
    for name, array in (('intent', intent), ('valid', valid)):
        with open(beside / f'{name}.npy', 'wb') as file:
            np.save(file, array, allow_pickle=False)
            os.fsync(file.fileno())
    beside.rename(target)
    sync_folder(target.parent)
