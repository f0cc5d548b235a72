"""
From recordings to a dataset: frames on the control grid, and the command in force after each.

Ticks t_k are one control period apart.  Frame k is the newest image stamped not after t_k; action
k is the time-weighted mean of the command in force during [t_k, t_k+1), zero once the bridge's
time-out has passed; a command stamped exactly t_k counts from t_k.  A camera about as fast as the
grid drives it: a tick then lies on the image's own stamp, as on the robot, where the policy
answers images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
import json
from pathlib import Path
import shutil
from typing import Any

from dmo_ros.core.actions import to_normalised
from dmo_ros.core.episode import Episode, episode_folders, read_meta, write_meta
from dmo_ros.core.images import to_observation
from dmo_ros.core.proprioception import arrange, ProprioceptionError
from dmo_ros.core.tasks import get_task, require_same, TaskSpec
import numpy as np

from .bag import Bag, BagError, command_values, Stream
from .timeline import cut, grid, in_force, mean_in_force, SECOND, strongest_label

CLOCK_JUMP = SECOND  # a stamp that falls back by more is another run's clock


@dataclass(frozen=True)
class ConvertConfig:
    """
    How a recording is cut up; ages and gaps are in control periods, times in seconds.

    Topics are found in whatever namespace they were recorded.
    """

    image: str = 'image_raw'
    command: str = 'cmd'
    intent: str = 'intent'
    state: str = 'joint_states'
    max_age: float = 0.5
    max_gap: float = 2.5
    episode_frames: int = 512
    min_frames: int = 16
    intent_hold: float = 1.0


@dataclass(frozen=True)
class Plan:
    """
    A recording on the control grid, without its pictures.

    ``tick`` (T,) int64 ns; ``image`` (T,) the image's number by arrival; ``part`` (T,) the stretch
    between gaps; ``action`` (T, A) SI units; ``intent`` (T,); ``valid`` (T,); ``proprio`` (T, P).
    ``notes`` says in sentences what is unusual about the recording.
    """

    tick: np.ndarray
    image: np.ndarray
    part: np.ndarray
    action: np.ndarray
    intent: np.ndarray
    valid: np.ndarray
    proprio: np.ndarray
    topic: str
    notes: list[str]


def convert(
    bags: Path | str | Sequence[Path | str],
    out: Path | str,
    task: str | TaskSpec,
    config: ConvertConfig | None = None,
    append: bool = False,
) -> dict[str, Any]:
    """
    Make a dataset of one or more recordings, or add to one with ``append``.

    :returns: what was made: frames, valid, labelled share, episodes, parts, left_out, notes.
    :raises BagError: a recording is unreadable, of another task, or gives not one episode.
    :raises EpisodeError, TaskError: ``out`` is no dataset of this task (with ``append``).
    """
    config, out = config or ConvertConfig(), Path(out)
    spec = get_task(task) if isinstance(task, str) else task
    paths = [Path(p) for p in ([bags] if isinstance(bags, (str, Path)) else bags)]
    meta = _prepare(out, spec, append)
    before = set(episode_folders(out))
    try:
        for path in paths:
            with Bag(path) as bag:
                meta['sources'].append(_convert_one(bag, out, spec, config))
        totals = _totals(meta['sources'])
        if not totals['episodes']:
            raise BagError(
                f'{", ".join(map(str, paths))}: no stretch of {config.min_frames} '
                'frames without a gap; look at it with `dmo check`, or record longer'
            )
    except BaseException:  # also Ctrl-C: what is not in meta.json must not stay
        for folder in set(episode_folders(out)) - before:
            shutil.rmtree(folder)
        raise
    write_meta(
        out,
        spec,
        sources=meta['sources'],
        totals=totals,
        convert=asdict(config),
        written=datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )
    return totals


def plan(
    bag: Bag,
    spec: TaskSpec,
    config: ConvertConfig | None = None,
    streams: dict[str, Stream] | None = None,
) -> Plan:
    """Lay a recording on the control grid; BagError names what is missing or does not fit."""
    config = config or ConvertConfig()
    recorded = bag.task()
    if recorded is not None:
        require_same(spec, recorded, f'the recording {bag.path}')
    streams = bag.streams() if streams is None else streams
    notes: list[str] = []
    images = _stream(bag, streams, config.image, required=True)
    commands = _stream(bag, streams, config.command, required=True)
    assert images is not None and commands is not None
    _check_clocks(bag, images, commands)
    order = np.argsort(images.stamp, kind='stable')
    stamps, first = np.unique(images.stamp[order], return_index=True)
    if len(stamps) < len(images):
        notes.append(f'{len(images) - len(stamps)} images repeat the stamp of another one')
    period = round(SECOND / spec.rate_hz)
    tick, end, part = grid(stamps, period, config.max_gap)
    newest = np.searchsorted(stamps, tick, side='right') - 1
    fresh = tick - stamps[newest] <= config.max_age * period
    action, known = _actions(bag, commands, spec, tick, end)
    intent = _intents(bag, streams, config, tick, end, notes)
    proprio, posed = _proprio(bag, streams, config, spec, tick)
    if not fresh.all():
        notes.append(
            f'{int((~fresh).sum())} ticks have no image younger than '
            f'{config.max_age:g} periods; they are marked invalid'
        )
    return Plan(
        tick,
        order[first][newest],
        part,
        action,
        intent,
        fresh & known & posed,
        proprio,
        images.topic,
        notes,
    )


def _actions(
    bag: Bag, commands: Stream, spec: TaskSpec, tick: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return actions (T, A) in SI units, and where they are known (T,)."""
    begin, chosen = in_force(commands.stamp, commands.log)
    if not len(begin):
        raise BagError(
            f'{bag.path} holds no message on {commands.topic}: without commands there '
            'is nothing to learn from; was the gate running?'
        )
    messages = bag.decode(commands)
    value = np.array([command_values(messages[n], commands.kind, spec) for n in chosen])
    if not np.isfinite(value).all():
        raise BagError(
            f'{bag.path}: a command on {commands.topic} is not finite; the gate never '
            'forwards such a one, so record its output'
        )
    # Velocities stop at the time-out; positions are held, and unknown before the first command.
    stops = np.array([field.unit.endswith('/s') for field in spec.actions])
    action = mean_in_force(begin, value, tick, end, spec.limits.command_timeout, stops)
    known = np.full(len(tick), True) if stops.all() else tick >= begin[0]
    return action, known


