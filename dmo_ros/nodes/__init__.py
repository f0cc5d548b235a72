"""
The ROS nodes: the only code that imports rclpy and messages.

A callback converts, calls the core, publishes; time and ROS stay out of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import ctypes
import os
import signal
import sys
from typing import Any

READY = 'ready'  # what a node logs when it works; the runner waits for it


class Finished(Exception):  # noqa: N818 - an end, not an error
    """Raised in a callback to end the node's process with ``code``."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


def run(factory: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """
    Make a node, spin it until a signal or :class:`Finished`, and return the process's exit code.

    A node that cannot be made (a parameter out of range, a file that is missing) is one sentence
    on stderr and exit code 2, not a traceback.
    """
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    _follow_parent()
    node = None
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = factory()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.get_logger().info(READY)
        _spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Finished as end:
        return end.code
    except ValueError as error:  # every refusal of ours is one: TaskError, ParameterError, ...
        if type(error) is ValueError:
            raise
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not cut the clean end
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _spin(executor: Any, node: Any) -> None:
    """
    Spin, and survive a lifecycle transition that somebody asked for at the wrong time.

    A signal that comes inside a message's conversion is turned into another error by pybind11; one
    that comes before a publish makes its context invalid.  Both are the end, not a fault.
    """
    from rclpy._rclpy_pybind11 import RCLError

    while True:
        try:
            executor.spin()
            return
        except Finished:
            raise
        except Exception as error:
            if not node.context.ok():
                return
            # rclpy raises a wrong transition out of the service's callback.
            if not isinstance(error, RCLError) or 'transition' not in str(error):
                raise
            node.get_logger().error('a transition was asked for that this state does not have')


def _follow_parent() -> None:
    """Under ``dmo up`` (which names itself in DMO_RUNNER), do not outlive it, however it ends."""
    runner = os.environ.get('DMO_RUNNER')
    if runner and sys.platform == 'linux':
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
        if os.getppid() != int(runner):  # it ended before we asked
            sys.exit(f'the runner {runner} has ended; so does this node')
