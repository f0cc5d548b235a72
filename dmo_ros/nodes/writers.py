"""
Who writes a topic: commands are obeyed only while exactly one living writer is there.

Discovery of a writer precedes its first message, so that looking at the graph with every message
(25 microseconds) lets none of a second writer's through.  But the graph remembers a killed writer
for 20 s (its participant's lease), and only the liveliness lease of ``qos.COMMAND_IN`` tells such
a ghost from a rival; so it is asked who is alive, not who is known (reliability-ecosystem.md 2.2,
rows T5 and D3).
"""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile

from . import qos

_NAMELESS = '_NODE_NAME_UNKNOWN_'  # for a moment after its discovery, or no ROS node at all


class Offers:
    """
    Watches for publishers whose quality of service does not match what a subscription asks for.

    They are never connected, in silence; here they are named (row D6).
    """

    def __init__(self, node: Node, topic: str, profile: QoSProfile) -> None:
        self.node, self.topic, self.profile = node, topic, profile

    @property
    def events(self) -> Any:
        """The event callbacks for the subscription."""
        return qos.SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible)

    def mismatch(self) -> str:
        """Name those who are not heard, and why; '' when all are."""
        found = []
        for info in self.node.get_publishers_info_by_topic(self.topic):
            level, why = qos_check_compatible(info.qos_profile, self.profile)
            if level == QoSCompatibility.ERROR:
                found.append(f'{_name(info)} ({why.removeprefix("ERROR: ").rstrip("; ")})')
        if not found:
            return ''
        return (
            f'{self.topic} is not heard from {", ".join(found)}; publish it with the quality of '
            'service of nodes/qos.py'
        )

    def _on_incompatible(self, event: Any) -> None:
        text = self.mismatch() or f'a publisher of {self.topic} cannot be heard'
        self.node.get_logger().error(text, throttle_duration_sec=2.0)


class Writers(Offers):
    """
    Watches the writers of one topic; give ``events`` to the subscription of that topic.

    The subscription must use ``qos.COMMAND_IN``.  A process that writes the topic itself
    subscribes to it all the same (``raw=True`` costs little), and is then one of the writers.
    """

    def __init__(self, node: Node, topic: str) -> None:
        super().__init__(node, topic, qos.COMMAND_IN)
        self._alive = self._counted = 0
        self._known: frozenset[bytes] = frozenset()
        self._dead: frozenset[bytes] = frozenset()
        self._vouched: frozenset[bytes] = frozenset()  # at most one of these lives

    @property
    def events(self) -> Any:
        """The event callbacks for the subscription."""
        return qos.SubscriptionEventCallbacks(
            liveliness=self._on_liveliness, incompatible_qos=self._on_incompatible
        )

    def rival(self) -> str:
        """Name all the living writers when there is more than one; '' when all is well."""
        found = self._look()
        living = set(found) - self._dead
        if len(living) <= 1:
            return ''
        if self._alive <= 1:
            if self._counted >= len(found):  # liveliness has an opinion on each of them
                self._vouched = frozenset(living)
            if living <= self._vouched:
                return ''
        names = [_name(found[gid]) for gid in sorted(living)]
        return f'{self.topic} has {len(names)} writers: {", ".join(names)}'

    def _look(self) -> dict[bytes, Any]:
        infos = self.node.get_publishers_info_by_topic(self.topic)
        found = {bytes(info.endpoint_gid): info for info in infos}
        self._known = frozenset(found)
        self._dead &= self._known
        return found

    def _on_liveliness(self, event: Any) -> None:
        """Take the counts: each writer that was ever heard is alive or not alive."""
        self._alive = event.alive_count
        self._counted = event.alive_count + event.not_alive_count
        if not self._alive:  # whoever was known before is a ghost
            known = self._known
            self._dead = known & frozenset(self._look())
        elif self._alive > len(self._known - self._dead):  # one has come back to life
            self._dead = frozenset()


def _name(info: Any) -> str:
    if _NAMELESS in info.node_name:
        return 'a nameless one'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
