"""
The occluder: does the DreamerV4 model remember what it does not see?

A square is driven behind a wall, and on behind it; only memory and actions tell where it comes
out.  Tokenizer, dynamics and intent head are trained on scripted play and judged on other play.
Run it with::

    python -m dmo_training.experiments.occluder --run RUN

It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch

from .figures import markdown, save_json
from .occluder_judge import (
    Imaginer,
    judge_head,
    judge_horizons,
    judge_memory,
    judge_passes,
    judge_tokenizer,
    JudgeConfig,
    passages,
)
from .occluder_training import (
    describe,
    encode,
    OccluderConfig,
    train_dynamics,
    train_head,
    train_tokenizer,
)
from .occluder_world import play
from ..engine import keep_memory
from ..global_metrics import draw_strip
from ..models.dreamer4.model import Dreamer4

NAME = 'dreamer4_occluder'
STRIP = 32  # frames


def benchmark(
    config: OccluderConfig, judging: JudgeConfig, run: Path, out: Path | None
) -> dict[str, Any]:
    """Train what is not trained yet, judge it, print the tables, and write them below ``out``."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    run.mkdir(parents=True, exist_ok=True)
    clock = time.process_time()
    known, held = play(config.play), play(config.held_out)
    model = Dreamer4(config.model())
    train_tokenizer(model, known, config, run)
    latent = encode(model, known, run / 'play.npy')
    train_dynamics(model, known, latent, config, run)
    other = encode(model, held, run / 'held_out.npy')
    figures: dict[str, Any] = {'tokenizer': judge_tokenizer(model, held.rows(slice(0, 32)))}
    imaginer = Imaginer(model, held, other)
    figures['memory'] = judge_memory(imaginer, judging)
    figures['passes'] = judge_passes(imaginer, judging)
    if out is not None:
        strips(imaginer, judging, out)
    train_head(model, known, latent, config, run)
    few = judging.calibrated_on
    rows = slice(0, few), slice(few, 3 * few)
    fit, judged = ((held.rows(part), other[part]) for part in rows)
    figures['intent'] = judge_head(model, fit, judged)
    # The head was trained with the dynamics, so the horizons are those of the whole model.
    figures['horizons'] = judge_horizons(Imaginer(model, *judged), judging)
    figures['cpu_s'] = time.process_time() - clock
    print(tables(figures), flush=True)
    if out is not None:
        save_json(out / f'{NAME}.json', {'config': describe(config), **figures})
        plot(figures, out / f'{NAME}.png')
    return figures


def strips(imaginer: Imaginer, config: JudgeConfig, out: Path) -> None:
    """Draw real above imagined, from before the object hides until after it has come out."""
    model, real, made = imaginer, [], []
    before, count = config.before // 2, STRIP - config.before // 2
    for frames in (6, 12, 16, 24):
        at = passages(model.play, frames, config)
        fits = np.flatnonzero(at.hides + count <= model.play.label.shape[1])[:1]
        if not len(fits):
            continue
        row, first = at.row[fits], at.hides[fits]
        new, _ = model.run(row, first, np.array([config.before]), count)
        whole = model.play.frames[row[0], first[0] - before : first[0] + count]
        real.append(whole)
        made.append(np.concatenate((whole[:before], new[0])))
    if real:
        out.mkdir(parents=True, exist_ok=True)
        draw_strip(np.stack(real), np.stack(made), out / f'{NAME}_strip.png', every=1, zoom=1)


def tables(figures: Mapping[str, Any]) -> str:
    """Return all figures as Markdown."""
    return '\n\n'.join(
        (
            _lines('tokenizer', figures['tokenizer']),
            _memory_table(figures['memory']),
            _horizon_table(figures['horizons']),
            _passes_table(figures['passes']),
            _intent_table(figures['intent']),
        )
    )


def _lines(name: str, figures: Mapping[str, Any]) -> str:
    return f'{name}: ' + ', '.join(f'{key} {_text(value, 3)}' for key, value in figures.items())


