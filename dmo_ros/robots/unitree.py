"""
The one door to Unitree's SDK and its DDS: nothing else here imports them.

What passes through it (traps and measurements: hardware reference, sections 0 to 3)::

    kit = sdk()                             # or a RobotError that says what to install
    open_channel(twin_dds_domain(ros_domain), 'lo')  # once a process; another one is refused
    newest = Subscription('rt/lf/lowstate', kit.go.LowState_)   # .sample .arrived .count
    out = Publication('rt/arm_sdk', kit.hg.LowCmd_)             # .write(sample) .matched
    client = open_client(kit.SportClient, timeout=0.2)          # the SDK's own
    loco = make_client('sport', '1.0.0.0', (7001, 7101))  # one it lacks: loco._Call(id, json)
    close_client(client)                    # and newest.close(), out.close()
    server = Service('sport', '1.0.0.1', handle)  # the robot's side, for peers
    message.crc = crc32(message)            # LowCmd_ and LowState_ of go and hg

Everything is closed at the end of the process at the latest: a DDS thread that calls into an
interpreter on its way out takes the process down with it.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
import importlib.util
import os
from pathlib import Path
import queue
import socket
import sys
import threading
import time
from types import ModuleType
from typing import Any
import weakref

from .base import RobotError
from .unitree_crc import crc32, pack
from ..core.addresses import AddressError, check_domains

__all__ = [
    'Answer',
    'close_client',
    'client_matched',
    'crc32',
    'LinkFaults',
    'make_client',
    'open_channel',
    'open_client',
    'pack',
    'Publication',
    'Request',
    'sdk',
    'Sdk',
    'Service',
    'Subscription',
]

LOOPBACK = 'lo'
OK, NO_PEER, TIMED_OUT = 0, 3102, 3104  # codes of a call (section 3)
NOT_IMPLEMENTED, BAD_PARAMETER = 3203, 3204
API_VERSION = 1  # the api id that every service answers with its version

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
_alive: weakref.WeakSet[Any] = weakref.WeakSet()  # what has a close() to call at the end
_clients: list[Any] = []  # and the SDK's, which have none


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
    for client in list(_clients):
        close_client(client)
    for item in list(_alive):
        item.close()
    factory = sdk().channel.ChannelFactory
    _delete(factory._ChannelFactory__participant)
    _delete(factory._ChannelFactory__domain)


def _delete(entity: Any) -> None:
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
        _alive.add(self)

    def _take(self, reader: Any) -> None:
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
        _delete(reader)


class Publication:
    """A writer of a topic; quality of service as the SDK's: reliable, depth 1, volatile."""

    def __init__(self, topic: str, kind: Any) -> None:
        from cyclonedds.pub import DataWriter

        participant, what = _topic(topic, kind)
        self._writer: Any = DataWriter(participant, what)
        _alive.add(self)

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
        _delete(writer)


# ---------------------------------------------------------------------- services: our side
def open_client(kind: Callable[[], Any], timeout: float) -> Any:
    """Make one of the SDK's clients (takes 0.7 s); ``timeout`` (s) bounds each of its calls."""
    client = kind()
    client.SetTimeout(timeout)
    client.Init()
    _clients.append(client)
    return client


def make_client(service: str, version: str, apis: Iterable[int], timeout: float = 0.2) -> Any:
    """Make a client for a service that the SDK has none for; call its ``_Call(api_id, json)``."""

    def make() -> Any:
        client = sdk().Client(service, False)
        client.Init = lambda: None
        client._SetApiVerson(version)
        for api_id in apis:
            client._RegistApi(api_id, 0)
        return client

    return open_client(make, timeout)


def client_matched(client: Any) -> bool:
    """Tell, without calling it, whether somebody listens to a client's requests."""
    sender = client._ClientBase__stub._ClientStub__sendChannel
    return bool(sender._Channel__writer._Writer__publication_matched_count)


