"""
A rosbag2 recording: a folder with one MCAP file and the metadata.yaml of ``ros2 bag info``.

:class:`BagWriter` holds a lock on its file while it records, and :func:`recover` makes a recording
whole again whose recorder was killed: it keeps every chunk that reached the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import fcntl
import json
import os
from pathlib import Path
import shutil
from typing import Any, BinaryIO

from .episode import sync_folder
from .mcap import McapError, McapWriter, Walk

VERSION = 8  # of metadata.yaml: Humble, Jazzy and rosbags read it


class RosbagError(ValueError):
    """A recording that cannot be begun, or cannot be rescued."""


@dataclass(frozen=True)
class Topic:
    """One recorded topic; ``qos`` is rosbag2's YAML list of the publishers' profiles."""

    name: str
    kind: str
    definition: str
    type_hash: str = ''
    qos: str = ''
    encoding: str = 'ros2msg'


class BagWriter:
    """
    A recording in progress; not thread-safe, use it from one thread.

    :param folder: must not exist yet: making it is what keeps two recorders apart.
    :param custom: strings that are kept from the first byte on, such as the task's specification.
    :raises RosbagError: the folder exists, or cannot be made.
    """

    def __init__(self, folder: Path | str, custom: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError as error:
            raise RosbagError(
                f'{folder} exists already and a recording is never overwritten; '
                'choose another name'
            ) from error
        except OSError as error:
            raise RosbagError(
                f'{folder} cannot be made ({error.strerror}); choose a place that '
                'can be written to'
            ) from error
        self.path = self.folder / f'{self.folder.name}_0.mcap'
        self.custom = dict(custom or {})
        self._schemas: dict[str, int] = {}
        self._topics: dict[int, Topic] = {}
        try:
            self._begin()
        except OSError as error:
            shutil.rmtree(self.folder)
            raise RosbagError(
                f'{folder} cannot be written ({error.strerror}); is the disk full?'
            ) from error

    def _begin(self) -> None:
        self._file = open(self.path, 'xb', buffering=0)  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._mcap = McapWriter(self._file)
        self._mcap.add_metadata('dmo_ros', self.custom)
        self.sync()
        sync_folder(self.folder.parent)

    @property
    def pending(self) -> int:
        """Bytes that a crash would lose now."""
        return self._mcap.pending

    @property
    def size(self) -> int:
        """Bytes on their way to the disk."""
        return self._mcap.size

    @property
    def counts(self) -> dict[str, int]:
        """Messages per topic that were handed to the operating system."""
        topics = dict(self._topics)  # another thread may be adding one
        return {topic.name: self._mcap.counts[number] for number, topic in topics.items()}

    def add_topic(self, topic: Topic) -> int:
        """Register a topic; returns its number for :meth:`write`."""
        if topic.kind not in self._schemas:
            self._schemas[topic.kind] = self._mcap.add_schema(
                topic.kind, topic.definition, topic.encoding
            )
        number = self._mcap.add_channel(
            self._schemas[topic.kind],
            topic.name,
            {'offered_qos_profiles': topic.qos, 'topic_type_hash': topic.type_hash},
        )
        self._topics[number] = topic
        return number

    def write(
        self, topic: int, log_time: int, publish_time: int, sequence: int, data: bytes
    ) -> None:
        """Append one message, times in ns; it is safe after the next :meth:`sync`."""
        self._mcap.add_message(topic, log_time, publish_time, sequence & 0xFFFFFFFF, data)

    def flush(self) -> None:
        """Hand what is pending to the operating system; it survives a kill from here on."""
        self._mcap.flush()

    def sync(self) -> None:
        """Wait until the disk has everything; it survives a power cut from here on."""
        self._mcap.sync()

    def note(self, custom: Mapping[str, str]) -> None:
        """Keep strings about the recording, replacing earlier ones of the same keys."""
        self.custom.update(custom)
        self._mcap.add_metadata('dmo_ros', self.custom)

    def close(self, custom: Mapping[str, str] | None = None) -> None:
        """Finish the file and write metadata.yaml; both are on disk when this returns."""
        try:
            if custom:
                self.note(custom)
            self._mcap.flush()
            info = _metadata(self.path.name, self._topics, self._mcap, self.custom)
            self._mcap.add_metadata('rosbag2', {'serialized_metadata': info})
            self._mcap.finish()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
        _write_metadata(self.folder, info)

    def abandon(self) -> None:
        """Let go of the file as it is; :func:`recover` can finish it."""
        self._file.close()


def recover(path: Path | str) -> dict[str, Any]:
    """
    Rescue a recording that was cut: rewrite its whole chunks and its metadata, and read them back.

    The file that was found is kept beside the new one as ``*.mcap.found``.

    :param path: the recording's folder, or its .mcap file.
    :returns: messages, per topic 'topics', seconds, bytes_lost, damaged (chunks), 'changed'.
    :raises RosbagError: nothing to rescue, still being recorded, no space, or no success.
    """
    folder, found = _locate(Path(path))
    with open(found, 'rb') as file:
        _lock(file, found)
        walk = _walk(file, found, None)
        size = os.fstat(file.fileno()).st_size
        if walk['whole'] and not walk['damaged'] and (folder / 'metadata.yaml').exists():
            return {**walk, 'bytes_lost': 0, 'changed': False}
        free = shutil.disk_usage(folder).free
        if free < size:
            raise RosbagError(
                f'{path}: rescuing it needs {size / 2**20:.0f} MiB, {folder} has '
                f'{free / 2**20:.0f} MiB left; make room first'
            )
        rescued = _rewrite(file, found)
    kept = found.with_name(found.name + '.found')
    if kept.exists():
        kept = found.with_name(f'{found.name}.{os.getpid()}.found')
    found.rename(kept)
    rescued.pop('file').rename(found)
    _write_metadata(folder, rescued.pop('info'))
    with open(found, 'rb') as file:
        again = _walk(file, found, None)
    if not again['whole'] or again['messages'] != rescued['messages']:
        raise RosbagError(f'{path}: the rescued file does not read back; the original is {kept}')
    return {**rescued, 'bytes_lost': size - walk['end'], 'changed': True}


def inspect(path: Path | str) -> dict[str, Any]:
    """
    Read a recording through, checksums included; returns counts and what its recorder said.

    :returns: messages, topics (name -> count), seconds, bytes, damaged (chunks), whole, custom.
    :raises RosbagError: there is none, or it is not one of ours to read.
    """
    _, found = _locate(Path(path))
    with open(found, 'rb') as file:
        return {**_walk(file, found, None), 'bytes': os.fstat(file.fileno()).st_size}


def _rewrite(file: BinaryIO, found: Path) -> dict[str, Any]:
    """Copy all that is whole into a fresh file beside ``found``."""
    fresh = found.with_name(found.name + '.tmp')
    with open(fresh, 'wb', buffering=0) as target:
        mcap = McapWriter(target)
        topics: dict[int, Topic] = {}
        facts = _walk(file, found, _Copy(mcap, topics))
        custom = {**facts['custom'], 'recovered': 'true'}
        mcap.add_metadata('dmo_ros', custom)
        info = _metadata(found.name, topics, mcap, custom)
        mcap.add_metadata('rosbag2', {'serialized_metadata': info})
        mcap.finish()
        os.fsync(target.fileno())
    return {**facts, 'file': fresh, 'info': info}


class _Copy:
    """Writes walked messages into another file, registering their topics as they come."""

    def __init__(self, mcap: McapWriter, topics: dict[int, Topic]) -> None:
        self.mcap, self.topics = mcap, topics
        self.schemas: dict[str, int] = {}
        self.numbers: dict[int, int] = {}

    def register(self, walk: Walk) -> None:
        """Take over the topics that have turned up since the last call."""
        for number, channel in walk.channels.items():
            if number not in self.numbers and channel.schema in walk.schemas:
                self.numbers[number] = self._add(walk, number)

    def _add(self, walk: Walk, number: int) -> int:
        channel = walk.channels[number]
        schema = walk.schemas[channel.schema]
        if schema.name not in self.schemas:
            self.schemas[schema.name] = self.mcap.add_schema(
                schema.name, schema.definition, schema.encoding
            )
        fresh = self.mcap.add_channel(self.schemas[schema.name], channel.topic, channel.metadata)
        self.topics[fresh] = Topic(
            channel.topic,
            schema.name,
            schema.definition,
            channel.metadata.get('topic_type_hash', ''),
            channel.metadata.get('offered_qos_profiles', ''),
            schema.encoding,
        )
        return fresh


def _walk(file: BinaryIO, found: Path, copy: _Copy | None) -> dict[str, Any]:
    """Read a file from its beginning; returns counts, and copies the messages where asked."""
    file.seek(0)
    walk, times = Walk(file), [2**63 - 1, 0]
    counts: dict[int, int] = {}
    try:
        for message in walk:
            if message.channel not in walk.channels:
                walk.damaged += 1  # its topic was in a chunk that is lost
                continue
            counts[message.channel] = counts.get(message.channel, 0) + 1
            times = [min(times[0], message.log_time), max(times[1], message.log_time)]
            if copy:
                copy.register(walk)
                copy.mcap.add_message(
                    copy.numbers[message.channel],
                    message.log_time,
                    message.publish_time,
                    message.sequence,
                    message.data,
                )
                if copy.mcap.pending > 2**20:
                    copy.mcap.flush()
        if copy:
            copy.register(walk)
            copy.mcap.flush()
    except McapError as error:
        raise RosbagError(f'{found} cannot be rescued: {error}') from error
    return {
        'messages': sum(counts.values()),
        'seconds': max(0, times[1] - times[0]) / 1e9,
        'topics': {walk.channels[n].topic: count for n, count in counts.items()},
        'damaged': walk.damaged,
        'whole': walk.whole,
        'end': walk.end,
        'custom': walk.metadata.get('dmo_ros', {}),
    }


def _locate(path: Path) -> tuple[Path, Path]:
    files = [path] if path.is_file() else sorted(path.glob('*.mcap'))
    if not files:
        raise RosbagError(f'{path} holds no .mcap file; there is nothing to rescue')
    if len(files) > 1:
        raise RosbagError(f'{path} holds {len(files)} .mcap files; rescue them one at a time')
    return files[0].parent, files[0]


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RosbagError(f'{path} is still being recorded; stop its recorder first') from error


def _metadata(
    file: str, topics: Mapping[int, Topic], mcap: McapWriter, custom: Mapping[str, str]
) -> str:
    """Return rosbag2's description of a recording; YAML, of which JSON is a part."""
    total = sum(mcap.counts.values())
    start = mcap.start if total else 0
    duration = mcap.end - start if total else 0
    times = {
        'starting_time': {'nanoseconds_since_epoch': start},
        'duration': {'nanoseconds': duration},
        'message_count': total,
    }
    return _yaml(
        {
            'version': VERSION,
            'storage_identifier': 'mcap',
            'relative_file_paths': [file],
            **times,
            'topics_with_message_count': [
                {
                    'topic_metadata': {
                        'name': topic.name,
                        'type': topic.kind,
                        'serialization_format': 'cdr',
                        'offered_qos_profiles': topic.qos,
                        'type_description_hash': topic.type_hash,
                    },
                    'message_count': mcap.counts[number],
                }
                for number, topic in topics.items()
            ],
            'compression_format': '',
            'compression_mode': '',
            'files': [{'path': file, **times}],
            'custom_data': dict(custom),
            'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
        }
    ).lstrip('\n')


def _yaml(value: Any, pad: str = '') -> str:
    """Return block YAML of dicts, lists and scalars (a JSON scalar is a YAML one)."""
    deeper = pad + '  '
    if isinstance(value, dict) and value:
        return ''.join(f'\n{pad}{key}:{_yaml(item, deeper)}' for key, item in value.items())
    if isinstance(value, list) and value:
        return ''.join(f'\n{pad}-{_yaml(item, deeper)}' for item in value)
    return ' ' + json.dumps(value)


def _write_metadata(folder: Path, info: str) -> None:
    beside = folder / 'metadata.yaml.tmp'
    with open(beside, 'w', encoding='utf-8') as file:
        indented = info.replace('\n', '\n  ')
        file.write(f'rosbag2_bagfile_information:\n  {indented}\n')
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / 'metadata.yaml')
    sync_folder(folder)
