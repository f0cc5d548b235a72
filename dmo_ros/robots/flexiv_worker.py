"""
The process that holds Flexiv's SDK, and what drives it from ours.

The SDK has wheels for Python 3.10 and 3.12 only, and keeps Python's lock while it waits for the
arm; so by default it lives in a process of its own, in any interpreter that has it.  The two speak
lines of JSON over the child's stdin and stdout: pose targets and a heartbeat one way, states at
100 Hz and answers the other.  When nothing is heard for ``HEARTBEAT`` seconds, or the other end
is gone, the worker calls Stop() by itself and takes no target until it is told to enter the mode
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
import json
import math
import os
from pathlib import Path
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Any, IO

from .base import RobotError
from .flexiv_rdk import Limits, RdkArm, Setup, Snapshot

HEARTBEAT = 0.2  # s of silence after which the worker stops the arm
BEAT = 0.05  # s between two heartbeats
PERIOD = 0.01  # s between two states
ANSWER = 40.0  # s; the longest blocking call is ClearFault's 30
# The other interpreter sees our package and nothing else of our environment.
BOOT = (
    'import sys, types; p = types.ModuleType("dmo_ros"); p.__path__ = [sys.argv[1]]; '
    'sys.modules["dmo_ros"] = p; from dmo_ros.robots.flexiv_worker import main; '
    'sys.exit(main(sys.argv[2:]))'
)


class Worker:
    """The child's side: one loop that reads, writes states and listens for the heartbeat."""

    def __init__(
        self, arm: RdkArm, out: Callable[[dict[str, Any]], None], clock: Callable[[], float]
    ) -> None:
        self.arm, self.out, self.clock = arm, out, clock
        self.moving = False  # in the mode that takes targets
        self.heard = clock()
        self.silent = False
        self.busy = ''  # with which verb
        self.thread: threading.Thread | None = None

    def hear(self, message: dict[str, Any]) -> None:
        """Obey one line."""
        self.heard = self.clock()
        if 'pose' in message:
            self._send(message['pose'], Limits(**message['limits']))
        elif 'do' in message:
            self._begin(message['id'], message['do'], message.get('args', {}))

    def _send(self, pose: Sequence[float], limits: Limits) -> None:
        if not self.moving:
            return  # it was stopped meanwhile; the state says so
        try:
            self.arm.send(pose, limits)
        except RobotError as error:
            self.out({'trouble': str(error)})

    def _begin(self, number: int, verb: str, args: dict[str, Any]) -> None:
        """Start a call that may block; there is one at a time, but Stop() never waits for it."""
        if self.busy and verb != 'stop':
            self.out({'id': number, 'error': f'the worker is still busy with {self.busy!r}'})
            return
        self.busy = verb
        self.thread = threading.Thread(target=self._do, args=(number, verb, args), daemon=True)
        self.thread.start()

    def _do(self, number: int, verb: str, args: dict[str, Any]) -> None:
        reply: dict[str, Any] = {'id': number}
        try:
            if verb == 'enter':
                self.arm.enter(Setup(**args))
                self.silent, self.heard = False, self.clock()  # it may have held Python's lock
            self.moving = verb == self.busy == 'enter'  # unless a stop came meanwhile
            if verb in ('open', 'enable', 'stop', 'clear_fault'):
                reply['result'] = getattr(self.arm, verb)(**args)
        except RobotError as error:
            reply['error'] = str(error)
        self.tell()  # first, so that whoever waits for the answer sees what it changed
        if self.busy == verb:
            self.busy = ''
        self.out(reply)

    def tell(self) -> None:
        """Write the state."""
        try:
            snapshot = self.arm.snapshot()
        except RobotError as error:
            self.out({'trouble': str(error)})
            return
        if snapshot is not None:
            age = self.clock() - snapshot.arrived
            self.out({'state': {**asdict(snapshot), 'arrived': None}, 'age': age})

    def watch(self) -> None:
        """Stop the arm when nobody has been heard for too long."""
        if self.moving and not self.silent and self.clock() - self.heard > HEARTBEAT:
            self.silent, self.moving = True, False
            self.end()

    def end(self) -> None:
        """Stop the arm; its trouble is told, if anybody listens."""
        self.moving = False
        try:
            self.arm.stop()
        except RobotError as error:
            self.out({'trouble': str(error)})


def main(args: Sequence[str]) -> int:
    """Run the worker: ``SERIAL [IPV4 ...]``; ends with its stdin, the arm stopped first."""
    out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # the SDK prints
    lock = threading.Lock()

    def write(message: dict[str, Any]) -> None:
        try:
            with lock:
                out.write(json.dumps(message) + '\n')
        except (OSError, ValueError):
            pass  # nobody reads any more; stdin's end will tell

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is our parent's to answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    arm = RdkArm(args[0], args[1:])
    worker = Worker(arm, write, time.monotonic)
    try:
        _loop(worker, os.dup(0))
    finally:
        if arm.robot is not None:
            worker.end()
        arm.close()
    return 0


