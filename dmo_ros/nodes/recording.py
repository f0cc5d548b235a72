"""The recorder's writer thread: it alone touches the disk, and nobody waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
import errno
import os
from pathlib import Path
import threading
import time

from ..core.rosbag import BagWriter, Topic

CHUNK = 2**20


class Recording(threading.Thread):
    """
    Writes what is offered into a new recording, and syncs it at least once a second.

    ``state`` is 'recording', then 'finished' (whole, with its metadata) or 'failed' (what was
    synced is on disk); ``reason`` says in a sentence why it ended by itself.

    :param queue_bytes: what may wait for the disk; beyond it messages are refused (and counted).
    :param reserve_bytes: recording ends cleanly when the disk has less left than this.
    :raises RosbagError: the folder exists or cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        custom: Mapping[str, str],
        sync_period: float = 0.5,
        queue_bytes: int = 2**28,
        reserve_bytes: int = 2**28,
    ) -> None:
        super().__init__(name='recording', daemon=True)
        self.state, self.reason = 'recording', ''
        self._bag = BagWriter(folder, custom)
        self._folder, self._period = folder, sync_period
        self._room, self._reserve = queue_bytes, reserve_bytes
        self._queue: deque[Topic | tuple[str, int, int, int, bytes]] = deque()
        self._waiting = 0
        self._numbers: dict[str, int] = {}
        self._last_words: Mapping[str, str] = {}
        self._stop_asked = False
        self._wake = threading.Condition()
        self.start()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._bag.size

    @property
    def written(self) -> dict[str, int]:
        """Messages per topic that a kill of this process would not lose."""
        return self._bag.counts

    def add_topic(self, topic: Topic) -> None:
        """Register a topic before its first message is offered."""
        with self._wake:
            self._queue.append(topic)

    def offer(
        self, topic: str, log_time: int, publish_time: int, sequence: int, data: bytes
    ) -> bool:
        """Queue a message (times in ns); False when it had to be refused."""
        with self._wake:
            if self.state != 'recording' or self._waiting + len(data) > self._room:
                return False
            self._queue.append((topic, log_time, publish_time, sequence, data))
            self._waiting += len(data)
            if self._waiting > CHUNK:
                self._wake.notify()
        return True

    def finish(self, last_words: Mapping[str, str], timeout: float = 10.0) -> None:
        """Write what waits, and the strings ``last_words``; close the recording."""
        with self._wake:
            self._last_words, self._stop_asked = last_words, True
            self._wake.notify()
        self.join(timeout)
        if self.is_alive():
            self.state, self.reason = 'failed', 'the disk did not take the last bytes in time'

    def run(self) -> None:
        """Write until asked to stop, or until the disk is full or fails."""
        try:
            while not self.reason and not self._stop_asked:
                self._write_for(self._period)
                self._bag.sync()
                self._check_space()
            self._drain()
            self._end(self._last_words)
        except OSError as error:
            self.reason = self.reason or _explain(error, self._folder)
            self._salvage()
        except Exception as error:  # never die silently: the callbacks would queue for ever
            self.reason = f'the writer failed: {type(error).__name__}: {error}'
            self._salvage()

    def _write_for(self, period: float) -> None:
        """Write what arrives during one period, in chunks of about a megabyte."""
        due = time.monotonic() + period
        while not self._stop_asked and (left := due - time.monotonic()) > 0:
            with self._wake:
                self._wake.wait(left)
            self._drain()

    def _drain(self) -> None:
        with self._wake:
            taken, self._queue = self._queue, deque()
            self._waiting = 0
        for item in taken:
            if isinstance(item, Topic):
                self._numbers[item.name] = self._bag.add_topic(item)
                continue
            topic, log_time, publish_time, sequence, data = item
            self._bag.write(self._numbers[topic], log_time, publish_time, sequence, data)
            if self._bag.pending > CHUNK:
                self._bag.flush()

    def _check_space(self) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._reserve:
            self.reason = (
                f'the disk of {self._folder} has less than '
                f'{self._reserve / 2**20:.0f} MiB left; make room and start again'
            )

    def _end(self, last_words: Mapping[str, str]) -> None:
        self._bag.close({**last_words, **({'ended': self.reason} if self.reason else {})})
        self.state = 'failed' if self.reason else 'finished'

    def _salvage(self) -> None:
        """After a failed write: end the file properly if the disk still takes that much."""
        try:
            self._end(self._last_words)
        except OSError:
            self._bag.abandon()
            self.reason += f'; finish it with `dmo recover {self._folder}`'
        self.state = 'failed'


def _explain(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f'the disk of {folder} is full; make room and start again'
    return f'{folder} cannot be written ({error.strerror}); is the disk still there?'
