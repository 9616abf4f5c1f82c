"""Addresses of a vehicle's processes, and their shared secret."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tspace_core.config import load_vehicle
from tspace_core.config.link import PortConfig
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError
from tspace_core.link.endpoints import Endpoints, bridge_key, endpoints


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TSPACE_BRIDGE__KEY", "")
    settings.cache_clear()
    yield
    settings.cache_clear()


def key_file() -> Path:
    return settings().online_dir / "bridge.key"


def test_the_settings_addresses_hold_unless_the_vehicle_has_ports_of_its_own() -> None:
    vehicle = load_vehicle("twin_truck")
    plain = vehicle.model_copy(update={"ports": PortConfig()})
    assert endpoints(plain) == Endpoints("127.0.0.1", 8002, "127.0.0.1", 8003)
    own = vehicle.model_copy(update={"ports": PortConfig(udp=9001, bridge=9002)})
    assert endpoints(own) == Endpoints("127.0.0.1", 9001, "127.0.0.1", 9002)


def test_the_key_is_made_once_for_its_owner_only() -> None:
    key = bridge_key()
    assert len(key) == 64
    assert bridge_key() == key
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["bridge.key"]


def test_processes_that_make_the_key_at_once_agree_on_it() -> None:
    code = "from tspace_core.link.endpoints import bridge_key; print(bridge_key().decode())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    keys = {process.communicate(timeout=60)[0] for process in running}
    assert len(keys) == 1
    assert keys == {bridge_key() + b"\n"}


def test_a_key_that_others_may_read_is_refused_with_the_remedy() -> None:
    bridge_key()
    key_file().chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640.*chmod 600"):
        bridge_key()


def test_a_short_key_is_refused_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge_key()
    key_file().write_text("short\n")
    with pytest.raises(ConfigError, match=r"bridge\.key: the key has 5 bytes, at least 16"):
        bridge_key()
    monkeypatch.setenv("TSPACE_BRIDGE__KEY", "secret")
    settings.cache_clear()
    with pytest.raises(ConfigError, match=r"TSPACE_BRIDGE__KEY: the key has 6 bytes"):
        bridge_key()


def test_the_environments_key_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_BRIDGE__KEY", "correct horse battery staple")
    settings.cache_clear()
    assert bridge_key() == b"correct horse battery staple"
    assert not key_file().exists()
