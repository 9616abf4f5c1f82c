"""A message queue server (simulated): what a RocketMQ proxy answers to Apache's own client, over gRPC.

It speaks the service of the vendor's generated code, so real clients of ``rocketmq-python-client`` send,
receive and acknowledge through it. Topics and consumer groups come into being when they are named. A group
begins with the oldest message; a message that is not acknowledged within its invisible duration is delivered
again. As a real proxy it answers only clients whose settings it knows. Everything is in memory and outlives
``stop`` and ``start`` of the same object, as a broker's disk would.
"""

import hashlib
import hmac
import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tspace_core.errors import TwinError
from tspace_core.link.rocketmq_vendor import vendor

_WORKERS = 64
"""A telemetry stream or a receive that waits holds one of them."""
_STOP_S = 5.0


@dataclass
class _Stored:
    """A message in a topic."""

    id: str
    body: bytes
    born_s: float
    stored_s: float
    by_client: bool


@dataclass
class _Delivery:
    """How far a consumer group is with one message."""

    attempts: int = 0
    visible_s: float = 0.0
    handle: str = ""
    acked: bool = False


_Progress = dict[str, _Delivery]
"""A consumer group's deliveries by message id."""


def _progress() -> _Progress:
    return defaultdict(_Delivery)


@dataclass
class _Topic:
    messages: list[_Stored] = field(default_factory=list)
    taken: int = 0
    """Messages of clients that ``received`` has handed out."""


