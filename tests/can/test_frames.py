"""The batch form and the report."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from tests.can.logs import assert_same, rows
from tspace_core.can.frames import FrameBatch, FrameFlag
from tspace_core.can.readers.builder import FrameBuilder
from tspace_core.can.report import ReadReport
from tspace_core.errors import LogError


def batch_of(count: int, *, length: int = 8, first: int = 0) -> FrameBatch:
    builder = FrameBuilder(count + 1)
    for number in range(first, first + count):
        builder.append(number * 1000, number % 3, number, int(FrameFlag.TX), bytes([number]) * length)
    return builder.take()


def test_rows_come_back_as_appended() -> None:
    assert rows(batch_of(2)) == [
        (0, 0, 0, FrameFlag.TX, 8, bytes(8)),
        (1000, 1, 1, FrameFlag.TX, 8, bytes([1]) * 8),
    ]


def test_select_and_concat() -> None:
    whole = batch_of(10)
    parts = [whole.select(slice(0, 3)), FrameBatch.empty(), whole.select(np.arange(3, 10))]
    assert_same(FrameBatch.concat(parts), whole)
    assert rows(whole.select(whole.bus == 1)) == [row for row in rows(whole) if row[1] == 1]
    assert len(FrameBatch.concat([])) == 0


def test_concat_widens_where_one_part_is_wide() -> None:
    both = FrameBatch.concat([batch_of(2, length=8), batch_of(2, length=12)])
    assert both.payload.shape == (4, 64)
    assert both.payload[0, 8:].any() == np.False_
    assert both.length.tolist() == [8, 8, 12, 12]


def test_builder_is_narrow_again_after_a_wide_batch() -> None:
    builder = FrameBuilder(2)
    builder.append(0, 0, 1, 0, bytes([7]) * 8)
    builder.append(0, 0, 1, int(FrameFlag.FD), bytes([9]) * 64)
    assert builder.full
    wide = builder.take()
    assert wide.payload.shape == (2, 64)
    assert wide.payload[0].tolist() == [7] * 8 + [0] * 56
    builder.append(0, 0, 1, 0, b"\1")
    assert builder.take().payload.shape == (1, 8)


@pytest.mark.parametrize(
    ("time", "identifier", "data"),
    [(0, 1 << 29, b""), (0, -1, b""), (0, 1, bytes(65)), (1 << 63, 1, b""), (-(1 << 63), 1, b"")],
)
def test_builder_refuses_what_no_frame_can_be(time: int, identifier: int, data: bytes) -> None:
    builder = FrameBuilder(2)
    with pytest.raises(ValueError, match=r"outside|at most 64"):
        builder.append(time, 0, identifier, 0, data)
    assert builder.count == 0


@pytest.mark.parametrize("name", ["time", "bus", "id", "flags", "length", "payload"])
def test_columns_of_another_type_or_length_are_refused(name: str) -> None:
    good = batch_of(3)
    columns = {
        column: getattr(good, column) for column in ("time", "bus", "id", "flags", "length", "payload")
    }
    for wrong in (columns[name].astype(np.float32), columns[name][:-1]):
        with pytest.raises(LogError, match="FrameBatch"):
            FrameBatch(**{**columns, name: wrong})


def test_payload_of_another_width_is_refused() -> None:
    good = batch_of(3)
    with pytest.raises(LogError, match=r"uint8\[3, 8\]"):
        FrameBatch(good.time, good.bus, good.id, good.flags, good.length, np.zeros((3, 16), np.uint8))


def test_report_counts_and_keeps_the_first_message() -> None:
    report = ReadReport(start=datetime(2026, 1, 2, tzinfo=UTC))
    report.drop("foreign line", place="a.log, line 3", detail="'x'")
    report.drop("foreign line", count=2, place="a.log, line 9")
    report.note("event", place="a.log, line 4")
    assert report.dropped == {"foreign line": 3}
    assert report.notes == {"event": 1}
    assert report.messages == {"foreign line": "a.log, line 3: 'x'", "event": "a.log, line 4"}
    as_json = json.loads(json.dumps(report.to_dict()))
    assert as_json["dropped"] == {"foreign line": 3}
    assert as_json["start"] == "2026-01-02T00:00:00+00:00"
