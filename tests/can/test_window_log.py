"""Window logs: lines as they came, read back as samples."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.can.box_window import SIGNALS, encode_window
from tspace_core.can.readers import WINDOW_LOG, detect_format, open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.tables import READERS, check_format
from tspace_core.can.window_log import (
    WindowLine,
    WindowLog,
    first_instant_ns,
    is_window_log,
    parse_line,
    read_window_log,
    to_line,
)
from tspace_core.config import Vehicle, load_site, load_vehicle
from tspace_core.errors import ConfigError, LogFormatError, LogReadError

START_NS = 1_767_596_400 * 10**9
PERIOD_NS = 20_000_000
S = 10**9


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle("twin_remote")


def values(start_s: float, seconds: int) -> np.ndarray:
    t = start_s + np.arange(seconds * 50) / 50
    return np.column_stack(
        [30 + t % 7, 20 + t % 5, t % 3, -50 + t % 11, 600 + t % 13, np.full_like(t, 3.0)]
    ).round(3)


def line(vehicle: Vehicle, start_s: float, seconds: int = 4, *, uploaded_s: float | None = None) -> bytes:
    begin = START_NS + round(start_s * S)
    content = encode_window(values(start_s, seconds), begin, load_site(vehicle.site).zone)
    end = start_s + seconds if uploaded_s is None else uploaded_s
    body = json.dumps(content, indent=1).encode()
    return to_line(f"VIN/{start_s}.json", "e", START_NS + round(end * S), body)


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"".join(lines)) if path.suffix == ".gz" else b"".join(lines))
    return path


def read(path: Path, vehicle: Vehicle) -> tuple[WindowLog, ReadReport]:
    report = ReadReport()
    return read_window_log(path, vehicle, report), report


@pytest.mark.parametrize("name", ["a.windows.jsonl", "a.windows.jsonl.gz", "named.by.somebody"])
def test_windows_are_found_by_content_and_read_as_they_were(
    tmp_path: Path, vehicle: Vehicle, name: str
) -> None:
    path = write(tmp_path / name, [line(vehicle, 0), line(vehicle, 4)])
    assert detect_format(path) == WINDOW_LOG in READERS
    log, report = read(path, vehicle)
    assert (log.windows, log.rows, len(log.time)) == (2, 400, 400)
    np.testing.assert_array_equal(log.time, START_NS + np.arange(400) * PERIOD_NS)
    for column, signal in enumerate(SIGNALS):
        np.testing.assert_array_equal(log.samples[signal].value, values(0, 8)[:, column])
    assert not len(log.samples["soc"]) and not report.dropped
    assert first_instant_ns(path, vehicle) == START_NS
    with pytest.raises(LogFormatError, match="read_window_log"):
        open_log(path)


def test_a_body_is_kept_as_it_came(vehicle: Vehicle) -> None:
    body = b'{\r\n "list_speed_1s": [["12.50"]],\n "x": "\\n"}\n'
    (text,) = to_line("k", "t", START_NS + 123_456_000, body).splitlines()
    assert parse_line(text) == WindowLine("k", "t", START_NS + 123_456_000, json.loads(body))
    assert is_window_log(text) and b'"12.50"' in text


def test_windows_are_put_in_order_and_an_instant_counts_once(tmp_path: Path, vehicle: Vehicle) -> None:
    path = write(tmp_path / "a", [line(vehicle, 5), line(vehicle, 0), line(vehicle, 3)])
    log, report = read(path, vehicle)
    np.testing.assert_array_equal(log.time, START_NS + np.arange(450) * PERIOD_NS)
    np.testing.assert_array_equal(log.samples["velocity"].value, values(0, 9)[:, 0])
    assert report.notes == {"overlap": 150} and not report.dropped


@settings(max_examples=25)
@given(starts=st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_no_order_of_windows_makes_another_log(
    tmp_path_factory: pytest.TempPathFactory, starts: list[int]
) -> None:
    vehicle = load_vehicle("twin_remote")
    folder = tmp_path_factory.mktemp("order")
    given_, sorted_ = (
        read(write(folder / name, [line(vehicle, start) for start in order]), vehicle)[0]
        for name, order in (("a", starts), ("b", sorted(starts)))
    )
    covered = {second for start in starts for second in range(start, start + 4)}
    assert given_.rows == sorted_.rows == 50 * len(covered)
    assert (np.diff(given_.time) > 0).all()
    for name in SIGNALS:
        np.testing.assert_array_equal(given_.samples[name].value, sorted_.samples[name].value)


@pytest.mark.parametrize(
    ("bad", "reason", "text"),
    [
        (b"{\n", "bad_line", "line 2"),
        (b'{"key": "k", "etag": "e", "uploaded": "x", "window": {}}\n', "bad_line", "line 2"),
        (b'{"key": "k", "etag": "e", "uploaded": 5, "window": {}}\n', "bad_line", "uploaded is 5"),
        (b'{"key": "k", "etag": "e", "uploaded": "2026-01-05T08:00:00Z"}\n', "bad_line", "no JSON object"),
        (
            b'{"key": "k", "etag": "e", "uploaded": "2026-01-05T08:00:00Z", "window": {}}\n',
            "bad_window",
            "timestamps",
        ),
    ],
)
def test_a_damaged_line_costs_itself(
    tmp_path: Path, vehicle: Vehicle, bad: bytes, reason: str, text: str
) -> None:
    log, report = read(write(tmp_path / "a", [line(vehicle, 0), bad, line(vehicle, 4)]), vehicle)
    assert log.rows == 400 and report.dropped == {reason: 1}
    assert text in report.messages[reason]


def test_a_log_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, vehicle: Vehicle) -> None:
    path = write(tmp_path / "a.gz", [line(vehicle, 4.0 * number) for number in range(30)])
    path.write_bytes(path.read_bytes()[:-2000])
    log, report = read(path, vehicle)
    assert 0 < log.windows < 30 and report.dropped["damaged gzip"] == 1


def test_values_that_cannot_be_are_counted_and_left_out(tmp_path: Path, vehicle: Vehicle) -> None:
    content = encode_window(values(0, 1), START_NS, load_site(vehicle.site).zone)
    content["list_current_1s"][0][3] = 99_999.0  # type: ignore[index]
    path = write(tmp_path / "a", [to_line("k", "e", START_NS + S, json.dumps(content).encode())])
    log, report = read(path, vehicle)
    assert len(log.samples["current"]) == 49 and report.dropped == {"out_of_range": 1}


def test_the_hour_that_there_is_twice_is_told_apart_by_the_upload(tmp_path: Path, vehicle: Vehicle) -> None:
    """2026-10-25 02:30 local is 00:30 UTC and 01:30 UTC in Berlin."""
    zone = load_site(vehicle.site).zone
    first = 1_792_888_200 * S
    lines = []
    for begin in (first, first + 3600 * S):
        content = encode_window(values(0, 4), begin, zone)
        lines.append(to_line("k", "e", begin + 5 * S, json.dumps(content).encode()))
    log, _ = read(write(tmp_path / "a", lines), vehicle)
    assert (log.time[0], log.time[200]) == (first, first + 3600 * S)


def test_a_vehicle_without_a_box_has_no_windows(tmp_path: Path, vehicle: Vehicle) -> None:
    path = write(tmp_path / "a", [line(vehicle, 0)])
    with pytest.raises(ConfigError, match="twin_truck has none"):
        read(path, load_vehicle("twin_truck"))


def test_a_vehicle_with_a_box_may_have_can_logs_too(vehicle: Vehicle) -> None:
    for form in ("blf", WINDOW_LOG):
        check_format(form, vehicle, "a")
    with pytest.raises(ConfigError, match="is a trip table"):
        check_format("trip_table", vehicle, "a")


def test_a_log_too_large_is_refused(
    tmp_path: Path, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.gz", [line(vehicle, 0)] * 20)
    monkeypatch.setattr("tspace_core.can.window_log.MOST_BYTES", 1000)
    with pytest.raises(LogReadError, match="more than"):
        read(path, vehicle)
