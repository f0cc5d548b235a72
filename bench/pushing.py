"""
Success of the scripted people on the pushing twins, and the twins' speed.

``--late`` limits accelerations like the gate's; ``--sheet`` draws a contact sheet instead.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from dmo_ros.core.images import to_observation
from dmo_ros.core.metrics import SuccessTracker, wilson
from dmo_ros.twins.base import make_operator, make_twin, Twin
from dmo_ros.twins.push_cube import PushCubeTwin
import numpy as np


def evaluate(twin: Twin, skill: str, starts: int, seed: int, late: bool) -> str:
    """Run one episode from each start and say what became of them."""
    person = make_operator(twin.spec.name, starts, seed, skill)
    tracker = SuccessTracker(twin.spec.success, starts)
    change = np.array(twin.spec.limits.acceleration) * 0.01
    velocity = np.zeros((starts, len(change)))
    for _ in range(twin.spec.success.episode_steps):
        wanted = person.act(twin.state)[0]
        if late:
            for _ in range(round(twin.spec.period / 0.01)):
                velocity = velocity + np.clip(wanted - velocity, -change, change)
                twin.advance(velocity, 0.01)
        else:
            twin.step(wanted)
        tracker.update(twin.distance())
    strict, relaxed = int(tracker.strict.sum()), int(tracker.relaxed.sum())
    low, high = wilson(strict, starts)
    steps = np.median(tracker.steps_to_success[tracker.strict]) if strict else float('nan')
    return (
        f'{twin.spec.name} {skill}: strict {strict}/{starts} [{low:.3f}, {high:.3f}], '
        f'relaxed {relaxed}/{starts}, median steps {steps:.0f}'
    )


def speed(twin: Twin, steps: int = 100) -> str:
    """Measure control steps and pictures per CPU-second (all threads)."""
    action, batch = np.zeros((len(twin.state), len(twin.spec.actions))), len(twin.state)
    rates = []
    for work in (lambda: twin.step(action), twin.render):
        work()
        begun = time.process_time()
        for _ in range(steps):
            work()
        rates.append(batch * steps / (time.process_time() - begun))
    return f'{twin.spec.name}: {rates[0]:.0f} control steps, {rates[1]:.0f} pictures a CPU-second'


def sheet(task: str, path: str) -> None:
    """Draw three expert episodes as the world model sees them, one per row."""
    import cv2

    twin, person = make_twin(task, 3, 21), make_operator(task, 3, 22, 'expert')
    if isinstance(twin, PushCubeTwin):
        kinds = ('seen', 'behind', 'hidden')
        twin.reset(state=np.array([twin.random_start(kind) for kind in kinds]))
    every, columns = (5 if task == 'push_t' else 10), []
    for step in range(8 * every):
        if step % every == 0:
            seen = [to_observation(frame, twin.spec) for frame in twin.render()]
            columns.append(
                np.concatenate([cv2.resize(s, (128, 128), interpolation=0) for s in seen])
            )
        twin.step(person.act(twin.state)[0])
    cv2.imwrite(path, np.concatenate(columns, axis=1)[..., ::-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=('push_t', 'push_cube'), default='push_t')
    parser.add_argument('--skill', choices=('play', 'expert', 'random'), default='expert')
    parser.add_argument('--starts', type=int, default=10)
    parser.add_argument('--late', action='store_true')
    parser.add_argument('--response', choices=('first_order', 'locomotion'), default='first_order')
    parser.add_argument('--sheet')
    args = parser.parse_args()
    if args.sheet:
        sheet(args.task, args.sheet)
        return 0
    twin: Any = make_twin(args.task, args.starts, 7)
    if args.task == 'push_cube':
        twin = PushCubeTwin(args.starts, 7, response=args.response)
    print(evaluate(twin, args.skill, args.starts, 8, args.late))
    print(speed(twin, 20))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
