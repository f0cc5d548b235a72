"""
``dmo demo``: play data to zero-shot policy on a simulated robot, through the real nodes.

Each step is the command a person would type, run as a process of its own; where two do not need
each other they run side by side.  The folder it leaves holds every product and ``report.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from .core.tasks import get_task

Figures = dict[str, Any]
POLL = 0.5
QUIET = 20.0  # seconds between lines where the output is no terminal


@dataclass(frozen=True)
class Size:
    """
    How much a task's demo records and tries, where the command does not say.

    Two cores play some 150 frames a second on the pusher's board, 35 with the dog and 19 with the
    humanoid; ``speed`` is only the most that a twin may run.
    """

    frames: int
    episodes: int
    graph_episodes: int
    speed: float = 100.0


SIZES = {
    'pusher': Size(16000, 200, 20, 400.0),
    'push_cube': Size(6000, 60, 20),
    'grab_box': Size(6000, 40, 10),
}

# What the closing table says of each stage: by kind of global model, where the two differ.
SAID = {
    'tokenizer': ('psnr', 'psnr_mean_image', 'latent_deviation', 'proprio_error'),
    'global': (
        *('psnr_model_10', 'psnr_copy_10', 'object_vanished_16', 'tool_follows'),
        *('shuffled_ratio_10', 'fine_gain'),
    ),
    'reward': (
        *('milestone_auroc', 'rank_accuracy'),
        *('auroc', 'auroc_milestone', 'calibration_error'),
    ),
    'local': ('frame_error_1', 'copy_error_1', 'reward_error_1', 'proprio_error_1'),
    'policy': ('step', 'reward', 'strict'),
}


class DemoError(RuntimeError):
    """A step that failed, with the end of its log."""


class Step:
    """One ``dmo`` command as a process, its output in a log of its own."""

    def __init__(self, name: str, words: Sequence[str], log: Path) -> None:
        self.name, self.words, self.log = name, list(words), log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'wb') as stream:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'dmo_ros.cli', *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    def last_line(self) -> str:
        """Return where its progress bar stands."""
        text = self.log.read_bytes()[-2000:].decode(errors='replace')
        lines = [line.strip() for line in text.replace('\r', '\n').split('\n') if line.strip()]
        return lines[-1] if lines else ''

    def done(self) -> bool:
        """Tell whether it has ended; DemoError when it failed."""
        code = self.process.poll()
        if code:
            tail = self.log.read_text(errors='replace').replace('\r', '\n').splitlines()[-12:]
            raise DemoError(
                f'`dmo {" ".join(self.words)}` ended with exit code {code}; the end '
                f'of {self.log}:\n' + '\n'.join(tail)
            )
        return code == 0


class Stages:
    """Runs steps, shows where they stand, and keeps their seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def run(self, *chains: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Run chains of (name, command) side by side, each chain in order."""
        waiting = [list(chain) for chain in chains]
        active: list[tuple[Step, float, int]] = []
        shown = time.monotonic()
        try:
            while active or any(waiting):
                for number, chain in enumerate(waiting):
                    if chain and not any(at == number for _, _, at in active):
                        name, words = chain.pop(0)
                        print(f'-> dmo {" ".join(words)}', flush=True)
                        step = Step(name, words, self.folder / 'logs' / f'{name}.log')
                        active.append((step, time.monotonic(), number))
                time.sleep(POLL)
                shown = self._show([step for step, _, _ in active], shown)
                for entry in [entry for entry in active if entry[0].done()]:
                    self.seconds[entry[0].name] = round(time.monotonic() - entry[1], 1)
                    active.remove(entry)
        finally:
            for step, _, _ in active:
                step.process.terminate()
                step.process.wait(10)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Run a step in this process and keep its seconds."""
        begun = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - begun, 1)
        return result

    @staticmethod
    def _show(steps: Sequence[Step], shown: float) -> float:
        line = ' | '.join(step.last_line() for step in steps)
        if sys.stdout.isatty():
            print(f'\r\033[K{line[:150]}', end='' if steps else '\n', flush=True)
        elif time.monotonic() - shown > QUIET:
            print(f'   {line}', flush=True)
            return time.monotonic()
        return shown