def _loop(worker: Worker, stdin: int) -> None:
    """Read lines until stdin ends; between them states and the heartbeat."""
    os.set_blocking(stdin, False)
    selector = selectors.DefaultSelector()
    selector.register(stdin, selectors.EVENT_READ)
    rest, due = b'', worker.clock()
    while True:
        if selector.select(max(0.0, due - worker.clock())):
            data = os.read(stdin, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b'\n')
            for line in lines:
                worker.hear(json.loads(line))
        if worker.clock() >= due:
            worker.tell()
            due = max(due + PERIOD, worker.clock())
        if not selector.select(0):  # silence is judged when all that was said has been heard
            worker.watch()


class WorkerArm:
    """
    Our side: the verbs of :class:`.flexiv_rdk.Arm`, done by a child process.

    :param python: interpreter that has flexivrdk; '' for this one.
    """

    def __init__(
        self,
        serial: str,
        whitelist: Sequence[str] = (),
        python: str = '',
        environment: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command = [
            python or sys.executable,
            '-c',
            BOOT,
            str(Path(__file__).resolve().parents[1]),
            serial,
            *whitelist,
        ]
        self.environment, self.clock = environment, clock
        self.child: subprocess.Popen[bytes] | None = None
        self._snapshot: Snapshot | None = None
        self._trouble = ''
        self._moved = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._write = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Start the worker and let it connect; RobotError with its words when it cannot."""
        self._start()
        try:
            self._ask('open')
        except RobotError:
            self.close()
            raise

    def _start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        environment.update(self.environment or {})
        try:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise RobotError(
                f'the interpreter {self.command[0]} of worker_python cannot be started ({error}); '
                "name a Python 3.10 or 3.12 in which 'import flexivrdk' works"
            ) from error
        assert self.child.stdout is not None
        for target, args in ((self._listen, (self.child.stdout,)), (self._beat, ())):
            thread = threading.Thread(target=target, args=args, name='flexiv_worker', daemon=True)
            self._threads.append(thread)
            thread.start()

    # ------------------------------------------------------------------ the verbs
    def snapshot(self) -> Snapshot | None:
        """Return the newest state; RobotError when the worker has ended."""
        child = self.child
        if child is None:
            return None
        if child.poll() is not None:
            raise RobotError(f'the worker of the arm has ended with code {child.returncode}')
        with self._moved:
            if self._trouble:
                trouble, self._trouble = self._trouble, ''
                raise RobotError(trouble)
            return self._snapshot

    def clear_fault(self, timeout: float) -> bool:
        """As :meth:`.flexiv_rdk.RdkArm.clear_fault`."""
        return bool(self._ask('clear_fault', timeout=timeout))

    def enable(self) -> None:
        """Release the brakes."""
        self._ask('enable')

    def enter(self, setup: Setup) -> None:
        """Take pose targets."""
        self._ask('enter', **asdict(setup))

    def stop(self) -> None:
        """Wait until the arm is still."""
        self._ask('stop')

    def send(self, pose: Sequence[float], limits: Limits) -> None:
        """Pass a target on."""
        self._post({'pose': list(map(float, pose)), 'limits': asdict(limits)})

    def close(self) -> None:
        """End the worker, which stops the arm; then its threads."""
        self._ended.set()
        child = self.child
        if child is None:
            return
        assert child.stdin is not None
        try:
            child.stdin.close()
        except OSError:
            pass
        try:
            child.wait(5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for thread in self._threads:
            thread.join(2.0)
        if child.stdout is not None:
            child.stdout.close()
        self.child, self._threads = None, []

    # ------------------------------------------------------------------ the pipe
    def _post(self, message: dict[str, Any]) -> None:
        child = self.child
        try:
            with self._write:
                if child is None or child.stdin is None:
                    raise OSError('it was never started')
                child.stdin.write(json.dumps(message).encode() + b'\n')
                child.stdin.flush()
        except (OSError, ValueError) as error:
            raise RobotError(f'the worker of the arm has ended: {error}') from error

    def _ask(self, verb: str, **args: Any) -> Any:
        with self._moved:
            self._count += 1
            number = self._count
        self._post({'id': number, 'do': verb, 'args': args})
        until = self.clock() + ANSWER
        with self._moved:
            while number not in self._answers:
                child = self.child
                if child is None or child.poll() is not None or self.clock() > until:
                    raise RobotError(f'the worker of the arm did not answer to {verb!r}')
                self._moved.wait(0.1)
            answer = self._answers.pop(number)
        if 'error' in answer:
            raise RobotError(answer['error'])
        return answer.get('result')

    def _listen(self, lines: IO[bytes]) -> None:
        try:
            for line in lines:
                self._hear(json.loads(line))
        except ValueError:
            pass  # closed, or cut in the middle of a line
        with self._moved:
            self._moved.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        with self._moved:
            if 'state' in message:
                self._snapshot = _snapshot(message, self.clock())
            elif 'trouble' in message:
                self._trouble = message['trouble']
            else:
                self._answers[message['id']] = message
            self._moved.notify_all()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._post({'beat': 1})
            except RobotError:
                return


def _snapshot(message: dict[str, Any], now: float) -> Snapshot:
    """Rebuild a state; its age is the worker's, so the two clocks need not agree."""
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in message['state'].items()
    }
    age = message['age']
    plain['arrived'] = now - age if age is not None and math.isfinite(age) else -math.inf
    return Snapshot(**plain)
