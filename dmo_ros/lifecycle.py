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
ACTIONS = ('configure', 'activate', 'deactivate', 'cleanup', 'get')


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
        done = True
        if action != 'get':
            from lifecycle_msgs.msg import Transition
            from lifecycle_msgs.srv import ChangeState

            number = getattr(Transition, f'TRANSITION_{action.upper()}')
            request = ChangeState.Request(transition=Transition(id=number))
            name = f'{node}/change_state'
            done = _call(asker, executor, ChangeState, name, request, find, patience).success
        from lifecycle_msgs.srv import GetState

        request = GetState.Request()
        state = _call(asker, executor, GetState, f'{node}/get_state', request, find, patience)
        return bool(done), str(state.current_state.label)
    finally:
        executor.shutdown()
        asker.destroy_node()
        rclpy.try_shutdown(context=context)


def _call(
    asker: Any, executor: Any, kind: Any, name: str, request: Any, find: float, patience: float
) -> Any:
    client = asker.create_client(kind, name)
    if not client.wait_for_service(find):
        raise LifecycleError(
            f'nobody serves {name} within {find:g} s; is the graph up, in this ROS_DOMAIN_ID '
            f'({os.environ.get("ROS_DOMAIN_ID", "0")}), and is the namespace right?'
        )
    answer = client.call_async(request)
    end = time.monotonic() + patience
    while not answer.done() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    if not answer.done():
        raise LifecycleError(f'{name} did not answer within {patience:g} s; look at its output')
    return answer.result()


def main(words: Sequence[str] | None = None) -> int:
    """Run ``dmo lifecycle NODE ACTION``; 1 when the node refuses."""
    import argparse

    parser = argparse.ArgumentParser(
        prog='dmo lifecycle', description='Lead a lifecycle node (policy, a bridge) on a step.'
    )
    parser.add_argument('node', help='as go2_bridge, or /lab/go2_bridge')
    parser.add_argument('action', choices=ACTIONS)
    given = parser.parse_args(words)
    done, state = change(given.node, given.action)
    refused = '' if done else f' {given.action} was refused; its output says why.'
    print(f'{given.node} is {state}.{refused}')
    return 0 if done else 1


if __name__ == '__main__':
    sys.exit(main())
