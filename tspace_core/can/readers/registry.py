"""Which formats there are, and which of them a file is."""

import re
from pathlib import Path

from tspace_core.can.readers.asc import AscReader
from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.blf import BlfReader
from tspace_core.can.readers.candump import CandumpReader
from tspace_core.can.readers.crtd import CrtdReader
from tspace_core.can.readers.gvret import GvretReader
from tspace_core.can.readers.python_can import CsvReader, DbReader, TrcReader
from tspace_core.can.readers.source import Source
from tspace_core.can.readers.tab_log import TabLogReader
from tspace_core.can.readers.text import UTF8_MARK
from tspace_core.can.report import ReadReport
from tspace_core.errors import LogFormatError

FORMATS: dict[str, type[LogReader]] = {
    reader.format: reader
    for reader in (
        BlfReader,
        DbReader,
        TrcReader,
        GvretReader,
        CsvReader,
        TabLogReader,
        CandumpReader,
        CrtdReader,
        AscReader,
    )
}
"""Every log format by name, those with the surest marks first."""

TRIP_TABLE = "trip_table"
WINDOW_LOG = "window_log"
HEAD = 1 << 16
SHOWN = 40
_MF4_SIGNATURES = (b"MDF     ", b"UnFinMF ")
_WINDOW_LINE = re.compile(
    rb'\s*\{"key": ?"[^"\n]*", ?"etag": ?"[^"\n]*", ?"uploaded": ?"[^"\n]*", ?"window": ?'
)
_TIME_COLUMNS = ("time [s]", "time[s]", "time", "timestamp")


def detect_format(path: Path) -> str:
    """Name of the format that the file's content shows; its ending decides only between several that fit.

    Args:
        path: a raw log or a trip table, compressed with gzip or not.

    Returns:
        A key of `FORMATS`, "trip_table" or "window_log".

    Raises:
        LogFormatError: the content fits no supported format.
        LogReadError: the file cannot be opened.
    """
    with Source(path) as source:
        head = source.read(HEAD).removeprefix(UTF8_MARK)
    if is_window_log(head):
        return WINDOW_LOG
    matching = [name for name, reader in FORMATS.items() if reader.matches(head, path)]
    if not matching:
        if _is_trip_table(head):
            return TRIP_TABLE
        raise LogFormatError(_unknown(path, head))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    usual = [name for name in matching if set(FORMATS[name].endings) & set(suffixes)]
    return (usual or matching)[0]


def open_log(path: Path, report: ReadReport | None = None, format: str | None = None) -> LogReader:
    """A reader of the log.

    Args:
        path: the raw log, compressed with gzip or not.
        report: where losses are counted; a new one if None.
        format: a key of `FORMATS` where the content need not be asked.

    Raises:
        LogFormatError: the format is unknown, or the file is a trip table or holds windows.
        LogReadError: the file cannot be opened.
    """
    name = detect_format(path) if format is None else format
    if name == TRIP_TABLE:
        message = (
            f"{path} is a trip table, it holds no CAN frames; "
            "read it with tspace_core.can.trip_table.read_trip_table"
        )
        raise LogFormatError(message)
    if name == WINDOW_LOG:
        message = (
            f"{path} holds windows of a telematics box, no CAN frames; "
            "read it with tspace_core.can.window_log.read_window_log"
        )
        raise LogFormatError(message)
    if name not in FORMATS:
        message = f"no log format is named {name!r}; there are {', '.join(FORMATS)}"
        raise LogFormatError(message)
    return FORMATS[name](path, report)


def is_window_log(head: bytes) -> bool:
    """Whether a file's first bytes, gzip undone, are those of a log of ``tspace_core.can.window_log``."""
    return _WINDOW_LINE.match(head) is not None


def _is_trip_table(head: bytes) -> bool:
    """Whether the first line is a `;` separated header with a time column."""
    cells = head.split(b"\n", 1)[0].decode("latin-1").split(";")
    return len(cells) > 2 and any(cell.strip().strip('"').lower() in _TIME_COLUMNS for cell in cells)


def _unknown(path: Path, head: bytes) -> str:
    supported = f"supported are {', '.join(FORMATS)} (gzip or not), trip tables and windows of a box"
    if not head:
        return f"{path} is empty, so it is no log; {supported}"
    if head.startswith(_MF4_SIGNATURES):
        return (
            f"{path} is an ASAM MDF (MF4) file, which is not supported; {supported}: "
            "export the CAN frames as BLF or ASC first"
        )
    return f"{path} has no known log format: it begins with {head[:SHOWN]!r}; {supported}"
