"""The bridge's channel on real sockets: who gets in, who does not, and what a bad peer can do."""

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from tspace_core.errors import ChannelError
from tspace_core.link.channel import ChannelClient, ChannelServer, Peer
from tspace_core.link.channel_frames import MAX_FRAME, ClientChallenge, pack
from tspace_core.link.messages import (
    Clear,
    Failed,
    Heartbeat,
    Hello,
    Message,
    Propose,
    State,
    Status,
    Welcome,
    encode,
)

KEY = b"k" * 32
LIMIT_S = 20.0
HELLO = Hello(role="agent", vehicle_id="twin_truck", run_id="run-1", version="0")
OPERATOR = Hello(role="operator", vehicle_id="twin_truck", run_id="person", version="0")
WELCOME = Welcome(vehicle_id="twin_truck", version="0", state="DISARMED", reference_sha256="00" * 32)


class Recorder:
    """A handler that lets one agent in, echoes heartbeats as states and notes the rest."""

    def __init__(self) -> None:
        self.agent: Peer | None = None
        self.busy = threading.Event()
        self.asked = threading.Event()
        self.messages: queue.Queue[Message] = queue.Queue()
        self.gone: queue.Queue[tuple[Peer, str]] = queue.Queue()

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed | None:
        self.asked.set()
        if self.busy.is_set():
            return None
        if hello.role == "agent":
            if self.agent is not None:
                return Failed(reason=f"{self.agent} is here already")
            self.agent = peer
        return WELCOME

    def received(self, peer: Peer, message: Message) -> Message | None:
        if isinstance(message, Heartbeat):
            return State(state="ARMED", cause=str(message.n))
        self.messages.put(message)
        return None

    def closed(self, peer: Peer, cause: str) -> None:
        if peer == self.agent:
            self.agent = None
        self.gone.put((peer, cause))


class Served:
    """A server in a thread."""

    def __init__(self) -> None:
        self.handler = Recorder()
        self.server = ChannelServer("127.0.0.1", 0, KEY, self.handler)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.server.serve, args=(self.stopping,))
        self.thread.start()

    def connect(self, hello: Hello = HELLO, key: bytes = KEY) -> ChannelClient:
        return ChannelClient.connect("127.0.0.1", self.server.port, key, hello, timeout_s=LIMIT_S)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), LIMIT_S)

    def end(self) -> None:
        self.stopping.set()
        self.server.wake()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.end()


def read_to_end(raw: socket.socket) -> bytes:
    """All the server sends until it closes; a reset is an end too."""
    found = b""
    try:
        while data := raw.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def test_an_agent_is_welcome_and_answered(served: Served) -> None:
    with served.connect() as client:
        assert client.welcome == WELCOME
        for n in range(50):
            client.send(Heartbeat(n=n))
        answers = [client.receive(LIMIT_S) for _ in range(50)]
        assert answers == [State(state="ARMED", cause=str(n)) for n in range(50)]
        assert client.receive(0.01) is None


def test_pushed_states_reach_every_peer(served: Served) -> None:
    with served.connect() as agent, served.connect(OPERATOR) as person:
        served.server.push(State(state="LOCKED", cause="disk full"))
        for client in (agent, person):
            assert client.receive(LIMIT_S) == State(state="LOCKED", cause="disk full")


def test_another_key_gets_no_message_through(served: Served) -> None:
    with pytest.raises(ChannelError, match="another key"):
        served.connect(key=b"x" * 32)
    with served.connect() as client:  # the right one still does
        assert client.welcome == WELCOME
    assert served.server.refused == 1
    assert served.handler.messages.empty()


def test_a_bridge_that_does_not_know_the_key_is_not_spoken_to() -> None:
    told: queue.Queue[bytes] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pose() -> None:
            with listener.accept()[0] as one:
                one.settimeout(LIMIT_S)
                one.sendall(pack(json.dumps({"tspace_channel": 1, "nonce": "00" * 32}).encode()))
                one.recv(4096)
                one.sendall(pack(json.dumps({"proof": "00" * 32}).encode()))
                told.put(read_to_end(one))

        thread = threading.Thread(target=pose)
        thread.start()
        with pytest.raises(ChannelError, match="somebody else listens"):
            ChannelClient.connect("127.0.0.1", listener.getsockname()[1], KEY, HELLO, timeout_s=LIMIT_S)
        thread.join(LIMIT_S)
    assert told.get_nowait() == b""


def test_a_second_agent_is_refused_with_the_reason_and_a_third_comes_after_the_first(served: Served) -> None:
    with served.connect() as first:
        with pytest.raises(ChannelError, match=r"run-1 from 127.0.0.1:.* is here already"):
            served.connect()
        first.send(Heartbeat(n=1))
        assert first.receive(LIMIT_S) == State(state="ARMED", cause="1")
    assert served.handler.gone.get(timeout=LIMIT_S)[0].run_id == "run-1"
    with served.connect() as third:
        assert third.welcome == WELCOME


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00",
        (10_000_000).to_bytes(4, "big") + b"x" * 100_000,
        pack(b"not json"),
        pack(b'{"nonce": "00", "proof": "00"}'),
        pack(b'{"nonce": 7, "proof": []}'),
        pack(encode(Clear(by="stranger"))),
    ],
    ids=["http", "empty", "10 MB", "text", "short", "types", "no proof"],
)
def test_garbage_before_the_proof_ends_the_connection_only(served: Served, garbage: bytes) -> None:
    with served.raw() as raw:
        with contextlib.suppress(ConnectionError):  # dropped while it was still sending
            raw.sendall(garbage)
        read_to_end(raw)
    with served.connect() as client:
        client.send(Heartbeat(n=1))
        assert client.receive(LIMIT_S) == State(state="ARMED", cause="1")
    assert served.server.refused == 1
    assert served.handler.messages.empty()


