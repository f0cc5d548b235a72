"""
Is this play data worth training on?  One look at a recording or a dataset, with an exit code.

An error makes training useless (actions that belong to other frames, a dead camera, damage); a
warning costs quality (gaps, drops, hardly any labels).  Every finding says what to do about it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

from dmo_ros.core.actions import to_normalised
from dmo_ros.core.episode import (
    describe_rows,
    Episode,
    episode_folders,
    EpisodeError,
    read_meta,
)
from dmo_ros.core.tasks import get_task, require_same, TaskSpec
import numpy as np

from .alignment import Alignment, estimate_lag
from .bag import Bag, BagError, Stream
from .convert import ConvertConfig, observe, Plan, plan
from .timeline import cut, SECOND

LEAST_LABELLED = 0.02
MOVING = 0.2  # of the largest action, normalised
# Identical pictures while the robot is commanded to move.  A robot that leans against a wall makes
# some as well: 4 s at most, and 1.5 % of all frames, in an hour of the pusher's play.
FROZEN_SECONDS = 10.0
FROZEN_SHARE = 0.1
LOOKED_AT = 6000  # frames of a recording that are decoded at most, and their bytes
LOOKED_AT_BYTES = 2**28
# Of what the action before explains, its own explains more than this where it is in force and the
# robot slow (0.87 on push_cube, whose twin moves by 0.3 of its own and 0.5 of the action before),
# and less where the recording is a step off (actions that are 0.88 alike explain 0.77).
ANSWERS_LATE = 0.8
LAG_FRAMES = 20000  # frames of a dataset that the lag is estimated from at most


@dataclass(frozen=True)
class Finding:
    """One sentence about the data; ``level`` is 'error', 'warning' or 'note'."""

    level: str
    text: str


@dataclass
class Report:
    """What was found; ``rows`` maps a topic to its figures (rates in Hz, times in ms)."""

    path: str
    task: str
    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list, repr=False)
    alignment: Alignment | None = None
    action_names: list[str] = field(default_factory=list, repr=False)

    @property
    def exit_code(self) -> int:
        """0: good to train on (perhaps with warnings); 1: an error was found."""
        return int(any(finding.level == 'error' for finding in self.findings))

    def add(self, level: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, text))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            'path': self.path,
            'task': self.task,
            'exit_code': self.exit_code,
            'findings': [asdict(finding) for finding in self.findings],
            'topics': self.rows,
            'figures': self.figures,
            'alignment': self.alignment and asdict(self.alignment),
        }


def check(
    path: Path | str,
    task: str | TaskSpec | None = None,
    picture: Path | str | None = None,
    config: ConvertConfig | None = None,
) -> Report:
    """
    Judge a recording or a dataset; its task is taken from what is stored in it when left out.

    :param picture: where to write one PNG that shows it all.
    :raises BagError, EpisodeError, TaskError: it cannot be read at all, or is of another task.
    """
    path, spec = Path(path), get_task(task) if isinstance(task, str) else task
    if (path / 'meta.json').exists():
        report = _check_dataset(path, spec)
    else:
        report = _check_bag(path, spec, config or ConvertConfig())
    _judge(report)
    if picture is not None:
        from .check_picture import draw

        draw(report, Path(picture))
    return report


def main(
    path: str, task: str | None = None, as_json: bool = False, picture: str | None = None
) -> int:
    """Print a report; returns 0 where the data can be trained on, 1 where not, 2 if unreadable."""
    try:
        report = check(path, task, picture)
    except ValueError as error:
        print(
            json.dumps({'path': path, 'exit_code': 2, 'error': str(error)})
            if as_json
            else f'error: {error}'
        )
        return 2
    print(json.dumps(report.to_dict(), indent=1) if as_json else describe(report))
    return report.exit_code


def describe(report: Report) -> str:
    """Return the report as text for a terminal."""
    lines = [f'{report.path} ({report.task})']
    if report.rows:
        lines.append(
            f'  {"topic":24s} {"messages":>8s} {"Hz":>8s} {"p50 ms":>8s} {"p99 ms":>8s} '
            f'{"longest":>8s} {"dropped":>8s}'
        )
    for topic, row in report.rows.items():
        lines.append(
            f'  {topic:24s} {row["messages"]:8d} {row["hz"]:8.1f} {row["p50"]:8.1f} '
            f'{row["p99"]:8.1f} {row["longest"]:8.0f} {row["dropped"]:8d}'
        )
    lines += [f'  {name}: {_short(value)}' for name, value in report.figures.items()]
    lines += [f'{finding.level}: {finding.text}' for finding in report.findings]
    lines.append('not fit for training' if report.exit_code else 'fit for training')
    return '\n'.join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{key} {_short(item)}' for key, item in value.items())
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _begin(path: Path, spec: TaskSpec) -> Report:
    return Report(str(path), spec.name, action_names=[f.name for f in spec.actions])


def _check_bag(path: Path, spec: TaskSpec | None, config: ConvertConfig) -> Report:
    with Bag(path) as bag:
        spec = spec or bag.task()
        if spec is None:
            raise BagError(f'{path} does not say which task it was recorded for; name it')
        streams = bag.streams()
        report = _begin(path, spec)
        drops = _recorded_drops(bag)
        report.rows = {
            topic: {**timing(stream), 'dropped': drops.get(topic, 0)}
            for topic, stream in sorted(streams.items())
        }
        laid = plan(bag, spec, config, streams)
        for note in laid.notes:
            report.add('warning', note)
        _check_drops(report, drops)
        if not bag.custom().get('recorder'):
            report.add(
                'note',
                'the recorder did not finish, or was not ours: how many messages '
                'it dropped is not known',
            )
        _check_rate(report, streams[laid.topic], spec)
        report.figures['parts'] = int(laid.part[-1]) + 1
        report.episodes = _look(bag, laid, spec, config)
    return report


def _check_dataset(path: Path, spec: TaskSpec | None) -> Report:
    meta = read_meta(path, spec)
    spec = TaskSpec.from_dict(meta['task'])
    report = _begin(path, spec)
    for folder in episode_folders(path):
        try:
            episode = Episode.load(folder)
            require_same(spec, episode.spec, f'the episode {folder}')
        except ValueError as error:
            report.add('error', f'{error}')
            continue
        step = np.diff(episode.stamp)
        for bad, what in (
            (step <= 0, 'is not after the one before'),
            (step > 2 * spec.period, 'comes after a gap'),
        ):
            if fault := describe_rows('stamp.npy', np.append(False, bad), what):
                report.add('error', f'{folder}/{fault}')
        report.episodes.append(episode)
    if not report.episodes:
        raise EpisodeError(f'the dataset {path} holds no readable episode; convert its bag again')
    counted = sum(len(episode) for episode in report.episodes)
    if counted != meta['totals']['frames']:
        report.add(
            'error',
            f'{path} holds {counted} frames, meta.json says '
            f'{meta["totals"]["frames"]}: episodes were lost or added by hand',
        )
    return report


def timing(stream: Stream) -> dict[str, Any]:
    """Return messages, rate, p50, p99 and longest distance of a topic's stamps."""
    steps = np.diff(np.unique(stream.stamp)) / 1e6
    if not len(steps):
        return {'messages': len(stream), 'hz': 0.0, 'p50': 0.0, 'p99': 0.0, 'longest': 0.0}
    p50, p99 = np.percentile(steps, (50, 99))
    return {
        'messages': len(stream),
        'hz': float(1000 / p50),
        'p50': float(p50),
        'p99': float(p99),
        'longest': float(steps.max()),
    }


