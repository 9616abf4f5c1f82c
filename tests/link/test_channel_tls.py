"""The channel beyond one machine: TLS both ways, or nothing."""

import datetime
import ipaddress
import queue
import socket
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tspace_core.config.settings import settings
from tspace_core.errors import ChannelError, ConfigError
from tspace_core.link.channel import ChannelClient, ChannelServer, Peer, TlsFiles
from tspace_core.link.messages import Failed, Heartbeat, Hello, Message, State, Welcome

KEY = b"k" * 32
LIMIT_S = 20.0
HELLO = Hello(role="agent", vehicle_id="twin_truck", run_id="run-1", version="0")


class Echo:
    def __init__(self) -> None:
        self.gone: queue.Queue[str] = queue.Queue()

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed | None:
        return Welcome(vehicle_id="twin_truck", version="0", state="DISARMED", reference_sha256="00" * 32)

    def received(self, peer: Peer, message: Message) -> Message | None:
        return State(state="ARMED", cause="x" * 2000)

    def closed(self, peer: Peer, cause: str) -> None:
        self.gone.put(cause)


def made(folder: Path, name: str, issuer: "tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None"):  # type: ignore[no-untyped-def]
    """A certificate for 127.0.0.1, by the issuer or by itself, in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
    )
    certificate = builder.sign(key if issuer is None else issuer[1], hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key


def files(folder: Path, name: str, authority: str) -> TlsFiles:
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / f"{authority}.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ours = made(tmp_path, "ca", None)
    made(tmp_path, "bridge", ours)
    made(tmp_path, "agent", ours)
    made(tmp_path, "stranger", made(tmp_path, "other_ca", None))
    return tmp_path


def test_tls_carries_both_ways_and_refuses_strangers(folder: Path) -> None:
    handler = Echo()
    server = ChannelServer("127.0.0.1", 0, KEY, handler, tls=files(folder, "bridge", "ca"))
    stopping = threading.Event()
    thread = threading.Thread(target=server.serve, args=(stopping,))
    thread.start()
    try:
        agent = files(folder, "agent", "ca")
        with ChannelClient.connect(
            "127.0.0.1", server.port, KEY, HELLO, tls=agent, timeout_s=LIMIT_S
        ) as client:
            for n in range(40):
                client.send(Heartbeat(n=n), timeout_s=LIMIT_S)
            for _ in range(40):
                assert client.receive(LIMIT_S) == State(state="ARMED", cause="x" * 2000)
        handler.gone.get(timeout=LIMIT_S)
        for wrong in (files(folder, "stranger", "ca"), files(folder, "agent", "other_ca"), None):
            with pytest.raises(ChannelError):
                ChannelClient.connect("127.0.0.1", server.port, KEY, HELLO, tls=wrong, timeout_s=5.0)
        with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with ChannelClient.connect(
            "127.0.0.1", server.port, KEY, HELLO, tls=agent, timeout_s=LIMIT_S
        ) as again:
            assert again.welcome.state == "DISARMED"
    finally:
        stopping.set()
        server.wake()
        thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert server.refused >= 3


def test_settings_name_all_three_files_or_none(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name, file in (("CERTIFICATE", "bridge.pem"), ("KEY", "bridge.key")):
        monkeypatch.setenv(f"TSPACE_BRIDGE__TLS_{name}", str(folder / file))
    settings.cache_clear()
    with pytest.raises(ConfigError, match="all three or none"):
        TlsFiles.from_settings()
    monkeypatch.setenv("TSPACE_BRIDGE__TLS_CA", str(folder / "ca.pem"))
    settings.cache_clear()
    assert TlsFiles.from_settings() == files(folder, "bridge", "ca")
    monkeypatch.undo()
    settings.cache_clear()
    assert TlsFiles.from_settings() is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"nothing\.pem"):
        ChannelServer("127.0.0.1", 0, KEY, Echo(), tls=files(tmp_path, "nothing", "nothing"))
