"""RocketMQ through Apache's own client, with a clean face: one consumer, one producer, one kind of error.

What the vendor's client leaves to its user is done here: it raises bare exceptions, hides why there is no
route, does not say its settings again to a server that was restarted (so a client that failed is thrown away
and made anew), leaves threads behind, cannot be woken from a receive, and has a race in its greeting.

It has no option for a private authority. gRPC reads one from GRPC_DEFAULT_SSL_ROOTS_FILE_PATH (a PEM file), a
variable of the whole process that must be set before the first connection.
"""

import asyncio
import contextlib
import ipaddress
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from pydantic import SecretStr

from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError, QueueError
from tspace_core.link.rocketmq_messages import CODES, READY_TOPIC, group_of, topic_of
from tspace_core.link.rocketmq_vendor import vendor

__all__ = [
    "CODES",
    "READY_TOPIC",
    "QueueServers",
    "Received",
    "RmqConsumer",
    "RmqProducer",
    "group_of",
    "topic_of",
]

POLL_S = 10
"""A receive waits so long for a message, s; servers allow from 5 s on."""
INVISIBLE_S = 10
"""A message that is not acknowledged comes back after this, s; servers allow from 10 s on."""
BATCH = 16
REQUEST_S = 3
"""Longest call other than a receive, s."""


@dataclass(frozen=True)
class QueueServers:
    """Where the queue is and who asks.

    Attributes:
        endpoints: ``host:port`` each; the next is tried where one fails.
        tls: whether connections are encrypted.
        access_key, secret_key: what requests are signed with; None: nothing.
    """

    endpoints: tuple[str, ...]
    tls: bool = True
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            host, _, port = endpoint.rpartition(":")
            if not host or ":" in host or not port.isdigit() or not 0 < int(port) < 1 << 16:
                message = (
                    f"TSPACE_ROCKETMQ__ENDPOINTS has {endpoint!r}; expected host:port, several separated by "
                    ";, where host is a name or an IPv4 address (the client knows no IPv6)"
                )
                raise ConfigError(message)
            if not self.tls and not _is_loopback(host):
                message = (
                    f"without TLS the message queue at {endpoint} could be read and written on the way, and "
                    "a message begins a drive; set TSPACE_ROCKETMQ__TLS=true, or use a server on this machine"
                )
                raise ConfigError(message)

    @classmethod
    def from_settings(cls) -> Self:
        """As ``TSPACE_ROCKETMQ__*`` say.

        Raises:
            ConfigError: no or no usable endpoints, or a foreign machine without TLS.
        """
        given = settings().rocketmq
        found = tuple(part.strip() for part in (given.endpoints or "").split(";") if part.strip())
        if not found:
            message = (
                "no message queue for the HMI: set TSPACE_ROCKETMQ__ENDPOINTS to host:port (several "
                "separated by ;), or TSPACE_HMI__SOURCE to udp or dummy"
            )
            raise ConfigError(message)
        return cls(found, given.tls, given.access_key, given.secret_key)


@dataclass(frozen=True)
class Received:
    """A message out of a topic.

    Attributes:
        id: the same where it is delivered again.
        body: as it was sent.
        stored_s: when it came into the queue, s UTC by this machine's clock.
        exact: ``stored_s`` is known from the server's clock alone; else it is as good as the sender's clock.
        damaged: what is wrong with the body, else "".
    """

    id: str
    body: bytes
    stored_s: float
    exact: bool
    damaged: str
    raw: Any = field(repr=False)


