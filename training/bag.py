"""
Reading recordings without ROS: a rosbag2 of any storage -> streams of stamped messages.

Stamps are those of the message headers, read from the raw bytes; the log time serves for messages
that carry none.  Both are int64 nanoseconds: a float64 of a wall-clock time would round them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import json
from pathlib import Path
import struct
from types import TracebackType
from typing import Any

from dmo_ros.core.actions import TWIST_AXES
from dmo_ros.core.encodings import decode
from dmo_ros.core.tasks import TaskError, TaskSpec
import numpy as np

_TIMED = ('std_msgs/msg/Header', 'builtin_interfaces/msg/Time')
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


class BagError(ValueError):
    """A recording that cannot be read, or that lacks what is asked of it."""


@dataclass(frozen=True)
class Stream:
    """
    One topic in the order of arrival.

    ``log`` and ``stamp`` are (N,) int64 ns; ``raw`` holds the CDR bytes, except of images, which
    are read again when they are needed.
    """

    topic: str
    kind: str
    log: np.ndarray
    stamp: np.ndarray
    raw: list[bytes]

    def __len__(self) -> int:
        return len(self.stamp)


class Bag:
    """A rosbag2 folder (or a bare .mcap file), opened for reading; use it as a context manager."""

    def __init__(self, path: Path | str) -> None:
        from rosbags.highlevel import AnyReader, AnyReaderError

        self.path = Path(path)
        _explain_missing(self.path)
        try:
            self._reader = AnyReader([self.path], default_typestore=_typestore())
            self._reader.open()
        except (AnyReaderError, OSError, ValueError, AssertionError) as error:
            raise BagError(
                f'{path} cannot be read ({error}); if its recorder was killed, rescue '
                f'it with `dmo recover {path}`'
            ) from error
        self.kinds = {c.topic: c.msgtype for c in self._reader.connections}

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.close()

    def resolve(self, name: str, required: bool = False) -> str | None:
        """
        Return the recorded topic that ``name`` means, in whatever namespace it was recorded.

        :raises BagError: several topics end in that name, or none does and it is required.
        """
        found = [t for t in sorted(self.kinds) if t == name or t.endswith('/' + name.lstrip('/'))]
        shortest = [t for t in found if t.count('/') == min(map(_depth, found))]
        if len(shortest) > 1:
            raise BagError(
                f'{self.path}: {name!r} may mean {" or ".join(shortest)}; name the topic in full'
            )
        if required and not shortest:
            raise BagError(
                f'{self.path} has no topic {name!r}; it holds '
                f'{", ".join(sorted(self.kinds)) or "nothing"}'
            )
        return shortest[0] if shortest else None

    def streams(self) -> dict[str, Stream]:
        """Read every topic's stamps, and the bytes of all but images, in one pass."""
        rows: dict[str, tuple[list[int], list[int], list[bytes]]] = {
            topic: ([], [], []) for topic in self.kinds
        }
        readers = {topic: self._stamp_reader(kind) for topic, kind in self.kinds.items()}
        for connection, log, raw in self._messages(None):
            logs, stamps, raws = rows[connection.topic]
            logs.append(log)
            stamps.append(readers[connection.topic](raw) or log)
            if connection.msgtype not in IMAGES:
                raws.append(bytes(raw))
        return {
            topic: Stream(
                topic,
                self.kinds[topic],
                np.array(logs, dtype=np.int64),
                np.array(stamps, dtype=np.int64),
                raws,
            )
            for topic, (logs, stamps, raws) in rows.items()
        }

    def decode(self, stream: Stream) -> list[Any]:
        """Deserialise all messages of a stream."""
        if stream.kind not in self._reader.typestore.fielddefs:
            raise BagError(
                f'{self.path} does not define {stream.kind} (recordings in sqlite3 '
                'carry no definitions); record with `dmo record`, or as MCAP'
            )
        return [self._reader.deserialize(raw, stream.kind) for raw in stream.raw]

    def frames(self, topic: str, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 RGB) of the wanted images of a topic, as they arrived."""
        for number, (connection, _, raw) in enumerate(self._messages(topic)):
            if number in wanted:
                yield number, _frame(self._reader.deserialize(raw, connection.msgtype))

    def task(self) -> TaskSpec | None:
        """Return the specification that the recorder stored, if it did."""
        try:
            return TaskSpec.from_dict(json.loads(self.custom()['task']))
        except (KeyError, ValueError) as error:
            if isinstance(error, TaskError):
                raise
            return None

    def custom(self) -> dict[str, str]:
        """Return what the recorder said about itself: 'task' and 'recorder', JSON each."""
        storage = getattr(self._reader.readers[0], 'storage', None)  # absent in ROS 1 bags
        return dict(storage.metadata.custom or {}) if storage else {}

    def _stamp_reader(self, kind: str) -> Callable[[bytes], int]:
        """Return a function from CDR bytes to the header's stamp in ns (0 where there is none)."""
        _, fields = self._reader.typestore.fielddefs.get(kind, ((), ()))
        if not fields or fields[0][1][1] not in _TIMED:
            return lambda raw: 0
        return stamp_of

    def _messages(self, topic: str | None) -> Iterator[tuple[Any, int, bytes]]:
        from rosbags.highlevel import AnyReaderError
        from rosbags.rosbag2 import ReaderError

        chosen = [c for c in self._reader.connections if topic in (None, c.topic)]
        try:
            yield from self._reader.messages(chosen)
        except (AnyReaderError, ReaderError, struct.error) as error:
            raise BagError(
                f'{self.path} is damaged ({error}); keep what is whole with '
                f'`dmo recover {self.path}`'
            ) from error


