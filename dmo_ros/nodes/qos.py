"""
Every quality of service of the graph, in one place.

A best-effort publisher does not match a reliable subscriber, and a subscriber that asks for a
liveliness lease does not match a publisher that offers none: one list, so that nobody wonders.
"""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = [
    'COMMAND_IN',
    'COMMAND_OUT',
    'EVERY',
    'FEW',
    'LATCHED',
    'NEWEST',
    'SENSOR',
    'STREAM',
    'SubscriptionEventCallbacks',
]
_LEASE = Duration(seconds=1.0)

# Commands: reliable.  The lease tells the gate how many senders are alive; a publisher without one
# (somebody's `ros2 topic pub`) is not connected to the gate at all.  The sender keeps a few so
# that a recorder gets every one; the receiver keeps the newest, so that it never acts on an old
# queue.
COMMAND_OUT = QoSProfile(
    depth=20,
    reliability=ReliabilityPolicy.RELIABLE,
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=_LEASE,
)
COMMAND_IN = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=_LEASE,
)

# Streams (images, pad, state): the sender is reliable so that recorders lose nothing on this
# machine; NEWEST takes the last one, FEW keeps a short queue where each one counts.
STREAM = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
FEW = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)

# A camera of somebody else's driver publishes best effort; this matches both kinds.
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)

# What a late joiner must know: the last value is kept for it.
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)

# Recorders: deep enough for a writer that is held up by its disk.
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
