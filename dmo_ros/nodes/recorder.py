"""
The recorder: play data as a rosbag2, message by message as it came over the wire.

Subscriptions are raw and take over their publishers' QoS; a writer thread does the rest.  Log
times follow the ROS clock, so a twin that runs fast is recorded as if it had run in real time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import json
from pathlib import Path
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from . import definitions, Finished, run
from .parameters import declare, parameter
from .qos import LATCHED
from .recording import Recording
from ..core.rosbag import RosbagError, Topic
from ..core.tasks import get_task
from ..core.topics import RECORDED

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

DEPTH = 500
LABEL_AT = 12  # of IntentLabel's bytes: 4 of encapsulation, 8 of stamp


@dataclass(frozen=True)
class RecorderConfig:
    task: str = parameter('pusher', 'Task whose specification is stored in the recording')
    path: str = parameter('play_{n}', 'Folder of the recording; {n} is the first free number')
    topics: tuple[str, ...] = parameter(RECORDED, 'Topics to record, in this namespace')
    frames: str = parameter('image_raw', 'Topic whose messages are counted as frames')
    intent: str = parameter('intent', 'Topic of the intent labels (dmo_ros/IntentLabel)')
    autostart: bool = parameter(True, 'Record from the beginning, without a call of ~/start')
    limit: int = parameter(
        0, 'Stop and exit after this many frames, or few more; 0: never', low=0, high=1_000_000_000
    )
    limit_seconds: float = parameter(
        0.0, 'Stop and exit after so long (s, wall clock); 0: never', low=0.0, high=1e6
    )
    sync_period: float = parameter(
        0.5, 'Longest time between two syncs to the disk (s)', low=0.05, high=1.0
    )
    queue_mb: int = parameter(256, 'What may wait for a slow disk (MiB)', low=1, high=65536)
    reserve_mb: int = parameter(
        256, 'Stop when the disk has less left than this (MiB)', low=0, high=1_000_000
    )


@dataclass
class Count:
    """Fate of one topic's messages; ``dropped`` is what never reached the writer."""

    received: int = 0
    lost: int = 0  # DDS says so
    missing: int = 0  # gaps in the publisher's own sequence numbers
    overflow: int = 0  # the disk was too slow
    newest: int = 0
    publishers: int = 1

    @property
    def dropped(self) -> int:
        """Messages that were published and are not in the recording."""
        return max(self.lost, self.missing) + self.overflow

    def arrive(self, sequence: int) -> None:
        """Count a message and the gap before it, if its publisher numbers them."""
        self.received += 1
        if self.publishers == 1 and self.newest and sequence > self.newest:
            self.missing += sequence - self.newest - 1
        self.newest = sequence


@dataclass
class Session:
    """One recording and all that is counted in it."""

    path: Path
    writer: Recording
    begun: float
    counts: dict[str, Count] = field(default_factory=dict)
    subscriptions: dict[str, Any] = field(default_factory=dict)
    early: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    frames: int = 0
    labelled: int = 0
    label: int = 0

    def tally(self) -> dict[str, Any]:
        """Count what was received, in plain JSON types; it is kept in the recording."""
        return {
            'frames': self.frames,
            'labelled': self.labelled,
            'seconds': round(time.monotonic() - self.begun, 3),
            'topics': {
                name: {
                    'received': c.received,
                    'dropped': c.dropped,
                    'lost': c.lost,
                    'missing': c.missing,
                    'overflow': c.overflow,
                }
                for name, c in self.counts.items()
            },
        }

    def facts(self) -> dict[str, Any]:
        """Return the tally and how the writer fares; 'written' is safe from a kill."""
        return {
            'path': str(self.path),
            'state': self.writer.state,
            'reason': self.writer.reason,
            'bytes': self.writer.size,
            'written': self.writer.written,
            **self.tally(),
        }


