"""What is known of one vehicle's windows: which are in a log, which wait for theirs, where to look next.

Truth is in the bucket and in the lake's logs: a log's origin names the windows it holds, and a log appears
whole. Everything else follows: the cursor in the lake only says from where on to look, the spool only saves
fetching twice. So a crash between any two steps neither loses a window nor puts one into two logs.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tspace_core.can.box_window import decode_window
from tspace_core.can.window_log import SUFFIX, WindowLine, parse_line, to_line
from tspace_core.config import Vehicle
from tspace_core.errors import ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.objects.store import ObjectInfo
from tspace_core.storage.box_drives import DriveRules, Held
from tspace_core.storage.box_keys import earlier, time_of
from tspace_core.storage.box_spool import Spool
from tspace_core.storage.files import atomic_write, write_text
from tspace_core.storage.lake import ORIGIN_SUFFIX, Lake, RawLog, read_json

NS_PER_S = 1_000_000_000
PREFIX = "box-"
SETTLE_S = 10.0
"""Uploads may overtake each other by this much: nothing is sealed sooner after its last one."""
SHORTEST_GAP_S = 1.5
"""A box's windows come up to a second apart, whatever the vehicle's logs do."""


class BoxVehicle:
    """One vehicle's windows between bucket and lake.

    Keys are those below the vin's folder.

    Args:
        lake: where its logs go.
        vehicle: whose box it is.
        spool: folder on this machine for what is in no log yet.
        source: address of the vin's folder, for a log's origin.
        look_back_s: how late a window may be uploaded and still be found, s.
        quiet_s: a drive is over when nothing has been uploaded for this long, s.
    """

    def __init__(
        self,
        lake: Lake,
        vehicle: Vehicle,
        spool: Path,
        source: str,
        *,
        look_back_s: float,
        quiet_s: float,
    ) -> None:
        self.vehicle, self.source = vehicle, source
        self.waiting: dict[str, Held] = {}
        self.settled: dict[str, str] = {}
        """Keys that need no second look, with the tag of the object that was looked at."""
        self.todo: dict[str, ObjectInfo] = {}
        self.foreign: set[str] = set()
        self.earlier: list[str] = []
        """Keys of the newest logs that were there already when this began."""
        self.rules = DriveRules(
            max(vehicle.log.gap_s, SHORTEST_GAP_S), quiet_s=quiet_s, settle_s=min(SETTLE_S, quiet_s)
        )
        self.all_listed = False
        self._lake, self._look_back_s = lake, look_back_s
        self._spool = Spool(spool / f"{vehicle.id}.jsonl")
        self._cursor = lake.root / "box_cursors" / f"{vehicle.id}.json"
        self._written = self._read_cursor()
        self.seen_to = earlier(self._written, look_back_s + self.rules.longest_s)
        self._read_logs()
        self._read_spool()

    def is_new(self, name: str, etag: str) -> bool:
        """Whether an object is to be fetched: a box may have written another one under an old key."""
        if self.settled.get(name) == etag:
            return False
        held = self.waiting.get(name)
        return held is None or held.etag != etag

    def look_back_from(self) -> str:
        """From which key on windows that were uploaded late are looked for."""
        return earlier(self.seen_to, self._look_back_s)

    def take(self, name: str, info: ObjectInfo, body: bytes) -> str:
        """Keep a window until its drive is over; return why it cannot be used, or nothing."""
        uploaded_ns = to_ns(info.modified)
        try:
            # By itself first: only what is whole JSON may become a part of a line.
            content = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            return f"it is no JSON: {type(error).__name__}: {error}"
        if not isinstance(content, dict):
            return f"it is JSON, but no object: a {type(content).__name__}"
        line = to_line(f"{self.vehicle.vin}/{name}", info.etag, uploaded_ns, body)
        held = self._held(name, WindowLine(name, info.etag, uploaded_ns, content), 0, len(line))
        if isinstance(held, str):
            return held
        offset, _ = self._spool.append(line)
        self.waiting[name] = replace(held, offset=offset)
        return ""

    def settle(self, names: Iterable[str], etags: Iterable[str]) -> None:
        """Note that these need no second look."""
        for name, etag in zip(names, etags, strict=True):
            self.settled[name] = etag
            self.waiting.pop(name, None)

    def seal(self, drive: list[Held]) -> RawLog:
        """Write a drive as a raw log, which appears whole; its windows are settled then.

        Raises:
            StorageError: the lake cannot be written; everything is as before.
        """
        content = gzip.compress(b"".join(self._spool.read(drive)), 6, mtime=0)
        while True:
            log = self._free_log(drive[0])
            try:
                with atomic_write(log.path, if_absent=True) as temporary:
                    temporary.write_bytes(content)
                    temporary.chmod(0o444)
                    # Before the log: what is visible as a log has its origin, also after a crash.
                    write_text(log.origin, json.dumps(self._origin(drive, content)))
                break
            except ObjectExistsError:
                continue  # somebody else has just taken the name
        self.settle([window.key for window in drive], [window.etag for window in drive])
        return log

    def follow(self) -> None:
        """Let cursor, spool and memory follow what is settled."""
        pending = [*self.waiting, *self.todo]
        after = min(pending, default=self.seen_to)
        # Keys have milliseconds: from the one before it, listing goes on with this one.
        after = min(self.seen_to, earlier(after, 0.001) if pending else after)
        if after > self._written:
            write_text(self._cursor, json.dumps({"vin": self.vehicle.vin, "after": after}))
            self._written = after
        oldest = min(earlier(after, 2 * self._look_back_s), self.look_back_from())
        self.settled = {name: etag for name, etag in self.settled.items() if name >= oldest}
        for name, offset in self._spool.tidy(sorted(self.waiting.values())).items():
            self.waiting[name] = replace(self.waiting[name], offset=offset)

    def _held(self, name: str, one: WindowLine, offset: int, length: int) -> Held | str:
        vin = one.window.get("vin", self.vehicle.vin)
        if vin != self.vehicle.vin:
            return f"it is of vin {vin!r}, in the folder of {self.vehicle.vin!r}"
        window = decode_window(one.window, self.vehicle, near_ns=one.uploaded_ns)
        if window.reason or not len(window.time_ns):
            return window.reason or "it holds no sample"
        begin, end = int(window.time_ns[0]), int(window.time_ns[-1])
        remote = self.vehicle.remote
        ahead_s = (end - one.uploaded_ns) / NS_PER_S
        # Object storage keeps whole seconds.
        allowed_s = 1.0 + (remote.future_s if remote else 0.0)
        if ahead_s > allowed_s:
            return (
                f"its last sample lies {ahead_s:.1f} s after its upload, at most {allowed_s:g} s is allowed"
            )
        return Held(begin, name, end, one.uploaded_ns, one.etag, offset, length)

    def _free_log(self, first: Held) -> RawLog:
        begin = datetime.fromtimestamp(first.start_ns / 1e9, UTC)
        day, number = begin.date().isoformat(), 1
        while True:
            more = f"-{number}" if number > 1 else ""
            name = f"{PREFIX}{begin:%H%M%S}{more}{SUFFIX}"
            path = self._lake.raw(self.vehicle.id, day, name)
            if not path.exists():
                return RawLog(self.vehicle.id, day, name, path)
            number += 1

    def _origin(self, drive: list[Held], content: bytes) -> dict[str, Any]:
        return {
            "sha256": hashlib.sha256(content).hexdigest(),
            "source": f"{self.source}{drive[0].key} to {drive[-1].key}",
            "date_source": "absolute_stamps",
            "begin_ns": drive[0].start_ns,
            "end_ns": max(window.end_ns for window in drive),
            "windows": {window.key: window.etag for window in drive},
        }

    def _read_cursor(self) -> str:
        if not self._cursor.is_file():
            return ""
        after = str(read_json(self._cursor).get("after", ""))
        # A damaged cursor only means that all is looked at again; logs know what they hold.
        return after if time_of(after) is not None else ""

    def _read_logs(self) -> None:
        """Settle what logs hold, as far back as keys are listed."""
        start = time_of(self.seen_to)
        # A key's clock may be a zone away from UTC, and a log begins up to its length before its last window.
        since = (start - timedelta(hours=28)).date().isoformat() if start else ""
        folder = self._lake.root / "raw" / self.vehicle.id
        if not folder.is_dir():
            return
        days: list[AnyPath] = list(folder.iterdir())
        for day in sorted(days, key=lambda path: path.name):
            if day.name < since or not day.is_dir():
                continue
            names: dict[str, AnyPath] = {path.name: path for path in day.iterdir()}
            for name in sorted(names):
                if not (name.startswith(PREFIX) and name.endswith(SUFFIX)):
                    continue
                origin = names.get(name + ORIGIN_SUFFIX)
                held = _windows(origin) if origin is not None else self._windows_of(names[name])
                self.settled.update(held)
                self.earlier.append(f"{self.vehicle.id}/{day.name}/{name}")

    def _windows_of(self, path: AnyPath) -> dict[str, str]:
        """What a log without an origin holds: it says so itself.

        Raises:
            StorageError: it is damaged.
        """
        try:
            lines = [parse_line(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        except (OSError, EOFError, zlib.error, ValueError) as error:
            message = (
                f"{path} has no {ORIGIN_SUFFIX} and does not say which windows it holds ({error}): restore "
                "it from a copy, or move it away, then its windows are collected again"
            )
            raise StorageError(message) from error
        return {line.key.removeprefix(f"{self.vehicle.vin}/"): line.etag for line in lines}

    def _read_spool(self) -> None:
        for offset, line in self._spool.lines():
            try:
                one = parse_line(line)
                name = one.key.removeprefix(f"{self.vehicle.vin}/")
                held = self._held(name, one, offset, len(line))
            except (ValueError, RecursionError):
                continue
            if isinstance(held, Held) and self.settled.get(name) != held.etag:
                self.waiting[name] = held


def to_ns(instant: datetime) -> int:
    """UTC instant in ns."""
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1000


def _windows(origin: AnyPath) -> dict[str, str]:
    content = read_json(origin).get("windows", {})
    if not isinstance(content, dict):
        message = f"{origin} does not say which windows its log holds: restore it from a copy"
        raise StorageError(message)
    return {str(key): str(etag) for key, etag in content.items()}
