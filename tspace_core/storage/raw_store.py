"""Raw logs into the lake: copied once, never changed, known by their content."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tspace_core.can.readers import TRIP_TABLE, WINDOW_LOG, detect_format, open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.window_log import first_instant_ns
from tspace_core.config import Vehicle, load_site
from tspace_core.errors import LogError, ObjectExistsError, ObjectMissingError, StorageError
from tspace_core.objects.path import AnyPath, ObjectStat, S3Path, local_copy, relative, within
from tspace_core.records.meta import TimeSource
from tspace_core.storage.files import atomic_copy, atomic_write, read_version, sha256, write_text
from tspace_core.storage.lake import JOURNAL_SUFFIX, ORIGIN_SUFFIX, Lake, RawLog, read_json

YEAR_2000_NS = 946_684_800 * 10**9
_PEEK_FRAMES = 1 << 12


def store_raw(
    lake: Lake, source: AnyPath, vehicle: Vehicle, date: str | None = None, *, driver: str | None = None
) -> RawLog:
    """Copy a log, and its flash journal if it has one, into the lake.

    The date is the given one, else the day (UTC) of its stamps or header, else that of the file's
    last change. The same content under the same name again is not copied again and gives the same log.

    Args:
        lake: where to.
        source: the log, on a disk or in a bucket; its journal is looked for beside it.
        vehicle: whose log it is.
        date: YYYY-MM-DD, or None to find out.
        driver: id of who drove, or None: the driver of the vehicle's file.

    Raises:
        LogFormatError: if the format is not known.
        StorageError: if another content already lies there under that name, or the vehicle has the same
            content under another one; names both files.
    """
    source = source.resolve()
    if not source.is_file():
        message = f"no log at {source}: give the path of a file"
        raise StorageError(message)
    if within(source, lake.root / "raw"):
        return _already_there(lake, source, vehicle)
    content = sha256(local_copy(source))
    known, copy = _known(lake, vehicle, source, content)
    if known is not None and date in (None, known.date):
        _store_journal(source, known)
        if driver is not None and driver != driver_of(known, vehicle):
            message = f"{known.path} is stored with driver {driver_of(known, vehicle)!r}, not {driver!r}"
            raise StorageError(message)
        return known
    if known is not None:
        message = (
            f"{source} lies in the lake under date {known.date} already: {known.path}; leave the date out"
        )
        raise StorageError(message)
    if copy is not None:
        message = (
            f"{source} has the same content as {copy.path}: it is not taken in again, as its drive would "
            "count twice in training; remove one of the two files"
        )
        raise StorageError(message)
    detect_format(local_copy(source))
    day, date_source = (date, "given") if date else _recording_day(source, vehicle)
    log = RawLog(vehicle.id, day, source.name, lake.raw(vehicle.id, day, source.name))
    if log.path.is_file():
        return _stored_meanwhile(source, log, content)
    _store_journal(source, log)
    origin = {"sha256": content, "source": str(source), "date_source": date_source}
    if driver is not None:
        origin["driver"] = driver
    try:
        _copy(source, log, origin)
    except ObjectExistsError as error:
        if not log.path.is_file():
            raise _changed(source) from error
        return _stored_meanwhile(source, log, content)
    return log


def _changed(source: AnyPath) -> StorageError:
    return StorageError(
        f"{source} changed while it was read: take it in again when its recorder has closed it"
    )


def _stored_meanwhile(source: AnyPath, log: RawLog, content: str) -> RawLog:
    if content_hash(log) == content:  # another process has just stored it
        return log
    message = (
        f"{source} and {log.path} have the same vehicle, date and name, but not the same content: rename "
        "one of them, raw logs are never replaced"
    )
    raise StorageError(message)


def _copy(source: AnyPath, log: RawLog, origin: dict[str, Any]) -> None:
    """Write the log, which becomes visible at once, and its origin, which is there before it."""
    stat = source.stat()
    with atomic_copy(source, log.path) as temporary:
        if sha256(temporary) != origin["sha256"]:
            raise _changed(source)
        os.utime(temporary, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        temporary.chmod(0o444)
        # Before the log: what is visible as a log has its origin, also after a crash.
        origin = {**origin, **_identity(temporary)}
        seen = _leftover_origin(log)
        write_text(log.origin, json.dumps(origin, indent=1), if_absent=seen is None, seen=seen)
    if isinstance(log.path, S3Path):
        # Only now is it known what the object is told by. Without it the hash is found by reading it all.
        origin.pop("mtime_ns")
        origin.update(_identity(log.path))
    if read_json(log.origin) != origin:  # or another writer's, whose log came too late
        write_text(log.origin, json.dumps(origin, indent=1))


def _leftover_origin(log: RawLog) -> str | None:
    """By what an origin is told that a killed writer left, to be replaced; None: there is none.

    Raises:
        ObjectExistsError: its log is there.
    """
    try:
        seen = read_version(log.origin)[1]
    except (FileNotFoundError, ObjectMissingError):
        return None
    if log.path.is_file():
        message = f"{log.path} was stored by someone else meanwhile: look at it again"
        raise ObjectExistsError(message)
    return seen


def _origin_of(log: RawLog) -> dict[str, Any]:
    """What is kept beside a log; nothing of one that was put into the lake by hand."""
    if isinstance(log.origin, Path) and not log.origin.is_file():
        return {}
    try:
        return read_json(log.origin)
    except ObjectMissingError:
        return {}


def content_hash(log: RawLog) -> str:
    """Return the content hash of a raw log; kept beside it as long as size and time of change (ETag) stay."""
    identity = _identity(log.path)
    origin = _origin_of(log)
    if origin and {name: origin.get(name) for name in identity} == identity:
        return str(origin["sha256"])
    return sha256(log.path)


def driver_of(log: RawLog, vehicle: Vehicle) -> str:
    """Return who drove: as it was stored with the log, else the driver of the vehicle's file."""
    return str(_origin_of(log).get("driver", vehicle.driver))


