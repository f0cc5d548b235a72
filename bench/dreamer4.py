"""
Our DreamerV4 beside the authors' and the pip-installable one, in one run, at equal shapes.

    python bench/dreamer4.py --authors FOLDER --published FOLDER

The first is a checkout of Rooholla-KhorramBakht/dreamerV4-UWM at commit 29c15b8, the second where
``pip install --no-deps --target FOLDER dreamer4==0.16.3`` and what it imports went (nothing, if it
is in this environment).  They may also come from the environment variables DMO_DREAMER4 and
DMO_DREAMER4_PIP.  Without them there is nothing to compare with, and only our own figures are
printed.  Times are CPU time of one thread in float32, sides taking turns; a ratio is the median of
the rounds' ratios.  On a machine with a GPU, our frames there follow (``accelerator.py``).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamer4_sides import accelerator, authors, ours, published
from dreamer4_sides.shapes import measure, Shape, SHAPES, Timing, Work
import torch

CONTEXT, BUCKET = 16, 32


def _figures(times: dict[str, Timing], against: str) -> dict[str, Any]:
    """Return milliseconds (quartiles) of every side, and ours over the other's."""
    found: dict[str, Any] = {
        name: [round(timing.quartile(number) * 1e3, 2) for number in (1, 2, 3)]
        for name, timing in times.items()
    }
    if against in times:
        for name in times:
            if name.startswith('ours'):
                found[f'{name} / {against}'] = round(times[name].over(times[against]), 3)
    return found


def cached_frames(models: ModuleType | None, shape: Shape, batch: int, rounds: int) -> Any:
    """Time a frame in a short context and in a full window."""
    report = {}
    for context in (CONTEXT, shape.window):
        sides = {
            'ours': ours.frames(shape, batch, context),
            'ours without reward': ours.frames(shape, batch, context, reward=False),
        }
        if models is not None:
            sides['authors'] = authors.frames(models, shape, batch, context)
        report[f'context {context}'] = _figures(measure(sides, rounds), 'authors')
    return report


