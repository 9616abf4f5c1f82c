"""TLS to the remote CAN service: its certificate is always checked, by a private authority where given."""

import gc
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link.remote_clients import ROWS, Later, failed, truck
from tests.link.remote_server import LIMIT_S, RemoteServer
from tests.link.test_channel_tls import made
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError
from tspace_core.link.remote_can import RemoteCanClient


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made(tmp_path, "service", made(tmp_path, "ca", None))
    made(tmp_path, "other_ca", None)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[RemoteServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "service.pem", folder / "service.key")
    with RemoteServer(tls=context) as running:
        yield running


def test_a_private_authority_is_trusted_where_it_is_named(
    folder: Path, server: RemoteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RemoteCanClient(truck(), url=server.url, ca=folder / "ca.pem") as remote:
        remote.send_torque_map(0, ROWS)
        remote.send_torque_map(0, ROWS)
        assert server.connections == 1
    monkeypatch.setenv("TSPACE_REMOTE__CA", str(folder / "ca.pem"))
    settings.cache_clear()
    try:
        with RemoteCanClient(truck(), url=server.url) as remote:
            remote.send_torque_map(0, ROWS)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert len(server.requests) == 3


@pytest.mark.parametrize("authority", [None, "other_ca.pem", "service.pem"])
def test_a_stranger_is_refused_before_anything_is_sent(
    folder: Path, server: RemoteServer, authority: str | None
) -> None:
    ca = None if authority is None else folder / authority
    if authority == "service.pem":  # right authority, wrong name
        ca, url = folder / "ca.pem", server.url.replace("127.0.0.1", "localhost")
    else:
        url = server.url
    with RemoteCanClient(truck(), url=url, authorization="Bearer 0123456789", ca=ca) as remote:
        error = failed(lambda: remote.send_torque_map(0, ROWS))
        assert (error.code, error.unchanged) == (1000, True)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert "TSPACE_REMOTE__CA" in str(error)
        assert "1 try" in str(error)  # who is not trusted now is not in a second either
    assert server.requests == []


def test_the_environment_cannot_switch_the_check_off(
    server: RemoteServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with RemoteCanClient(truck(), url=server.url) as remote:
        assert "CERTIFICATE_VERIFY_FAILED" in str(failed(lambda: remote.send_torque_map(0, ROWS)))


def test_tls_and_plain_http_do_not_meet(server: RemoteServer) -> None:
    with RemoteServer() as plain:
        with RemoteCanClient(truck(), url=plain.url.replace("http:", "https:")) as remote:
            error = failed(lambda: remote.send_torque_map(0, ROWS))
            assert (error.code, error.unchanged) == (1000, True)
        with RemoteCanClient(truck(), url=server.url.replace("https:", "http:")) as remote:
            error = failed(lambda: remote.send_torque_map(0, ROWS))
            assert (error.code, error.unchanged) == (1001, False)
        assert plain.requests == server.requests == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"TSPACE_REMOTE__CA: .*authority\.pem cannot be used"):
        RemoteCanClient(truck(), url="https://can.example.com", ca=file)


def test_a_handshake_that_hangs_ends_by_the_limit_and_by_abort() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # connections wait to be accepted, for ever
        RemoteCanClient(truck(), url=f"https://127.0.0.1:{silent.getsockname()[1]}") as remote,
    ):
        error = failed(lambda: remote.send_torque_map(0, ROWS, timeout_s=0.3))
        assert (error.code, error.unchanged) == (1002, True)
        assert "it was not sent yet" in str(error)
        call = Later(lambda: remote.send_torque_map(0, ROWS))
        assert call.begun.wait(LIMIT_S)
        remote.abort("the driver braked")
        error = call.remote_error()
        assert (error.code, error.unchanged) == (1001, True)
        assert call.took_s < LIMIT_S / 2
    gc.collect()  # sockets left open would be warnings, and warnings are errors here
