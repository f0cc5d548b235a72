"""
A Go2 peer on an empty plane in a process of its own: for tests, measurements, a look by hand.

``python -m dmo_ros.twins.go2_process`` reads lines and answers each with a report in JSON:
``report``, ``moves``, ``set mute 1``, ``press 0 1 0 0 2``, ``fall 1001``, ``show 0``.
It ends with its input, so it cannot outlive who started it.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from .go2_firmware import Firmware, TICK
from .go2_peer import Go2Peer, Odometry
from ..core.tasks import get_task

MOVE = 1008
NEWEST = 5  # Moves in a report
LONGEST_ANSWER = 30.0  # s


class FlatTwin:
    """An empty plane on which the robot goes exactly as told: for a peer alone, for tests."""

    names = Odometry.COLUMNS

    def __init__(self) -> None:
        self.spec = get_task('push_cube')
        self.state = np.zeros((1, 3))

    def advance(self, action: np.ndarray, seconds: float) -> None:
        """Walk with the action (1, 3) for some seconds."""
        along, left, turn = action[0] * seconds
        cos, sin = math.cos(self.state[0, 2]), math.sin(self.state[0, 2])
        self.state[0] += cos * along - sin * left, sin * along + cos * left, turn


def obey(peer: Go2Peer, line: str) -> dict[str, Any]:
    """Do what a line says and answer with a report."""
    name, *words = line.split() or ['report']
    if name == 'set':
        where: Any = peer.faults if hasattr(peer.faults, words[0]) else peer
        kind = type(getattr(where, words[0]))
        setattr(where, words[0], kind(float(words[1])))
    elif name == 'press':
        lx, ly, rx, ry = map(float, words[:4])
        peer.press(lx, ly, rx, ry, int(words[4]))
    elif name == 'fall':
        peer.firmware.force(int(words[0]))
    elif name == 'show':
        peer.show(picture(int(words[0])))
    elif name == 'moves':
        return {'moves': moves(peer)}
    elif name != 'report':
        return {'error': f'{name}: one of report, moves, set, press, fall, show'}
    return report(peer)


def moves(peer: Go2Peer) -> list[tuple[float, ...]]:
    """Return when each Move came (s, steady clock), and its x, y, z."""
    return [
        (request.arrived, *json.loads(request.parameter).values())
        for request in peer.requests
        if request.api_id == MOVE
    ]


def report(peer: Go2Peer) -> dict[str, Any]:
    """Tell what the peer is, what came to it, and when (s, steady clock)."""
    requests = peer.requests
    return {
        'posture': peer.firmware.posture,
        'velocity': peer.firmware.velocity,
        'pose': peer.odometry.pose,
        'requests': len(requests),
        'apis': sorted({request.api_id for request in requests}),
        'moves': moves(peer)[-NEWEST:],
        'move_count': len(moves(peer)),
    }


def picture(shade: int) -> np.ndarray:
    """Return a picture (720, 1280, 3) whose left half is red and whose right half has a shade."""
    image = np.full((720, 1280, 3), shade, np.uint8)
    image[:, :640] = 220, 30, 30
    return image


class PeerProcess:
    """
    A peer in a process of its own; a context manager.

    :param domain: the ROS domain whose twin it is.
    :param settings: of :class:`Firmware`.
    """

    def __init__(self, domain: int, **settings: Any) -> None:
        command = [sys.executable, '-m', __name__, json.dumps(settings)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'ROS_DOMAIN_ID': str(domain)},
        )
        self.first = self._answer()

    def ask(self, line: str = 'report') -> dict[str, Any]:
        """Send a line and return the report."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        killer = threading.Timer(LONGEST_ANSWER, self.process.kill)
        killer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            killer.cancel()
            killer.join()
        if not line:
            raise RuntimeError(f'the peer has ended with {self.process.wait(5.0)}')
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(5.0)

    def close(self) -> int:
        """End it properly and return its exit code; idempotent."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(15.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(5.0)
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a peer in real time until its standard input ends."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    firmware = Firmware(**json.loads(words[0] if words else '{}'))
    twin: Any = FlatTwin()
    peer = Go2Peer(twin, int(os.environ.get('ROS_DOMAIN_ID') or 0), firmware=firmware)
    peer.show(picture(128))
    peer.start()
    ended = threading.Event()
    reader = threading.Thread(target=_read, args=(peer, ended), daemon=True)
    reader.start()
    print(json.dumps({'domain': peer.domain}), flush=True)
    due = time.monotonic()
    while not ended.wait(max(0.0, due - time.monotonic())):
        due = max(due + TICK, time.monotonic() - 0.1)
        peer.advance(TICK)
    reader.join(timeout=2.0)
    peer.stop()
    return 0


def _read(peer: Go2Peer, ended: threading.Event) -> None:
    for line in sys.stdin:
        print(json.dumps(obey(peer, line)), flush=True)
    ended.set()


if __name__ == '__main__':
    raise SystemExit(main())
