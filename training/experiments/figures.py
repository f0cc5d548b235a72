"""Tables, JSON and learning curves of the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

Curves = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]  # arm -> seeds -> points


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [list(map(str, header)), ['---'] * len(header), *(list(map(str, r)) for r in rows)]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def first_at(curve: Sequence[Mapping[str, float]], figure: str, level: float) -> int | None:
    """Return the samples at the first evaluation that reaches ``level``, or None."""
    reached = [point['samples'] for point in curve if point[figure] >= level]
    return int(reached[0]) if reached else None


def samples_text(samples: int | None) -> str:
    return 'never' if samples is None else f'{samples / 1000:.0f}k'


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the figures, curves rounded to what they are worth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(content), indent=1) + '\n')


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f'{value:.5g}')
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def plot(path: Path, curves: Curves, figure: str, label: str, level: float) -> None:
    """Draw every seed thinly and the arm's median boldly; ``level`` is the threshold."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    chart, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for index, (arm, runs) in enumerate(curves.items()):
        colour = f'C{index}'
        for run in runs:
            axes.plot([p['samples'] for p in run], [p[figure] for p in run], colour, alpha=0.3)
        shortest = min(len(run) for run in runs)
        middle = [sorted(run[i][figure] for run in runs)[len(runs) // 2] for i in range(shortest)]
        axes.plot([p['samples'] for p in runs[0]][:shortest], middle, colour, lw=2.2, label=arm)
    axes.axhline(level, color='grey', lw=0.8, ls='--')
    axes.set(xlabel='samples of the forward model', ylabel=label)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    chart.tight_layout()
    chart.savefig(path)
    pyplot.close(chart)