def utc_clock(
    log: RawLog, report: ReadReport, first_ns: int | None, vehicle: Vehicle
) -> tuple[int, TimeSource]:
    """Return the UTC instant (ns) of the log clock's zero, and where it is known from.

    Stamps after 2000-01-01 count from 1970 UTC. Else the header's instant is the clock's zero (without a zone
    it is the site's wall clock). Else it is 00:00 UTC of the log's date: only the day is right then.
    """
    if report.stamps_are_absolute or (first_ns is not None and first_ns > YEAR_2000_NS):
        return 0, "absolute_stamps"
    start = _start(report, vehicle)
    if start is not None:
        return _ns(start), "log_header"
    midnight = datetime.fromisoformat(log.date).replace(tzinfo=UTC)
    by_file = _origin_of(log).get("date_source") == "file_modified"
    return _ns(midnight), "file_modified" if by_file else "date_folder"


def _already_there(lake: Lake, source: AnyPath, vehicle: Vehicle) -> RawLog:
    parts = relative(source, lake.root / "raw").split("/")
    if len(parts) != 3 or parts[0] != vehicle.id or parts[2].endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX)):
        message = f"{source} is no raw log of vehicle {vehicle.id}: those lie in raw/{vehicle.id}/<date>/"
        raise StorageError(message)
    return lake.raw_log("/".join(parts))


def _known(
    lake: Lake, vehicle: Vehicle, source: AnyPath, content: str
) -> tuple[RawLog | None, RawLog | None]:
    """The vehicle's log of the source's name and content, and one of that content under another name."""
    as_long = lake.raw_logs_of_size(vehicle.id, source.stat().st_size)
    same = [log for log in as_long if content_hash(log) == content]
    known = next((log for log in same if log.name == source.name), None)
    return known, next((log for log in same if log.name != source.name), None)


def _store_journal(source: AnyPath, log: RawLog) -> None:
    journal = source.with_name(source.name + JOURNAL_SUFFIX)
    if not journal.is_file():
        return
    if log.journal.is_file():
        if sha256(journal) != sha256(log.journal):
            message = (
                f"{journal} and {log.journal} differ: a stored flash journal is never replaced; to correct "
                "it on purpose, remove the stored one first"
            )
            raise StorageError(message)
        return
    with atomic_write(log.journal) as temporary:
        shutil.copyfile(local_copy(journal), temporary)
        temporary.chmod(0o444)


def _recording_day(log: AnyPath, vehicle: Vehicle) -> tuple[str, str]:
    source = local_copy(log)
    form = detect_format(source)
    if form == WINDOW_LOG:
        begin = first_instant_ns(source, vehicle)
        if begin is not None:
            return datetime.fromtimestamp(begin / 1e9, UTC).date().isoformat(), "absolute_stamps"
    elif form != TRIP_TABLE:
        report = ReadReport()
        try:
            batch = next(iter(open_log(source, report).batches(max_frames=_PEEK_FRAMES)), None)
        except LogError:
            batch = None  # the frames stage says what is wrong with it
        if batch is not None and len(batch) and (report.stamps_are_absolute or batch.time[0] > YEAR_2000_NS):
            instant = datetime.fromtimestamp(int(batch.time[0]) / 1e9, UTC)
            return instant.date().isoformat(), "absolute_stamps"
        start = _start(report, vehicle)
        if start is not None:
            return start.astimezone(UTC).date().isoformat(), "log_header"
    modified = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    return modified.date().isoformat(), "file_modified"


def _start(report: ReadReport, vehicle: Vehicle) -> datetime | None:
    # Converters write 1970 where they know no start.
    if report.start is None or report.start.year < 2000:
        return None
    if report.start_zone is not None:
        return report.start
    return report.start.replace(tzinfo=load_site(vehicle.site).zone)


def _identity(path: AnyPath) -> dict[str, Any]:
    stat = path.stat()
    if isinstance(stat, ObjectStat):
        return {"size": stat.st_size, "etag": stat.etag}
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _ns(instant: datetime) -> int:
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