def _text(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _cell(figures: Mapping[str, Any]) -> str:
    gone = figures['vanished']
    return f'{_text(figures["error"], 2)} ({"-" if gone is None else format(gone, ".0%")})'


def _memory_table(memory: Sequence[Mapping[str, Any]]) -> str:
    head = ['hidden for', 'cases', 'imagined through', 'seen until it comes out']
    head += ['seen, only 4 frames', 'where it was last seen']
    rows = [
        [
            point['hidden_for'],
            point['cases'],
            *(_cell(point[arm]) for arm in ('through', 'seen', 'cut')),
            _text(point['stays']['error'], 2),
        ]
        for point in memory
    ]
    return markdown(head, rows)


def _horizon_table(horizons: Mapping[str, Any]) -> str:
    head = ['t+', 'PSNR', 'copy', 'foreign actions', 'error', 'copy', 'foreign actions']
    rows = [
        [
            point['horizon'],
            *(f'{point[name]:.1f}' for name in ('psnr', 'psnr_copy', 'psnr_foreign')),
            _cell(point),
            _text(point['copy']['error'], 2),
            _cell(point['foreign']),
        ]
        for point in horizons['by_horizon']
    ]
    rest = {key: value for key, value in horizons.items() if key != 'by_horizon'}
    return markdown(head, rows) + '\n\n' + _lines('horizons', rest)


def _passes_table(passes: Sequence[Mapping[str, Any]]) -> str:
    rows = [[point['passes'], f'{point["psnr"]:.2f}', _cell(point)] for point in passes]
    return markdown(['denoising passes', 'PSNR', 'error'], rows)


def _intent_table(intent: Mapping[str, Any]) -> str:
    names = ('auroc', 'brier', 'calibration_error', 'labelled')
    rows = [
        [part, *(_text(intent[part][name], 3) for name in names)]
        for part in ('all', 'seen', 'hidden', 'uncalibrated')
    ]
    return markdown(['frames', 'AUROC', 'Brier', 'calibration error', 'labelled'], rows)


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Draw errors against hidden frames, PSNR against the horizon, and the head's reliability."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    chart, (where, quality, trust) = pyplot.subplots(1, 3, figsize=(12, 3.6), dpi=110)
    memory = figures['memory']
    hidden = [point['hidden_for'] for point in memory]
    names = {
        'through': 'imagined through',
        'seen': 'seen until it comes out',
        'cut': 'seen, only 4 frames',
        'stays': 'where it was last seen',
    }
    for arm, name in names.items():
        errors = [np.nan if p[arm]['error'] is None else p[arm]['error'] for p in memory]
        where.plot(hidden, errors, marker='.', label=name)
    where.set(xlabel='frames hidden', ylabel='error, pixels', ylim=(0, None))
    table = figures['horizons']['by_horizon']
    steps = [point['horizon'] for point in table]
    for key, name in (('psnr', 'model'), ('psnr_copy', 'copy'), ('psnr_foreign', 'foreign')):
        quality.plot(steps, [point[key] for point in table], marker='.', label=name)
    quality.set(xlabel='frames ahead', ylabel='PSNR, dB')
    tenths = figures['intent']['reliability']
    trust.plot([0, 1], [0, 1], 'grey', lw=0.8, ls='--')
    predicted, found = ([point[key] for point in tenths] for key in ('predicted', 'found'))
    trust.plot(predicted, found, marker='.', label='intent head')
    trust.set(xlabel='predicted', ylabel='found')
    for axes in (where, quality, trust):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    chart.tight_layout()
    chart.savefig(path)
    pyplot.close(chart)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--run', type=Path, required=True, help='checkpoints and latents')
    parser.add_argument('--updates', type=int, help='of the dynamics; more than before go on')
    parser.add_argument('--out', type=Path, default=Path('docs/results'))
    options = parser.parse_args()
    keep_memory()
    config = OccluderConfig()
    if options.updates:
        config = replace(config, forcing=replace(config.forcing, updates=options.updates))
    benchmark(config, JudgeConfig(), options.run, options.out)


if __name__ == '__main__':
    main()
