"""Where the person's requests come from: one function a source, all with the same port.

A source runs as a task of its own and posts events until its requests are closed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tspace_core.config import Vehicle
from tspace_core.errors import ConfigError
from tspace_core.link.datagrams import Status
from tspace_core.supervision import Pipeline, PipelineClosed
from tspace_core.vehicle.states import Event

EVENTS: dict[Status, Event] = {
    "begin": Event.BEGIN,
    "end_valid": Event.END_VALID,
    "end_invalid": Event.END_INVALID,
    "exit": Event.EXIT,
}
"""What a ``status`` means."""


@dataclass(frozen=True)
class HmiPort:
    """What a source is connected to.

    Attributes:
        requests: requests found in datagrams; closed when the run stops.
        post: takes an event and why it came.
        ignored: told about a request that this source does not follow.
        failed: told why the HMI was not understood or could not be heard: one capture failure each.
    """

    requests: Pipeline[Status]
    post: Callable[[Event, str], None]
    ignored: Callable[[str], None]
    failed: Callable[[str], None]


def hmi_capture_from_udp(port: HmiPort) -> None:
    """Requests come as ``status`` in datagrams."""
    while True:
        try:
            status = port.requests.get()
        except PipelineClosed:
            return
        port.post(EVENTS[status], f"HMI: {status}")


def hmi_capture_from_dummy(port: HmiPort) -> None:
    """Nobody asks: it begins at once and ends when the run is stopped; an ``exit`` is heard all the same."""
    port.post(Event.BEGIN, "dummy HMI: begins at start")
    while True:
        try:
            status = port.requests.get()
        except PipelineClosed:
            return
        if status == "exit":
            port.post(Event.EXIT, "HMI: exit")
        else:
            port.ignored(f"HMI: {status} is not followed while hmi.source is dummy")


@dataclass(frozen=True)
class HmiSource:
    """A source and what its kind means for an episode.

    Attributes:
        capture: its task.
        at_stop: what the stop request means for a running episode: with a person at the HMI it was not ended
            as valid; without one that is how it ends.
        attended: whether somebody is there who can begin again after an interruption.
    """

    capture: Callable[[HmiPort], None]
    at_stop: Event
    attended: bool


def _udp_source(vehicle: Vehicle) -> HmiSource:
    return HmiSource(hmi_capture_from_udp, at_stop=Event.STOP, attended=True)


def _dummy_source(vehicle: Vehicle) -> HmiSource:
    return HmiSource(hmi_capture_from_dummy, at_stop=Event.FINISH, attended=False)


def _rmq_source(vehicle: Vehicle) -> HmiSource:
    from tspace_core.vehicle.hmi_rmq import rmq_source  # its gRPC client is heavy

    return rmq_source(vehicle)


SOURCES: dict[str, Callable[[Vehicle], HmiSource]] = {
    "udp": _udp_source,
    "rmq": _rmq_source,
    "dummy": _dummy_source,
}


DATAGRAM_SOURCES = frozenset({"udp", "dummy"})
"""Sources that hear the requests in datagrams."""


def hmi_source(name: str, vehicle: Vehicle) -> HmiSource:
    """The source of that name for a vehicle.

    Raises:
        ConfigError: there is no such source; lists those there are. Or it lacks a setting.
    """
    if name not in SOURCES:
        message = (
            f"hmi.source is {name!r}, it is one of {', '.join(SOURCES)}: set TSPACE_HMI__SOURCE or "
            "hmi.source in conf/settings.yaml"
        )
        raise ConfigError(message)
    return SOURCES[name](vehicle)
