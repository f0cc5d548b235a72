"""One picture of a check: topics, labels, actions, their lag, and frames to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .check import Report

PLAY, INTENT, MILESTONE, GOOD, BAD = '#8c8c8c', '#d08a2c', '#2c7a3f', '#2c5aa0', '#b03030'
STRIP = 12


def draw(report: Report, path: Path) -> None:
    """Write the picture of a report (PNG)."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(13, 9), constrained_layout=True)
    layout: list[Any] = [
        ['frames'] * 6,
        ['topics'] * 3 + ['findings'] * 3,
        ['actions'] * 2 + ['lag'] * 2 + ['steps'] * 2,
        ['labels'] * 6,
    ]
    axes = figure.subplot_mosaic(layout, height_ratios=[1.1, 1.2, 1.6, 0.9])
    verdict = 'not fit for training' if report.exit_code else 'fit for training'
    figure.suptitle(
        f'{report.path} ({report.task}): {verdict}',
        x=0.01,
        ha='left',
        fontsize=12,
        color=BAD if report.exit_code else 'black',
    )
    for name, paint in (
        ('frames', _frames),
        ('topics', _topics),
        ('findings', _findings),
        ('actions', _actions),
        ('lag', _lag),
        ('steps', _steps),
        ('labels', _labels),
    ):
        paint(axes[name], report)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _frames(axis: Any, report: Report) -> None:
    """Show frames evenly spread over all that was looked at, framed by their label."""
    lengths = [len(episode) for episode in report.episodes]
    ends = np.cumsum(lengths)
    tiles = []
    for at in np.linspace(0, ends[-1] - 1, STRIP).astype(int):
        number = int(np.searchsorted(ends, at, side='right'))
        row = int(at - ends[number] + lengths[number])
        tiles.append((report.episodes[number].frames[row], report.episodes[number].intent[row]))
    size = tiles[0][0].shape[0]
    edge = max(1, size // 16)
    side = size + 2 * edge
    strip = np.full((side, STRIP * (side + edge), 3), 255, dtype=np.uint8)
    for column, (frame, label) in enumerate(tiles):
        left = column * (side + edge)
        colour = (PLAY, INTENT, MILESTONE)[min(int(label), 2)]
        strip[:, left : left + side] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        strip[edge : edge + size, left + edge : left + edge + size] = frame
    axis.imshow(strip, interpolation='nearest')
    axis.set_title(
        'frames, evenly spread (border: grey play, orange intent, green milestone)',
        loc='left',
        fontsize=9,
    )
    axis.axis('off')


def _topics(axis: Any, report: Report) -> None:
    axis.axis('off')
    axis.set_title('topics (steps between stamps, ms)', loc='left', fontsize=9)
    if not report.rows:
        axis.text(
            0, 0.9, 'a dataset: its topics were judged in the recording', fontsize=8, va='top'
        )
        return
    lines = [f'{"":22s}{"messages":>9s}{"Hz":>8s}{"p50":>8s}{"p99":>8s}{"drops":>7s}']
    lines += [
        f'{topic[:22]:22s}{row["messages"]:9d}{row["hz"]:8.1f}{row["p50"]:8.1f}'
        f'{row["p99"]:8.1f}{row["dropped"]:7d}'
        for topic, row in report.rows.items()
    ]
    axis.text(0, 1, '\n'.join(lines[:13]), family='monospace', fontsize=7.5, va='top')


def _findings(axis: Any, report: Report) -> None:
    axis.axis('off')
    axis.set_title('findings', loc='left', fontsize=9)
    if not report.findings:
        axis.text(0, 0.95, 'none', fontsize=8, va='top')
    height = 0.97
    import textwrap

    for finding in report.findings[:8]:
        lines = textwrap.wrap(f'{finding.level}: {finding.text}', 88)
        axis.text(
            0,
            height,
            '\n'.join(lines),
            fontsize=8,
            va='top',
            color=BAD if finding.level == 'error' else 'black',
        )
        height -= 0.105 * len(lines) + 0.03


def _actions(axis: Any, report: Report) -> None:
    action = np.concatenate([episode.action for episode in report.episodes])
    for name, column in zip(report.action_names, action.T):
        axis.hist(column, bins=21, range=(-1, 1), histtype='step', linewidth=1.4, label=name)
    axis.set_title('actions, normalised', loc='left', fontsize=9)
    axis.set_xlim(-1, 1)
    if action.shape[1] <= 6:
        axis.legend(fontsize=7, frameon=False)
    _plain(axis)


def _lag(axis: Any, report: Report) -> None:
    alignment = report.alignment
    axis.set_title('lag of actions against motion (0 is right)', loc='left', fontsize=9)
    _plain(axis)
    if alignment is None or not alignment.score:
        axis.text(
            0.05, 0.5, alignment.reason if alignment else '', fontsize=8, transform=axis.transAxes
        )
        return
    lags = list(alignment.score)
    shares = [max(0.0, alignment.score[lag]) for lag in lags]
    colours = ['#c8c8c8' if lag != alignment.lag else (BAD if lag else GOOD) for lag in lags]
    axis.bar(lags, shares, color=colours, width=0.7)
    axis.set_ylabel('explained, held out', fontsize=8)
    axis.set_xlabel('steps', fontsize=8)


def _steps(axis: Any, report: Report) -> None:
    """Show how far apart consecutive ticks are: one bar where the camera keeps time."""
    steps = np.concatenate([np.diff(episode.stamp) for episode in report.episodes]) * 1000
    if len(steps):
        middle = float(np.median(steps))
        bins = middle * (np.arange(45) - 0.5) / 20  # the median lies in the middle of a bar
        axis.hist(np.clip(steps, 0, bins[-1]), bins=bins, color=GOOD)
        axis.set_yscale('symlog')
    axis.set_title('time from frame to frame, ms (count, log)', loc='left', fontsize=9)
    _plain(axis)


def _labels(axis: Any, report: Report) -> None:
    """Draw labels and invalid frames over the frames' numbers, episodes one after another."""
    intent = np.concatenate([episode.intent for episode in report.episodes])
    valid = np.concatenate([episode.valid for episode in report.episodes])
    at = np.arange(len(intent))
    for label, colour in ((1, INTENT), (2, MILESTONE)):
        axis.fill_between(
            at, 0, np.where(intent == label, label, 0), step='mid', color=colour, linewidth=0
        )
    axis.fill_between(at, -0.4, np.where(valid, -0.4, -0.05), step='mid', color=BAD, linewidth=0)
    for end in np.cumsum([len(episode) for episode in report.episodes])[:-1]:
        axis.axvline(end - 0.5, color='black', linewidth=0.4)
    axis.set_xlim(0, len(intent))
    axis.set_ylim(-0.5, 2.2)
    axis.set_yticks([-0.2, 1, 2], ['invalid', 'intent', 'milestone'], fontsize=8)
    axis.set_title('labels over frames (lines: episodes)', loc='left', fontsize=9)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.tick_params(labelsize=8)
    for side in ('top', 'right'):
        axis.spines[side].set_visible(False)
