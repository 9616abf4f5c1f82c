"""From the signals of a vehicle's file to the messages of its database, checked before any frame is read."""

import re
from dataclasses import dataclass

from tspace_core.can.dbc import CanDatabase
from tspace_core.can.layout import MessageLayout
from tspace_core.config.vehicle import SignalSource, Vehicle
from tspace_core.errors import ConfigError, DatabaseError

_MEAN = re.compile(r"mean\((?P<names>[^()]+)\)")


@dataclass(frozen=True, slots=True)
class WantedSignal:
    """A signal of ours and the DBC signals that it is read from (their mean, where there are several)."""

    name: str
    source: SignalSource
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WantedMessage:
    """A message that signals of the vehicle are in.

    Attributes:
        layout: the message.
        bus: bus it must come from; None: the first bus that has it.
        signals: our signals in it.
    """

    layout: MessageLayout
    bus: int | None
    signals: tuple[WantedSignal, ...]


def wanted_messages(vehicle: Vehicle, database: CanDatabase) -> list[WantedMessage]:
    """The messages that the vehicle's signals are in.

    ``signal: mean(A, B, ...)`` in a vehicle's file is the mean of several signals of one message, as the
    speed from four wheels.

    Raises:
        DatabaseError: a message or signal is not in the database; names vehicle, signal and near names.
        ConfigError: ``invalid_with`` names a signal of another message, or the source is no CAN message.
    """
    found: dict[tuple[int, bool, int | None], tuple[MessageLayout, list[WantedSignal]]] = {}
    for name, source in vehicle.signals.items():
        place = f"vehicle {vehicle.id}, signal {name}"
        if source.message is None or source.signal is None:
            message = f"{place}: comes from the column {source.column!r} of a trip table, not from a CAN log"
            raise ConfigError(message)
        try:
            layout = database.find(source.message, extended=source.extended)
            parts = _parts(source.signal)
            for part in parts:
                _check_part(layout, part, database)
        except DatabaseError as error:
            message = f"{place}: {error}"
            raise DatabaseError(message) from error
        key = (layout.id, layout.extended, source.bus)
        found.setdefault(key, (layout, []))[1].append(WantedSignal(name, source, parts))
    messages = [WantedMessage(layout, key[2], tuple(signals)) for key, (layout, signals) in found.items()]
    _check_invalid_with(vehicle, messages)
    return messages


def _parts(signal: str) -> tuple[str, ...]:
    mean = _MEAN.fullmatch(signal.strip())
    if mean is None:
        return (signal,)
    return tuple(part.strip() for part in mean["names"].split(","))


def _check_part(layout: MessageLayout, part: str, database: CanDatabase) -> None:
    try:
        layout.signal(part)
    except DatabaseError as error:
        lost = [sentence for sentence in database.dropped if f" loses signal {part}:" in sentence]
        message = "; ".join([str(error), *lost])
        raise DatabaseError(message) from error


def _check_invalid_with(vehicle: Vehicle, messages: list[WantedMessage]) -> None:
    for wanted in messages:
        names = {signal.name for signal in wanted.signals}
        for signal in wanted.signals:
            foreign = [other for other in signal.source.invalid_with if other not in names]
            if foreign:
                message = (
                    f"vehicle {vehicle.id}, signal {signal.name}: invalid_with names {foreign}, not in the "
                    f"same message {wanted.layout.place} of the same bus; name signals of this message only"
                )
                raise ConfigError(message)
