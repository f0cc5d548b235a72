"""
The ROS nodes: the only code that imports rclpy and messages.

A callback converts, calls the core, publishes; time and ROS stay out of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import ctypes
import gc
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

READY = 'ready'  # what a node logs when it works; the runner waits for it


class Finished(Exception):  # noqa: N818 - an end, not an error
    """Raised in a callback to end the node's process with ``code``."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class Ending:
    """
    What SIGINT and SIGTERM do: they end the spinning between two callbacks.

    Python raises KeyboardInterrupt wherever it happens to be, and rclpy's own handler makes the
    context invalid: inside of rclpy both become errors of another kind.  While nothing spins, or
    at a second signal, KeyboardInterrupt it is.
    """

    def __init__(self) -> None:
        self.asked = False
        self._end: Any = None  # a Future while something spins
        hear, tell = os.pipe()
        os.set_blocking(tell, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(hear,), name='signals', daemon=True).start()

    def _take(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._end is None:
            raise KeyboardInterrupt

    def _listen(self, hear: int) -> None:
        """End a wait, which no signal interrupts."""
        while os.read(hear, 1):
            end = self._end
            if end is not None:
                end.set_result(None)

    def spin(self, executor: Any) -> None:
        """Spin until a signal comes."""
        from rclpy.task import Future

        self._end = Future()
        try:
            executor.spin_until_future_complete(self._end)
        finally:
            self._end = None


def run(factory: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """
    Make a node, spin it until a signal or :class:`Finished`, and return the process's exit code.

    A node that cannot be made (a parameter out of range, a file that is missing) is one sentence
    on stderr and exit code 2, not a traceback.
    """
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    _follow_parent()
    ending, node = Ending(), None
    try:
        words = list(args) if args is not None else None
        rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
        node = factory()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.get_logger().info(READY)
        _spin(ending, executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Finished as end:
        return end.code
    except Exception as error:
        if ending.asked:  # pybind11 made another error of the interrupt
            return 0
        # Every refusal of ours is a ValueError of its own kind: TaskError, ParameterError, ...
        if not isinstance(error, ValueError) or type(error) is ValueError:
            raise
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 2
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # another one must not cut the clean end
        if node is not None:
            node.destroy_node()
        gc.collect()  # a node that was interrupted half made lives on in cycles, with its memory
        rclpy.try_shutdown()
    return 0


def _spin(ending: Ending, executor: Any, node: Any) -> None:
    """Spin, and survive a lifecycle transition that somebody asked for at the wrong time."""
    from rclpy._rclpy_pybind11 import RCLError

    while True:
        try:
            ending.spin(executor)
            return
        except RCLError as error:
            # rclpy raises a wrong transition out of the service's callback.
            if not node.context.ok() or 'transition' not in str(error):
                raise
            node.get_logger().error('a transition was asked for that this state does not have')


def _follow_parent() -> None:
    """Under ``dmo up`` (which names itself in DMO_RUNNER), do not outlive it, however it ends."""
    runner = os.environ.get('DMO_RUNNER')
    if runner and sys.platform == 'linux':
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != int(runner):  # it ended before we asked
            sys.exit(f'the runner {runner} has ended; so does this node')