def long_rollout(models: ModuleType | None, shape: Shape, windows: int = 3) -> Any:
    """Time every frame of a rollout over some windows; medians per stretch of frames."""
    sides: dict[str, Work] = {'ours': ours.frames(shape, 1, CONTEXT)}
    if models is not None:
        sides['authors'] = authors.frames(models, shape, 1, CONTEXT)
    times = measure(sides, windows * shape.window - CONTEXT, warm=0)
    report: dict[str, Any] = {'stretch': BUCKET}
    for name, timing in times.items():
        parts = [timing.spent[at : at + BUCKET] for at in range(0, len(timing.spent), BUCKET)]
        medians = [Timing(part).quartile(2) * 1e3 for part in parts if len(part) > BUCKET // 4]
        report[name] = {
            'ms': [round(value, 1) for value in medians],
            'last / first': round(medians[-1] / medians[0], 3),
        }
    # Minutes lie between those stretches, and the machine changes; these take turns.
    full, wrapped = (ours.frames(shape, 1, shape.window * count) for count in (1, windows))
    pair = measure({'full': full, 'wrapped': wrapped}, 40)
    report['ours, after three windows / after one'] = round(pair['wrapped'].over(pair['full']), 3)
    return report


def beside_published(package: ModuleType | None, shape: Shape, rounds: int) -> Any:
    """Time a frame's latents and, on our side, its reward; nothing is decoded."""
    sides: dict[str, Work] = {'ours': ours.frames(shape, 1, CONTEXT, decode=False)}
    if package is not None:
        sides['published'] = published.frames(package, shape, 1, CONTEXT)
    times = measure(sides, rounds)
    report = _figures(times, 'published')
    if package is not None:
        report['times faster'] = round(times['published'].over(times['ours']), 2)
    return report


def training(models: ModuleType | None, shape: Shape, batch: int, length: int, rounds: int) -> Any:
    """Time updates: loss, gradient, clip, AdamW."""
    report = {}
    for kind in ('flow', 'bootstrap', 'tokenizer'):
        if kind == 'tokenizer':
            sides = {'ours': ours.tokenizer_update(shape, batch, length)}
            if models is not None:
                sides['authors'] = authors.tokenizer_update(models, shape, batch, length)
        else:
            given = shape, batch, length, kind == 'bootstrap'
            sides = {'ours': ours.dynamics_update(*given)}
            if models is not None:
                sides['authors'] = authors.dynamics_update(models, *given)
        report[kind] = _figures(measure(sides, rounds, warm=1), 'authors')
    return report


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for and is there."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    if set(options.parts) - {'accelerator'}:
        report |= _beside(options)
    device = options.device or ('cuda' if torch.cuda.is_available() else None)
    if 'accelerator' in options.parts and device:
        large = device != 'cpu'
        report['accelerator'] = accelerator.run(
            torch.device(device), options.rounds, 'push_cube' if large else 'demo',
            (1, 32, 128) if large else (1, 2),
        )  # fmt: skip
    return report


def _beside(options: argparse.Namespace) -> dict[str, Any]:
    models = authors.load(Path(options.authors)) if options.authors else None
    report: dict[str, Any] = {'authors': models is not None}
    if models is not None and 'frames' in options.parts:
        report['agreement'] = authors.agreement(models, SHAPES['tiny'])
    rounds = options.rounds
    for name in options.shapes:
        shape = SHAPES[name]
        if 'frames' in options.parts:
            for batch, times in ((1, rounds), (8, max(3, rounds // 3))):
                report[f'frame {name} b{batch}'] = cached_frames(models, shape, batch, times)
        if 'training' in options.parts:
            for batch, length, times in ((2, 8, rounds // 2), (4, 32, rounds // 6)):
                report[f'update {name} {batch}x{length}'] = training(
                    models, shape, batch, length, max(3, times)
                )
    if 'rollout' in options.parts:
        report['rollout tiny'] = long_rollout(models, SHAPES['tiny'])
    if 'published' in options.parts:
        package = published.load(Path(options.published) if options.published else None)
        report['published tiny'] = beside_published(package, SHAPES['tiny'], max(3, rounds // 3))
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report, figure by figure."""
    print('DreamerV4, one thread, float32, CPU milliseconds (quartiles), ratios of medians')
    if not report.get('authors', True):
        print("  no authors' code to compare with: name it with --authors or DMO_DREAMER4")
    for name, found in report.items():
        if name in ('authors', 'accelerator'):
            continue
        print(f'  {name}')
        for key, value in found.items():
            print(f'    {key}: {json.dumps(value)}')
    if 'accelerator' in report:
        accelerator.show(report['accelerator'])


def main(arguments: list[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description='speed of our DreamerV4 beside others')
    parser.add_argument(
        '--authors',
        default=os.environ.get('DMO_DREAMER4'),
        help="the authors' checkout (else environment DMO_DREAMER4)",
    )
    parser.add_argument(
        '--published',
        default=os.environ.get('DMO_DREAMER4_PIP'),
        help='where the pip package dreamer4 is (else environment DMO_DREAMER4_PIP)',
    )
    parser.add_argument('--rounds', type=int, default=24, help='timed rounds of the fastest part')
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=['tiny'])
    parts = ['frames', 'rollout', 'published', 'training', 'accelerator']
    parser.add_argument('--parts', nargs='+', choices=parts, default=parts)
    parser.add_argument('--device', help='of the accelerator part; cpu tries its code')
    parser.add_argument('--json', action='store_true', help='print JSON')
    options = parser.parse_args(arguments)
    try:
        report = run(options)
    except authors.OriginalError as error:
        parser.error(str(error))
    print(json.dumps(report, indent=1)) if options.json else show(report)


if __name__ == '__main__':
    main()
