"""Bad logs through all stages: each costs its own part, is counted with place and value, nothing else goes.

All logs are the first minute of a drive of the twin as candump text, with one thing wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.storage.logs import shortest_drive, twin
from tspace_core.can.frames import FrameBatch
from tspace_core.can.readers import open_log
from tspace_core.config import Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import StorageError, UnknownNameError
from tspace_core.storage import episodes_table, frames_table, signals_table
from tspace_core.storage.ingest import IngestResult, ingest_log
from tspace_core.storage.lake import Lake

MINUTE_S = 60.0


@dataclass(frozen=True)
class Line:
    """A frame as a line of candump."""

    time: float
    ident: str
    data: str
    bus: int = 0

    def __str__(self) -> str:
        return f"({self.time:.6f}) can{self.bus} {self.ident}#{self.data}"


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    drive = FrameBatch.concat(open_log(shortest_drive(tmp_path_factory.mktemp("drive") / "a.blf")).batches())
    start = int(drive.time[0])
    head = drive.select(drive.time - start < MINUTE_S * 1e9)
    return [
        Line(start / 1e9 + (time - start) / 1e9, f"{ident:03X}", bytes(payload[:length]).hex().upper())
        for time, ident, length, payload in zip(
            head.time.tolist(), head.id.tolist(), head.length.tolist(), head.payload, strict=True
        )
    ]


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., IngestResult]:
    """Write lines as a log and take it through all stages."""

    def ingest(
        lines: Sequence[Line | str], vehicle: Vehicle | None = None, name: str = "a.log"
    ) -> IngestResult:
        source = tmp_path / name
        source.write_text("".join(f"{line}\n" for line in lines))
        return ingest_log(Lake(tmp_path / "lake"), source, vehicle or twin())

    return ingest


Take = Callable[..., IngestResult]


def counts(result: IngestResult) -> dict[str, int]:
    return {name: found.count for name, found in result.signals.signals.items()}


def battery() -> str:
    """Id of the message with current and voltage."""
    from tspace_core.can.dbc import load_database

    message = twin().signals["voltage"].message
    assert message is not None
    return f"{load_database(twin().dbc_files()).find(message).id:03X}"


def test_the_minute_itself_is_clean(minute: list[Line], take: Take) -> None:
    result = take(minute)
    assert result.signals.dropped == {}
    assert result.episodes.episodes == 1
    assert all(counts(result).values())


def test_a_clock_that_jumps_back_by_minutes(minute: list[Line], take: Take) -> None:
    half = len(minute) // 2
    back = [line if k < half else replace(line, time=line.time - 300) for k, line in enumerate(minute)]
    whole, result = take(minute), take(back, name="back.log")
    assert result.signals.dropped == {"clock_step_back": 1}
    assert "back.log: the clock steps back, from" in result.signals.messages["clock_step_back"]
    assert counts(result) == counts(whole)
    assert result.frames.segments == 2
    # Only the step across the break is missing in the sum.
    assert result.signals.energy_wh == pytest.approx(whole.signals.energy_wh, abs=0.5)
    segments = [episodes_table.read(path).meta.segment for path in result.episodes.paths]
    assert segments == [0, 1]


def test_frames_that_are_a_microsecond_late_cost_nothing(minute: list[Line], take: Take) -> None:
    late = [
        replace(line, time=minute[k - 1].time - 1e-6) if k % 100 == 99 else line
        for k, line in enumerate(minute)
    ]
    result = take(late)
    assert result.signals.dropped == {}
    assert result.frames.notes["late_frame"] > 0
    assert result.frames.segments == result.episodes.episodes == 1


def test_a_gap_longer_than_allowed(minute: list[Line], take: Take) -> None:
    half = len(minute) // 2
    late = [line if k < half else replace(line, time=line.time + 60) for k, line in enumerate(minute)]
    whole, result = take(minute), take(late, name="gap.log")
    assert result.signals.dropped == {"gap": 1}
    assert "longer than log.gap_s = 5 s" in result.signals.messages["gap"]
    assert counts(result) == counts(whole)
    frame = signals_table.read(result.signals.path)
    assert frame["segment"].n_unique() == 2
    assert len(frame) <= MINUTE_S * 20 + 2, "no row is invented in the gap"
    assert result.signals.energy_wh == pytest.approx(whole.signals.energy_wh, abs=0.5)


def test_a_recorder_that_learns_the_time_on_the_way(minute: list[Line], take: Take) -> None:
    # Until its clock is set it counts from its start; from then on its stamps are UTC.
    half, start = len(minute) // 2, minute[0].time
    unset = [replace(line, time=line.time - start) if k < half else line for k, line in enumerate(minute)]
    result = take(unset)
    assert result.signals.dropped == {"gap": 1}
    frame = signals_table.read(result.signals.path)
    last = frame.row(-1, named=True)
    assert last["time"].timestamp() * 1e9 == pytest.approx(last["log_time_ns"], abs=1e6)
    assert frame["time"][0].date().isoformat() == result.raw.date


def test_all_frames_on_one_stamp(minute: list[Line], take: Take) -> None:
    whole, result = take(minute), take([replace(line, time=minute[0].time) for line in minute], name="b.log")
    assert counts(result) == counts(whole)
    assert result.signals.energy_wh == 0.0
    assert result.episodes.episodes == 0


def test_a_second_bus_with_the_same_ids(minute: list[Line], take: Take) -> None:
    both = [one for line in minute for one in (line, replace(line, bus=1, data="FF" * (len(line.data) // 2)))]
    whole, result = take(minute), take(both, name="two.log")
    assert result.signals.energy_wh == whole.signals.energy_wh
    assert counts(result) == counts(whole)
    assert set(result.signals.dropped) == {"other_bus"}
    assert "seen on bus 1; bus 0 is used" in result.signals.messages["other_bus"]


def test_remote_and_error_frames(minute: list[Line], take: Take) -> None:
    ident = battery()
    lines: list[Line | str] = list(minute)
    lines[10:10] = [f"({minute[10].time:.6f}) can0 {ident}#R8"] * 3
    lines[20:20] = [f"({minute[10].time:.6f}) can0 20000080#0000000000000000"] * 2
    whole, result = take(minute), take(lines, name="b.log")
    assert result.signals.dropped == {"remote_frame": 3, "error_frame": 2}
    assert result.signals.energy_wh == whole.signals.energy_wh


def test_long_can_fd_frames_are_kept_whole(minute: list[Line], take: Take) -> None:
    lines: list[Line | str] = list(minute)
    data = bytes(range(64))
    lines[10:10] = [f"({minute[10].time:.6f}) can0 7F1##1{data.hex()}"]
    whole, result = take(minute), take(lines, name="b.log")
    assert result.signals.dropped == {}
    assert result.signals.energy_wh == whole.signals.energy_wh
    assert result.frames.path is not None
    stored = FrameBatch.concat(part for part, _ in frames_table.read(result.frames.path))
    (long,) = np.flatnonzero(stored.length == 64)
    assert stored.payload[long].tobytes() == data


def test_frames_cut_short_cost_the_signals_behind_the_cut(minute: list[Line], take: Take) -> None:
    ident = battery()
    lines = [replace(one, data=one.data[:2]) if one.ident == ident else one for one in minute]
    result = take(lines)
    assert result.signals.dropped["too_short"] > 0
    assert result.signals.dropped["signal_without_samples"] >= 2
    assert "current, voltage" in result.signals.messages["signal_without_samples"]
    assert result.episodes.unusable_rows["no energy: current or voltage missing"] > 0


def test_voltage_that_is_lost_is_told(minute: list[Line], take: Take) -> None:
    vehicle = twin()
    none = vehicle.signals["voltage"].model_copy(update={"valid": (1e5, 2e5)})
    vehicle = vehicle.model_copy(update={"signals": {**vehicle.signals, "voltage": none}})
    vehicle._folder = twin()._folder
    result = take(minute, vehicle)
    assert result.signals.energy_wh == 0.0
    assert result.signals.dropped["current_without_voltage"] == counts(result)["current"] > 0
    assert "outside the valid 100000..200000" in result.signals.messages["out_of_range"]


def test_another_vehicles_log_is_told(minute: list[Line], take: Take) -> None:
    result = take([replace(line, ident="7F0") for line in minute])
    assert result.signals.dropped == {"signal_without_samples": len(twin().signals)}
    assert "check if the log is of vehicle twin_truck" in result.signals.messages["signal_without_samples"]


def test_overlapping_signals_of_a_dbc_are_told(
    minute: list[Line], take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = twin().dbc_files()
    overlap = (
        '\nBO_ 2000 Odd: 8 Vector__XXX\n SG_ A : 0|8@1+ (1,0) [0|0] "" X\n SG_ B : 4|2@1+ (1,0) [0|0] "" X\n'
    )
    (tmp_path / file.name).write_text(file.read_text() + overlap)
    monkeypatch.setenv("TSPACE_DBC_PATH", f'["{tmp_path}"]')
    settings.cache_clear()
    try:
        result = take(minute)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert result.signals.dropped == {"dbc_signal": 1}
    told = result.signals.messages["dbc_signal"]
    for words in ("vehicle twin_truck", file.name, "0x7D0 Odd", "signal B", "it overlaps A"):
        assert words in told
    assert result.episodes.episodes == 1


def test_stamps_that_are_no_numbers(minute: list[Line], take: Take) -> None:
    lines = [f"(nan) can0 {one.ident}#{one.data}" if k % 100 == 50 else one for k, one in enumerate(minute)]
    result = take(lines)
    (reason,) = result.signals.dropped
    assert result.signals.dropped[reason] == sum(isinstance(one, str) for one in lines)
    assert "line 51: '(nan)" in result.signals.messages[reason]
    assert result.frames.frames + result.signals.dropped[reason] == len(minute)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.37, 0.999])
def test_a_log_cut_anywhere_gives_what_is_before_the_cut(
    share: float, minute: list[Line], tmp_path: Path
) -> None:
    text = "".join(f"{line}\n" for line in minute)
    cut = text[: int(share * len(text))]
    (tmp_path / "cut.log").write_text(cut)
    result = ingest_log(Lake(tmp_path / "lake"), tmp_path / "cut.log", twin())
    assert result.frames.frames >= cut.count("\n")
    assert result.frames.frames + sum(result.frames.dropped.values()) == len(cut.splitlines())


def test_a_lake_that_cannot_be_written_says_what_to_do(minute: list[Line], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "a.log").write_text("".join(f"{line}\n" for line in minute[:100]))
    with pytest.raises(StorageError, match=r"a\.log, stage raw: .*Not a directory.*free space"):
        ingest_log(Lake(tmp_path / "file"), tmp_path / "a.log", twin())


def test_a_full_disk_leaves_nothing_half_written(
    minute: list[Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.log").write_text("".join(f"{line}\n" for line in minute))
    lake = Lake(tmp_path / "lake")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(signals_table, "to_table", full)
        with pytest.raises(StorageError, match=r"stage signals: .*No space left on device"):
            ingest_log(lake, tmp_path / "a.log", twin())
    assert [path for path in lake.root.rglob("*") if path.is_file() and path.suffix == ".tmp"] == []
    assert not list(lake.root.glob("signals/*/*/*"))
    assert ingest_log(lake, tmp_path / "a.log", twin()).episodes.episodes == 1


def test_a_driver_that_nobody_described_is_refused(minute: list[Line], take: Take) -> None:
    vehicle = twin().model_copy(update={"driver": "nobody"})
    vehicle._folder = twin()._folder
    with pytest.raises(UnknownNameError, match="no driver named 'nobody'"):
        take(minute, vehicle)
