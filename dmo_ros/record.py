"""
``dmo record``: run a task's graph, record it, and stop when there is enough play.

The recorder decides when it has enough, so every frame that is counted is in the recording; a
Ctrl-C ends it early and leaves a whole recording as well.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import shutil
import sys
import time
from typing import Any, TextIO

from .core.rosbag import inspect
from .core.tasks import get_task, TaskSpec

RESERVE = 2**28
OVERHEAD = 8000  # bytes a frame costs besides its pixels: commands, labels, joy, state
STALLED = 30.0


class RecordError(ValueError):
    """A recording that cannot be begun, or that stopped before it had enough."""


def record(
    task: str,
    out: Path | str,
    frames: int = 20000,
    speed: float = 100.0,
    operator: str = 'play',
    seed: int = 0,
    seconds: float = 0.0,
    arguments: Mapping[str, Any] | None = None,
    show: TextIO | None = None,
) -> dict[str, Any]:
    """
    Record play into the folder ``out`` and return what was recorded.

    :param frames: end after this many (or few more); 0: no limit.  ``seconds``: after this long on
        the wall clock; 0: no limit.  Without either, Ctrl-C ends the recording.
    :param speed: how many times faster than real time a twin runs.
    :param arguments: more arguments of the graph, as for ``dmo up`` (``{'robot': 'real'}``).
    :param show: where the live status line goes; nowhere when left out.
    :returns: frames, labelled_share, drops (topic -> count, only those with any), messages
        (topic -> count), seconds (wall), frames_per_second, bytes, path, interrupted.
    :raises RecordError: ``out`` exists, too little room, or nothing arrives any more.
    """
    from .up import running, UpError

    spec, out = get_task(task), Path(out)
    _check_room(spec, out, frames)
    given = {
        'operator': operator,
        'speed': speed,
        'seed': seed,
        **(arguments or {}),
        'record': str(out),
    }
    recorder: dict[str, Any] = {
        'limit': frames,
        'limit_seconds': float(seconds),
        'use_sim_time': given.get('robot', 'twin') == 'twin',
    }
    begun, interrupted = time.monotonic(), False
    try:
        with running(task, given, {'recorder': recorder}) as graph:
            graph.wait_ready()
            _watch(graph, show)
    except KeyboardInterrupt:
        interrupted = True
    except (UpError, RecordError) as error:
        raise RecordError(f'{error}{_kept(out)}') from error
    finally:
        if show and show.isatty():
            print(file=show)
    return {**summary(out), 'seconds': time.monotonic() - begun, 'interrupted': interrupted}


def summary(bag: Path | str) -> dict[str, Any]:
    """Return what a recording holds, by its own account: see :func:`record`."""
    found = inspect(bag)
    tally = json.loads(found['custom'].get('recorder', '{}'))
    counts = tally.get('topics', {})
    frames, seconds = tally.get('frames', 0), tally.get('seconds', 0.0)
    return {
        'path': str(bag),
        'frames': frames,
        'labelled_share': tally.get('labelled', 0) / max(frames, 1),
        'drops': {name: row['dropped'] for name, row in counts.items() if row['dropped']},
        'messages': found['topics'],
        'bytes': found['bytes'],
        'frames_per_second': frames / max(seconds, 1e-9),
    }


def _watch(graph: Any, show: TextIO | None) -> None:
    """Show the recorder's status line until it ends; a graph that stands still is an error."""
    child, last, moved = graph.children['recorder'], '', time.monotonic()
    while child.code is None:
        graph.check_others('recorder')
        line = child.lines[-1] if child.lines else ''
        count = line.split(' frames')[0]
        if count != last:
            last, moved = count, time.monotonic()
            if show:
                print(
                    f'\r\033[K{line}' if show.isatty() else line,
                    end='' if show.isatty() else '\n',
                    file=show,
                    flush=True,
                )
        if time.monotonic() - moved > STALLED:
            raise RecordError(
                f'no frame came for {STALLED:.0f} s ({line}); is the camera '
                'running, and is the gate armed?'
            )
        time.sleep(0.2)
    if child.code:
        raise RecordError(child.story())


def _kept(out: Path) -> str:
    """Say what is left of a recording that ended wrongly."""
    if not out.exists():
        return ''
    cut = '' if (out / 'metadata.yaml').exists() else f'; rescue it with `dmo recover {out}`'
    return f'\nwhat came before is kept in {out}{cut}'


def _check_room(spec: TaskSpec, out: Path, frames: int) -> None:
    if out.exists():
        raise RecordError(
            f'{out} exists already and a recording is never overwritten; choose another name'
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    needed = RESERVE + frames * (spec.camera.width * spec.camera.height * 3 + OVERHEAD)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise RecordError(
            f'{frames} frames of task {spec.name!r} need about '
            f'{needed / 2**30:.1f} GiB, {parent} has {free / 2**30:.1f} GiB left; '
            'make room or record fewer'
        )


def main(task: str, out: str, as_json: bool = False, **options: Any) -> int:
    """Record, and print the summary; the exit code is 0 when there was enough play."""
    try:
        facts = record(task, out, show=None if as_json else sys.stdout, **options)
    except ValueError as error:
        print(json.dumps({'error': str(error)}) if as_json else f'error: {error}')
        return 2
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        drops = ', '.join(f'{topic} {n}' for topic, n in facts['drops'].items()) or 'none'
        print(
            f'{facts["path"]}: {facts["frames"]} frames in {facts["seconds"]:.0f} s, '
            f'{facts["labelled_share"]:.0%} labelled, dropped {drops}, '
            f'{facts["bytes"] / 2**20:.0f} MiB'
        )
    return 0
