"""
Drive each robot's graph by a scripted person, record it, and make a dataset of the recording.

    python docs/robots_play.py --out /tmp/robots            # all three, in real time
    python docs/robots_play.py --out /tmp/robots --speed 10 --tasks push_cube

Writes docs/results/robots.md: what the bags hold, whether the task was done, what became of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import Any

import numpy as np

HEAD = """# The three robots' graphs, driven through teleop

A scripted person (`play`: bouts of purpose with the intent button held, wandering in between)
drives each graph through joy, teleop, gate, bridge and the robot's own protocol to the peer that
stands in for the robot, in real time where the speed is 1. Everything is recorded by the recorder
node, then converted. A strict success is the goal held for the task's number of steps, counted
from the twin's true states.

```
{command}
```

{table}

Messages in each bag:

{messages}
"""


def play(task: str, folder: Path, frames: int, speed: float) -> dict[str, Any]:
    """Record, convert, and judge one task."""
    from dmo_ros.record import record
    from dmo_training.convert import convert

    bag = folder / f'{task}_bag'
    facts = record(task, bag, frames=frames, speed=speed, operator='play', show=None)
    totals = convert(bag, folder / f'{task}_dataset', task)
    return {'task': task, 'speed': speed, **facts, 'dataset': totals, **successes(task, bag)}


def successes(task: str, bag: Path) -> dict[str, Any]:
    """Count the milestones and strict successes that the twin's true states show."""
    from dmo_ros.core.tasks import get_task
    from dmo_ros.twins.base import make_twin
    from dmo_training.bag import Bag

    spec, twin = get_task(task), make_twin(task)
    with Bag(bag) as opened:
        streams = opened.streams()
        topic = opened.resolve('twin/state', required=True)
        states = np.array([list(m.position) for m in opened.decode(streams[topic])])
    inside = twin.distance(states) <= spec.success.threshold
    held, strict, longest = 0, 0, 0
    for now in inside:
        held = held + 1 if now else 0
        strict += held == spec.success.hold_steps
        longest = max(longest, held)
    return {'states': len(states), 'strict': strict, 'longest_steps_held': longest}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    head = '| task | speed | frames | labelled | dropped | strict successes | dataset |'
    rows = [
        f'| {r["task"]} | {r["speed"]:g} | {r["frames"]} in {r["seconds"]:.0f} s '
        f'| {r["labelled_share"]:.0%} | {sum(r["drops"].values())} | {r["strict"]} '
        f'| {r["dataset"]["frames"]} frames, {r["dataset"]["valid"]} valid, '
        f'{r["dataset"]["episodes"]} episodes |'
        for r in results
    ]
    return '\n'.join([head, '|---' * 7 + '|', *rows])


def messages(results: Sequence[dict[str, Any]]) -> str:
    """Return the counts per topic as a Markdown table."""
    topics = sorted({topic for r in results for topic in r['messages']})
    head = ['topic', *(r['task'] for r in results)]
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    for topic in topics:
        counts = [str(r['messages'].get(topic, '-')) for r in results]
        lines.append('| `' + topic + '` | ' + ' | '.join(counts) + ' |')
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tasks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[1])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--tasks', nargs='+', default=['push_t', 'push_cube', 'grab_box'])
    parser.add_argument('--frames', type=int, default=600)
    parser.add_argument('--speed', type=float, default=1.0)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True)
    results = [play(task, given.out, given.frames, given.speed) for task in given.tasks]
    command = 'python docs/robots_play.py ' + ' '.join(arguments or sys.argv[1:])
    page = HEAD.format(command=command, table=table(results), messages=messages(results))
    (Path(__file__).parent / 'results' / 'robots.md').write_text(page)
    print(page)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
