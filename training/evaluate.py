"""
How well a policy does its task on a twin: without ROS in one batch, or through the real nodes.

Episode i starts where seed + i puts the board, in both ways, so the two figures of a policy are of
the same episodes.  Success is counted by both criteria of the task, with Wilson intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import json
import math
from pathlib import Path
import sys
import time
from typing import Any

from dmo_ros.core.actions import to_si
from dmo_ros.core.metrics import curvature, straightness, SuccessTracker, wilson
from dmo_ros.core.policy import Policy
from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
from dmo_ros.twins.pusher import PusherTwin
from dmo_ros.twins.pusher_operator import PusherOperator
import numpy as np

SKILLS = ('expert', 'random')
NOISE_FLOOR = 1e-3  # metres; smaller moves of the tool are no path and have no heading

Act = Callable[[PusherTwin], np.ndarray]  # the twin as it stands -> velocities (B, 2) in m/s


def evaluate_batched(
    policy: Any, task: str = 'pusher', episodes: int = 200, seed: int = 1000
) -> dict[str, Any]:
    """
    Run all episodes at once on the batched twin.

    :param policy: a loaded Policy, the path of a policy file, a torch module that satisfies
        ExportablePolicy, or 'expert' or 'random' for the scripted operator.
    :returns: figures as plain JSON; see :func:`summarise`.
    """
    spec = _pusher(task)
    begin = time.monotonic()
    twin = PusherTwin(episodes, seed)
    twin.reset(state=starts(task, episodes, seed))
    name, act = _actor(policy, spec, episodes, seed)
    states = [twin.state]
    for _ in range(spec.success.episode_steps):
        twin.step(act(twin))
        states.append(twin.state)
    return {
        'policy': name,
        'how': 'batched',
        'seed': seed,
        **summarise(spec, np.stack(states, axis=1)),
        'seconds': round(time.monotonic() - begin, 3),
    }


def evaluate_graph(
    policy: str | Path,
    task: str = 'pusher',
    episodes: int = 20,
    seed: int = 1000,
    speed: float = 100.0,
    patience: float = 30.0,
) -> dict[str, Any]:
    """
    Run episodes one after the other through the ROS graph: camera, policy, gate and twin nodes.

    :param policy: path of a policy file, or 'expert' or 'random' for the operator's pad.
    :param speed: simulated seconds per second at most.
    :param patience: seconds without a new frame after which the graph counts as stuck.
    :raises UpError: with a node's last words, when it ends or the graph gets stuck.
    """
    from dmo_ros.episodes import run_episodes

    spec, begin = _pusher(task), time.monotonic()
    states = run_episodes(str(policy), task, starts(task, episodes, seed), seed, speed, patience)
    missed = int(np.isnan(states).any(axis=2).sum())
    return {
        'policy': str(policy),
        'how': 'graph',
        'seed': seed,
        **summarise(spec, _fill(states)),
        'missed_states': missed,
        'seconds': round(time.monotonic() - begin, 3),
    }


def starts(task: str, episodes: int, seed: int) -> np.ndarray:
    """Return the start states (N, 4) of an evaluation; episode i depends on seed + i only."""
    _pusher(task)
    return np.concatenate([PusherTwin(1, seed + index).state for index in range(episodes)])


def summarise(spec: TaskSpec, states: np.ndarray) -> dict[str, Any]:
    """
    Return the figures of episodes from the twin's true states.

    :param states: (N, T + 1, 4) tool and object in metres, at the start and after every step.
    :returns: for both criteria successes, rate and Wilson interval; of strictly successful
        episodes steps, straightness and curvature (rad/m) of the tool's path, mean and deviation.
    """
    tracker = SuccessTracker(spec.success, len(states))
    goal = PusherTwin(1).goal
    for step in range(1, states.shape[1]):
        tracker.update(np.linalg.norm(states[:, step, 2:] - goal, axis=1))
    done = np.flatnonzero(tracker.strict)
    paths = [states[row, : tracker.steps_to_success[row] + 1, :2] for row in done]
    return {
        'task': spec.name,
        'episodes': len(states),
        'episode_steps': states.shape[1] - 1,
        'strict': _rate(tracker.strict),
        'relaxed': _rate(tracker.relaxed),
        'steps': _spread(tracker.steps_to_success[done]),
        'straightness': _spread([straightness(path) for path in paths]),
        'curvature': _spread([path_curvature(path) for path in paths]),
    }


def path_curvature(path: np.ndarray) -> float:
    """Return the turning of a planar path (T, 2) in rad/m, its heading being where it moves."""
    kept = [path[0]]
    for point in path[1:]:
        if np.linalg.norm(point - kept[-1]) > NOISE_FLOOR:
            kept.append(point)
    moves = np.diff(np.array(kept), axis=0)
    return curvature(np.array(kept), np.arctan2(moves[:, 1], moves[:, 0]))


def table(results: list[dict[str, Any]]) -> str:
    """Return results as a Markdown table with one row each."""
    head = 'policy', 'how', 'episodes', 'strict', 'relaxed', 'steps', 'straightness', 'rad/m'
    rows = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for result in results:
        cells = [Path(result['policy']).name, result['how'], str(result['episodes'])]
        for name in ('strict', 'relaxed'):
            rate = result[name]
            cells.append(f'{rate["rate"]:.0%} [{rate["low"]:.0%}, {rate["high"]:.0%}]')
        cells += [_cell(result[name]) for name in ('steps', 'straightness', 'curvature')]
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


def _cell(spread: dict[str, Any]) -> str:
    return '-' if spread['mean'] is None else f'{spread["mean"]:.3g} ± {spread["std"] or 0:.2g}'


def _pusher(task: str) -> TaskSpec:
    spec = get_task(task)
    if spec.robot != 'pusher':
        raise TaskError(f'there is no batched twin of task {task!r} yet; pusher has one')
    return spec


def _actor(policy: Any, spec: TaskSpec, episodes: int, seed: int) -> tuple[str, Act]:
    """Return a policy's name and what it does, given the twin."""
    if policy in SKILLS:
        operator = PusherOperator(episodes, seed, skill=policy)
        return policy, lambda twin: operator.act(twin.state)[0]
    name = str(policy) if isinstance(policy, (str, Path)) else type(policy).__name__
    if isinstance(policy, (str, Path)):
        policy = Policy.load(policy, spec)
    if isinstance(policy, Policy):
        loop = policy.loop(episodes)
    else:
        from .export import torch_loop

        loop = torch_loop(policy, spec, episodes)
    return name, lambda twin: to_si(loop.step(twin.render()), spec.driven)


