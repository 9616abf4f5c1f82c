"""Frames, challenge and TLS of the bridge's channel; what both ends share.

A frame is its length (4 bytes, big endian) and so many bytes of JSON. Before any message each end proves
that it knows the shared key, without sending it::

    server -> client   {"tspace_channel": 1, "nonce": N}
    client -> server   {"nonce": M, "proof": HMAC-SHA256(key, "client" N M)}
    server -> client   {"proof": HMAC-SHA256(key, "server" N M)}
"""

import hashlib
import hmac
import ipaddress
import json
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tspace_core.config.settings import settings
from tspace_core.errors import ChannelError, ConfigError

MAX_FRAME = 64 * 1024
"""Bytes of the largest message."""
MAX_CHALLENGE_FRAME = 512
"""Bytes of the largest frame of a peer that has not proved itself."""
MIN_KEY = 16
"""Bytes of the shortest shared key."""

_PROTOCOL = 1
_HEADER = 4
_NONCE = 32


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one end: its own certificate and key, and the authority that signed the other end's."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def from_settings(cls) -> "TlsFiles | None":
        """The files that TSPACE_BRIDGE__TLS_* name; None: no TLS.

        Raises:
            ConfigError: some of them are named, and some are not.
        """
        bridge = settings().bridge
        files = (bridge.tls_certificate, bridge.tls_key, bridge.tls_ca)
        if all(file is None for file in files):
            return None
        certificate, key, authority = files
        if certificate is None or key is None or authority is None:
            message = (
                "TLS of the bridge's channel needs TSPACE_BRIDGE__TLS_CERTIFICATE, TSPACE_BRIDGE__TLS_KEY "
                "and TSPACE_BRIDGE__TLS_CA together; set all three or none"
            )
            raise ConfigError(message)
        return cls(certificate, key, authority)

    def server_context(self) -> ssl.SSLContext:
        """Asks every peer for a certificate of the authority."""
        return self._loaded(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._cafile()))

    def client_context(self) -> ssl.SSLContext:
        """Checks the server's certificate and name."""
        return self._loaded(ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self._cafile()))

    def _cafile(self) -> str:
        for path in (self.certificate, self.key, self.authority):
            if not path.is_file():
                message = (
                    f"no TLS file {path}; correct TSPACE_BRIDGE__TLS_CERTIFICATE, __TLS_KEY and __TLS_CA"
                )
                raise ChannelError(message)
        return str(self.authority)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            message = f"{self.certificate} and {self.key} are no certificate with its key ({error})"
            raise ChannelError(message) from error
        return context


def require_safe(host: str, key: bytes, tls: TlsFiles | None) -> None:
    """Refuse what would let strangers flash.

    Raises:
        ChannelError: the host is not this machine and there is no TLS, or the key is too short.
    """
    if len(key) < MIN_KEY:
        message = (
            f"the channel's key has {len(key)} bytes, at least {MIN_KEY} are needed; see TSPACE_BRIDGE__KEY"
        )
        raise ChannelError(message)
    if tls is not None:
        return
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        message = (
            f"the bridge's channel at {host!r} would be open to other machines; use 127.0.0.1, or set "
            "TSPACE_BRIDGE__TLS_CERTIFICATE, TSPACE_BRIDGE__TLS_KEY and TSPACE_BRIDGE__TLS_CA"
        )
        raise ChannelError(message)


def pack(payload: bytes) -> bytes:
    """The frame of a payload.

    Raises:
        ChannelError: the payload is empty or longer than ``MAX_FRAME``.
    """
    if not 0 < len(payload) <= MAX_FRAME:
        message = f"a message has 1 to {MAX_FRAME} bytes, this one {len(payload)}"
        raise ChannelError(message)
    return len(payload).to_bytes(_HEADER, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one frame and what came with it."""

    def __init__(self, limit: int = MAX_CHALLENGE_FRAME) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._buffer += data

    def frames(self) -> Iterator[bytes]:
        """The whole frames so far; ``limit`` may be raised between two of them.

        Raises:
            ChannelError: a frame is announced that is empty or too long; the stream is lost.
        """
        while len(self._buffer) >= _HEADER:
            length = int.from_bytes(self._buffer[:_HEADER], "big")
            if not 0 < length <= self.limit:
                message = f"a frame of {length} bytes was announced, 1 to {self.limit} are allowed"
                raise ChannelError(message)
            if len(self._buffer) < _HEADER + length:
                return
            frame = bytes(self._buffer[_HEADER : _HEADER + length])
            del self._buffer[: _HEADER + length]
            yield frame


class ServerChallenge:
    """The server's side of the proof."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = secrets.token_bytes(_NONCE)

    def opening(self) -> bytes:
        """The first frame's payload."""
        return json.dumps({"tspace_channel": _PROTOCOL, "nonce": self._nonce.hex()}).encode()

    def answer(self, payload: bytes) -> bytes:
        """Check the client's proof and give ours.

        Raises:
            ChannelError: it is none, or was made with another key.
        """
        fields = _fields(payload, ("nonce", "proof"))
        nonce = _bytes(fields["nonce"])
        if not hmac.compare_digest(_proof(self._key, b"client", self._nonce, nonce), _bytes(fields["proof"])):
            message = "the peer's proof was made with another key"
            raise ChannelError(message)
        return json.dumps({"proof": _proof(self._key, b"server", self._nonce, nonce).hex()}).encode()


class ClientChallenge:
    """The client's side of the proof."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = secrets.token_bytes(_NONCE)
        self._theirs = b""

    def answer(self, payload: bytes) -> bytes:
        """Our proof for the server's opening.

        Raises:
            ChannelError: the peer is no bridge of this version.
        """
        fields = _fields(payload, ("tspace_channel", "nonce"))
        if fields["tspace_channel"] != _PROTOCOL:
            message = f"the bridge speaks channel version {fields['tspace_channel']}, this is {_PROTOCOL}"
            raise ChannelError(message)
        self._theirs = _bytes(fields["nonce"])
        proof = _proof(self._key, b"client", self._theirs, self._nonce)
        return json.dumps({"nonce": self._nonce.hex(), "proof": proof.hex()}).encode()

    def check(self, payload: bytes) -> None:
        """Check the server's proof.

        Raises:
            ChannelError: it is none, or was made with another key.
        """
        proof = _bytes(_fields(payload, ("proof",))["proof"])
        if not hmac.compare_digest(_proof(self._key, b"server", self._theirs, self._nonce), proof):
            message = "the bridge's proof was made with another key; somebody else listens at its address"
            raise ChannelError(message)


def _proof(key: bytes, who: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    return hmac.new(key, b"tspace-channel-1 " + who + server_nonce + client_nonce, hashlib.sha256).digest()


def _fields(payload: bytes, names: tuple[str, ...]) -> dict[str, object]:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("failed"), str):
        message = f"the bridge refused: {content['failed'][:200]}"
        raise ChannelError(message)
    if not isinstance(content, dict) or set(content) != set(names):
        message = f"the peer does not speak the bridge's challenge: {payload[:60]!r}"
        raise ChannelError(message)
    return content


def _bytes(value: object) -> bytes:
    """The 32 bytes of a nonce or proof."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != _NONCE:
        message = f"a nonce or proof is {2 * _NONCE} hex digits, got {str(value)[:70]!r}"
        raise ChannelError(message)
    return found
