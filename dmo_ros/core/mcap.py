"""
MCAP files: a writer that decides itself when bytes reach the disk, and a walker over cut files.

Neither library does what a recorder needs: both hold a megabyte back, which at 32x32 pixels is a
minute of play, and neither repairs a file that was cut.  Only uncompressed chunks are written.
The format is specified at mcap.dev/spec; the order of fields below follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
import os
import struct
from typing import BinaryIO
import zlib

MAGIC = b'\x89MCAP0\r\n'
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = range(0x0B, 0x10)
_MESSAGE_HEAD = struct.Struct('<BQHIQQ')
_NEVER = 2**63 - 1


class McapError(ValueError):
    """Bytes that are no MCAP, or that use what is not supported here."""


@dataclass
class _Chunk:
    """What is not on disk yet: records, the index of their messages, and their times."""

    records: list[bytes] = field(default_factory=list)
    size: int = 0
    start: int = _NEVER
    end: int = 0
    index: dict[int, list[int]] = field(default_factory=dict)

    def append(self, record: bytes) -> None:
        self.records.append(record)
        self.size += len(record)


class McapWriter:
    """
    Writes one MCAP file to an unbuffered binary file.

    Everything between two calls of :meth:`flush` is one chunk; when a write fails, the file is cut
    back to the last whole chunk and the writer can still be finished.
    """

    def __init__(self, file: BinaryIO, library: str = 'dmo_ros') -> None:
        self._file = file
        self._position = 0
        self._chunk = _Chunk()
        self._schemas: list[bytes] = []
        self._channels: list[bytes] = []
        self._chunk_index: list[bytes] = []
        self._metadata_index: list[bytes] = []
        self.counts: dict[int, int] = {}
        self.start, self.end = _NEVER, 0
        self._write(MAGIC + _record(HEADER, _text('ros2') + _text(library)))

    @property
    def pending(self) -> int:
        """Bytes that a crash would lose now."""
        return self._chunk.size

    @property
    def size(self) -> int:
        """Bytes handed to the file so far."""
        return self._position

    def add_schema(self, name: str, definition: str, encoding: str = 'ros2msg') -> int:
        """Register a message type; returns its number."""
        number = len(self._schemas) + 1
        body = struct.pack('<H', number) + _text(name) + _text(encoding) + _text(definition)
        self._schemas.append(_record(SCHEMA, body))
        self._chunk.append(self._schemas[-1])
        return number

    def add_channel(
        self, schema: int, topic: str, metadata: Mapping[str, str], encoding: str = 'cdr'
    ) -> int:
        """Register a topic; returns its number."""
        number = len(self._channels) + 1
        body = struct.pack('<HH', number, schema) + _text(topic) + _text(encoding)
        self._channels.append(_record(CHANNEL, body + _pairs(metadata)))
        self._chunk.append(self._channels[-1])
        self.counts[number] = 0
        return number

    def add_message(
        self, channel: int, log_time: int, publish_time: int, sequence: int, data: bytes
    ) -> None:
        """Append a message (times in ns) to the chunk at hand."""
        chunk = self._chunk
        chunk.index.setdefault(channel, []).extend((log_time, chunk.size))
        chunk.start, chunk.end = min(chunk.start, log_time), max(chunk.end, log_time)
        chunk.append(
            _MESSAGE_HEAD.pack(MESSAGE, 22 + len(data), channel, sequence, log_time, publish_time)
        )
        chunk.append(data)

    def add_metadata(self, name: str, pairs: Mapping[str, str]) -> None:
        """Write a named record of strings, after the chunk at hand."""
        self.flush()
        record = _record(METADATA, _text(name) + _pairs(pairs))
        offset = self._position
        self._write(record)
        self._metadata_index.append(
            _record(METADATA_INDEX, struct.pack('<QQ', offset, len(record)) + _text(name))
        )

    def flush(self) -> None:
        """Write the chunk at hand; on OSError its messages are lost and the file is cut back."""
        chunk, self._chunk = self._chunk, _Chunk()
        if not chunk.records:
            return
        if not chunk.index:
            chunk.start = 0
        data = b''.join(chunk.records)
        times = struct.pack('<QQ', chunk.start, chunk.end)
        head = times + struct.pack('<QI', len(data), zlib.crc32(data)) + _text('')
        written = _record(CHUNK, head + struct.pack('<Q', len(data)) + data)
        offsets, indexes, at = [], [], self._position + len(written)
        for channel, pairs in chunk.index.items():
            offsets.append(struct.pack('<HQ', channel, at))
            body = struct.pack(f'<{len(pairs)}Q', *pairs)
            indexes.append(_record(MESSAGE_INDEX, struct.pack('<H', channel) + _sized(body)))
            at += len(indexes[-1])
        start, index = self._position, b''.join(indexes)
        self._write(written + index)
        self._chunk_index.append(
            _record(
                CHUNK_INDEX,
                b''.join(
                    (
                        times,
                        struct.pack('<QQ', start, len(written)),
                        _sized(b''.join(offsets)),
                        struct.pack('<Q', len(index)),
                        _text(''),
                        struct.pack('<QQ', len(data), len(data)),
                    )
                ),
            )
        )
        for channel, pairs in chunk.index.items():
            self.counts[channel] += len(pairs) // 2
        if chunk.index:
            self.start, self.end = min(self.start, chunk.start), max(self.end, chunk.end)

    def finish(self) -> None:
        """Write the summary that makes the file readable from its end."""
        self.flush()
        counts = b''.join(struct.pack('<HQ', *pair) for pair in sorted(self.counts.items()))
        total = sum(self.counts.values())
        statistics = _record(
            STATISTICS,
            struct.pack(
                '<QHIIIIQQ',
                total,
                len(self._schemas),
                len(self._channels),
                0,
                len(self._metadata_index),
                len(self._chunk_index),
                self.start if total else 0,
                self.end,
            )
            + _sized(counts),
        )
        groups = [
            (SCHEMA, self._schemas),
            (CHANNEL, self._channels),
            (CHUNK_INDEX, self._chunk_index),
            (METADATA_INDEX, self._metadata_index),
            (STATISTICS, [statistics]),
        ]
        tail = _record(DATA_END, struct.pack('<I', 0))
        at = summary = self._position + len(tail)
        offsets = []
        for opcode, records in groups:
            length = sum(map(len, records))
            if length:
                offsets.append(_record(SUMMARY_OFFSET, struct.pack('<BQQ', opcode, at, length)))
            tail += b''.join(records)
            at += length
        footer = _record(FOOTER, struct.pack('<QQI', summary, at, 0))
        self._write(tail + b''.join(offsets) + footer + MAGIC)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._file.seek(self._position)
            self._file.truncate()
            raise
        self._position += len(data)

    def sync(self) -> None:
        """Flush, and wait until the disk has it."""
        self.flush()
        os.fsync(self._file.fileno())


@dataclass(frozen=True)
class Schema:
    """A message type as the file defines it."""

    name: str
    encoding: str
    definition: str


@dataclass(frozen=True)
class Channel:
    """A topic; ``schema`` is the number of its type."""

    schema: int
    topic: str
    encoding: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class Message:
    """One message; times in ns."""

    channel: int
    sequence: int
    log_time: int
    publish_time: int
    data: bytes


@dataclass
class Walk:
    """
    A pass over an MCAP file that ends where the file stops making sense.

    Iterate over it once; then ``whole`` tells whether the footer was reached, ``damaged`` how many
    chunks failed their checksum and were left out, ``end`` where reading stopped.
    """

    file: BinaryIO
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: bool = False
    damaged: int = 0
    end: int = 0

    def __iter__(self) -> Iterator[Message]:
        size = os.fstat(self.file.fileno()).st_size
        if self.file.read(len(MAGIC)) != MAGIC:
            raise McapError('it does not begin like an MCAP file')
        self.end = len(MAGIC)
        while self.end + 9 <= size:
            opcode, length = struct.unpack('<BQ', self.file.read(9))
            if self.end + 9 + length > size or not HEADER <= opcode <= DATA_END:
                return
            body = self.file.read(length)
            try:
                yield from self._take(opcode, body)
            except (struct.error, UnicodeDecodeError, IndexError):
                self.damaged += 1
            self.end += 9 + length
            if opcode == FOOTER:
                self.whole = self.file.read(len(MAGIC)) == MAGIC
                self.end += len(MAGIC) * self.whole
                return

    def _take(self, opcode: int, body: bytes) -> Iterator[Message]:
        if opcode == CHUNK:
            yield from self._inside(body)
        elif opcode == MESSAGE:
            yield _message(body)
        elif opcode == SCHEMA:
            number, at = struct.unpack_from('<H', body)[0], 2
            name, at = _take_text(body, at)
            encoding, at = _take_text(body, at)
            self.schemas[number] = Schema(name, encoding, _take_text(body, at)[0])
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from('<HH', body)
            topic, at = _take_text(body, 4)
            encoding, at = _take_text(body, at)
            self.channels[number] = Channel(schema, topic, encoding, _take_pairs(body, at))
        elif opcode == METADATA:
            name, at = _take_text(body, 0)
            self.metadata[name] = _take_pairs(body, at)

    def _inside(self, body: bytes) -> Iterator[Message]:
        size, checksum = struct.unpack_from('<QI', body, 16)
        compression, at = _take_text(body, 28)
        if compression:
            raise McapError(
                f'its chunks are compressed ({compression}); repair it with the mcap '
                'command line tool: mcap recover'
            )
        data = body[at + 8 :]
        if len(data) != size or (checksum and zlib.crc32(data) != checksum):
            self.damaged += 1
            return
        at = 0
        while at + 9 <= len(data):
            opcode, length = struct.unpack_from('<BQ', data, at)
            yield from self._take(opcode, data[at + 9 : at + 9 + length])
            at += 9 + length


def _message(body: bytes) -> Message:
    channel, sequence, log_time, publish_time = struct.unpack_from('<HIQQ', body)
    return Message(channel, sequence, log_time, publish_time, body[22:])


def _record(opcode: int, body: bytes) -> bytes:
    return struct.pack('<BQ', opcode, len(body)) + body


def _sized(data: bytes) -> bytes:
    return struct.pack('<I', len(data)) + data


def _text(text: str) -> bytes:
    return _sized(text.encode())


def _pairs(pairs: Mapping[str, str]) -> bytes:
    return _sized(b''.join(_text(key) + _text(value) for key, value in pairs.items()))


def _take_text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from('<I', data, at)
    if at + 4 + length > len(data):
        raise IndexError('a text runs over the end of its record')
    return data[at + 4 : at + 4 + length].decode(), at + 4 + length


def _take_pairs(data: bytes, at: int) -> dict[str, str]:
    (length,) = struct.unpack_from('<I', data, at)
    end, pairs = at + 4 + length, {}
    at += 4
    while at < end:
        key, at = _take_text(data, at)
        pairs[key], at = _take_text(data, at)
    return pairs