def _recorded_drops(bag: Bag) -> dict[str, int]:
    facts = json.loads(bag.custom().get('recorder', '{}'))
    return {topic: row['dropped'] for topic, row in facts.get('topics', {}).items()}


def _check_drops(report: Report, drops: dict[str, int]) -> None:
    for topic, count in drops.items():
        share = count / max(count + report.rows.get(topic, {}).get('messages', 0), 1)
        if share > 0.001:
            report.add(
                'warning',
                f'{share:.1%} of {topic} were dropped while recording; use the '
                'Fast DDS profile in config/, a faster disk, or fewer topics',
            )


def _check_rate(report: Report, images: Stream, spec: TaskSpec) -> None:
    measured = report.rows[images.topic]['hz']
    if measured < 0.95 * spec.rate_hz:
        report.add(
            'warning',
            f'{images.topic} came at {measured:.2f} Hz, the task wants '
            f'{spec.rate_hz:g} Hz; the real stamps are kept',
        )


def _look(bag: Bag, laid: Plan, spec: TaskSpec, config: ConvertConfig) -> list[Episode]:
    """Return stretches of the recording with their pictures, enough of them to judge by."""
    pieces, _ = cut(laid.part, config.episode_frames, 2)
    kept: list[slice] = []
    room = min(LOOKED_AT, LOOKED_AT_BYTES // (3 * spec.frame_size**2))
    for piece in pieces:
        if sum(p.stop - p.start for p in kept) < room:
            kept.append(piece)
    wanted = {n for piece in kept for n in laid.image[piece].tolist()}
    frames = {n: observe(picture, spec, bag) for n, picture in bag.frames(laid.topic, wanted)}
    action = to_normalised(laid.action, spec.actions).astype(np.float32)
    return [
        Episode(
            np.stack([frames[n] for n in laid.image[p].tolist()]),
            action[p],
            laid.intent[p],
            laid.valid[p],
            laid.tick[p] / SECOND,
            laid.proprio[p],
        )
        for p in kept
    ]


def _judge(report: Report) -> None:
    """Judge what recordings and datasets have in common: pictures, labels, actions, their lag."""
    episodes = report.episodes
    frames = sum(len(episode) for episode in episodes)
    intent = np.concatenate([episode.intent for episode in episodes])
    action = np.concatenate([episode.action for episode in episodes])
    valid = np.concatenate([episode.valid for episode in episodes])
    report.figures |= {
        'frames': frames,
        'valid': float(valid.mean()),
        'labels': {
            name: float((intent == label).mean())
            for label, name in enumerate(('play', 'intent', 'milestone'))
        },
        'standing still': float((np.abs(action).max(axis=1) < 0.02).mean()),
    }
    if valid.mean() < 0.95:
        report.add(
            'warning',
            f'{1 - valid.mean():.1%} of the frames are not valid; look for a '
            'slow camera or a busy machine',
        )
    labelled = float((intent > 0).mean())
    if not LEAST_LABELLED < labelled < 1 - LEAST_LABELLED:
        report.add(
            'warning',
            f'{labelled:.1%} of the frames are labelled as intent; the reward '
            'is learned from the contrast: press the button when you mean it',
        )
    if np.abs(action).max() < 0.02:
        report.add('error', 'no action differs from zero; was the gate armed, the dead-man held?')
    _check_frozen(report)
    every = 1 + (frames - 1) // LAG_FRAMES
    report.alignment = estimate_lag(episodes[::every])
    _judge_lag(report, report.alignment)


def _check_frozen(report: Report) -> None:
    """Find pictures that repeat although the robot is commanded to move."""
    frozen, longest, told = 0, 0.0, 0
    for episode in report.episodes:
        frames = np.asarray(episode.frames)
        same = (frames[1:] == frames[:-1]).all(axis=(1, 2, 3))
        moving = np.abs(episode.action[:-1]).max(axis=1) > MOVING
        edges = np.flatnonzero(np.diff((same & moving).astype(int), prepend=0, append=0))
        times = episode.stamp[edges[1::2]] - episode.stamp[edges[::2]]
        longest = max(longest, float(times.max(initial=0.0)))
        frozen, told = frozen + int((same & moving).sum()), told + int(moving.sum())
    share = frozen / max(told, 1)
    report.figures |= {'frozen while moving': share, 'longest frozen (s)': longest}
    if longest >= FROZEN_SECONDS or share > FROZEN_SHARE:
        report.add(
            'error',
            f'the picture stood still in {share:.1%} of the frames in which the '
            f'robot was told to move, once for {longest:.1f} s; check the camera',
        )


def _judge_lag(report: Report, alignment: Alignment) -> None:
    if not alignment.sure:
        report.add(
            'note',
            f'whether actions and frames belong together cannot be told: {alignment.reason}',
        )
    elif alignment.lag == -1 and alignment.score[0] > ANSWERS_LATE * alignment.score[-1]:
        report.add(
            'note',
            'the motion fits the action before nearly as well as its own, or better: the robot '
            'answers late, as one with inertia does',
        )
    elif alignment.lag:
        late = f'{abs(alignment.lag)} step(s) {"later" if alignment.lag > 0 else "earlier"}'
        report.add(
            'error',
            f'the actions fit the frames best {late}: '
            'they are not those that were in force; check the stamps of camera '
            'and commands',
        )