def proved(served: Served) -> socket.socket:
    """A raw connection that proved the key and said hello."""
    raw = served.raw()
    challenge = ClientChallenge(KEY)
    file = raw.makefile("rb")

    def frame() -> bytes:
        return file.read(int.from_bytes(file.read(4), "big"))

    raw.sendall(pack(challenge.answer(frame())))
    challenge.check(frame())
    raw.sendall(pack(encode(HELLO)))
    assert b"welcome" in frame()
    file.close()
    return raw


def test_a_frame_of_10_mb_of_a_known_peer_ends_its_connection(served: Served) -> None:
    with proved(served) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall((10_000_000).to_bytes(4, "big") + b"x" * 10_000_000)
        read_to_end(raw)
    _, cause = served.handler.gone.get(timeout=LIMIT_S)
    assert f"1 to {MAX_FRAME} are allowed" in cause


def test_an_unknown_message_is_answered_with_the_reason_and_the_channel_goes_on(served: Served) -> None:
    with proved(served) as raw:
        raw.sendall(pack(b'{"kind": "shell"}') + pack(encode(Heartbeat(n=7))))
        found = b""
        while b"state" not in found:
            found += raw.recv(4096)
    assert b"failed" in found
    assert b"'shell'" in found


def test_a_peer_that_has_to_wait_is_welcome_when_the_bridge_is_ready(served: Served) -> None:
    served.handler.busy.set()
    clients: queue.Queue[ChannelClient] = queue.Queue()
    thread = threading.Thread(target=lambda: clients.put(served.connect()))
    thread.start()
    assert served.handler.asked.wait(LIMIT_S)
    assert clients.empty()
    served.handler.busy.clear()
    served.server.wake()
    with clients.get(timeout=LIMIT_S) as client:
        assert client.welcome == WELCOME
        client.send(Heartbeat(n=1))
        assert client.receive(LIMIT_S) == State(state="ARMED", cause="1")
    thread.join(LIMIT_S)


def test_a_peer_that_has_to_wait_too_long_is_dropped(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.handler.busy.set()
    with pytest.raises(ChannelError, match="closed the channel"):
        served.connect()
    assert "not ready for it in time" in caplog.text


def test_a_peer_that_says_nothing_is_dropped_in_time(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served.raw() as raw:
        read_to_end(raw)  # ends because the server closes, within the socket's time-out
    assert served.server.refused == 1
    assert "did not prove the key and say hello in time" in caplog.text


def test_a_flood_from_one_peer_does_not_silence_another(served: Served) -> None:
    with proved(served) as flood, served.connect(OPERATOR) as person:
        stop = threading.Event()

        def send() -> None:
            frames = pack(encode(Propose(id=1, first_row=0, rows="00000000" * 68))) * 50
            try:
                while not stop.is_set():
                    flood.sendall(frames)
            except OSError:
                pass

        thread = threading.Thread(target=send)
        thread.start()
        for n in range(20):
            person.send(Heartbeat(n=n), timeout_s=LIMIT_S)
            assert person.receive(LIMIT_S) == State(state="ARMED", cause=str(n))
        stop.set()
        served.end()
        thread.join(LIMIT_S)


def test_a_peer_that_does_not_read_is_dropped(served: Served) -> None:
    with proved(served):
        big = State(state="ARMED", cause="x" * 2000)
        for _ in range(6000):  # more than socket buffers and the server's share hold
            served.server.push(big)
            if not served.handler.gone.empty():
                break
        _, cause = served.handler.gone.get(timeout=LIMIT_S)
    assert "does not read" in cause


def test_closing_wakes_a_waiting_receive(served: Served) -> None:
    client = served.connect()
    ends: queue.Queue[str] = queue.Queue()

    def wait() -> None:
        try:
            client.receive(LIMIT_S)
        except ChannelError as error:
            ends.put(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    client.close()
    assert "clos" in ends.get(timeout=LIMIT_S)
    thread.join(LIMIT_S)
    with pytest.raises(ChannelError, match="closed"):
        client.send(Status())


def test_the_end_of_the_bridge_is_an_error_at_the_agent(served: Served) -> None:
    with served.connect() as client:
        served.end()
        with pytest.raises(ChannelError, match="closed the channel"):
            client.receive(LIMIT_S)


def test_nobody_there_says_what_to_start() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # held, so that nobody else comes to listen there
        with pytest.raises(ChannelError, match="tspace bridge --vehicle twin_truck"):
            ChannelClient.connect("127.0.0.1", silent.getsockname()[1], KEY, HELLO)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "bridge.example.org"])
def test_other_machines_need_tls(host: str) -> None:
    with pytest.raises(ChannelError, match="TSPACE_BRIDGE__TLS_CERTIFICATE"):
        ChannelServer(host, 0, KEY, Recorder())
    with pytest.raises(ChannelError, match="TSPACE_BRIDGE__TLS_CERTIFICATE"):
        ChannelClient.connect(host, 1, KEY, HELLO)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ChannelError, match="at least 16"):
        ChannelServer("127.0.0.1", 0, b"short", Recorder())
