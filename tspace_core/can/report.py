"""What a reader saw of a log beside its frames: nothing is lost or invented in silence."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class ReadReport:
    """Counts of what was dropped and of what was noticed, each with the first place where it happened.

    Attributes:
        dropped: what could not be used, by reason. Something of the log is missing in the result.
        notes: what is no frame, or was understood in a way worth telling, by kind. Nothing is missing.
        messages: the first message of each reason and kind.
        start: instant of the log's header; None where the format has none or it is unreadable.
        start_zone: "UTC" where the format stores the header's instant as UTC; None where it is the wall
            clock of the recorder with no zone stated: `start` then holds that wall clock labelled UTC.
        stamps_are_absolute: the log clock counts from 1970-01-01 UTC, not from some start.
        buses: number in `FrameBatch.bus` of each bus that the log names in words, as candump's interfaces.
    """

    dropped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    start: datetime | None = None
    start_zone: str | None = None
    stamps_are_absolute: bool = False
    buses: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, *, count: int = 1, place: str, detail: str = "") -> None:
        """Counts `count` things that were lost for `reason` at `place` (file and line, byte or frame)."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        self._keep_first(reason, place, detail)

    def note(self, kind: str, *, count: int = 1, place: str, detail: str = "") -> None:
        """Counts `count` things that are no loss, but should be known."""
        self.notes[kind] = self.notes.get(kind, 0) + count
        self._keep_first(kind, place, detail)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "dropped": dict(self.dropped),
            "notes": dict(self.notes),
            "messages": dict(self.messages),
            "start": self.start.isoformat() if self.start else None,
            "start_zone": self.start_zone,
            "stamps_are_absolute": self.stamps_are_absolute,
            "buses": dict(self.buses),
        }

    def _keep_first(self, reason: str, place: str, detail: str) -> None:
        if reason not in self.messages:
            self.messages[reason] = f"{place}: {detail}" if detail else place
