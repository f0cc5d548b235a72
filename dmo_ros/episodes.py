"""
Episodes through the ROS graph: the task's own nodes, started for the purpose, and the evaluator.

What comes back are the twin's true states; ``dmo_training.evaluate`` says what they are worth.
"""

from __future__ import annotations

from pathlib import Path
import tempfile
import time
from typing import Any, TextIO, TYPE_CHECKING

from .stacks import Process
from .up import Child, running, UpError

if TYPE_CHECKING:
    import numpy as np

SKILLS = ('expert', 'random')


def run_episodes(
    policy: str,
    task: str,
    starts: np.ndarray,
    seed: int = 0,
    speed: float = 100.0,
    patience: float = 30.0,
    record: str = '',
    out: TextIO | None = None,
) -> np.ndarray:
    """
    Run one episode from each start and return the states.

    :param policy: path of a policy file, or 'expert' or 'random' for the operator's pad.
    :param starts: (N, S) states of the task's twin, as ``state_names`` of the task lists them.
    :param speed: simulated seconds per second at most; above 1 the twin waits for each answer.
    :param record: folder of a bag to record meanwhile; none when empty.
    :returns: (N, T + 1, S) at the start and after each control step, NaN where a state was lost.
    :raises UpError: when a node ends, or nothing goes on for ``patience`` seconds.
    """
    import numpy as np

    arguments: dict[str, Any] = {'speed': speed, 'seed': seed, 'record': record}
    if policy in SKILLS:
        arguments['operator'] = policy
    else:
        arguments.update(operator='watch', policy=policy)
    with tempfile.TemporaryDirectory() as folder, running(task, arguments, out=out) as graph:
        graph.wait_ready(max(60.0, patience))
        result = Path(folder, 'states.npy')
        np.save(Path(folder, 'starts.npy'), starts)
        watcher = Child(
            Process(
                'evaluator',
                '/',
                (),
                {
                    'task': task,
                    'starts': str(Path(folder, 'starts.npy')),
                    'out': str(result),
                    'patience': patience,
                },
                {},
                required=False,
            ),
            out,
        )
        try:
            while watcher.code is None:
                graph.check()
                time.sleep(0.05)
        finally:
            if watcher.code is None:
                watcher.popen.kill()
        if watcher.code or not result.is_file():
            raise UpError(watcher.story())
        states: np.ndarray = np.load(result, allow_pickle=False)
    return states
