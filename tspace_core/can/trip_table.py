"""Trip tables: one row an instant, one column a quantity, as published drives come.

``;`` between cells, Latin-1, names that change from trip to trip, names given twice or not at all. The
columns become the same samples that CAN logs become.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Samples, sentinel_mask, valid_samples
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, LogReadError

_TIME = re.compile(r"time\s*(\[s\])?", re.IGNORECASE)
_MOST_SECONDS = 9e9
"""The log clock counts ns in 64 bits."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
MOST_BYTES = 1 << 29
"""A larger table is refused, compressed or not: it is held in memory as a whole. Drives take a few MB."""
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, eq=False)
class TripTable:
    """A trip table as samples.

    Attributes:
        samples: valid samples of each signal of the vehicle.
        rows: rows below the header that its names fit, broken ones included.
        time: int64[n], ns, of the rows that have one, in the order of the file.
        columns: names of all columns, made unique.
    """

    samples: dict[str, Samples]
    rows: int
    time: npt.NDArray[np.int64]
    columns: tuple[str, ...]


def read_trip_table(path: Path, vehicle: Vehicle, report: ReadReport) -> TripTable:
    """Read a trip table.

    A bad cell costs only itself, a row without a time only itself. Counted in ``report``: ``bad_time``
    and ``more cells than names`` (rows), ``empty_cell`` and ``bad_number`` (samples), ``missing_column``
    (signals), ``last line cut off``, and what ``valid_samples`` counts.

    Raises:
        LogReadError: there is no file, no row, no column of time in seconds, more columns than names, or more
            than ``MOST_BYTES``.
        ConfigError: a signal of the vehicle does not come from a column.
    """
    columns, rows, lines = _table(path, report)
    time_column = next((k for k, name in enumerate(columns) if _TIME.fullmatch(name)), None)
    if time_column is None:
        message = (
            f"{path}, line 1: no column `Time [s]` among {', '.join(columns[:10])}; a trip table starts with "
            "a line of names, `;` between them"
        )
        raise LogReadError(message)
    seconds, _ = _numbers(rows, time_column)
    timed = np.abs(seconds) < _MOST_SECONDS
    if not timed.all():
        first = int(np.argmin(timed))
        detail = f"{_cell(rows[first], time_column)!r} is no time in seconds{_hint(rows[first], time_column)}"
        place = f"{path.name}, line {lines[first]}"
        report.drop("bad_time", count=int(np.count_nonzero(~timed)), place=place, detail=detail)
    time = np.rint(seconds[timed] * 1e9).astype(np.int64)
    samples = {}
    for name, source in vehicle.signals.items():
        if source.column is None:
            message = (
                f"vehicle {vehicle.id}, signal {name}: comes from CAN, but {path.name} is a trip table; "
                "choose the vehicle whose file names the table's columns"
            )
            raise ConfigError(message)
        if source.column not in columns:
            detail = f"no column {source.column!r}, which signal {name} of vehicle {vehicle.id} comes from"
            report.drop("missing_column", place=f"{path.name}, line 1", detail=detail)
            samples[name] = Samples.empty()
            continue
        index = columns.index(source.column)
        values, bad = _numbers(rows, index)
        for row in bad:
            if timed[row]:
                place = f"{path.name}, line {lines[row]}, column {source.column}"
                _count_bad(rows[row], index, place, report)
        usable = timed.copy()
        usable[bad] = False
        physical = values[usable]
        samples[name] = valid_samples(
            name, source, time[usable[timed]], physical, sentinel_mask(source, physical), report
        )
    return TripTable(samples, len(rows), time, tuple(columns))


def column_names(header: Sequence[str]) -> list[str]:
    """Names without blanks at their ends; a name given twice gets `` (2)``, none at all ``column <n>``."""
    names: list[str] = []
    for number, cell in enumerate(header, start=1):
        name = " ".join(cell.split()) or f"column {number}"
        copies = 1
        unique = name
        while unique in names:
            copies += 1
            unique = f"{name} ({copies})"
        names.append(unique)
    return names


def _table(path: Path, report: ReadReport) -> tuple[list[str], list[list[str]], list[int]]:
    """Names, rows and the line of each row; lines of blanks are no rows."""
    try:
        content = _content(path)
        ended = content.endswith(b"\n")
        reader = csv.reader(
            io.StringIO(content.removeprefix(_UTF8_MARK).decode("latin-1"), newline=""), delimiter=";"
        )
        numbered = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        message = f"{path}: cannot be read as a trip table ({error}); repair the file or fetch it again"
        raise LogReadError(message) from error
    if len(numbered) < 2:
        message = f"{path}: holds {len(numbered)} lines; a trip table has a line of names and rows below it"
        raise LogReadError(message)
    if not ended and len(numbered[-1][1]) < len(numbered[0][1]):
        # The cell at the cut may be a part of a number, which reads as another number.
        numbered[-1][1][-1] = ""
        detail = f"the file ends in cell {len(numbered[-1][1])} of {len(numbered[0][1])}"
        report.drop("last line cut off", place=f"{path.name}, line {numbered[-1][0]}", detail=detail)
    names, rows = numbered[0][1], numbered[1:]
    named = [(number, line) for number, line in rows if not any(map(str.strip, line[len(names) :]))]
    if not named:
        message = (
            f"{path}: line {rows[0][0]} has {len(rows[0][1])} cells, line 1 names {len(names)} columns; "
            "which of them has no name cannot be known, so give each column its name"
        )
        raise LogReadError(message)
    if len(named) < len(rows):
        number, line = next((number, line) for number, line in rows if (number, line) not in named)
        detail = f"{len(line)} cells, {len(names)} names"
        place = f"{path.name}, line {number}"
        report.drop("more cells than names", count=len(rows) - len(named), place=place, detail=detail)
    return column_names(names), [line for _, line in named], [number for number, _ in named]


def _content(path: Path) -> bytes:
    """The bytes of the table, decompressed; never more than ``MOST_BYTES`` are held."""
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if packed else file as source:
            content = source.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        message = (
            f"{path}: more than {MOST_BYTES >> 20} MiB{' when decompressed' if packed else ''}, the limit of "
            "a trip table; split it into drives"
        )
        raise LogReadError(message)
    return content


def _count_bad(row: list[str], index: int, place: str, report: ReadReport) -> None:
    text = _cell(row, index)
    if text:
        report.drop("bad_number", place=place, detail=f"{text!r} is no number{_hint(row, index)}")
    else:
        report.drop("empty_cell", place=place, detail="no value")


def _hint(row: list[str], index: int) -> str:
    comma = _DECIMAL_COMMA.fullmatch(_cell(row, index))
    return "; write the table with decimal points" if comma else ""


def _cell(row: list[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _numbers(rows: list[list[str]], index: int) -> tuple[npt.NDArray[np.float64], list[int]]:
    """The column as float64 (NaN where it is no number) and the rows where it is none."""
    values = np.empty(len(rows), np.float64)
    bad = []
    for number, row in enumerate(rows):
        try:
            values[number] = float(row[index])
        except (ValueError, IndexError):
            values[number] = np.nan
            bad.append(number)
    return values, bad