class RocketMqDouble:
    """The server.

    Args:
        port: on 127.0.0.1; 0: a free one, which it keeps over ``stop`` and ``start``.
        tls: certificate and key, PEM files; None: plain.
        credentials: access key and secret key that clients must sign with; None: anybody may.
        stamps: stamp messages with the server's time, as servers of the 5.x line do.

    Raises:
        TwinError: from ``start``: the port is taken.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        tls: tuple[Path, Path] | None = None,
        credentials: tuple[str, str] | None = None,
        stamps: bool = True,
    ) -> None:
        self.port = port
        self._tls, self._credentials, self._stamps = tls, credentials, stamps
        self._protocol = vendor().protocol
        self._changed = threading.Condition()
        self._topics: dict[str, _Topic] = defaultdict(_Topic)
        self._groups: dict[tuple[str, str], dict[str, _Delivery]] = defaultdict(
            lambda: defaultdict(_Delivery)
        )
        self._known: set[str] = set()
        self._server: Any = None
        self._pool: ThreadPoolExecutor
        self._stopping = False
        self._waiting = 0
        self.calls: defaultdict[str, int] = defaultdict(int)
        """How often each method was called."""

    @property
    def endpoints(self) -> str:
        """For ``TSPACE_ROCKETMQ__ENDPOINTS``."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Answer; on the same port as before."""
        import grpc

        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="rocketmq_double")
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        rpc = self._protocol.service_pb2_grpc
        rpc.add_MessagingServiceServicer_to_server(_servicer(rpc, self), server)
        address = f"127.0.0.1:{self.port}"
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(address)
            else:
                certificate, key = (path.read_bytes() for path in self._tls)
                credentials = grpc.ssl_server_credentials([(key, certificate)])
                self.port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            message = f"the simulated RocketMQ cannot listen on {address} ({error}); choose another port or 0"
            raise TwinError(message) from error
        with self._changed:
            self._stopping = False
            self._known.clear()
        server.start()
        self._server, self._pool = server, pool
        return self

    def stop(self) -> None:
        """Drop all connections and answer no more; messages stay."""
        if self._server is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._server.stop(None).wait(_STOP_S)
        self._pool.shutdown()
        self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def publish(
        self,
        topic: str,
        body: Mapping[str, object] | bytes,
        *,
        message_id: str | None = None,
        clock_s: float = 0.0,
        age_s: float = 0.0,
    ) -> str:
        """Put a message into a topic, whether the server is up or not.

        Args:
            topic: its name.
            body: JSON object, or bytes as they are.
            message_id: an id of your own, to say the same thing twice; None: a new one.
            clock_s: how far the sender's clock is ahead, s.
            age_s: it has been in the topic for so long, s.

        Returns:
            The message's id.
        """
        data = body if isinstance(body, bytes) else json.dumps(dict(body)).encode()
        identity = message_id or uuid.uuid4().hex.upper()
        stored_s = time.time() - age_s
        stored = _Stored(identity, data, stored_s + clock_s, stored_s, by_client=False)
        with self._changed:
            self._topics[topic].messages.append(stored)
            self._changed.notify_all()
        return identity

    def received(self, topic: str, timeout_s: float) -> dict[str, Any]:
        """The next message that a client sent to a topic, in order, each once.

        Raises:
            TwinError: none came in time, or it is no JSON object.
        """

        def found() -> list[_Stored]:
            state = self._topics[topic]
            return [one for one in state.messages if one.by_client][state.taken :]

        with self._changed:
            self._changed.wait_for(found, timeout_s)
            waiting = found()
            if not waiting:
                message = f"no client sent anything to {topic} within {timeout_s:g} s"
                raise TwinError(message)
            self._topics[topic].taken += 1
        with suppress(ValueError):
            content = json.loads(waiting[0].body)
            if isinstance(content, dict):
                return content
        message = f"what a client sent to {topic} is no JSON object: {waiting[0].body[:60]!r}"
        raise TwinError(message)

    def settled(self, topic: str, timeout_s: float) -> bool:
        """Wait until every message of a topic is acknowledged by a group; whether that came in time."""

        def done() -> bool:
            groups = [state for (_, name), state in list(self._groups.items()) if name == topic]
            return any(
                all(one.id in state and state[one.id].acked for one in self._topics[topic].messages)
                for state in groups
            )

        with self._changed:
            return self._changed.wait_for(done, timeout_s)

    def waiting(self) -> int:
        """Receives that wait for a message just now."""
        with self._changed:
            return self._waiting

    def refusal(self, context: Any) -> Any:
        """A status where the caller may not, else None."""
        if self._credentials is None:
            return None
        sent = dict(context.invocation_metadata())
        access_key, secret_key = self._credentials
        # The scheme of the protocol, not ours.
        signed = hmac.new(secret_key.encode(), sent.get("x-mq-date-time", "").encode(), hashlib.sha1)
        expected = f"Credential={access_key}, SignedHeaders=x-mq-date-time, Signature={signed.hexdigest()}"
        if hmac.compare_digest(sent.get("authorization", ""), f"MQv2-HMAC-SHA1 {expected}"):
            return None
        return self._status("UNAUTHORIZED", "credentials refused")

    def query_route(self, request: Any) -> Any:
        """One queue for each topic, here."""
        protocol = self._protocol
        response = protocol.service_pb2.QueryRouteResponse(status=self._status("OK"))
        queue = response.message_queues.add()
        queue.topic.CopyFrom(request.topic)
        queue.permission = protocol.Permission.READ_WRITE
        queue.broker.name = "double"
        queue.broker.endpoints.scheme = protocol.AddressScheme.IPv4
        address = queue.broker.endpoints.addresses.add()
        address.host, address.port = "127.0.0.1", self.port
        queue.accept_message_types.append(protocol.definition_pb2.MessageType.NORMAL)
        return response

    def settings_of(self, client: str, command: Any) -> Any:
        """Answer a client's settings with the server's."""
        with self._changed:
            self._known.add(client)
            self._changed.notify_all()
        answer = self._protocol.TelemetryCommand(status=self._status("OK"))
        answer.settings.CopyFrom(command.settings)
        answer.settings.metric.on = False
        if answer.settings.HasField("publishing"):
            answer.settings.publishing.max_body_size = 4 << 20
            answer.settings.publishing.validate_message_type = True
        policy = answer.settings.backoff_policy
        policy.max_attempts = 3
        policy.exponential_backoff.initial.nanos = 10_000_000
        policy.exponential_backoff.max.seconds = 1
        policy.exponential_backoff.multiplier = 2
        return answer

    def send(self, request: Any) -> Any:
        """Store what a client sends."""
        response = self._protocol.service_pb2.SendMessageResponse(status=self._status("OK"))
        with self._changed:
            for message in request.messages:
                properties = message.system_properties
                born_s = properties.born_timestamp.seconds + properties.born_timestamp.nanos / 1e9
                topic = self._topics[message.topic.name]
                entry = response.entries.add(status=self._status("OK"), message_id=properties.message_id)
                entry.offset = len(topic.messages)
                topic.messages.append(
                    _Stored(properties.message_id, message.body, born_s, time.time(), by_client=True)
                )
            self._changed.notify_all()
        return response

    def receive(self, request: Any, client: str, context: Any) -> Iterator[Any]:
        """Wait for messages and hand them out."""
        response = self._protocol.service_pb2.ReceiveMessageResponse
        if client not in self._known:
            yield response(status=self._status("INTERNAL_SERVER_ERROR", "settings of the client not known"))
            return
        poll = request.long_polling_timeout
        deadline = time.monotonic() + poll.seconds + poll.nanos / 1e9
        context.add_callback(self._wake)
        with self._changed:
            self._waiting += 1
            try:
                messages = self._next(request, deadline, context)
            finally:
                self._waiting -= 1
        if not messages:
            yield response(status=self._status("MESSAGE_NOT_FOUND", "no new message"))
            return
        yield response(status=self._status("OK"))
        for message in messages:
            yield response(message=message)
        if self._stamps:
            delivered = response()
            _stamp(delivered.delivery_timestamp, time.time())
            yield delivered

    def acknowledge(self, request: Any) -> Any:
        """Settle messages for a group."""
        response = self._protocol.service_pb2.AckMessageResponse(status=self._status("OK"))
        with self._changed:
            for entry in request.entries:
                found = self._held(request, entry)
                status = (
                    self._status("OK") if found else self._status("INVALID_RECEIPT_HANDLE", "stale handle")
                )
                if found:
                    found.acked = True
                else:
                    response.status.CopyFrom(status)
                response.entries.add(
                    message_id=entry.message_id, receipt_handle=entry.receipt_handle, status=status
                )
            self._changed.notify_all()
        return response

    def change_invisible(self, request: Any) -> Any:
        """Hide a message for longer or shorter."""
        response = self._protocol.service_pb2.ChangeInvisibleDurationResponse()
        with self._changed:
            found = self._held(request, request)
            if found is None:
                response.status.CopyFrom(self._status("INVALID_RECEIPT_HANDLE", "stale handle"))
                return response
            found.visible_s = time.monotonic() + request.invisible_duration.seconds
            found.handle = uuid.uuid4().hex
            response.status.CopyFrom(self._status("OK"))
            response.receipt_handle = found.handle
            self._changed.notify_all()
        return response

    def _held(self, request: Any, entry: Any) -> _Delivery | None:
        found = self._groups[request.group.name, request.topic.name].get(entry.message_id)
        return found if found and found.handle == entry.receipt_handle and not found.acked else None

    def _next(self, request: Any, deadline: float, context: Any) -> list[Any]:
        topic = request.message_queue.topic.name
        group = self._groups[request.group.name, topic]
        while True:
            now = time.monotonic()
            if self._stopping or not context.is_active():
                return []
            open_ones = [one for one in self._topics[topic].messages if not group[one.id].acked]
            visible = [one for one in open_ones if group[one.id].visible_s <= now][: request.batch_size]
            if visible:
                return [self._handed(request, one, group[one.id]) for one in visible]
            if now >= deadline:
                return []
            back = min((group[one.id].visible_s for one in open_ones), default=deadline)
            self._changed.wait(max(min(back, deadline) - now, 0.0))

    def _handed(self, request: Any, stored: _Stored, delivery: _Delivery) -> Any:
        hidden = request.invisible_duration
        delivery.attempts += 1
        delivery.visible_s = time.monotonic() + hidden.seconds + hidden.nanos / 1e9
        delivery.handle = uuid.uuid4().hex
        protocol = self._protocol
        message = protocol.definition_pb2.Message(body=stored.body)
        message.topic.CopyFrom(request.message_queue.topic)
        properties = message.system_properties
        properties.message_id = stored.id
        properties.message_type = protocol.definition_pb2.MessageType.NORMAL
        properties.body_encoding = protocol.Encoding.IDENTITY
        properties.body_digest.type = protocol.DigestType.MD5
        properties.body_digest.checksum = hashlib.md5(stored.body).hexdigest().upper()  # noqa: S324
        _stamp(properties.born_timestamp, stored.born_s)
        if self._stamps:
            _stamp(properties.store_timestamp, stored.stored_s)
        properties.receipt_handle = delivery.handle
        properties.delivery_attempt = delivery.attempts
        return message

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _status(self, code: str, text: str = "") -> Any:
        return self._protocol.Status(code=self._protocol.Code.Value(code), message=text)