def demo(
    task: str,
    folder: Path,
    seed: int,
    preset: str = 'demo',
    frames: int | None = None,
    episodes: int | None = None,
    graph_episodes: int | None = None,
) -> Figures:
    """
    Run the loop into ``folder`` and return the figures of report.json.

    :param frames: of play; ``episodes`` and ``graph_episodes`` of the evaluation, in one batch and
        through the graph.  What is left out comes from :data:`SIZES`.
    :raises DemoError: the folder exists, or a step failed.
    """
    if folder.exists():
        raise DemoError(f'{folder} exists already; name another folder with --out, or delete it')
    folder.mkdir(parents=True)
    size = SIZES[task]
    stages, begun = Stages(folder), time.monotonic()
    play = stages.time('record', lambda: _record(task, folder, frames or size.frames, seed))
    stages.run(
        [('convert', ['convert', f'{folder}/bag', '-o', f'{folder}/dataset', '--task', task])]
    )
    stages.run(*_learning(task, folder, seed, preset))
    stages.run([('policy', _policy(task, folder, seed, preset))])
    stages.run([('export', _export(folder))])
    tries = episodes or size.episodes, graph_episodes or size.graph_episodes
    results = stages.time('evaluate', lambda: _evaluate(task, folder, *tries))
    stages.time('pictures', lambda: _pictures(task, folder))
    report = {
        'task': task,
        'seed': seed,
        'preset': preset,
        'play': play,
        'seconds': stages.seconds,
        'total_seconds': round(time.monotonic() - begun, 1),
        'figures': {name: _last(folder / name) for name in SAID if (folder / name).is_dir()},
        'results': results,
    }
    (folder / 'report.json').write_text(json.dumps(report, indent=1))
    return report


def _record(task: str, folder: Path, frames: int, seed: int) -> Figures:
    from .record import record

    speed = SIZES[task].speed
    words = f'{task} -o {folder}/bag --frames {frames} --speed {speed:g} --seed {seed}'
    print(f'-> dmo record {words}', flush=True)
    return record(task, folder / 'bag', frames=frames, speed=speed, seed=seed, show=sys.stdout)


def _train(stage: str, task: str, folder: Path, seed: int, preset: str) -> list[str]:
    return [
        'train',
        stage,
        '--task',
        task,
        '--preset',
        preset,
        '--seed',
        str(seed),
        '--data',
        f'{folder}/dataset',
        '--out',
        f'{folder}/{stage}',
    ]


def _learning(
    task: str, folder: Path, seed: int, preset: str
) -> list[list[tuple[str, list[str]]]]:
    """
    Return the chains of the models.

    DIAMOND learns beside reward and local model, a core each; a DreamerV4-type model's reward is a
    head on it, so its stages follow each other and have all cores.
    """
    words = {
        stage: _train(stage, task, folder, seed, preset)
        for stage in ('tokenizer', 'global', 'reward', 'local')
    }
    words['local'] += ['--reward', f'{folder}/reward']
    if get_task(task).global_model == 'dreamer4':
        words['global'] += ['--tokenizer', f'{folder}/tokenizer']
        words['reward'] += ['--global', f'{folder}/global']
        return [list(words.items())]
    one = ['--threads', '1']
    return [
        [('global', words['global'] + one)],
        [('reward', words['reward'] + one), ('local', words['local'] + one)],
    ]


def _policy(task: str, folder: Path, seed: int, preset: str) -> list[str]:
    runs = {'--global': 'global', '--reward': 'reward', '--local': 'local'}
    named = [word for option, run in runs.items() for word in (option, f'{folder}/{run}')]
    # The pusher's networks are so small that a second thread only waits.
    one = ['--threads', '1'] if get_task(task).global_model == 'diamond' else []
    return [*_train('policy', task, folder, seed, preset), *named, *one]


