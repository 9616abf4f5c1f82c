"""Paths of the lake, raw logs that never change, quarantine."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tests.storage.logs import candump, twin
from tspace_core.can.readers import detect_format
from tspace_core.config import load_vehicle
from tspace_core.errors import LogFormatError, StorageError
from tspace_core.objects.path import AnyPath, local_copy, relative, within
from tspace_core.storage import lake as lake_module
from tspace_core.storage import raw_store
from tspace_core.storage.ingest import store_raw
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.raw_store import content_hash, driver_of

ABSOLUTE = 1_767_600_000.0  # 2026-01-05 08:00 UTC


@pytest.fixture
def lake(place: AnyPath) -> Lake:
    return Lake(place)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def test_layout(lake: Lake) -> None:
    log = RawLog("twin_truck", "2026-01-05", "a.blf", lake.raw("twin_truck", "2026-01-05", "a.blf"))
    found = {
        name: relative(path, lake.root)
        for name, path in {
            "raw": log.path,
            "journal": log.journal,
            "frames": lake.frames(log),
            "signals": lake.signals(log),
            "episode": lake.episode(log, "0123456789", 7),
            "replay": lake.replay("twin"),
            "checkpoints": lake.checkpoints("ddpg", "r1"),
        }.items()
    }
    assert log.key == "twin_truck/2026-01-05/a.blf"
    assert found == {
        "raw": "raw/twin_truck/2026-01-05/a.blf",
        "journal": "raw/twin_truck/2026-01-05/a.blf.flashes.jsonl",
        "frames": "frames/vehicle=twin_truck/date=2026-01-05/a.blf.parquet",
        "signals": "signals/vehicle=twin_truck/date=2026-01-05/a.blf.parquet",
        "episode": "episodes/vehicle=twin_truck/date=2026-01-05/a.blf.01234567.0007.parquet",
        "replay": "replay/twin",
        "checkpoints": "checkpoints/ddpg/r1",
    }


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("..", "2026-01-05", "a"), "vehicle id '..'"),
        (("v", "2026-01-05", "../a"), "log name '../a'"),
        (("v", "2026-01-05", ".hidden"), "log name '.hidden'"),
        (("v", "2026-01-05", "a=b"), "log name"),
        (("v", "20260105", "a"), "date '20260105'"),
        (("v", "2026-02-30", "a"), "date '2026-02-30'"),
    ],
)
def test_names_cannot_leave_their_folder(lake: Lake, parts: tuple[str, str, str], words: str) -> None:
    with pytest.raises(StorageError, match=words):
        lake.raw(*parts)


def test_a_log_is_stored_once_unchanged_and_found_again(lake: Lake, inbox: Path) -> None:
    source = candump(inbox / "drive 1 (Süd).log", stamps=[ABSOLUTE, ABSOLUTE + 1])
    log = store_raw(lake, source, twin())
    assert log.key == "twin_truck/2026-01-05/drive 1 (Süd).log"
    assert log.path.read_bytes() == source.read_bytes()
    assert not local_copy(log.path).stat().st_mode & 0o222
    before = log.path.stat()
    os.utime(source, (0, 0))
    assert store_raw(lake, source, twin()) == log
    assert store_raw(lake, log.path, twin()) == log
    assert log.path.stat().st_mtime_ns == before.st_mtime_ns
    assert lake.raw_logs() == lake.raw_logs("twin_truck") == [log]
    assert lake.raw_logs("leaf_gen1") == []
    assert lake.raw_log(log.key) == log
    assert content_hash(log) == json.loads(log.origin.read_text())["sha256"]


def test_another_content_of_the_same_name_is_refused_and_both_are_named(lake: Lake, inbox: Path) -> None:
    first = store_raw(lake, candump(inbox / "a.log", stamps=[ABSOLUTE]), twin())
    other = candump(inbox / "a.log", stamps=[ABSOLUTE, ABSOLUTE + 2])
    with pytest.raises(StorageError, match="not the same content") as failure:
        store_raw(lake, other, twin())
    assert str(other) in str(failure.value)
    assert str(first.path) in str(failure.value)
    # The same name on another day is another log.
    next_day = candump(inbox / "a.log", stamps=[ABSOLUTE + 86_400])
    assert store_raw(lake, next_day, twin()).date == "2026-01-06"


def test_the_same_content_under_another_name_is_refused_and_both_are_named(lake: Lake, inbox: Path) -> None:
    source = candump(inbox / "a.log", stamps=[ABSOLUTE])
    first = store_raw(lake, source, twin())
    copy = inbox / "copy of a.log"
    copy.write_bytes(source.read_bytes())
    for date in (None, "2020-01-01"):
        with pytest.raises(StorageError, match="same content") as failure:
            store_raw(lake, copy, twin(), date)
        assert str(copy) in str(failure.value)
        assert str(first.path) in str(failure.value)
    assert store_raw(lake, source, twin()) == first
    assert lake.raw_logs() == [first]
    # Two vehicles of one seed may have recorded the same.
    assert store_raw(lake, copy, load_vehicle("twin_mule")).vehicle_id == "twin_mule"


def test_the_date_comes_from_the_caller_the_stamps_or_the_file(lake: Lake, inbox: Path) -> None:
    relative = candump(inbox / "b.log", stamps=[3.0, 4.0])
    changed = datetime(2024, 2, 29, 23, 0, tzinfo=UTC).timestamp()
    os.utime(relative, (changed, changed))
    assert store_raw(lake, relative, twin()).date == "2024-02-29"
    given = store_raw(lake, candump(inbox / "c.log", stamps=[3.0]), twin(), "2023-05-06")
    assert given.date == "2023-05-06"
    with pytest.raises(StorageError, match="under date 2023-05-06 already"):
        store_raw(lake, inbox / "c.log", twin(), "2023-05-07")


def test_journal_and_driver_travel_with_the_log(lake: Lake, inbox: Path) -> None:
    source = candump(inbox / "a.log", stamps=[ABSOLUTE])
    log = store_raw(lake, source, twin(), driver="aggressive")
    assert driver_of(log, twin()) == "aggressive"
    assert not log.journal.is_file()
    journal = inbox / "a.log.flashes.jsonl"
    journal.write_text("{}\n")
    store_raw(lake, source, twin())  # a journal that comes later is taken in
    assert log.journal.read_text() == "{}\n"
    assert lake.raw_logs() == [log]
    journal.write_text("{}\n{}\n")
    with pytest.raises(StorageError, match="differ"):
        store_raw(lake, source, twin())
    with pytest.raises(StorageError, match="driver 'aggressive', not 'tracker'"):
        journal.unlink()
        store_raw(lake, source, twin(), driver="tracker")


def test_what_is_no_log_is_refused_before_anything_is_written(lake: Lake, inbox: Path) -> None:
    (inbox / "readme.md").write_text("no log")
    with pytest.raises(LogFormatError, match=r"readme\.md"):
        store_raw(lake, inbox / "readme.md", twin())
    with pytest.raises(StorageError, match="give the path of a file"):
        store_raw(lake, inbox / "gone.blf", twin())
    assert not lake.root.exists()


def test_unknown_keys_are_explained(lake: Lake) -> None:
    with pytest.raises(StorageError, match="must have the form"):
        lake.raw_log("a.blf")
    with pytest.raises(StorageError, match="store it first"):
        lake.raw_log("twin_truck/2026-01-05/a.blf")


def test_quarantine_moves_results_copies_sources_and_keeps_the_reason(lake: Lake, inbox: Path) -> None:
    mine = lake.root / "signals" / "vehicle=v" / "date=2026-01-05" / "a.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("bad")
    put = lake.quarantine("signals", mine, "velocity 900 km/h, limit 120")
    assert not mine.exists()
    assert put.read_text() == "bad"
    assert within(put, lake.root / "quarantine" / "signals")
    note = json.loads(put.with_name(put.name + ".reason.json").read_text())
    assert note["reason"] == "velocity 900 km/h, limit 120"
    assert note["source"] == str(mine)

    foreign = inbox / "x.bin"
    foreign.write_text("junk")
    assert lake.quarantine("raw", foreign, "no log").read_text() == "junk"
    assert foreign.exists()

    frame = pl.DataFrame({"velocity": [900.0, None]})
    place = lake.quarantine("signals", frame, "too fast", name="a.blf")
    assert pl.read_parquet(local_copy(place)).equals(frame)
    assert lake.quarantine("signals", frame, "too fast", name="a.blf") == place


def test_two_processes_that_store_the_same_log_agree(
    lake: Lake, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candump(inbox / "a.log", stamps=[ABSOLUTE])

    def while_the_other_is_faster(path: Path) -> str:
        monkeypatch.setattr(raw_store, "detect_format", detect_format)
        store_raw(lake, source, twin())
        return detect_format(path)

    monkeypatch.setattr(raw_store, "detect_format", while_the_other_is_faster)
    assert store_raw(lake, source, twin()) == lake.raw_logs()[0]


def test_a_log_that_is_still_written_is_refused(
    lake: Lake, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candump(inbox / "a.log", stamps=[ABSOLUTE])

    def while_the_recorder_writes(path: Path) -> str:
        with path.open("a") as file:
            file.write("(1767600001.0) can0 123#00\n")
        return detect_format(path)

    monkeypatch.setattr(raw_store, "detect_format", while_the_recorder_writes)
    with pytest.raises(StorageError, match=r"a\.log changed while it was read"):
        store_raw(lake, source, twin())
    assert lake.raw_logs() == []
    monkeypatch.undo()
    assert store_raw(lake, source, twin()).path.read_bytes() == source.read_bytes()


def test_a_crash_leaves_no_log_without_its_origin(
    lake: Lake, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candump(inbox / "a.log", stamps=[3.0])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for killed_at in ("sha256", "write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(raw_store, killed_at, die)
            with pytest.raises(KeyboardInterrupt):
                store_raw(lake, source, twin(), driver="habitual")
        assert lake.raw_logs() == []
    log = store_raw(lake, source, twin(), driver="habitual")
    assert driver_of(log, twin()) == "habitual"
    assert store_raw(lake, source, twin(), driver="habitual") == log


def test_episodes_replaced_while_they_are_listed_are_no_damage(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RawLog("v", "2026-01-05", "a.blf", lake.raw("v", "2026-01-05", "a.blf"))
    manifest, new = lake.episodes_manifest(log), lake.episode(log, "b" * 8, 0)
    new.parent.mkdir(parents=True)
    new.write_bytes(b"")
    read_json = lake_module.read_json

    def just_before_the_stage_ends(path: AnyPath) -> dict[str, object]:
        monkeypatch.setattr(lake_module, "read_json", read_json)
        content = read_json(path)
        manifest.write_text(json.dumps({"episodes": [{"file": new.name}]}))
        return content

    manifest.write_text(json.dumps({"episodes": [{"file": "a.blf.aaaaaaaa.0000.parquet"}]}))
    monkeypatch.setattr(lake_module, "read_json", just_before_the_stage_ends)
    assert lake.episodes(log) == [new]
    new.unlink()
    with pytest.raises(StorageError, match="is gone"):
        lake.episodes(log)
