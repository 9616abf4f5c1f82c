"""The codes of the remote CAN service: what each means, what it says about the vehicle, what to do next.

The table is that of the wire contract. Two columns decide what happens after a failed flash: ``unchanged``
(is it certain that the vehicle's map is what it was?) and ``lasting`` (is it no use to wait and try again?).
"""

from dataclasses import dataclass

from tspace_core.errors import (
    AiModeOffError,
    LinkError,
    RemoteCanError,
    RemoteDataError,
    RemoteFormatError,
    RemoteNetworkError,
    RemoteServiceError,
    RemoteTorqueError,
    RemoteVehicleError,
)

NOT_OK = 1
AI_MODE_OFF = 2
CONNECTION = 1000
NETWORK = 1001
TIMEOUT = 1002
WRONG_PARAMETER = 206
NO_DATA = 2002
TORQUE_SHAPE = 2003
TORQUE_RANGE = 2004
UNKNOWN_FORM = 2005
NO_DICTIONARY = 3000
NO_LINK = 3001

FLASH_FAILED = 4
"""Outcome of a flash that interrupts the episode; the run goes on."""
FLASH_REFUSED = 2
"""Outcome of a flash that ends the run."""


@dataclass(frozen=True)
class RemoteCode:
    """One row of the table.

    Attributes:
        code: as on the wire.
        meaning: what it says.
        next_step: what a person does about it.
        error: class of the exception.
        unchanged: whether it is certain that a set_torque answered with it had no effect.
        lasting: whether it never heals by waiting.
    """

    code: int
    meaning: str
    next_step: str
    error: type[RemoteCanError]
    unchanged: bool = False
    lasting: bool = False


_SERVICE = "tell the operators of the remote CAN service, with the time of the call"
_BOX = "check the telematics box and its log"
_FORM = "check TSPACE_REMOTE__URL and the version of the service"

CODES: dict[int, RemoteCode] = {
    row.code: row
    for row in (
        RemoteCode(
            NOT_OK,
            "cannot connect to server (HTTP status not 200)",
            "check TSPACE_REMOTE__URL, TSPACE_REMOTE__AUTHORIZATION and whether the service is up",
            RemoteNetworkError,
        ),
        RemoteCode(
            AI_MODE_OFF,
            "AI mode shut down by the driver",
            "ask the driver to switch the AI mode on again",
            AiModeOffError,
            unchanged=True,
        ),
        RemoteCode(
            CONNECTION,
            "network connection error",
            "check the network, TSPACE_REMOTE__URL and whether the service is up",
            RemoteNetworkError,
            unchanged=True,
        ),
        RemoteCode(
            NETWORK,
            "network unknown error",
            "check the network; if it lasts, the service",
            RemoteNetworkError,
        ),
        RemoteCode(
            TIMEOUT, "network timeout", "check the network and how busy the service is", RemoteNetworkError
        ),
        RemoteCode(-1, "tsp internal error", _SERVICE, RemoteServiceError),
        RemoteCode(202, "tsp: no such API", _FORM, RemoteServiceError, unchanged=True, lasting=True),
        RemoteCode(
            WRONG_PARAMETER,
            "tsp: wrong parameter",
            "check the vehicle's vin, map axes and window, and the version of the service",
            RemoteServiceError,
            unchanged=True,
            lasting=True,
        ),
        RemoteCode(
            301, "tsp: out of time", "check whether the vehicle has a good radio link", RemoteServiceError
        ),
        RemoteCode(302, "tsp: command execution error", _BOX, RemoteServiceError),
        RemoteCode(
            303,
            "tsp: car not registered",
            "register the vehicle's vin at the service, or correct vin in conf/vehicles",
            RemoteServiceError,
            unchanged=True,
            lasting=True,
        ),
        RemoteCode(
            304,
            "tsp: car offline",
            "wait until the vehicle is switched on and has a radio link",
            RemoteServiceError,
            unchanged=True,
        ),
        RemoteCode(310, "tsp internal exception", _SERVICE, RemoteServiceError),
        RemoteCode(311, "tbox returned an error", _BOX, RemoteVehicleError),
        RemoteCode(
            2000,
            "uds version failed",
            "check that the VCU's software is the one the telematics box was made for",
            RemoteVehicleError,
            lasting=True,
        ),
        RemoteCode(2001, "a/b torque switch failed", _BOX, RemoteVehicleError),
        RemoteCode(
            NO_DATA,
            "not enough data in object storage",
            "check that the telematics box uploads, and TSPACE_S3__ENDPOINT with its credentials",
            RemoteDataError,
        ),
        RemoteCode(
            TORQUE_SHAPE,
            "torque shape error",
            "send at least 4 consecutive rows with a value for every pedal position",
            RemoteTorqueError,
            unchanged=True,
            lasting=True,
        ),
        RemoteCode(
            TORQUE_RANGE,
            "torque range error",
            "check the torques against the vehicle's default map and budget",
            RemoteTorqueError,
            unchanged=True,
            lasting=True,
        ),
        RemoteCode(UNKNOWN_FORM, "unknown format", _FORM, RemoteFormatError),
        RemoteCode(NO_DICTIONARY, "result is not a dictionary", _FORM, RemoteFormatError),
        RemoteCode(
            NO_LINK,
            "result has no object storage link",
            "check the version of the service and the vehicle's remote.buckets",
            RemoteFormatError,
        ),
    )
}


def remote_error(
    code: int,
    detail: str,
    *,
    vehicle: str = "",
    call: str = "",
    unchanged: bool | None = None,
    next_step: str | None = None,
) -> RemoteCanError:
    """The exception for a code; one that the table does not have becomes 2005, and the message names it.

    Args:
        code: of the table.
        detail: the value seen, shortened; may be empty.
        vehicle: id of the vehicle.
        call: get_signal or set_torque.
        unchanged: what is known beyond the code; None: what the table says.
        next_step: what to do, where that is known better than the table says.
    """
    row = CODES.get(code)
    if row is None:
        row = CODES[UNKNOWN_FORM]
        detail = f"code {code} is in no table" + (f"; {detail}" if detail else "")
    place = " ".join(filter(None, (vehicle, call)))
    message = (
        f"{place + ': ' if place else ''}code {row.code}, {row.meaning}"
        f"{': ' + detail if detail else ''}; {next_step or row.next_step}"
    )
    return row.error(message, row.code, unchanged=row.unchanged if unchanged is None else unchanged)


def flash_code(error: LinkError) -> int:
    """What a failed set_torque means to the run: 2 where waiting does not help and it ends, else 4."""
    row = CODES.get(error.code) if isinstance(error, RemoteCanError) else None
    return FLASH_REFUSED if row is not None and row.lasting else FLASH_FAILED
