"""
Lead a lifecycle node through its states, without ros2: ``dmo lifecycle go2_bridge configure``.

On a real robot bridge and policy start unconfigured: a person configures (connects, loads), looks
at the result, and activates.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import sys
import time
from typing import Any

from .graph import environment

FIND = 10.0  # s until the node's services are found
CHANGE = 60.0  # s a robot may take to stand up
# What may be asked for in which state; rclpy does not answer another request at all.
STEPS = {
    'configure': 'unconfigured',
    'activate': 'inactive',
    'deactivate': 'active',
    'cleanup': 'inactive',
}


class LifecycleError(RuntimeError):
    """A node that is not there, or does not answer."""


def change(
    node: str, action: str, find: float = FIND, patience: float = CHANGE
) -> tuple[bool, str]:
    """
    Ask ``node`` (``policy``, ``/lab/policy``) for a transition; return success and its state.

    :raises LifecycleError: nobody of that name is heard, or it does not answer in time.
    """
    os.environ.update(environment())
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    asker = rclpy.create_node(f'dmo_lifecycle_{os.getpid()}', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(asker)
    try:
        ask = _Asker(asker, executor, node, find, patience)
        state = ask.state()
        if action == 'get':
            return True, state
        if state != STEPS[action]:
            return False, state
        return ask.change(action), ask.state()
    finally:
        executor.shutdown()
        asker.destroy_node()
        rclpy.try_shutdown(context=context)


class _Asker:
    """Call one node's lifecycle services."""

    def __init__(self, asker: Any, executor: Any, node: str, find: float, patience: float) -> None:
        self.asker, self.executor, self.node = asker, executor, node
        self.find, self.patience = find, patience

    def state(self) -> str:
        """Return the name of the node's state."""
        from lifecycle_msgs.srv import GetState

        answer = self._call(GetState, 'get_state', GetState.Request())
        return str(answer.current_state.label)

    def change(self, action: str) -> bool:
        """Ask for a transition; tell whether the node made it."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        number = getattr(Transition, f'TRANSITION_{action.upper()}')
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self._call(ChangeState, 'change_state', request).success)

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        name = f'{self.node}/{service}'
        client = self.asker.create_client(kind, name)
        if not client.wait_for_service(self.find):
            raise LifecycleError(
                f'nobody serves {name} within {self.find:g} s; is the graph up, in this '
                f'ROS_DOMAIN_ID ({os.environ.get("ROS_DOMAIN_ID", "0")}), and is the namespace '
                'right?'
            )
        answer = client.call_async(request)
        end = time.monotonic() + self.patience
        while not answer.done() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
        if not answer.done():
            raise LifecycleError(
                f'{name} did not answer within {self.patience:g} s; look at its output'
            )
        return answer.result()


def _why(action: str, state: str) -> str:
    if state != STEPS[action]:
        return f'; {action} is for a node that is {STEPS[action]}'
    return f'; {action} was refused, its output says why'


def main(words: Sequence[str] | None = None) -> int:
    """Run ``dmo lifecycle NODE ACTION``; 1 when the node refuses."""
    import argparse

    parser = argparse.ArgumentParser(
        prog='dmo lifecycle', description='Lead a lifecycle node (policy, a bridge) on a step.'
    )
    parser.add_argument('node', help='as go2_bridge, or /lab/go2_bridge')
    parser.add_argument('action', choices=(*STEPS, 'get'))
    given = parser.parse_args(words)
    done, state = change(given.node, given.action)
    print(f'{given.node} is {state}{"" if done else _why(given.action, state)}')
    return 0 if done else 1


if __name__ == '__main__':
    sys.exit(main())
