"""The audit log: one JSON line an event, each with the hash of the line before; nothing is ever rewritten.

A line is ``{"seq", "utc", "event", ..., "prev", "hash"}``: ``prev`` is the hash of the line before (64 zeros
for the first), ``hash`` is SHA-256 over the line without its ``hash`` (JSON, keys sorted, no blanks). Each
line is on the disk (fsync) before `AuditLog.append` returns. Beside the log lies ``<name>.head`` with number
and hash of the newest line.

What `verify` finds: a line that was edited, removed, put in or moved, and a log that is shorter than its head
says. What it cannot find: lines cut off the end by somebody who sets the head back as well, and a log that is
rewritten as a whole with its head; against that keep the head's hash somewhere else (`AuditReport.head`).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from tspace_core.errors import AuditError

FIRST = "0" * 64
_OWN = ("seq", "utc", "event", "prev", "hash")


@dataclass(frozen=True)
class AuditReport:
    """What a check of a log found.

    Attributes:
        path: the log.
        entries: lines that hold, from the first on.
        head: hash of the last of them.
        problems: what does not hold, with the line's number; empty: the log is whole.
    """

    path: Path
    entries: int
    head: str
    problems: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the whole log holds."""
        return not self.problems


def _canonical(entry: dict[str, Any]) -> bytes:
    return json.dumps(
        entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def _hash(entry: dict[str, Any]) -> str:
    return sha256(_canonical({name: value for name, value in entry.items() if name != "hash"})).hexdigest()


def head_path(path: Path) -> Path:
    """The file beside a log that names its newest line."""
    return path.with_name(path.name + ".head")


class AuditLog:
    """An append-only log of one vehicle.

    Opening checks the last line. What a crash left of a line that was being written is moved to
    ``<name>.torn-<seq>`` and noted as an event, never dropped in silence.

    Args:
        path: the log; folders are made.
        utc_ns: UTC, ns since 1970.

    Raises:
        AuditError: the log cannot be written, or its last line or its head does not hold.
    """

    def __init__(self, path: Path, utc_ns: Callable[[], int]) -> None:
        self.path = path
        self._utc_ns = utc_ns
        self._seq = 0
        self._prev = FIRST
        self._last: dict[str, Any] | None = None
        self._broken: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
            if made:
                _sync_folder(path.parent)
        except OSError as error:
            message = f"audit log {path} cannot be opened ({error}); nothing is flashed without it"
            raise AuditError(message) from error
        try:
            self._open_tail()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def last(self) -> dict[str, Any] | None:
        """The newest line; None where there is none."""
        return self._last

    @property
    def head(self) -> str:
        """Hash of the newest line."""
        return self._prev

    def close(self) -> None:
        """Close the file; nothing can be appended after it."""
        self._broken = self._broken or "it is closed"
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def append(self, event: str, **fields: object) -> None:
        """Write one line and wait until it is on the disk.

        Raises:
            AuditError: it is not (disk full, not writable, closed); the log takes no more lines then.
        """
        if self._broken is not None:
            message = f"audit log {self.path} takes no more lines: {self._broken}; repair it and start again"
            raise AuditError(message)
        reserved = sorted(set(fields) & set(_OWN))
        if reserved:
            message = f"audit event {event}: fields {reserved} are the log's own; name them otherwise"
            raise AuditError(message)
        entry: dict[str, Any] = {
            **fields,
            "seq": self._seq,
            "utc": _text(self._utc_ns()),
            "event": event,
            "prev": self._prev,
        }
        try:
            entry["hash"] = _hash(entry)
            line = _canonical(entry) + b"\n"
        except (TypeError, ValueError) as error:
            message = f"audit event {event}: {error}; give texts, numbers, lists and mappings of them"
            raise AuditError(message) from error
        try:
            self._write(line)
        except OSError as error:
            self._broken = f"a line could not be written ({error})"
            message = f"audit log {self.path}: {self._broken}; free the disk, nothing is flashed without it"
            raise AuditError(message) from error
        self._seq += 1
        self._prev = entry["hash"]
        self._last = json.loads(line)
        self._write_head()

    def _write(self, line: bytes) -> None:
        written = os.write(self._file, line)
        if written < len(line):
            reason = f"only {written} of {len(line)} bytes fitted"
            raise OSError(reason)
        os.fsync(self._file)

    def _write_head(self) -> None:
        # Not synced: after a power cut an older head is behind the log, which is no contradiction.
        with suppress(OSError):
            temporary = head_path(self.path).with_suffix(".head.tmp")
            temporary.write_text(f"{self._seq - 1} {self._prev}\n", encoding="ascii")
            temporary.replace(head_path(self.path))

    def _open_tail(self) -> None:
        complete, torn = _tail(self._file)
        if complete is not None:
            entry = _parsed(complete)
            if entry is None:
                message = (
                    f"audit log {self.path}: its last line does not hold; run `tspace audit`, then move it"
                )
                raise AuditError(message)
            self._seq = entry["seq"] + 1
            self._prev = entry["hash"]
            self._last = entry
        known = _read_head(self.path)
        if known is not None and known[0] >= self._seq:
            message = (
                f"audit log {self.path} ends with line {self._seq - 1}, its head says {known[0]}: lines were "
                "cut off; run `tspace audit` and move it away"
            )
            raise AuditError(message)
        if known is None and self._seq == 1:
            self._write_head()  # the first process was killed between its first line and the first head
        if torn:
            aside = self.path.with_name(f"{self.path.name}.torn-{self._seq}")
            try:
                aside.write_bytes(torn)
                os.ftruncate(self._file, os.fstat(self._file).st_size - len(torn))
            except OSError as error:
                message = f"audit log {self.path}: a torn last line cannot be moved to {aside} ({error})"
                raise AuditError(message) from error
            # The newest line says what state the guard is in: a lock must not end with a torn line.
            state = {name: value for name, value in (self._last or {}).items() if name in ("guard", "cause")}
            digest = sha256(torn).hexdigest()
            self.append("torn_line", bytes=len(torn), kept_in=aside.name, sha256=digest, **state)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(utc_ns: int) -> str:
    seconds, rest = divmod(utc_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _tail(descriptor: int) -> tuple[bytes | None, bytes]:
    """The last whole line, and what follows it."""
    size = os.fstat(descriptor).st_size
    step = 65_536
    while True:
        step = min(step, size)
        data = os.pread(descriptor, step, size - step)
        end = data.rfind(b"\n")
        start = data.rfind(b"\n", 0, max(end, 0))
        if start >= 0 or step == size:
            break
        step *= 4
    if end < 0:
        return None, data
    return data[start + 1 : end], data[end + 1 :]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line whose own hash holds."""
    try:
        entry = json.loads(line)
        holds = (
            isinstance(entry, dict)
            and isinstance(entry["seq"], int)
            and isinstance(entry["event"], str)
            and _canonical(entry) == line
            and entry["hash"] == _hash(entry)
        )
    except (ValueError, KeyError):
        return None
    return entry if holds else None


def _read_head(path: Path) -> tuple[int, str] | None:
    try:
        number, digest = head_path(path).read_text(encoding="ascii").split()
        return int(number), digest
    except (OSError, ValueError):
        return None


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that hold by themselves, in their order; run `verify` as well."""
    with path.open("rb") as file:
        for line in file:
            entry = _parsed(line.rstrip(b"\n"))
            if entry is not None:
                yield entry


def verify(path: Path) -> AuditReport:
    """Check every line of a log, the chain between them, and its head.

    Raises:
        AuditError: there is no such log, or it cannot be read.
    """
    problems: list[str] = []
    previous, expected, entries, heads = FIRST, 0, 0, {}
    known = _read_head(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    problems.append(f"line {number} is torn: {len(line)} bytes without an end")
                    break
                entry = _parsed(line[:-1])
                if entry is None:
                    problems.append(f"line {number} does not hold: it was edited or damaged")
                    previous, expected = "", expected + 1
                    continue
                if entry["seq"] != expected:
                    problems.append(f"line {number} is number {entry['seq']}, expected {expected}")
                if previous and entry["prev"] != previous:
                    problems.append(f"line {number} does not follow the line before it")
                previous, expected = entry["hash"], entry["seq"] + 1
                entries += 1
                if known is not None and entry["seq"] == known[0]:
                    heads[known[0]] = entry["hash"]
    except OSError as error:
        message = f"audit log {path} cannot be read ({error})"
        raise AuditError(message) from error
    if known is None and expected:
        problems.append(f"there is no readable {head_path(path).name}: lines cut off the end cannot be seen")
    elif known is not None and heads.get(known[0]) != known[1]:
        problems.append(
            f"{head_path(path).name} names line {known[0]}, which the log does not hold: cut off?"
        )
    return AuditReport(path, entries, previous or FIRST, tuple(problems))
