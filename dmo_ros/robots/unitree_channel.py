"""
Unitree's SDK made importable, and its DDS: one channel a process, topics that can be closed.

Use it through :mod:`.unitree`, where the traps are told.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
import importlib.util
import os
from pathlib import Path
import socket
import sys
import threading
import time
from types import ModuleType
from typing import Any
import weakref

from .base import RobotError
from ..core.addresses import AddressError, check_domains

LOOPBACK = 'lo'
# The SDK's own configuration with an interface, without its log file of a fixed name in /tmp that
# all users of a machine would share.
_CONFIG = """<CycloneDDS><Domain Id="any"><General><Interfaces>
<NetworkInterface name="$__IF_NAME__$" priority="default" multicast="default"/>
</Interfaces></General></Domain></CycloneDDS>"""


@dataclass(frozen=True)
class Sdk:
    """What is used of the SDK; ``go``, ``hg`` and ``api`` are its modules of messages."""

    go: Any
    hg: Any
    api: Any
    default: Any  # makers of messages full of zeros, e.g. default.unitree_go_msg_dds__LowState_()
    Client: Any  # the base of all service clients
    SportClient: Any
    VideoClient: Any
    ObstaclesAvoidClient: Any
    channel: Any  # its module of DDS channels


@cache
def sdk() -> Sdk:
    """
    Import the SDK, with what its published package needs to work.

    The index package imports a sub-package it lacks; and cyclonedds 11 announces octets as another
    type than the robots' 0.10, so that nothing would ever match (section 0, items 1 and 3).

    :raises RobotError: it is not installed; names the command that installs it.
    """
    spec = _find('unitree_sdk2py', 'unitree-sdk2')
    _find('cyclonedds', 'cyclonedds')
    folders = spec.submodule_search_locations or []
    if not any(Path(folder, 'b2').is_dir() for folder in folders):
        sys.modules.setdefault('unitree_sdk2py.b2', ModuleType('unitree_sdk2py.b2'))
    try:
        import cyclonedds.idl  # noqa: F401 (its builder reads the constants set below)
        from cyclonedds.idl._typesupport.DDS import XTypes
        from unitree_sdk2py.core import channel
        from unitree_sdk2py.go2.obstacles_avoid.obstacles_avoid_client import ObstaclesAvoidClient
        from unitree_sdk2py.go2.sport.sport_client import SportClient
        from unitree_sdk2py.go2.video.video_client import VideoClient
        from unitree_sdk2py.idl import default
        from unitree_sdk2py.idl.unitree_api.msg import dds_ as api
        from unitree_sdk2py.idl.unitree_go.msg import dds_ as go
        from unitree_sdk2py.idl.unitree_hg.msg import dds_ as hg
        from unitree_sdk2py.rpc.client import Client
        from unitree_sdk2py.rpc.request_future import RequestFutureQueue
    except (ImportError, OSError) as error:
        raise RobotError(f'the Unitree SDK does not load: {error}; {_install()}') from error
    XTypes.TK_UINT8 = XTypes.TK_BYTE
    channel.ChannelConfigHasInterface = _CONFIG
    RequestFutureQueue.Remove = RequestFutureQueue.Get  # its own forgets nothing: a leak
    return Sdk(
        go, hg, api, default, Client, SportClient, VideoClient, ObstaclesAvoidClient, channel
    )


def _find(module: str, package: str) -> Any:
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise RobotError(f'{package} is missing; Unitree robots need it: {_install()}')
    return spec


def _install() -> str:
    extra = "pip install 'dmo_ros[go2]'"
    if sys.version_info < (3, 11):
        return extra
    return f'{extra} and pip install --no-deps unitree-sdk2==1.0.1'


# ---------------------------------------------------------------------- the channel
_opened: tuple[int, str] | None = None
_opening = threading.Lock()
alive: weakref.WeakSet[Any] = weakref.WeakSet()  # what has a close() to call at the end
at_end: list[Callable[[], None]] = []  # and what else is to be called then


def open_channel(domain: int, interface: str = LOOPBACK) -> Sdk:
    """
    Open this process's DDS on one interface and return the SDK; again with the same: nothing.

    :raises RobotError: an SDK is missing, the domain is ROS's own, there is no such interface, or
        this process has another domain or interface open (the SDK would silently keep it).
    """
    global _opened
    kit = sdk()
    with _opening:
        if _opened is not None:
            if _opened != (domain, interface):
                raise RobotError(
                    f'this process already speaks DDS in domain {_opened[0]} on {_opened[1]!r}, '
                    f'and can have no second one (domain {domain} on {interface!r}): use another '
                    'process for another robot'
                )
            return kit
        _check(domain, interface)
        if not kit.channel.ChannelFactory().Init(domain, interface):
            raise RobotError(f'DDS did not start in domain {domain} on interface {interface!r}')
        _opened = domain, interface
        atexit.register(_close_all)
    return kit


def _check(domain: int, interface: str) -> None:
    try:
        check_domains(int(os.environ.get('ROS_DOMAIN_ID') or 0), domain)
    except AddressError as error:
        raise RobotError(str(error)) from error
    known = [name for _, name in socket.if_nameindex()]
    if interface not in known:
        raise RobotError(
            f'there is no network interface {interface!r}; this machine has {", ".join(known)}'
        )


def _close_all() -> None:
    for end in at_end:
        end()
    for item in list(alive):
        item.close()
    factory = sdk().channel.ChannelFactory
    delete(factory._ChannelFactory__participant)
    delete(factory._ChannelFactory__domain)


def delete(entity: Any) -> None:
    """End a DDS entity now; after it none of its callbacks runs (Cyclone has no public close)."""
    if entity is not None:
        entity.__del__()


def _topic(name: str, kind: Any) -> tuple[Any, Any]:
    from cyclonedds.topic import Topic

    if _opened is None:
        raise RobotError('call open_channel() first: no DDS domain is open in this process')
    participant = sdk().channel.ChannelFactory._ChannelFactory__participant
    return participant, Topic(participant, name, kind)


class Subscription:
    """
    The newest sample of a topic; quality of service as the SDK's: best effort, depth 1.

    ``sample``: the newest or None; ``began``, ``arrived``: when the first and the newest came (s,
    steady clock); ``count``: of all.
    ``handle`` is called with each one on a thread of DDS: it must be short, and must not close.
    """

    def __init__(self, topic: str, kind: Any, handle: Callable[[Any], None] | None = None) -> None:
        from cyclonedds.core import Listener
        from cyclonedds.sub import DataReader

        self.sample: Any = None
        self.began = self.arrived = 0.0
        self.count = 0
        self._handle = handle
        participant, what = _topic(topic, kind)
        listener = Listener(on_data_available=self._take)
        self._reader: Any = DataReader(participant, what, listener=listener)
        alive.add(self)

    def _take(self, reader: Any) -> None:
        if reader is None:  # it came while the reader was being made: the next one tells
            return
        for sample in reader.take(8):
            if type(sample).__name__ == 'InvalidSample':  # the writer's end, not data
                continue
            self.sample, self.arrived = sample, time.monotonic()
            self.began = self.began or self.arrived
            self.count += 1
            if self._handle is not None:
                self._handle(sample)

    @property
    def rate(self) -> float:
        """Return how many samples a second have come since the first; 0 before the second."""
        spent = self.arrived - self.began
        return (self.count - 1) / spent if spent > 0.0 else 0.0

    def close(self) -> None:
        """End it; idempotent, and no handler runs after it."""
        reader, self._reader = self._reader, None
        delete(reader)


class Publication:
    """A writer of a topic; quality of service as the SDK's: reliable, depth 1, volatile."""

    def __init__(self, topic: str, kind: Any) -> None:
        from cyclonedds.pub import DataWriter

        participant, what = _topic(topic, kind)
        self._writer: Any = DataWriter(participant, what)
        alive.add(self)

    @property
    def matched(self) -> int:
        """Return how many readers there are now."""
        writer = self._writer
        return 0 if writer is None else len(writer.get_matched_subscriptions())

    def write(self, sample: Any) -> None:
        """Send it, if not closed."""
        writer = self._writer
        if writer is not None:
            writer.write(sample)

    def close(self) -> None:
        """End it; idempotent."""
        writer, self._writer = self._writer, None
        delete(writer)