def _export(folder: Path) -> list[str]:
    out, data = f'{folder}/policy.onnx', f'{folder}/dataset'
    return ['export', f'{folder}/policy', '-o', out, '--data', data]


def _evaluate(task: str, folder: Path, episodes: int, graph_episodes: int) -> list[Figures]:
    from dmo_training.evaluate import evaluate_batched, evaluate_graph

    policy = folder / 'policy.onnx'
    print(f'-> dmo eval {policy} --graph --episodes {graph_episodes}', flush=True)
    return [
        evaluate_graph(policy, task, graph_episodes),
        *(evaluate_batched(actor, task, episodes) for actor in (policy, 'random', 'expert')),
    ]


def _pictures(task: str, folder: Path) -> None:
    from dmo_training.pictures import learning_curve, rollout_strip

    rollout_strip(task, folder / 'dataset', folder, folder / 'rollout_strip.png')
    learning_curve([folder / 'policy'], folder / 'learning_curve.png')


def _last(run: Path) -> Figures:
    """Return the last figures a stage logged."""
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    figures: Figures = {}
    for line in lines:
        figures.update(json.loads(line))
    return figures


def describe(report: Figures, folder: Path) -> str:
    """Return the closing table, and the commands that show each product."""
    from dmo_training.evaluate import table

    play, seconds, figures = report['play'], report['seconds'], report['figures']
    drops = sum(play['drops'].values())
    said = {name: _say(figures.get(name, {}), names) for name, names in SAID.items()}
    said['record'] = (
        f'{play["frames"]} frames, {play["labelled_share"]:.0%} labelled, {drops} dropped'
    )
    lines = ['', '| stage | seconds | figures |', '|---|---|---|']
    lines += [f'| {name} | {took:.0f} | {said.get(name, "")} |' for name, took in seconds.items()]
    lines += [f'| all | {report["total_seconds"]:.0f} | |', '', table(report['results']), '']
    return '\n'.join(
        [
            *lines,
            f'figures          cat {folder}/report.json',
            f'play data        dmo check {folder}/bag --picture {folder}/play.png',
            f'dataset          dmo check {folder}/dataset',
            f'models and RL    tensorboard --logdir {folder}',
            f'pictures         {folder}/rollout_strip.png  {folder}/learning_curve.png',
            f'policy           dmo verify {folder}/policy.onnx',
            f'deploy it        dmo up {report["task"]} policy:={folder}/policy.onnx'
            + ' operator:=watch',
            f'judge it         dmo eval {folder}/policy.onnx --graph',
        ]
    )


def _say(figures: Figures, names: Sequence[str]) -> str:
    return ', '.join(
        f'{name} {figures[name]:.4g}'
        for name in names
        if isinstance(figures.get(name), (int, float))
    )


def main(words: Sequence[str]) -> int:
    """Run ``dmo demo``; 0 when the policy's lower bound lies above random's upper bound."""
    parser = argparse.ArgumentParser(prog='dmo demo', description=(__doc__ or '').split('\n')[1])
    parser.add_argument('--task', default='pusher', choices=list(SIZES))
    parser.add_argument('--out', type=Path, help='folder (runs/demo-1, -2, ... when left out)')
    parser.add_argument('--frames', type=int, help='of play data (the default suits the task)')
    parser.add_argument('--preset', default='demo', help="'smoke' only turns every wheel once")
    parser.add_argument('--episodes', type=int, help='of the batched evaluation')
    parser.add_argument('--graph-episodes', type=int, help='of that through the ROS graph')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', action='store_true', help='print report.json at the end')
    given = parser.parse_args(words)
    folder = given.out or next(
        path for number in range(1, 10000) if not (path := Path(f'runs/demo-{number}')).exists()
    )
    report = demo(
        given.task,
        folder,
        given.seed,
        given.preset,
        given.frames,
        given.episodes,
        given.graph_episodes,
    )
    print(json.dumps(report) if given.json else describe(report, folder))
    _, policy, random, _ = report['results']
    return 0 if policy['strict']['low'] > random['strict']['high'] else 1