def _intents(
    bag: Bag,
    streams: dict[str, Stream],
    config: ConvertConfig,
    tick: np.ndarray,
    end: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    """Return the labels (T,) uint8; without a topic of labels everything is play, with a note."""
    stream = _stream(bag, streams, config.intent)
    if stream is None or not len(stream):
        notes.append(f'no intent was recorded on {config.intent!r}: all frames count as play')
        return np.zeros(len(tick), dtype=np.uint8)
    label = np.array([message.label for message in bag.decode(stream)], dtype=np.uint8)
    return strongest_label(stream.stamp, label, tick, end, config.intent_hold)


def _proprio(
    bag: Bag, streams: dict[str, Stream], config: ConvertConfig, spec: TaskSpec, tick: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the newest joint positions (T, P) not after each tick, and where there are any."""
    if not spec.proprioception:
        return np.zeros((len(tick), 0), dtype=np.float32), np.full(len(tick), True)
    stream = _stream(bag, streams, config.state, required=True)
    assert stream is not None
    try:
        rows = [arrange(message.name, message.position, spec) for message in bag.decode(stream)]
    except ProprioceptionError as error:
        raise BagError(f'{bag.path}, {stream.topic}: {error}') from error
    # Of states with one stamp the first: while a twin computes, its clock stands still and its
    # bridge goes on telling, so the later ones have seen something of the action after the tick.
    stamps, first = np.unique(stream.stamp, return_index=True)
    newest = np.searchsorted(stamps, tick, side='right') - 1
    fresh = (newest >= 0) & (tick - stamps[newest] <= SECOND / spec.rate_hz)
    return np.array(rows, dtype=np.float32)[first][newest], fresh


def _stream(
    bag: Bag, streams: dict[str, Stream], name: str, required: bool = False
) -> Stream | None:
    topic = bag.resolve(name, required)
    stream = streams[topic] if topic else None
    if required and not stream:
        raise BagError(f'{bag.path} holds no message on {topic}; check that its source ran')
    return stream


def _check_clocks(bag: Bag, images: Stream, commands: Stream) -> None:
    """Refuse a recording whose stamps are of two clocks or of two runs."""
    fallen = np.flatnonzero(np.maximum.accumulate(images.stamp) - images.stamp > CLOCK_JUMP)
    if len(fallen):
        raise BagError(
            f'{bag.path}: the clock of {images.topic} fell back at image {fallen[0]}; '
            'two runs are in one recording: record each into a folder of its own'
        )
    margin = 3600 * SECOND
    if (
        commands.stamp.min() > images.stamp.max() + margin
        or commands.stamp.max() < images.stamp.min() - margin
    ):
        raise BagError(
            f'{bag.path}: {images.topic} and {commands.topic} are stamped by different '
            'clocks (/clock and the wall?); set use_sim_time alike everywhere'
        )


def _convert_one(bag: Bag, out: Path, spec: TaskSpec, config: ConvertConfig) -> dict[str, Any]:
    """Write the episodes of one recording; returns its entry in meta.json."""
    laid = plan(bag, spec, config)
    pieces, left_out = cut(laid.part, config.episode_frames, config.min_frames)
    number = len(episode_folders(out))
    for offset, episode in enumerate(_episodes(bag, laid, pieces, spec)):
        episode.save(out / 'episodes' / f'{number + offset:06d}')
    kept = np.concatenate([np.arange(p.start, p.stop) for p in pieces] or [np.empty(0, int)])
    return {
        'bag': bag.path.name,
        'episodes': len(pieces),
        'frames': len(kept),
        'valid': int(laid.valid[kept].sum()),
        'left_out': left_out,
        'labelled': int((laid.intent[kept] > 0).sum()),
        'milestones': int((laid.intent[kept] == 2).sum()),
        'parts': int(laid.part[-1]) + 1,
        'notes': laid.notes,
        'first_stamp_ns': int(laid.tick[0]),
        'last_stamp_ns': int(laid.tick[-1]),
        'recorder': json.loads(bag.custom().get('recorder', '{}')),
    }


def _episodes(bag: Bag, laid: Plan, pieces: list[slice], spec: TaskSpec) -> Iterator[Episode]:
    """Yield the episodes in order; each picture is read once and held until its last tick."""
    pictures = bag.frames(laid.topic, set(laid.image.tolist()))
    last_use = {number: row for row, number in enumerate(laid.image.tolist())}
    held: dict[int, np.ndarray] = {}
    for piece in pieces:
        frames = np.empty((piece.stop - piece.start, *2 * (spec.frame_size,), 3), dtype=np.uint8)
        for row in range(piece.start, piece.stop):
            number = int(laid.image[row])
            while number not in held:
                found, picture = next(pictures)
                held[found] = observe(picture, spec, bag)
            frames[row - piece.start] = held[number]
            if last_use[number] == row:
                del held[number]
        yield _episode(bag, laid, piece, frames, spec)


def _episode(bag: Bag, laid: Plan, piece: slice, frames: np.ndarray, spec: TaskSpec) -> Episode:
    action = to_normalised(laid.action[piece], spec.actions).astype(np.float32)
    return Episode(
        frames=frames,
        action=action,
        intent=laid.intent[piece],
        valid=laid.valid[piece],
        stamp=laid.tick[piece] / SECOND,
        proprio=laid.proprio[piece],
        info={
            'task': spec.to_dict(),
            'bag': bag.path.name,
            'part': int(laid.part[piece.start]),
            'first_stamp_ns': int(laid.tick[piece.start]),
        },
    )


def observe(picture: np.ndarray, spec: TaskSpec, bag: Bag) -> np.ndarray:
    """
    Make the observation of a recorded picture.

    A twin draws the camera's view in fewer pixels, so the shape counts and not the size; a view
    of another shape is of another camera and refused, as is one below the observation's size.
    """
    camera = spec.camera
    height, width = picture.shape[:2]
    same = abs(width * camera.height - height * camera.width) < max(camera.width, camera.height)
    if not same or min(height, width) < spec.frame_size:
        raise BagError(
            f'{bag.path}: the images are {width}x{height}; task {spec.name!r} needs the shape of '
            f'{camera.width}x{camera.height}, at least {spec.frame_size} pixels high and wide'
        )
    return to_observation(picture, spec)


def _prepare(out: Path, spec: TaskSpec, append: bool) -> dict[str, Any]:
    if append and out.exists():
        return read_meta(out, spec)
    if (out / 'meta.json').exists() or episode_folders(out):
        raise BagError(f'{out} exists already; choose another name, or add to it with --append')
    out.mkdir(parents=True, exist_ok=True)
    return {'sources': []}


def _totals(sources: list[dict[str, Any]]) -> dict[str, Any]:
    names = ('frames', 'valid', 'labelled', 'milestones', 'episodes', 'parts', 'left_out')
    totals: dict[str, Any] = {name: sum(source[name] for source in sources) for name in names}
    totals['labelled_share'] = totals['labelled'] / max(totals['frames'], 1)
    totals['notes'] = [
        f'{source["bag"]}: {note}' for source in sources for note in source['notes']
    ]
    return totals
