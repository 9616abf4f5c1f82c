"""Where the processes of a vehicle meet, and the secret that they share."""

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from tspace_core.config import Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError

KEY_LENGTH_MIN = 16
_KEY_BYTES = 32


@dataclass(frozen=True)
class Endpoints:
    """Addresses of one vehicle's processes.

    Attributes:
        udp_host, udp_port: datagrams of bridge and HMI arrive here.
        bridge_host, bridge_port: the bridge answers agents and operators here (TCP).
    """

    udp_host: str
    udp_port: int
    bridge_host: str
    bridge_port: int


def endpoints(vehicle: Vehicle) -> Endpoints:
    """The settings' addresses with the vehicle's own ports, where it has some."""
    hmi, bridge = settings().hmi, settings().bridge
    return Endpoints(
        udp_host=hmi.udp_host,
        udp_port=vehicle.ports.udp or hmi.udp_port,
        bridge_host=bridge.host,
        bridge_port=vehicle.ports.bridge or bridge.port,
    )


def bridge_key() -> bytes:
    """The secret of the bridge's channel: ``TSPACE_BRIDGE__KEY``, or a file that is made on first use.

    Raises:
        ConfigError: the key is too short, or others than its owner may read the file.
    """
    given = settings().bridge.key
    if given is not None:
        return _checked(given.get_secret_value().encode(), "TSPACE_BRIDGE__KEY")
    path = settings().online_dir / "bridge.key"
    if not path.exists():
        _make(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = (
            f"{path}: others than its owner may use it (mode {stat.S_IMODE(path.stat().st_mode):o}); "
            f"run `chmod 600 {path}`, or delete it and start bridge and run again"
        )
        raise ConfigError(message)
    return _checked(path.read_bytes().strip(), str(path))


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < KEY_LENGTH_MIN:
        message = f"{where}: the key has {len(key)} bytes, at least {KEY_LENGTH_MIN} are needed"
        raise ConfigError(message)
    return key


def _make(path: Path) -> None:
    """Write a new key; of several processes that do so at once, all then read the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(_KEY_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: it fails where another process was first, and that key holds.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
