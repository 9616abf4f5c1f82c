"""The vendor's RocketMQ client behind its clean face: errors, secrets, TLS, and that nothing stays behind."""

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from tests.conftest import PROJECT
from tests.link.queue_world import LIMIT_S, at
from tests.ports import free_port
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError, QueueError
from tspace_core.link.rocketmq import QueueServers, RmqConsumer, RmqProducer
from tspace_core.twin.rocketmq_double import RocketMqDouble

TOPIC = "topic"
SECRET = "s3cret-of-the-queue"


@pytest.fixture
def double() -> Iterator[RocketMqDouble]:
    with RocketMqDouble(free_port(socket.SOCK_STREAM)) as server:
        yield server


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    monkeypatch.undo()
    settings.cache_clear()


def with_settings(environment: pytest.MonkeyPatch, **values: str) -> QueueServers:
    for name, value in values.items():
        environment.setenv(f"TSPACE_ROCKETMQ__{name.upper()}", value)
    settings.cache_clear()
    return QueueServers.from_settings()


def test_settings_become_servers(environment: pytest.MonkeyPatch) -> None:
    found = with_settings(
        environment, endpoints="one.example:8081; 10.0.0.2:8082;", access_key="k", secret_key=SECRET
    )
    assert found.endpoints == ("one.example:8081", "10.0.0.2:8082")
    assert found.tls
    assert SECRET not in repr(found)


@pytest.mark.parametrize("endpoints", ["", " ; "])
def test_no_endpoints_say_what_to_set(environment: pytest.MonkeyPatch, endpoints: str) -> None:
    with pytest.raises(ConfigError, match="set TSPACE_ROCKETMQ__ENDPOINTS to host:port"):
        with_settings(environment, endpoints=endpoints)


@pytest.mark.parametrize("endpoint", ["host", "host:", ":8081", "host:x", "host:0", "host:70000", "::1:8081"])
def test_an_endpoint_of_another_form_is_refused(environment: pytest.MonkeyPatch, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected host:port"):
        with_settings(environment, endpoints=f"localhost:1;{endpoint}")


@pytest.mark.parametrize("host", ["10.0.0.1", "queue.example", "0.0.0.0"])
def test_without_tls_only_this_machine_is_spoken_to(environment: pytest.MonkeyPatch, host: str) -> None:
    for local in ("127.0.0.1", "localhost", "127.9.9.9"):
        with_settings(environment, endpoints=f"{local}:8081", tls="false")
    with pytest.raises(ConfigError, match="set TSPACE_ROCKETMQ__TLS=true"):
        with_settings(environment, endpoints=f"localhost:8081;{host}:8081", tls="false")
    with_settings(environment, endpoints=f"{host}:8081", tls="true")


def test_messages_go_through_and_are_settled(double: RocketMqDouble) -> None:
    producer, consumer = RmqProducer(at(double), TOPIC), RmqConsumer(at(double), TOPIC, "group")
    identity = producer.send({"n": 1})
    (found,) = consumer.receive()
    assert (found.id, found.body, found.damaged) == (identity, b'{"n": 1}', "")
    assert found.exact
    assert abs(found.stored_s - time.time()) < LIMIT_S
    assert consumer.acknowledge(found)
    assert double.settled(TOPIC, LIMIT_S)
    producer.close()
    consumer.close()
    assert double.calls["NotifyClientTermination"] >= 1


def test_a_server_that_is_gone_is_said_with_what_to_do_and_found_again(double: RocketMqDouble) -> None:
    consumer = RmqConsumer(at(double), TOPIC, "group")
    producer = RmqProducer(at(double), TOPIC)
    producer.send({"n": 1})
    (found,) = consumer.receive()
    double.stop()
    assert not consumer.acknowledge(found)
    for call in (consumer.receive, consumer.open, lambda: producer.send({"n": 2})):
        with pytest.raises(QueueError) as caught:
            call()
        for part in (double.endpoints, TOPIC, "UNAVAILABLE", "see that the server is up"):
            assert part in str(caught.value)
    double.start()
    producer.send({"n": 3})
    consumer.open()
    producer.close()
    consumer.close()


def test_refused_credentials_are_said_and_never_shown() -> None:
    with RocketMqDouble(credentials=("key-of-us", SECRET)) as double:
        good = QueueServers((double.endpoints,), False, SecretStr("key-of-us"), SecretStr(SECRET))
        producer = RmqProducer(good, TOPIC)
        producer.send({"n": 1})
        producer.close()
        bad = QueueServers((double.endpoints,), False, SecretStr("key-of-us"), SecretStr("wrong" + SECRET))
        consumer = RmqConsumer(bad, TOPIC, "group")
        with pytest.raises(QueueError, match=r"UNAUTHORIZED.*TSPACE_ROCKETMQ__SECRET_KEY") as caught:
            consumer.receive()
        assert SECRET not in str(caught.value)
        assert "key-of-us" not in str(caught.value)


def test_a_receive_that_waits_is_ended_at_once(double: RocketMqDouble) -> None:
    consumer = RmqConsumer(at(double), TOPIC, "group")
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(consumer.receive()))
    thread.start()
    pause = threading.Event()
    began = time.monotonic()
    while double.waiting() == 0:
        assert time.monotonic() - began < LIMIT_S
        pause.wait(0.01)
    began = time.monotonic()
    consumer.end()
    thread.join(LIMIT_S)
    assert time.monotonic() - began < 5.0  # a poll takes 10
    assert found == [[]]
    assert consumer.receive() == []
    consumer.close()