def close_client(client: Any) -> None:
    """End a client's DDS entities and its thread, which the SDK leaves to the process's end."""
    stub = client._ClientBase__stub
    sender, receiver = stub._ClientStub__sendChannel, stub._ClientStub__recvChannel
    if receiver is None:
        return
    reader = receiver._Channel__reader
    _delete(reader._Reader__reader)
    _delete(sender._Channel__writer._Writer__writer)
    thread = reader._Reader__threadReader
    reader._Reader__threadEvent.set()
    until = time.monotonic() + 2.0
    while thread.is_alive() and time.monotonic() < until:  # the SDK's own wake-up can miss it
        reader._Reader__queue.Interrupt()
        thread.join(timeout=0.02)
    stub._ClientStub__recvChannel = None
    _clients.remove(client)


# ---------------------------------------------------------------------- services: a robot's side
@dataclass(frozen=True)
class Request:
    """A request that came to a service; ``arrived`` in s, steady clock."""

    arrived: float
    api_id: int
    parameter: str
    noreply: bool


@dataclass(frozen=True)
class Answer:
    """What a service answers: 0 or an error's code, JSON, octets."""

    code: int = OK
    data: str = ''
    binary: bytes = b''


@dataclass
class LinkFaults:
    """How a peer's link misbehaves, for tests; changed while it runs."""

    mute: bool = False  # requests come in, nothing goes out
    delay: float = 0.0  # s, before a request is looked at
    drop: int = 0  # every n-th request is lost; 0: none
    _seen: int = field(default=0, repr=False)

    def loses(self) -> bool:
        """Tell whether the next request is lost."""
        self._seen += 1
        return self.drop > 0 and self._seen % self.drop == 0


class Service:
    """
    A service as a robot runs it: requests in order, in a thread of its own.

    Written on the raw topics: the SDK's server cannot end, nor answer with octets (section 3).

    :param handle: answers (api id, JSON); a ValueError, TypeError or KeyError is a 3204.
    """

    def __init__(
        self,
        name: str,
        version: str,
        handle: Callable[[int, str], Answer],
        faults: LinkFaults | None = None,
    ) -> None:
        kit = sdk()
        self.requests: deque[Request] = deque(maxlen=20_000)  # that were not lost, for tests
        self.version, self.faults = version, faults or LinkFaults()
        self._api, self._handle = kit.api, handle
        self._queue: queue.SimpleQueue[tuple[float, Any] | None] = queue.SimpleQueue()
        self._out = Publication(f'rt/api/{name}/response', kit.api.Response_)
        self._in = Subscription(f'rt/api/{name}/request', kit.api.Request_, self._take)
        self._thread = threading.Thread(target=self._run, name=f'service_{name}', daemon=True)
        self._thread.start()
        _alive.add(self)

    def _take(self, request: Any) -> None:
        self._queue.put((time.monotonic(), request))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.faults.delay:
                time.sleep(self.faults.delay)
            if not self.faults.loses():
                self._serve(*item)

    def _serve(self, arrived: float, request: Any) -> None:
        identity, noreply = request.header.identity, request.header.policy.noreply
        self.requests.append(Request(arrived, identity.api_id, request.parameter, noreply))
        answer = self._answer(identity.api_id, request.parameter)
        if noreply or self.faults.mute:
            return
        api = self._api
        header = api.ResponseHeader_(identity, api.ResponseStatus_(answer.code))
        self._out.write(api.Response_(header, answer.data, list(answer.binary)))

    def _answer(self, api_id: int, parameter: str) -> Answer:
        if api_id == API_VERSION:
            return Answer(data=self.version)
        try:
            return self._handle(api_id, parameter)
        except (ValueError, TypeError, KeyError):  # not JSON, or not what was expected in it
            return Answer(BAD_PARAMETER)

    def close(self) -> None:
        """Serve no more; idempotent."""
        self._in.close()
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._out.close()
