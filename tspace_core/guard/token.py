"""Campaign tokens: what somebody in charge allows one vehicle and driver, signed and checked offline.

A token is ``base64url(payload) "." base64url(signature)``: the payload is JSON with sorted keys, the
signature Ed25519 over its bytes. It is good for one run of the guard's process, in which it may be armed
again until its flashes or its time are over. Spent nonces and the highest counter lie in a file
(`CampaignLedger`); whoever deletes that file can use an old token again until its time is over.
"""

import base64
import binascii
import contextlib
import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from tspace_core.config.base import ConfigModel
from tspace_core.errors import TokenError

NONCES_KEPT = 1000


class Campaign(ConfigModel):
    """What a token allows."""

    vin: str = Field(min_length=1, description="the only vehicle")
    driver: str = Field(min_length=1, description="id of the driver")
    reference_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the reference map")
    bounds_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the guard's limits")
    from_ns: int = Field(ge=0, description="good from, UTC in ns since 1970")
    until_ns: int = Field(ge=0, description="good until, exclusive")
    flashes: int = Field(ge=1, description="flashes allowed")
    nonce: str = Field(pattern="^[0-9a-f]{32}$", description="never used twice")
    counter: int = Field(ge=1, description="higher than that of every token spent before")


def new_keys() -> tuple[str, str]:
    """A new private and public key, hex."""
    private = Ed25519PrivateKey.generate()
    return private.private_bytes_raw().hex(), private.public_key().public_bytes_raw().hex()


def new_nonce() -> str:
    """A nonce."""
    return secrets.token_hex(16)


def sign(campaign: Campaign, private_key: str) -> str:
    """The token of a campaign.

    Raises:
        TokenError: the key is none.
    """
    try:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private_key.strip()))
    except ValueError as error:
        message = f"the private key is no Ed25519 key of 64 hex digits ({error}); see `tspace campaign keys`"
        raise TokenError(message) from error
    payload = json.dumps(campaign.model_dump(), sort_keys=True, separators=(",", ":")).encode()
    return f"{_encode(payload)}.{_encode(key.sign(payload))}"


def read(token: str, public_key: str) -> Campaign:
    """What a token says, its signature checked.

    Raises:
        TokenError: it is no token, or was not signed by that key.
    """
    try:
        payload, signature = (_decode(part) for part in token.strip().split("."))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, payload)
        return Campaign.model_validate_json(payload)
    except InvalidSignature as error:
        message = "the campaign token was not signed by the key in the vehicle's file, or was changed since"
        raise TokenError(message) from error
    except (ValueError, ValidationError, binascii.Error) as error:
        message = f"this is no campaign token ({type(error).__name__}); make one with `tspace campaign sign`"
        raise TokenError(message) from error


def check(
    token: str,
    public_key: str,
    *,
    vin: str,
    driver: str,
    reference_sha256: str,
    bounds_sha256: str,
    utc_ns: int,
) -> Campaign:
    """What a token allows, where it is for this vehicle, reference, limits and time.

    Args:
        token: the text.
        public_key: who may sign, hex.
        vin: the vehicle's.
        driver: id of who drives.
        reference_sha256: hash of the reference map.
        bounds_sha256: `Envelope.sha256`.
        utc_ns: now.

    Raises:
        TokenError: names what it is not for.
    """
    campaign = read(token, public_key)
    wanted = {
        "vin": vin,
        "driver": driver,
        "reference_sha256": reference_sha256,
        "bounds_sha256": bounds_sha256,
    }
    for name, value in wanted.items():
        found = getattr(campaign, name)
        if found != value:
            message = f"the campaign token is for {name} {found}, not for {value}; have one signed for it"
            raise TokenError(message)
    if not campaign.from_ns <= utc_ns < campaign.until_ns:
        message = (
            f"the campaign token is good from {_text(campaign.from_ns)} until {_text(campaign.until_ns)}, "
            f"now it is {_text(utc_ns)}"
        )
        raise TokenError(message)
    return campaign


class CampaignLedger:
    """Which tokens of a vehicle are spent, in a file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def spend(self, campaign: Campaign) -> None:
        """Mark a token as spent, on the disk before this returns.

        Raises:
            TokenError: it is spent, an older one than the last, or the file cannot be read or written.
        """
        nonces = self.look(campaign)
        self._write({"counter": campaign.counter, "nonces": [*nonces, campaign.nonce][-NONCES_KEPT:]})

    def look(self, campaign: Campaign) -> list[str]:
        """Whether a token could be spent; returns the nonces spent so far.

        Raises:
            TokenError: as `spend`.
        """
        nonces, counter = self._read()
        if campaign.nonce in nonces:
            message = f"the campaign token with counter {campaign.counter} is spent; have a new one signed"
            raise TokenError(message)
        if campaign.counter <= counter:
            message = (
                f"the campaign token's counter is {campaign.counter}, that of the last one was {counter}"
            )
            raise TokenError(message)
        return nonces

    def _read(self) -> tuple[list[str], int]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return [str(nonce) for nonce in content["nonces"]], int(content["counter"])
        except FileNotFoundError:
            return [], 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = (
                f"{self.path} is damaged ({type(error).__name__}), so nobody knows which tokens are spent; "
                "put a copy of it back"
            )
            raise TokenError(message) from error

    def _write(self, content: dict[str, object]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            message = f"{self.path} cannot be written ({error}), so the token cannot be marked as spent"
            raise TokenError(message) from error


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _text(utc_ns: int) -> str:
    return datetime.fromtimestamp(utc_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
