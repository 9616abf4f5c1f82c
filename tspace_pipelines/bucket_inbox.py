"""The watched place in a bucket: ``<inbox>/<vehicle id>/<log>``, its flash journal beside it if it has one.

Sibling of ``inbox``. An object is complete when it is there. Taking copies it into the lake; it stays where
it is and may be deleted afterwards. A journal that arrives later than its log is taken then. What cannot be
taken stays as well, with a ``<log>.refused.txt`` beside it that says why and what to do; it is looked at
again when it is written anew.

What was dealt with is not looked at again, however many logs lie there. One look asks for

- the vehicles' folders (one request a thousand),
- each vehicle's keys behind the last one dealt with (one request of at most ``KEYS`` keys),
- one slice of all keys (at most ``SLICE`` keys, two requests), which goes round: it finds what was dropped
  under a name before the last one dealt with, what was written anew, and what lies in no vehicle's folder. Of
  these keys only those count that were written since the round before began.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tspace_core.config import vehicle_ids
from tspace_core.errors import (
    ObjectAccessError,
    ObjectError,
    ObjectMissingError,
    ObjectServerError,
    TspaceError,
)
from tspace_core.objects.path import S3Path
from tspace_core.objects.store import ObjectInfo
from tspace_core.storage.lake import JOURNAL_SUFFIX, Lake
from tspace_pipelines.inbox import REFUSED_SUFFIX, UNFINISHED_SUFFIXES, Taken, store_one

KEYS = 1000
"""Keys of a vehicle that one look lists."""
SLICE = 2000
"""Keys of the slice that goes round."""
SKEW_S = 900.0
"""How far this machine's clock and the server's may be apart, s."""
_IGNORED = (REFUSED_SUFFIX, *UNFINISHED_SUFFIXES, "/")


Mark = tuple[str, float]
"""Tags of a log and its journal, and when the newer of them was written, s since 1970."""


@dataclass
class Position:
    """Where the next look goes on; kept in the sensor's cursor.

    Attributes:
        after: last key dealt with, by vehicle.
        walk: last key of the slice that goes round.
        began: when this round began, s since 1970.
        since: what was written before this is known to have been dealt with, s since 1970.
        rounds: whole rounds so far.
        recent: what was dealt with of what was written since then.
        turn: which vehicle is first at the next look.
    """

    after: dict[str, str] = field(default_factory=dict)
    walk: str = ""
    began: float = 0.0
    since: float = 0.0
    rounds: int = 0
    recent: dict[str, Mark] = field(default_factory=dict)
    turn: int = 0

    def to_cursor(self) -> str:
        """The cursor of a sensor."""
        return json.dumps(vars(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Position":
        """Undo ``to_cursor``; an unreadable cursor means that everything is looked at again."""
        try:
            content: Any = json.loads(cursor or "{}")
            return cls(
                {str(key): str(value) for key, value in content.get("after", {}).items()},
                str(content.get("walk", "")),
                float(content.get("began", 0.0)),
                float(content.get("since", 0.0)),
                int(content.get("rounds", 0)),
                {str(key): (str(tag), float(at)) for key, (tag, at) in content.get("recent", {}).items()},
                int(content.get("turn", 0)),
            )
        except (ValueError, TypeError, AttributeError):
            return cls()


def take_from_bucket(inbox: S3Path, lake: Lake, position: Position, *, budget_s: float) -> Taken:
    """Store what is new in the watched place; moves ``position`` on.

    Args:
        inbox: the watched place.
        lake: where logs are stored.
        position: where to go on.
        budget_s: nothing more is begun after this time, s; the next call goes on.

    Raises:
        ObjectError: the bucket cannot be listed.
    """
    look = _Look(inbox, lake, position, budget_s)
    look.forward()
    look.around()
    return look.taken


class _Look:
    """One look into the bucket."""

    def __init__(self, inbox: S3Path, lake: Lake, position: Position, budget_s: float) -> None:
        self.inbox, self.lake, self.position = inbox, lake, position
        self.store = inbox.store
        self.prefix = f"{inbox.key}/" if inbox.key else ""
        self.known = set(vehicle_ids())
        self.deadline = time.monotonic() + budget_s
        self.taken = Taken()
        self.done: dict[str, str] = {}
        if not position.began:
            position.began = position.since = time.time() - SKEW_S

    def forward(self) -> None:
        """Deal with what lies behind the last key of each vehicle."""
        folders = {key.removeprefix(self.prefix).rstrip("/") for key in self.store.folders(self.prefix)}
        order = sorted(self.known & folders)
        start = self.position.turn % max(1, len(order))
        self.position.turn += 1
        for vehicle in order[start:] + order[:start]:
            folder = f"{self.prefix}{vehicle}/"
            after = folder + self.position.after.get(vehicle, "")
            for info in self.store.list(folder, after=after, limit=KEYS):
                if not self._deal(info):
                    break
                self.position.after[vehicle] = info.key.removeprefix(folder)

    def around(self) -> None:
        """Deal with what of the next slice of all keys is new, or lies in no vehicle's folder."""
        place, count = self.position, 0
        for info in self.store.list(self.prefix, after=self.prefix + place.walk, limit=SLICE):
            if self._is_due(info) and not self._deal(info):
                return
            place.walk = info.key.removeprefix(self.prefix)
            count += 1
        if count < SLICE:
            place.since, place.began = place.began, time.time() - SKEW_S
            place.walk, place.rounds = "", place.rounds + 1
            place.recent = {name: mark for name, mark in place.recent.items() if mark[1] >= place.since}

    def _is_due(self, info: ObjectInfo) -> bool:
        """Whether a key of the slice needs a look."""
        vehicle, _, log = info.key.removeprefix(self.prefix).partition("/")
        new = info.modified.timestamp() >= self.position.since
        if vehicle in self.known and log:
            # What lies behind the last key dealt with is found by looking forward.
            return new and log <= self.position.after.get(vehicle, "")
        # Nobody else finds these; the first round finds also those that lay there before.
        return new or not self.position.rounds

    def _deal(self, info: ObjectInfo) -> bool:
        """Take an object, or refuse it; False: it could not be dealt with now."""
        name = info.key.removeprefix(self.prefix)
        if any(part.startswith(".") for part in name.split("/")) or name.endswith(_IGNORED):
            return True
        if time.monotonic() > self.deadline:
            self.taken.waiting.append(name)
            return False
        log: ObjectInfo | None = info
        if name.endswith(JOURNAL_SUFFIX):
            journal: ObjectInfo | None = info
            name = name.removesuffix(JOURNAL_SUFFIX)
            log = self.store.head(self.prefix + name)
        else:
            journal = self.store.head(info.key + JOURNAL_SUFFIX)
        if log is None:
            return True  # a journal whose log is still to come, which will find it
        tag = f"{log.etag}+{journal.etag}" if journal else log.etag
        written = max(found.modified.timestamp() for found in (log, journal) if found)
        if self.done.get(name) == tag or self.position.recent.get(name, ("", 0.0))[0] == tag:
            return True
        if not self._take(name, tag):
            return False
        self.done[name] = tag
        if written >= self.position.since:
            self.position.recent[name] = (tag, written)
        return True

    def _take(self, name: str, tag: str) -> bool:
        note = self.prefix + name + REFUSED_SUFFIX
        try:
            stored = store_one(self.inbox / name, name, self.lake, self.known)
        except ObjectMissingError:
            return True  # it was taken away since it was listed
        except (OSError, ObjectAccessError, ObjectServerError) as error:
            # A full disk, a missing right or a server that is down say nothing about the log.
            self.taken.refused[name] = f"{type(error).__name__}: {error}; it is tried again"
            return False
        except TspaceError as error:
            self.taken.refused[name] = f"{type(error).__name__}: {error}"
            text = f"{name.rpartition('/')[2]} was not taken.\n{self.taken.refused[name]}\n"
            with suppress(ObjectError):  # it may be a bucket that we only read
                self.store.put(note, text.encode())
            return True
        self.taken.logs[stored.key] = tag
        with suppress(ObjectError):
            self.store.delete(note)
        return True
