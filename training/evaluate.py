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

from dmo_ros.core.actions import fill, to_si
from dmo_ros.core.images import to_policy_observation
from dmo_ros.core.metrics import curvature, straightness, SuccessTracker, wilson
from dmo_ros.core.policy import Policy
from dmo_ros.core.proprioception import arrange
from dmo_ros.core.tasks import get_task, TaskError, TaskSpec
from dmo_ros.twins.base import make_operator, make_twin, moved, Twin
import numpy as np

SKILLS = ('expert', 'random')
NOISE_FLOOR = 1e-3  # metres; smaller moves of the tool are no path and have no heading

Act = Callable[[Twin], np.ndarray]  # the twin as it stands -> actions (B, A) in SI units


def evaluate_batched(
    policy: Any, task: str = 'pusher', episodes: int = 200, seed: int = 1000
) -> dict[str, Any]:
    """
    Run all episodes at once on the batched twin.

    :param policy: a loaded Policy, the path of a policy file, a torch module that satisfies
        ExportablePolicy, or 'expert' or 'random' for the scripted operator.
    :returns: figures as plain JSON; see :func:`summarise`.
    """
    spec = get_task(task)
    begin = time.monotonic()
    twin = make_twin(task, episodes, seed)
    twin.reset(state=starts(task, episodes, seed))
    name, act = _actor(policy, spec, episodes, seed)
    states = [twin.state.copy()]
    for _ in range(spec.success.episode_steps):
        twin.step(act(twin))
        states.append(twin.state.copy())
    return {
        'policy': name,
        'how': 'batched',
        'seed': seed,
        **summarise(spec, np.stack(states, axis=1), twin),
        'seconds': round(time.monotonic() - begin, 3),
    }


def evaluate_graph(
    policy: str | Path,
    task: str = 'pusher',
    episodes: int = 20,
    seed: int = 1000,
    speed: float = 100.0,
    patience: float = 30.0,
    record: str = '',
) -> dict[str, Any]:
    """
    Run episodes one after the other through the ROS graph: camera, policy, gate and twin nodes.

    :param policy: path of a policy file, or 'expert' or 'random' for the operator's pad.
    :param speed: simulated seconds per second at most.
    :param patience: seconds without a new frame after which the graph counts as stuck.
    :param record: path of a bag to record meanwhile; none when empty.
    :raises UpError: with a node's last words, when it ends or the graph gets stuck.
    """
    from dmo_ros.episodes import run_episodes

    spec, begin = get_task(task), time.monotonic()
    begins = starts(task, episodes, seed)
    states = run_episodes(str(policy), task, begins, seed, speed, patience, record)
    missed = int(np.isnan(states).any(axis=2).sum())
    return {
        'policy': str(policy),
        'how': 'graph',
        'seed': seed,
        **summarise(spec, _fill(states), make_twin(task)),
        'missed_states': missed,
        'seconds': round(time.monotonic() - begin, 3),
    }


def starts(task: str, episodes: int, seed: int) -> np.ndarray:
    """Return the start states (N, S) of an evaluation; episode i depends on seed + i only."""
    return np.concatenate([make_twin(task, 1, seed + index).state for index in range(episodes)])


def summarise(spec: TaskSpec, states: np.ndarray, twin: Twin) -> dict[str, Any]:
    """
    Return the figures of episodes from the twin's true states.

    :param states: (N, T + 1, S) as the twin names them, at the start and after every step.
    :param twin: any twin of the task; it says what the distance to success is.
    :returns: for both criteria successes, rate and Wilson interval; of strictly successful
        episodes steps, straightness and curvature (rad/m) of the robot's path (the first two
        columns named ..._x and ..._y), mean and deviation.
    """
    tracker = SuccessTracker(spec.success, len(states))
    for step in range(1, states.shape[1]):
        tracker.update(twin.distance(states[:, step]))
    done = np.flatnonzero(tracker.strict)
    plane = [next(i for i, n in enumerate(twin.names) if n.endswith(e)) for e in ('_x', '_y')]
    paths = [states[row, : tracker.steps_to_success[row] + 1][:, plane] for row in done]
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


def proprioception(twin: Twin) -> np.ndarray | None:
    """
    Return what a twin's robots feel (B, P) float32, SI units, as the bridge tells it of a robot.

    None where the task has none.

    :raises TaskError: a field of the task is no column of the twin's state.
    """
    fields = twin.spec.proprioception
    if missing := [field.name for field in fields if field.name not in twin.names]:
        raise TaskError(f'the twin of task {twin.spec.name!r} does not tell {", ".join(missing)}')
    if not fields:
        return None
    return np.stack([arrange(twin.names, row, twin.spec) for row in twin.state])


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


def _actor(policy: Any, spec: TaskSpec, episodes: int, seed: int) -> tuple[str, Act]:
    """Return a policy's name and what it does, given the twin."""
    if policy in SKILLS:
        return policy, _operator(policy, spec, episodes, seed)
    name = str(policy) if isinstance(policy, (str, Path)) else type(policy).__name__
    if isinstance(policy, (str, Path)):
        policy = Policy.load(policy, spec)
    if isinstance(policy, Policy):
        loop = policy.loop(episodes)
    else:
        from .export import torch_loop

        loop = torch_loop(policy, spec, episodes)

    def act(twin: Twin) -> np.ndarray:
        seen = np.stack([to_policy_observation(picture, spec) for picture in twin.render()])
        driven = to_si(loop.step(seen, proprioception(twin)), spec.driven)
        return np.array([fill(row, spec) for row in driven])

    return name, act


def _operator(skill: str, spec: TaskSpec, episodes: int, seed: int) -> Act:
    """Return what the scripted person's stick makes of the command before."""
    person = make_operator(spec.name, episodes, seed, skill)
    command = np.tile([field.rest for field in spec.actions], (episodes, 1))

    def act(twin: Twin) -> np.ndarray:
        command[:] = moved(command, person.act(twin.state)[0], spec)
        return command

    return act


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
    parser.add_argument('--record', default='', metavar='BAG', help='with --graph: record it')
    parser.add_argument('--json', action='store_true')
    given = parser.parse_args(arguments)
    try:
        if given.graph:
            result = evaluate_graph(
                given.policy,
                given.task,
                given.episodes or 20,
                given.seed,
                given.speed,
                record=given.record,
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