def command_values(message: Any, kind: str, spec: TaskSpec) -> list[float]:
    """Return a recorded command as the task's action, SI units in the order of its fields."""
    if kind.endswith('/BodyCommand'):
        if message.task != spec.name:
            raise BagError(
                f'the recorded commands are of task {message.task!r}, not of '
                f'{spec.name!r}; name the task it was recorded for'
            )
        return [*message.upper_body, *message.locomotion]
    twist = getattr(message, 'twist', message)
    unknown = [field.name for field in spec.actions if field.name not in TWIST_AXES]
    if unknown:
        raise BagError(f'a {kind} cannot hold {", ".join(unknown)} of task {spec.name!r}')
    axes = [TWIST_AXES[field.name] for field in spec.actions]
    return [float(getattr(getattr(twist, part), axis)) for part, axis in axes]


def stamp_of(raw: bytes) -> int:
    """Return the stamp in ns of CDR bytes that begin with a header or a time."""
    seconds, nanoseconds = struct.unpack_from('<iI' if raw[1] & 1 else '>iI', raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _depth(topic: str) -> int:
    return topic.count('/')


def _explain_missing(path: Path) -> None:
    if not path.exists():
        raise BagError(f'there is no recording at {path}')
    if path.is_dir() and not (path / 'metadata.yaml').exists():
        if any(path.glob('*.mcap')):
            raise BagError(
                f'{path} was not finished by its recorder; rescue it with `dmo recover {path}`'
            )
        raise BagError(f'{path} is no recording: it holds no metadata.yaml')


def _typestore() -> Any:
    from rosbags.typesys import get_typestore, Stores

    return get_typestore(Stores.ROS2_HUMBLE)


def _frame(message: Any) -> np.ndarray:
    if hasattr(message, 'format'):
        return _decompress(message)
    return decode(
        message.data,
        message.height,
        message.width,
        message.encoding,
        message.step,
        bool(message.is_bigendian),
    )


def _decompress(message: Any) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(message.data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise BagError(f'a compressed image ({message.format!r}) cannot be decoded; use JPEG, PNG')
    return np.ascontiguousarray(image[..., ::-1])
