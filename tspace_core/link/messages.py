"""The messages of the bridge's channel: one model a kind, told apart by ``kind``.

=============  ==========================  ==============================================================
from           kind                        meaning
=============  ==========================  ==============================================================
any            ``hello``                   first message: who speaks, for which vehicle
agent          ``heartbeat``               it is alive; 10 times a second
agent          ``arm``                     a run wants to flash; optionally from its last live map
agent          ``observe``                 what it saw the vehicle do last; where the bridge has no bus to see
agent          ``propose``                 4 rows of torque for the map
agent          ``disarm``                  the run ends: reference map
any            ``revert``                  reference map at once
operator       ``clear``                   a person clears a lock
operator       ``status``                  asks for ``report``
bridge         ``welcome``                 answer to ``hello``
bridge         ``armed``                   answer to ``arm``
bridge         ``answer``                  answer to ``propose``: what was really applied
bridge         ``state``                   at each change of the guard's state
bridge         ``report``                  answer to ``status``, ``clear`` and ``revert``, when it is done
bridge         ``failed``                  what was refused and why
=============  ==========================  ==============================================================

Rows travel in the buffer form of the wire contract: 8 hex digits a cell, the bytes of a little endian
float32 in memory order, row by row.
"""

import json
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tspace_core.errors import ChannelError, LinkError
from tspace_core.link.float_buffer import from_hex

MAX_CELLS = 4096
"""Cells of the largest map that a message carries; the field's have 14 x 17 and 21 x 17."""

_DIGITS = 8
Name = Annotated[str, Field(min_length=1, max_length=128)]
Reason = Annotated[str, Field(max_length=2000)]
Rows = Annotated[str, Field(pattern=r"^([0-9a-f]{8})*$", max_length=_DIGITS * MAX_CELLS)]
GuardState = Literal["DISARMED", "ARMED", "LOCKED"]
FlashResult = Literal["APPLIED", "REFUSED", "REVERTED", "UNKNOWN"]
Milliseconds = Annotated[float, Field(ge=0, le=3_600_000)]


class MessageError(ChannelError):
    """One message of a peer is wrong; the channel itself is still in step."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Hello(_Message):
    """The first message of a peer."""

    kind: Literal["hello"] = "hello"
    role: Literal["agent", "operator"]
    vehicle_id: Name
    run_id: Name
    version: Name


class Heartbeat(_Message):
    """The agent is alive."""

    kind: Literal["heartbeat"] = "heartbeat"
    n: int = Field(ge=0, lt=1 << 63)


class Arm(_Message):
    """A run asks to flash; ``resume`` is a whole live map to go on from."""

    kind: Literal["arm"] = "arm"
    by: Name
    token: Annotated[str, Field(max_length=8192)] | None = None
    resume: Rows | None = None


class Observe(_Message):
    """The last sample that the agent has of a vehicle whose bus the bridge does not hear.

    ``age_ms`` is the sample's age when it was sent; one not ``valid`` has a ``reason`` and its values
    mean nothing.
    """

    kind: Literal["observe"] = "observe"
    velocity_kmh: float = 0.0
    thrust_percent: float = 0.0
    brake_percent: float = 0.0
    age_ms: Milliseconds = 0.0
    valid: bool = True
    reason: Reason = ""


class Propose(_Message):
    """Rows to flash; ``age_ms`` is the time since they were decided, when they were sent."""

    kind: Literal["propose"] = "propose"
    id: int = Field(ge=0, lt=1 << 63)
    first_row: int = Field(ge=0, lt=MAX_CELLS)
    rows: Rows
    age_ms: Milliseconds = 0.0


class Disarm(_Message):
    """The run ends: reference map."""

    kind: Literal["disarm"] = "disarm"
    cause: Reason


class Revert(_Message):
    """Reference map at once, from whoever."""

    kind: Literal["revert"] = "revert"
    by: Name


class Clear(_Message):
    """A person clears a lock."""

    kind: Literal["clear"] = "clear"
    by: Name


class Status(_Message):
    """Asks for a ``Report``."""

    kind: Literal["status"] = "status"


class Welcome(_Message):
    """The peer may speak."""

    kind: Literal["welcome"] = "welcome"
    vehicle_id: Name
    version: Name
    state: GuardState
    cause: Reason = ""
    reference_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Armed(_Message):
    """Answer to ``Arm``; ``live`` is the whole map in effect."""

    kind: Literal["armed"] = "armed"
    ok: bool
    reason: Reason = ""
    resumed: bool = False
    live: Rows


class Answer(_Message):
    """What became of a proposal; ``rows`` as live after it, ``effect_ns`` UTC, None where nothing changed."""

    kind: Literal["answer"] = "answer"
    id: int
    result: FlashResult
    code: int = Field(ge=0, le=4, description="0, or 1 to 4 of the wire contract")
    reason: Reason = ""
    first_row: int
    rows: Rows
    effect_ns: int | None = None
    duration_s: float = 0.0
    clipped: dict[str, int] = Field(default_factory=dict)


class State(_Message):
    """The guard's state and why it is so."""

    kind: Literal["state"] = "state"
    state: GuardState
    cause: Reason = ""


class Report(_Message):
    """What an operator sees: state, agent, counters."""

    kind: Literal["report"] = "report"
    vehicle_id: Name
    version: Name
    state: GuardState
    cause: Reason = ""
    agent: Reason | None = None
    flashes: dict[str, int] = Field(default_factory=dict, description="result -> how many")
    counters: dict[str, int] = Field(default_factory=dict, description="what happened -> how often")
    signals: dict[str, float | None] = Field(default_factory=dict, description="name -> value; None: stale")


class Failed(_Message):
    """What was refused and why."""

    kind: Literal["failed"] = "failed"
    reason: Reason


Message = (
    Hello
    | Heartbeat
    | Arm
    | Observe
    | Propose
    | Disarm
    | Revert
    | Clear
    | Status
    | Welcome
    | Armed
    | Answer
    | State
    | Report
    | Failed
)
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """The message as JSON, UTF-8."""
    return message.model_dump_json().encode()


def decode(data: bytes) -> Message:
    """The message in ``data``.

    Raises:
        MessageError: it is no JSON object, of an unknown kind, or a field is wrong, missing or too many.
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "message"
        message = (
            f"refused {_excerpt(data)}: {place}: {first['msg']}; kinds and fields are in link/messages.py"
        )
        raise MessageError(message) from error


def _excerpt(data: bytes) -> str:
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError):
        return repr(data[:60])
    if isinstance(content, dict) and isinstance(content.get("kind"), str):
        return f"a message of kind {content['kind'][:60]!r}"
    return repr(data[:60])


def rows_from_hex(text: str, columns: int) -> NDArray[np.float32]:
    """The buffer form back to float32 of shape (rows, columns), bit for bit, NaN included.

    Raises:
        MessageError: these are no whole rows of that many columns.
    """
    try:
        rows = from_hex(text, columns)
    except LinkError as error:
        raise MessageError(str(error)) from error
    if len(rows) == 0:
        message = f"no rows of {columns} columns; give at least one"
        raise MessageError(message)
    return rows
