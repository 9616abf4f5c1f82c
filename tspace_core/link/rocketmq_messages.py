"""What HMI and tspace say to each other over a message queue: JSON in a topic for each vehicle and driver."""

import json
import re
from dataclasses import dataclass

from tspace_core.config import Vehicle
from tspace_core.errors import ConfigError, QueueError
from tspace_core.link.datagrams import Status

READY_TOPIC = "update_ready_state"
"""Where the answer to ``configure`` goes."""

CODES: dict[int, str] = {1: "begin", 2: "end_valid", 3: "end_invalid", 4: "exit", 5: "configure"}
"""What a ``code`` means."""

CODE_OF: dict[str, int] = {name: code for code, name in CODES.items()}

_STATUS: dict[int, Status] = {1: "begin", 2: "end_valid", 3: "end_invalid", 4: "exit"}
_LARGEST = 64 << 10
_SHOWN = 60
_NAME = re.compile(r"[%a-zA-Z0-9_-]{1,127}")
_EXAMPLE = 'send one JSON object, for example {"vin": "...", "name": "...", "code": 1}'


class HmiMessageError(QueueError):
    """A message in the HMI's topic cannot be understood."""


@dataclass(frozen=True)
class HmiMessage:
    """What the HMI says.

    Attributes:
        vin: of the vehicle that is meant.
        name: whom the HMI takes it from; "" where it says none.
        status: what is asked for; None: ``configure``, which wants the ready message.
    """

    vin: str
    name: str
    status: Status | None


def topic_of(vehicle: Vehicle) -> str:
    """The topic that a vehicle's HMI writes to: ``<driver id>_<vin>``.

    Raises:
        ConfigError: the queue allows no such name.
    """
    return _checked(f"{vehicle.driver}_{vehicle.vin}", vehicle)


def group_of(vehicle: Vehicle) -> str:
    """The consumer group that bridge and run share, so that each message is heard by one of them.

    Raises:
        ConfigError: the queue allows no such name.
    """
    return _checked(f"tspace_{vehicle.vin}", vehicle)


def encode_message(vehicle: Vehicle, name: str) -> dict[str, object]:
    """A message of the HMI, see ``CODES``."""
    return {"vin": vehicle.vin, "name": vehicle.driver, "code": CODE_OF[name]}


def encode_ready(vehicle: Vehicle) -> dict[str, object]:
    """The answer to ``configure``: somebody listens to the vehicle's HMI."""
    return {"vin": vehicle.vin, "is_ready": True}


def parse_message(body: bytes, vin: str, *, damaged: str = "") -> HmiMessage | None:
    """Read a message of the HMI.

    Args:
        body: as it was sent.
        vin: of the vehicle that listens.
        damaged: what is known to be wrong with it on the way, else "".

    Returns:
        The message, or None where another vehicle is meant.

    Raises:
        HmiMessageError: it is not understood; says why and what was seen.
    """
    if damaged:
        raise _refused(body, damaged)
    if len(body) > _LARGEST:
        raise _refused(body, f"it has {len(body)} bytes, at most {_LARGEST} are read")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else f"it is no JSON ({error})"
        )
        raise _refused(body, reason) from error
    if not isinstance(content, dict):
        raise _refused(body, "it is no JSON object")
    meant, name, code = content.get("vin"), content.get("name", ""), content.get("code")
    if not isinstance(meant, str) or not meant:
        raise _refused(body, "vin is missing or no text")
    if meant != vin:
        return None
    if not isinstance(name, str | None):
        raise _refused(body, "name is no text")
    number = _number(code)
    if number is None:
        raise _refused(body, f"code is missing or no whole number ({str(code)[:_SHOWN]!r})")
    if number not in CODES:
        known = ", ".join(f"{key} {value}" for key, value in CODES.items())
        raise _refused(body, f"code {str(number)[:_SHOWN]} is unknown; known are {known}")
    return HmiMessage(meant, name or "", _STATUS.get(number))


def _number(code: object) -> int | None:
    """Numbers arrive as JSON numbers or as decimal strings."""
    if isinstance(code, str) and re.fullmatch(r"[0-9]{1,9}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _refused(body: bytes, reason: str) -> HmiMessageError:
    return HmiMessageError(
        f"message of the HMI refused: {reason} (value seen: {body[:_SHOWN]!r}); {_EXAMPLE}"
    )


def _checked(name: str, vehicle: Vehicle) -> str:
    if not _NAME.fullmatch(name):
        message = (
            f"vehicle {vehicle.id}: the message queue allows no name {name!r}; driver and vin may have "
            "letters, digits, _ and - only, some 120 in all"
        )
        raise ConfigError(message)
    return name