class _Client(ABC):
    """One client of the vendor, with a server that is up; made anew after each failure.

    Args:
        servers: where.
        topic: what it is for.
    """

    def __init__(self, servers: QueueServers, topic: str) -> None:
        self._servers, self.topic = servers, topic
        self._lock = threading.Lock()
        self._turn = 0
        self._client: Any = None
        self._healthy = True
        self._ended = False

    @property
    def endpoint(self) -> str:
        """The server in turn."""
        return self._servers.endpoints[self._turn % len(self._servers.endpoints)]

    def has_ended(self) -> bool:
        """Whether ``end`` was called."""
        return self._ended

    def end(self) -> None:
        """Let no call wait any longer, now and from now on; from any thread."""
        with self._lock:
            self._ended = True
            client = self._client
        if client is not None:
            self._break(client)

    def close(self) -> None:
        """Leave nothing open and no thread running."""
        with self._lock:
            client, self._client = self._client, None
            healthy = self._healthy and not self._ended
        if client is not None:
            self._shut(client, healthy=healthy)

    @abstractmethod
    def _make(self, configuration: Any) -> Any:
        """The vendor's client, not started yet."""

    def _opened(self) -> Any:
        """The client, connected.

        Raises:
            QueueError: no server answers as it must.
        """
        if self._client is not None:
            return self._client
        client = None
        try:
            if self.has_ended():
                _raise("it was ended")
            api = vendor().client
            keys = (self._servers.access_key, self._servers.secret_key)
            credentials = api.Credentials(*(key.get_secret_value() if key else "" for key in keys))
            configuration = api.ClientConfiguration(self.endpoint, credentials, request_timeout=REQUEST_S)
            client = self._make(configuration)
            with self._lock:
                # From here on ``end`` reaches it; where it was before, connecting fails at once.
                self._client, self._healthy = client, True
            if self.has_ended():
                self._break(client)
            settled = client._init_settings_event
            _greet_on_loop(client)
            client.startup()
            if not client.route_manager.get_all_endpoints():
                self._find_why(client, configuration)
            # Servers refuse a client until they know its settings, which it does not wait for.
            if not settled.wait(REQUEST_S):
                _raise(f"the server did not answer the client's settings within {REQUEST_S} s")
        except Exception as error:
            raise self._failed(error, "cannot be reached") from error
        return client

    def _find_why(self, client: Any, configuration: Any) -> None:
        """Ask for the route once more: the vendor's client logs and drops the reason."""
        protocol = vendor().protocol
        request = protocol.QueryRouteRequest()
        request.topic.name = self.topic
        request.endpoints.CopyFrom(configuration.rpc_endpoints.endpoints)
        answer = client.rpc_client.query_topic_route_async(
            configuration.rpc_endpoints, request, metadata=client.sign(), timeout=REQUEST_S
        ).result(2 * REQUEST_S)
        code = protocol.Code.Name(answer.status.code)
        _raise(f"no route to the topic: {code} {answer.status.message}")

    def _failed(self, error: Exception, what: str) -> QueueError:
        """Throw the client away, take the next server's turn and say what happened."""
        endpoint = self.endpoint
        with self._lock:
            self._healthy = False
        self.close()
        self._turn += 1
        reason = _reason(error)
        for key in (self._servers.access_key, self._servers.secret_key):
            if key is not None and key.get_secret_value():
                reason = reason.replace(key.get_secret_value(), "***")
        advice = _advice(reason, self._servers)
        return QueueError(f"message queue at {endpoint}, topic {self.topic}: {what} ({reason}); {advice}")

    @staticmethod
    def _break(client: Any) -> None:
        """Cancel what the client waits for."""
        with contextlib.suppress(Exception):
            client.rpc_client.stop()
        waited = client._init_settings_event
        if waited is not None:
            waited.set()

    def _shut(self, client: Any, *, healthy: bool) -> None:
        if not healthy:
            # First: saying goodbye to a server that does not answer takes its time.
            self._break(client)
        with contextlib.suppress(Exception):
            client.shutdown()
        self._break(client)
        # It forgets this one.
        decoding = getattr(client, "_Consumer__message_decode_executor", None)
        if decoding is not None:
            decoding.shutdown(wait=False)