class RecorderNode(Node):
    """Records while it is asked to; services ~/start and ~/stop, status on ~/status."""

    def __init__(self, **options: Any) -> None:
        super().__init__('recorder', **options)
        self.config = declare(self, RecorderConfig)
        self.spec = get_task(self.config.task)
        self.session: Session | None = None
        self.outcome = DiagnosticStatus(name='recorder', message='idle')
        self.wanted = {self.resolve_topic_name(name): name for name in self.config.topics}
        self.frames_topic = self.resolve_topic_name(self.config.frames)
        self.command_topic = self.resolve_topic_name('cmd')
        self.intent_topic = self.resolve_topic_name(self.config.intent)
        self.status = self.create_publisher(DiagnosticStatus, '~/status', LATCHED)
        self.create_service(Trigger, '~/start', self._on_start)
        self.create_service(Trigger, '~/stop', self._on_stop)
        self.create_timer(0.1, self._look, clock=_steady())
        self.create_timer(1.0, self._report, clock=_steady())
        if self.config.autostart:
            self.begin()

    def begin(self) -> None:
        """Begin a recording; RosbagError says why it cannot."""
        config = self.config
        path = free_path(config.path)
        writer = Recording(
            path,
            {'task': json.dumps(self.spec.to_dict())},
            config.sync_period,
            config.queue_mb * 2**20,
            config.reserve_mb * 2**20,
        )
        self.session = Session(path, writer, time.monotonic())
        self.get_logger().info(f'recording into {path}')

    def end(self) -> dict[str, Any]:
        """End the recording; returns its facts once everything is on disk."""
        session, self.session = self.session, None
        if session is None:
            return {}
        for subscription in session.subscriptions.values():
            self.destroy_subscription(subscription)
        session.writer.finish({'recorder': json.dumps(session.tally())})
        self._say(session)
        return session.facts()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.session is not None:
            response.message = f'already recording into {self.session.path}'
            return response
        try:
            self.begin()
            response.success = True
        except RosbagError as error:
            response.message = str(error)
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        facts = self.end()
        response.success = facts.get('state') == 'finished'
        response.message = json.dumps(facts) if facts else 'nothing is being recorded'
        return response

    def _look(self) -> None:
        """Subscribe to what has turned up, and end what has run its course."""
        session = self.session
        if session is None:
            return
        for topic in self.wanted:
            if publishers := self.get_publishers_info_by_topic(topic):
                if topic not in session.subscriptions:
                    self._subscribe(session, topic, publishers)
                self._count_publishers(session, topic, len(publishers))
        seconds = time.monotonic() - session.begun
        if session.writer.state == 'failed':
            self.get_logger().error(f'recording stopped: {session.writer.reason}')
            self._finish(1)
        elif 0 < self.config.limit_seconds <= seconds or 0 < self.config.limit <= session.frames:
            self._finish(0)

    def _count_publishers(self, session: Session, topic: str, found: int) -> None:
        """Warn when a second camera or gate speaks: another graph on the same ROS_DOMAIN_ID?"""
        count = session.counts[topic]
        if found > max(1, count.publishers) and topic in (self.frames_topic, self.command_topic):
            self.get_logger().warning(
                f'{found} publishers on {topic}; a recording of two robots '
                'is of no use: set another ROS_DOMAIN_ID for one of them'
            )
        count.publishers = found

    def _subscribe(self, session: Session, topic: str, publishers: list[Any]) -> None:
        kind = publishers[0].topic_type
        profiles = [publisher.qos_profile for publisher in publishers]
        session.counts[topic] = count = Count()
        session.writer.add_topic(
            Topic(
                topic,
                kind,
                definitions.definition(kind),
                str(getattr(publishers[0], 'topic_type_hash', '')),
                definitions.qos_text(profiles),
            )
        )

        def lost(event: Any) -> None:
            count.lost = event.total_count

        session.subscriptions[topic] = self.create_subscription(
            definitions.message_class(kind),
            topic,
            self._callback(session, topic, count),
            matching_qos(profiles),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=lost),
        )

    def _callback(self, session: Session, topic: str, count: Count) -> Any:
        is_frame, is_label = topic == self.frames_topic, topic == self.intent_topic

        def callback(data: bytes, info: dict[str, Any]) -> None:
            count.arrive(info.get('publication_sequence_number') or 0)
            self._take(session, topic, count, data, info)
            if is_label and len(data) > LABEL_AT:
                session.label = data[LABEL_AT]
            if is_frame:
                session.frames += 1
                session.labelled += session.label > 0

        # Humble tells nothing about a message: no send time, and only DDS counts what is lost.
        told = hasattr(Subscription, 'CallbackType')
        return callback if told else (lambda data: callback(data, {}))

    def _take(
        self, session: Session, topic: str, count: Count, data: bytes, info: dict[str, Any]
    ) -> None:
        """Hand a message to the writer; before a simulated clock has begun, hold it back."""
        now = self.get_clock().now().nanoseconds
        sent = info.get('source_timestamp') or time.time_ns()
        if now == 0:
            session.early.append((topic, sent, count.newest, data))
            return
        for early in session.early:
            session.writer.offer(early[0], now, *early[1:])
        session.early.clear()
        if not session.writer.offer(topic, now, sent, count.newest, data):
            count.overflow += 1

    def _finish(self, code: int) -> None:
        """End the recording; a node that was told how long to record ends with it."""
        facts = self.end()
        if self.config.limit or self.config.limit_seconds:
            raise Finished(code or int(facts['state'] != 'finished'))

    def _report(self) -> None:
        if self.session is not None:
            self._say(self.session)
        else:  # how the last recording ended, until the next one begins
            self.status.publish(self.outcome)

    def _say(self, session: Session) -> None:
        """Publish the status, and print it as one line."""
        facts = session.facts()
        print(status_line(facts), flush=True)
        if not self.context.ok():  # the last line comes while the process goes down
            return
        level = DiagnosticStatus.ERROR if facts['state'] == 'failed' else DiagnosticStatus.OK
        values = {
            key: json.dumps(value) if isinstance(value, dict) else str(value)
            for key, value in facts.items()
        }
        self.outcome = DiagnosticStatus(
            level=level,
            name='recorder',
            message=facts['reason'] or facts['state'],
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        self.status.publish(self.outcome)

    def destroy_node(self) -> None:
        """Finish the recording before the node goes."""
        self.end()
        super().destroy_node()


def status_line(facts: dict[str, Any]) -> str:
    """Describe a recording in one line."""
    share = facts['labelled'] / max(facts['frames'], 1)
    dropped = {name: c['dropped'] for name, c in facts['topics'].items() if c['dropped']}
    drops = ', '.join(f'{name} {n}' for name, n in dropped.items()) or 'none'
    return (
        f'{facts["state"]} {facts["path"]}: {facts["frames"]} frames in '
        f'{facts["seconds"]:.0f} s, {share:.0%} labelled, dropped {drops}, '
        f'{facts["bytes"] / 2**20:.1f} MiB'
    )


def free_path(pattern: str) -> Path:
    """Fill {n} in a path with the first number that is not taken."""
    if '{n}' not in pattern:
        return Path(pattern)
    number = 0
    while (path := Path(pattern.replace('{n}', f'{number:03d}'))).exists():
        number += 1
    return path


def matching_qos(profiles: list[Any]) -> QoSProfile:
    """Return the strictest QoS that all publishers can serve."""
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
    latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _steady() -> Any:
    from rclpy.clock import Clock, ClockType

    return Clock(clock_type=ClockType.STEADY_TIME)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run(RecorderNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
