"""What is wanted of a pool, in the same words for every kind of pool."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field, model_validator

from tspace_core.config.base import ConfigModel
from tspace_core.records.episode import RecordFlag

if TYPE_CHECKING:
    from tspace_core.storage.pools.entry import Entry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_Length = Annotated[int, Field(ge=1)]


class Query(ConfigModel):
    """Which episodes, and which of their records; a field that is not given does not narrow.

    Ranges of time are half open: from the first instant on, up to but without the second. Instants need a
    zone. A pool finds the episodes that have at least one matching record.
    """

    vehicles: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    """What acted, ``EpisodeMeta.action_source``: agent, default_map, flash_journal, realised_torque."""
    episodes: tuple[str, ...] = ()
    """Ids of episodes."""
    started_from: AwareDatetime | None = None
    """Start of the episode: time of its first state."""
    started_before: AwareDatetime | None = None
    after: AwareDatetime | None = None
    """Time of a record: first sample of its state's window."""
    before: AwareDatetime | None = None
    length_from: _Length | None = None
    """Records of the whole episode, both ends inclusive."""
    length_to: _Length | None = None
    valid: bool | None = None
    """True: only records whose reward is their action's (``RecordFlag.ZEROED`` is not set); False: only the
    others."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for low, high in (
            ("started_from", "started_before"),
            ("after", "before"),
            ("length_from", "length_to"),
        ):
            first, last = getattr(self, low), getattr(self, high)
            if first is not None and last is not None and first > last:
                message = f"{low} is {first}, {high} is {last}: swap them, the range holds nothing"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for field in ("vehicles", "drivers", "sites", "agents", "episodes"):
            for name in getattr(self, field):
                try:
                    name.encode()
                except UnicodeEncodeError:
                    message = (
                        f"{field} holds {name!a}, which is no text in UTF-8: give the name as it is stored"
                    )
                    raise ValueError(message) from None
        return self

    @property
    def everything(self) -> bool:
        """Whether no field narrows."""
        return self == ALL

    @property
    def after_ns(self) -> int | None:
        """``after`` as ns since 1970 UTC."""
        return nanoseconds(self.after)

    @property
    def before_ns(self) -> int | None:
        """``before`` as ns since 1970 UTC."""
        return nanoseconds(self.before)

    @property
    def started_from_ns(self) -> int | None:
        """``started_from`` as ns since 1970 UTC."""
        return nanoseconds(self.started_from)

    @property
    def started_before_ns(self) -> int | None:
        """``started_before`` as ns since 1970 UTC."""
        return nanoseconds(self.started_before)

    def fits(self, entry: "Entry") -> bool:
        """Whether an episode may have a matching record, by what is known without reading it."""
        named = (
            (self.vehicles, entry.vehicle_id),
            (self.drivers, entry.driver_id),
            (self.sites, entry.site_id),
            (self.agents, entry.agent),
            (self.episodes, entry.episode_id),
        )
        if any(wanted and value not in wanted for wanted, value in named):
            return False
        return (
            _within(entry.start_ns, self.started_from_ns, self.started_before_ns)
            and _within(entry.records, self.length_from, None)
            and (self.length_to is None or entry.records <= self.length_to)
            and (self.after_ns is None or entry.end_ns > self.after_ns)
            and (self.before_ns is None or entry.start_ns < self.before_ns)
            and not (self.valid is True and entry.invalid == entry.records)
            and not (self.valid is False and entry.invalid == 0)
        )

    def matching(self, times: NDArray[np.int64], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Positions, ascending, of an episode's records that ``after``, ``before`` and ``valid`` let through.

        Args:
            times: (n,) or (n + 1,) int64 ns UTC; what is beyond the flags is no record.
            flags: (n,) uint8, bits of ``RecordFlag``.
        """
        chosen = np.ones(len(flags), bool)
        times = times[: len(flags)]
        if self.after_ns is not None:
            chosen &= times >= self.after_ns
        if self.before_ns is not None:
            chosen &= times < self.before_ns
        if self.valid is not None:
            zeroed = (flags & int(RecordFlag.ZEROED)) != 0
            chosen &= zeroed if self.valid is False else ~zeroed
        return np.flatnonzero(chosen).astype(np.int64)

    def __str__(self) -> str:
        given = self.model_dump(exclude_defaults=True, mode="json")
        return ", ".join(f"{name}={_text(value)}" for name, value in given.items()) or "everything"


ALL = Query.model_construct()
"""No field narrows: everything."""


def nanoseconds(instant: datetime | None) -> int | None:
    """An instant with its zone as ns since 1970 UTC, exactly."""
    return None if instant is None else (instant - _EPOCH) // _MICROSECOND * 1000


def _within(value: int, first: int | None, beyond: int | None) -> bool:
    return (first is None or value >= first) and (beyond is None or value < beyond)


def _text(value: object) -> str:
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)