class RmqConsumer(_Client):
    """Takes the messages of one topic, for one consumer group; used by one thread.

    Args:
        servers: where.
        topic: its name.
        group: each message goes to one consumer of a group.
        invisible_s: a message that is not acknowledged comes back after this, whole s.
    """

    def __init__(
        self, servers: QueueServers, topic: str, group: str, *, invisible_s: int = INVISIBLE_S
    ) -> None:
        super().__init__(servers, topic)
        self.group = group
        self._invisible_s = invisible_s

    def open(self) -> None:
        """Connect, unless it is connected.

        Raises:
            QueueError: no server answers as it must; the next call tries the next one.
        """
        self._opened()

    def receive(self) -> list[Received]:
        """Wait for messages; in the order of their delivery. None came for ``POLL_S``, or ``end``: empty.

        Raises:
            QueueError: the server is gone or refuses; the next call connects anew.
        """
        try:
            client = self._opened()
        except QueueError:
            if self.has_ended():
                return []
            raise
        try:
            found = client.receive(BATCH, self._invisible_s)
        except Exception as error:
            if self.has_ended():
                return []
            raise self._failed(error, "receives nothing") from error
        now = time.time()
        return [_received(message, now) for message in found]

    def acknowledge(self, received: Received) -> bool:
        """Settle a message; False: it could not be, and comes again."""
        client = self._client
        if client is None:
            return False
        try:
            client.ack(received.raw)
        except Exception:
            return False
        return True

    def _make(self, configuration: Any) -> Any:
        api = vendor().client
        return api.SimpleConsumer(
            configuration,
            self.group,
            {self.topic: api.FilterExpression()},
            await_duration=POLL_S,
            tls_enable=self._servers.tls,
        )


class RmqProducer(_Client):
    """Sends messages to one topic; used by one thread."""

    def send(self, body: Mapping[str, object]) -> str:
        """Send a JSON object.

        Returns:
            The id that the message has from now on.

        Raises:
            QueueError: it was not taken; the next call connects anew.
        """
        client = self._opened()
        message = vendor().client.Message()
        message.topic, message.body = self.topic, json.dumps(dict(body)).encode()
        try:
            return str(client.send(message).message_id)
        except Exception as error:
            raise self._failed(error, "takes no message") from error

    def _make(self, configuration: Any) -> Any:
        return vendor().client.Producer(configuration, (self.topic,), tls_enable=self._servers.tls)


def _greet_on_loop(client: Any) -> None:
    """Let the client greet a server in the thread of its loop only.

    It does so in a callback of the future that brings the route. Where that is done already, the callback
    runs in the thread that asked, which has no event loop: the greeting fails, and with it the client.
    """
    greet, loop = client.on_new_endpoints, client.rpc_client.get_channel_io_loop()

    async def greeting(endpoints: Any) -> None:
        greet(endpoints)

    def on_new_endpoints(endpoints: Any) -> None:
        try:
            on_loop = asyncio.get_running_loop() is loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            greet(endpoints)
        else:
            asyncio.run_coroutine_threadsafe(greeting(endpoints), loop).result(REQUEST_S)

    client.on_new_endpoints = on_new_endpoints


def _raise(message: str) -> NoReturn:
    raise QueueError(message)


def _received(message: Any, now_s: float) -> Received:
    delivered_ms = message.transport_delivery_timestamp or 0
    # The vendor's message has no public name for it; where it is not, the sender's time must do.
    stored_ms = getattr(message, "_Message__store_timestamp", None) or 0
    exact = delivered_ms > 0 and stored_ms > 0
    if exact:
        stored_s = now_s - max(delivered_ms - stored_ms, 0) / 1000
    else:
        stored_s = (stored_ms or message.born_timestamp or now_s * 1000) / 1000
    return Received(
        id=str(message.message_id),
        body=bytes(message.body),
        stored_s=stored_s,
        exact=exact,
        damaged="its checksum is wrong" if message.corrupted else "",
        raw=message,
    )


def _reason(error: BaseException) -> str:
    """What a bare exception of the vendor or of gRPC says, on one line."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        text = f"{getattr(code(), 'name', code())}: {details()}"
    elif isinstance(code, int):
        with contextlib.suppress(ValueError):
            text = f"{vendor().protocol.Code.Name(code)}: {error}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _advice(reason: str, servers: QueueServers) -> str:
    if "UNAUTHORIZED" in reason or "FORBIDDEN" in reason or "UNAUTHENTICATED" in reason:
        return "correct TSPACE_ROCKETMQ__ACCESS_KEY and TSPACE_ROCKETMQ__SECRET_KEY, or allow them the topic"
    if "NOT_FOUND" in reason:
        return "create the topic on the server, or correct driver and vin in the vehicle's file"
    tls = "speaks TLS with a known authority" if servers.tls else "speaks no TLS"
    return f"see that the server is up and {tls}, and TSPACE_ROCKETMQ__ENDPOINTS"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