def _stamp(field_: Any, seconds: float) -> None:
    field_.FromMilliseconds(round(seconds * 1000))


def _client(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("x-mq-client-id", ""))


def _servicer(rpc: Any, double: RocketMqDouble) -> Any:
    """The vendor's servicer with the double behind it; made late since its base is."""
    service = vendor().protocol.service_pb2

    class Servicer(rpc.MessagingServiceServicer):  # type: ignore[misc]
        def QueryRoute(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["QueryRoute"] += 1
            refusal = double.refusal(context)
            return service.QueryRouteResponse(status=refusal) if refusal else double.query_route(request)

        def Heartbeat(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["Heartbeat"] += 1
            return service.HeartbeatResponse(status=double._status("OK"))

        def SendMessage(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["SendMessage"] += 1
            refusal = double.refusal(context)
            return service.SendMessageResponse(status=refusal) if refusal else double.send(request)

        def ReceiveMessage(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
            double.calls["ReceiveMessage"] += 1
            refusal = double.refusal(context)
            if refusal:
                yield service.ReceiveMessageResponse(status=refusal)
                return
            yield from double.receive(request, _client(context), context)

        def AckMessage(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["AckMessage"] += 1
            return double.acknowledge(request)

        def ChangeInvisibleDuration(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["ChangeInvisibleDuration"] += 1
            return double.change_invisible(request)

        def NotifyClientTermination(self, request: Any, context: Any) -> Any:  # noqa: N802
            double.calls["NotifyClientTermination"] += 1
            return service.NotifyClientTerminationResponse(status=double._status("OK"))

        def Telemetry(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
            double.calls["Telemetry"] += 1
            for command in requests:
                if command.HasField("settings"):
                    yield double.settings_of(_client(context), command)

    return Servicer()
