"""Window logs: what a telematics box uploaded, one window a line, as raw logs keep it.

A line is a JSON object ``{"key", "etag", "uploaded", "window"}``: the object's key in its bucket, its tag
there, the UTC instant of its upload, and its content as it came (the ``result`` of the wire contract, section
6). The file may be compressed with gzip. Like a trip table it holds samples, not frames.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tspace_core.can.box_window import SIGNALS, BoxWindow, decode_window
from tspace_core.can.readers.registry import WINDOW_LOG, is_window_log
from tspace_core.can.readers.source import Source
from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Samples, valid_samples
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, LogReadError

__all__ = [
    "SUFFIX",
    "WINDOW_LOG",
    "WindowLine",
    "WindowLog",
    "first_instant_ns",
    "is_window_log",
    "parse_line",
    "read_window_log",
    "to_line",
]

SUFFIX = ".windows.jsonl.gz"
"""Usual end of a window log's name."""
MOST_BYTES = 1 << 29
"""A larger log is refused, compressed or not: it is held in memory as a whole. Half an hour takes some MB."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAR_NS = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class WindowLog:
    """A window log as samples.

    Attributes:
        samples: valid samples of each signal of the vehicle; none of those that a box does not send.
        rows: instants sampled.
        time: int64[n], ns UTC, strictly ascending.
        windows: usable windows.
    """

    samples: dict[str, Samples]
    rows: int
    time: npt.NDArray[np.int64]
    windows: int


@dataclass(frozen=True, slots=True)
class WindowLine:
    """One line of a window log.

    Attributes:
        key: of the object in its bucket.
        etag: of the object as it was read.
        uploaded_ns: when it was uploaded, ns UTC.
        window: its content.
    """

    key: str
    etag: str
    uploaded_ns: int
    window: Mapping[str, object]


def to_line(key: str, etag: str, uploaded_ns: int, body: bytes) -> bytes:
    """The line of an object whose content ``body`` is a JSON object; the content is kept as it is.

    A line break within JSON is white space, so that it can be a blank instead.
    """
    head = {"key": key, "etag": etag, "uploaded": _to_text(uploaded_ns)}
    content = body.replace(b"\r", b" ").replace(b"\n", b" ").strip()
    return json.dumps(head).encode()[:-1] + b', "window": ' + content + b"}\n"


def parse_line(line: bytes) -> WindowLine:
    """Undo ``to_line``.

    Raises:
        ValueError: it is no such line, with the reason.
    """
    content = json.loads(line)
    if not isinstance(content, dict) or not isinstance(content.get("window"), dict):
        message = "it is no JSON object with a window"
        raise ValueError(message)  # noqa: TRY004 - one kind of error for a wrong line
    return WindowLine(
        str(content.get("key", "")),
        str(content.get("etag", "")),
        _to_ns(content.get("uploaded")),
        content["window"],
    )


def read_window_log(path: Path, vehicle: Vehicle, report: ReadReport) -> WindowLog:
    """Read a window log; windows are put in order of time, and an instant that two of them cover counts once.

    Counted in ``report``: ``bad_line`` and ``bad_window`` (windows), ``damaged gzip`` (once), what
    ``valid_samples`` counts (samples), and as a note ``overlap`` (samples that another window has too).

    Raises:
        LogReadError: there is no file, or it is larger than ``MOST_BYTES``.
        ConfigError: the vehicle has no telematics box.
    """
    if vehicle.remote is None:
        message = (
            f"{path.name} holds windows of a telematics box, but vehicle {vehicle.id} has none: choose the "
            "vehicle whose box it is, or give this one a `remote:` section"
        )
        raise ConfigError(message)
    windows: list[BoxWindow] = []
    for number, line in _lines(path, report):
        place = f"{path.name}, line {number}"
        try:
            one = parse_line(line)
        except (ValueError, RecursionError) as error:
            report.drop("bad_line", place=place, detail=str(error))
            continue
        window = decode_window(one.window, vehicle, near_ns=one.uploaded_ns)
        if window.reason:
            report.drop("bad_window", place=f"{place}, {one.key}", detail=window.reason)
        elif len(window.time_ns):
            windows.append(window)
    time, values = _joined(windows, path, report)
    return WindowLog(_samples(time, values, vehicle, report), len(time), time, len(windows))


def first_instant_ns(path: Path, vehicle: Vehicle) -> int | None:
    """When the first usable window of a log begins, ns UTC; None where there is none.

    Raises:
        LogReadError: there is no file, or it is larger than ``MOST_BYTES``.
    """
    for _, line in _lines(path, ReadReport()):
        try:
            one = parse_line(line)
        except (ValueError, RecursionError):
            continue
        window = decode_window(one.window, vehicle, near_ns=one.uploaded_ns)
        if not window.reason and len(window.time_ns):
            return int(window.time_ns[0])
    return None


def _lines(path: Path, report: ReadReport) -> Iterator[tuple[int, bytes]]:
    with Source(path) as source:
        content = source.read(MOST_BYTES + 1)
        damage = source.damage
    if len(content) > MOST_BYTES:
        message = f"{path}: more than {MOST_BYTES >> 20} MiB of windows, the limit of a window log; split it"
        raise LogReadError(message)
    if damage:
        report.drop("damaged gzip", place=path.name, detail=f"{damage}; the windows before it are used")
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _joined(
    windows: list[BoxWindow], path: Path, report: ReadReport
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """All windows' samples, each instant once, ascending."""
    if not windows:
        return np.empty(0, np.int64), np.empty((0, len(SIGNALS)))
    ordered = sorted(windows, key=lambda window: int(window.time_ns[0]))
    time = np.concatenate([window.time_ns for window in ordered])
    values = np.concatenate([window.values for window in ordered])
    # What comes at or before the newest instant so far was sampled in another window already.
    newest = np.maximum.accumulate(np.concatenate([[-_FAR_NS], time[:-1]]))
    keep = time > newest
    if not keep.all():
        first = int(np.argmin(keep))
        report.note(
            "overlap",
            count=int(np.count_nonzero(~keep)),
            place=f"{path.name} at {_to_text(int(time[first]))}",
            detail="sampled in another window too",
        )
    return time[keep], values[keep]


def _samples(
    time: npt.NDArray[np.int64], values: npt.NDArray[np.float64], vehicle: Vehicle, report: ReadReport
) -> dict[str, Samples]:
    samples = {}
    for name, source in vehicle.signals.items():
        if name not in SIGNALS:
            samples[name] = Samples.empty()
            continue
        value = values[:, SIGNALS.index(name)]
        known = np.isfinite(value)
        # The box's values are in our units and signs already; what is valid is as on the bus.
        rules = source.model_copy(update={"scale": 1.0, "offset": 0.0, "sign": 1, "sentinels": ()})
        none = np.zeros(int(np.count_nonzero(known)), np.bool_)
        samples[name] = valid_samples(name, rules, time[known], value[known], none, report)
    return samples


def _to_text(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def _to_ns(text: Any) -> int:
    if not isinstance(text, str):
        message = f"uploaded is {text!r}, expected an instant as 2026-01-05T07:00:04.123456Z"
        raise ValueError(message)  # noqa: TRY004 - one kind of error for a wrong line
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
