"""
Calls to Unitree's services and, for peers, the services themselves (reference, section 3).

Use it through :mod:`.unitree`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import queue
import threading
import time
from typing import Any

from .unitree_channel import alive, at_end, delete, Publication, sdk, Subscription

OK, NO_PEER, TIMED_OUT = 0, 3102, 3104  # codes of a call (section 3)
NOT_IMPLEMENTED, BAD_PARAMETER = 3203, 3204
API_VERSION = 1  # the api id that every service answers with its version


# ---------------------------------------------------------------------- our side
_clients: list[Any] = []  # the SDK's, which have no close()


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
    delete(reader._Reader__reader)
    delete(sender._Channel__writer._Writer__writer)
    thread = reader._Reader__threadReader
    reader._Reader__threadEvent.set()
    until = time.monotonic() + 2.0
    while thread.is_alive() and time.monotonic() < until:  # the SDK's own wake-up can miss it
        reader._Reader__queue.Interrupt()
        thread.join(timeout=0.02)
    stub._ClientStub__recvChannel = None
    _clients.remove(client)


def _close_clients() -> None:
    for client in list(_clients):
        close_client(client)


at_end.append(_close_clients)


# ---------------------------------------------------------------------- a robot's side
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
        alive.add(self)

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