def test_nothing_stays_behind(double: RocketMqDouble) -> None:
    """However often it is opened and closed, with a server or without."""
    servers = at(double)

    def use() -> None:
        consumer, producer = RmqConsumer(servers, TOPIC, "group"), RmqProducer(servers, TOPIC)
        producer.send({"n": 1})
        for found in consumer.receive():
            consumer.acknowledge(found)
        consumer.end()
        assert consumer.receive() == []
        consumer.close()
        producer.end()
        producer.close()

    def threads() -> set[str]:
        # One loop of the vendor's serves all clients of a process; gRPC keeps a poller for it.
        allowed = ("channel_io_loop_thread", "_poll_wrapper", "rocketmq_double", "_serve", "MainThread")
        names = {thread.name for thread in threading.enumerate() if thread.is_alive()}
        return {name for name in names if not any(part in name for part in allowed)}

    before = threads()
    for _ in range(5):
        use()
    double.stop()
    for _ in range(5):
        with pytest.raises(QueueError):
            use()
    pause = threading.Event()
    for _ in range(400):
        if threads() <= before:
            break
        pause.wait(0.05)
    assert threads() <= before


CLIENT = """
import sys
from pathlib import Path
from tspace_core.errors import QueueError
from tspace_core.link.rocketmq import QueueServers, RmqConsumer, RmqProducer
consumer = RmqConsumer(QueueServers.from_settings(), "topic", "group")
producer = RmqProducer(QueueServers.from_settings(), "answers")
try:
    (found,) = consumer.receive()
    producer.send({"heard": found.body.decode()})
    consumer.acknowledge(found)
except QueueError as error:
    print(error)
    sys.exit(3)
finally:
    if "close" in sys.argv:
        consumer.close()
        producer.close()
"""


def client(folder: Path, endpoints: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own that hears one message, answers it and ends."""
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "TSPACE_PROJECT_DIR": str(PROJECT),
        "TSPACE_DATA_DIR": str(folder / "data"),
        "TSPACE_ROCKETMQ__ENDPOINTS": endpoints,
        "PYTHONPATH": str(PROJECT),
    }
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CLIENT, *arguments],
        env=environment | more,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [("close",), ()])
def test_a_process_ends_quietly_and_leaves_home_alone(
    double: RocketMqDouble, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    double.publish("topic", b"word")
    ended = client(tmp_path, double.endpoints, *arguments, TSPACE_ROCKETMQ__TLS="false")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == ""
    assert double.received("answers", LIMIT_S) == {"heard": "word"}
    assert list((tmp_path / "home").iterdir()) == []


def test_a_process_without_a_server_ends_quietly_too(tmp_path: Path, double: RocketMqDouble) -> None:
    double.stop()
    ended = client(tmp_path, double.endpoints, "close", TSPACE_ROCKETMQ__TLS="false")
    assert ended.returncode == 3
    assert "UNAVAILABLE" in ended.stdout
    assert ended.stderr == ""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "queue")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "queue.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "queue.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "queue.pem", folder / "queue.key"


def test_tls_with_an_authority_that_the_process_was_given(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """The vendor's client has no option for it; gRPC reads its own variable once, so a process of its own."""
    with RocketMqDouble(tls=certificate) as double:
        double.publish("topic", b"word")
        roots = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate[0])}
        ended = client(tmp_path, double.endpoints, "close", **roots)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert double.received("answers", LIMIT_S) == {"heard": "word"}


def test_tls_refuses_a_server_that_nobody_vouches_for(certificate: tuple[Path, Path]) -> None:
    with RocketMqDouble(tls=certificate) as double:
        consumer = RmqConsumer(QueueServers((double.endpoints,)), TOPIC, "group")
        with pytest.raises(QueueError, match="speaks TLS with a known authority"):
            consumer.receive()
        plain = RmqConsumer(at(double), TOPIC, "group")
        with pytest.raises(QueueError, match="speaks no TLS"):
            plain.receive()


def test_a_server_without_tls_is_not_spoken_to_where_tls_is_asked_for(double: RocketMqDouble) -> None:
    consumer = RmqConsumer(QueueServers((double.endpoints,)), TOPIC, "group")
    with pytest.raises(QueueError, match="UNAVAILABLE"):
        consumer.receive()


@pytest.mark.parametrize("first", ["mlflow", "rocketmq"])
def test_the_client_and_mlflow_load_in_one_process(first: str) -> None:
    """Both bring a file called service.proto, and a run that is tracked needs both."""
    mlflow, rocketmq = "import mlflow.protos.service_pb2", "vendor().protocol.SendMessageRequest()"
    order = (mlflow, rocketmq) if first == "mlflow" else (rocketmq, mlflow)
    code = "\n".join(("from tspace_core.link.rocketmq_vendor import vendor", *order, "print('both')"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "both\n", done.stderr[-2000:]