def _fill(states: np.ndarray) -> np.ndarray:
    """Repeat the state before where one was missed; the twin's start is never missed."""
    seen = np.isfinite(states).all(axis=2)
    last = np.maximum.accumulate(np.where(seen, np.arange(states.shape[1]), 0), axis=1)
    return np.take_along_axis(states, last[..., None], axis=1)


def _rate(success: np.ndarray) -> dict[str, Any]:
    low, high = wilson(int(success.sum()), len(success))
    return {
        'successes': int(success.sum()),
        'rate': float(success.mean()),
        'low': low,
        'high': high,
    }


def _spread(values: Any) -> dict[str, Any]:
    """Return mean and deviation (ddof 1), None where there are too few values to say."""
    found = [float(value) for value in values if math.isfinite(value)]
    return {
        'n': len(found),
        'mean': float(np.mean(found)) if found else None,
        'std': float(np.std(found, ddof=1)) if len(found) > 1 else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; one sentence and exit code 2 when it cannot be done."""
    import argparse

    parser = argparse.ArgumentParser(prog='dmo eval', description='Evaluate a policy on a twin.')
    parser.add_argument('policy', help="a policy file, or 'expert' or 'random'")
    parser.add_argument('--task', default='pusher')
    parser.add_argument('--episodes', type=int, help='200, or 20 with --graph, when left out')
    parser.add_argument('--seed', type=int, default=1000)
    parser.add_argument('--graph', action='store_true', help='through the ROS nodes')
    parser.add_argument('--speed', type=float, default=100.0, help='of the graph, at most')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(arguments)
    try:
        if given.graph:
            result = evaluate_graph(
                given.policy, given.task, given.episodes or 20, given.seed, given.speed
            )
        else:
            result = evaluate_batched(given.policy, given.task, given.episodes or 200, given.seed)
    except (ValueError, RuntimeError, ImportError) as error:
        print(f'dmo eval: {error}', file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if given.json else table([result]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
