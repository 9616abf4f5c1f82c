"""The audit log: what is written stays, what is changed is found, what a crash leaves is kept."""

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from tests.guard.fake_target import Clock
from tspace_core.errors import AuditError
from tspace_core.guard.audit import FIRST, AuditLog, head_path, read, verify


def log_of(folder: Path, lines: int = 6) -> Path:
    path = folder / "audit.jsonl"
    with AuditLog(path, Clock(1_700_000_000_123_456_789)) as log:
        for number in range(lines):
            log.append("flash", proposal=number, rows="00ff" * number, clipped={"factor": number})
    return path


def test_lines_are_chained_dated_and_read_back(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    entries = list(read(path))
    assert [entry["seq"] for entry in entries] == list(range(6))
    assert entries[0]["prev"] == FIRST
    assert all(later["prev"] == one["hash"] for one, later in itertools.pairwise(entries))
    assert entries[0]["utc"] == "2023-11-14T22:13:20.123456Z"
    report = verify(path)
    assert report.ok
    assert report.entries == 6
    assert report.head == entries[-1]["hash"]


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    with AuditLog(path, Clock()) as log:
        assert log.last is not None
        assert log.last["proposal"] == 5
        assert log.head == log.last["hash"]
        log.append("armed", by="somebody")
    assert verify(path).entries == 7
    assert verify(path).ok


def test_an_empty_log_holds(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "new" / "audit.jsonl", Clock()) as log:
        assert log.last is None
    assert verify(tmp_path / "new" / "audit.jsonl").ok


@pytest.mark.parametrize("seed", range(40))
def test_any_changed_byte_is_found(seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    path = log_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(len(data))] ^= 1 << random.Random(seed).randrange(8)
    path.write_bytes(bytes(data))
    assert not verify(path).ok


def edited(lines: list[bytes]) -> list[bytes]:
    """A line changed with its own hash made anew: only the chain can tell."""
    from tspace_core.guard.audit import _canonical, _hash

    entry = json.loads(lines[2])
    entry["rows"] = "beef"
    entry["hash"] = _hash(entry)
    return [*lines[:2], _canonical(entry) + b"\n", *lines[3:]]


@pytest.mark.parametrize(
    ("how", "part"),
    [
        (lambda lines: lines[:2] + lines[3:], "line 3 is number 3, expected 2"),
        (lambda lines: lines[1:], "line 1 is number 1, expected 0"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "expected 1"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "expected 3"),
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[:-3], "cut off"),
        (lambda lines: [], "cut off"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], "torn"),
        (edited, "line 4 does not follow"),
    ],
)
def test_removed_moved_doubled_and_cut_lines_are_found(how, part: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = log_of(tmp_path)
    path.write_bytes(b"".join(how(path.read_bytes().splitlines(keepends=True))))
    report = verify(path)
    assert not report.ok
    assert any(part in problem for problem in report.problems), report.problems


def test_without_its_head_a_log_is_not_vouched_for(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    head_path(path).unlink()
    assert any("no readable" in problem for problem in verify(path).problems)


def test_what_the_head_cannot_find(tmp_path: Path) -> None:
    """Cut off with the head set back as well: only a head kept elsewhere tells."""
    path = log_of(tmp_path)
    kept_elsewhere = verify(path).head
    lines = path.read_bytes().splitlines(keepends=True)[:-2]
    path.write_bytes(b"".join(lines))
    last = json.loads(lines[-1])
    head_path(path).write_text(f"{last['seq']} {last['hash']}\n")
    report = verify(path)
    assert report.ok
    assert report.head != kept_elsewhere


def test_a_head_that_is_behind_is_no_contradiction(tmp_path: Path) -> None:
    """A crash between line and head."""
    path = log_of(tmp_path)
    entry = list(read(path))[3]
    head_path(path).write_text(f"{entry['seq']} {entry['hash']}\n")
    assert verify(path).ok
    with AuditLog(path, Clock()) as log:
        log.append("again")
    assert verify(path).entries == 7


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_kept_aside_and_noted(kept: int, tmp_path: Path) -> None:
    path = log_of(tmp_path)
    whole = path.read_bytes()
    torn = b'{"clipped":{},"event":"flash","hash":"0123456789abcdef","proposal":6'[:kept]
    path.write_bytes(whole + torn)
    with AuditLog(path, Clock()) as log:
        assert log.last is not None
        assert log.last["event"] == "torn_line"
        assert log.last["bytes"] == len(torn)
        assert (tmp_path / log.last["kept_in"]).read_bytes() == torn
    assert path.read_bytes().startswith(whole)
    assert verify(path).ok


def test_a_log_that_is_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"event":"fl')
    with AuditLog(path, Clock()) as log:
        assert log.last is not None
        assert log.last["seq"] == 0
    assert verify(path).ok


def test_a_torn_line_that_cannot_be_kept_aside_stops(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    path.write_bytes(path.read_bytes() + b"{")
    (tmp_path / "audit.jsonl.torn-6").mkdir()
    with pytest.raises(AuditError, match="cannot be moved"):
        AuditLog(path, Clock())


def test_a_damaged_tail_or_a_cut_log_is_not_written_on(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] + b"x" + whole[-9:])
    with pytest.raises(AuditError, match="last line does not hold"):
        AuditLog(path, Clock())
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(AuditError, match="cut off"):
        AuditLog(path, Clock())


def test_lines_longer_than_what_is_read_of_the_tail(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, Clock()) as log:
        log.append("short")
        log.append("long", rows="ab" * 200_000)
    with AuditLog(path, Clock()) as log:
        assert log.last is not None
        assert log.last["event"] == "long"
    assert verify(path).ok


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditLog(tmp_path / "file" / "audit.jsonl", Clock())
    with pytest.raises(AuditError, match="cannot be read"):
        verify(tmp_path / "none.jsonl")


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs Linux' /dev/full, a disk that is always full"
)
def test_a_real_full_disk(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", Clock())
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file)
    os.close(full)
    with pytest.raises(AuditError, match="No space left"):
        log.append("flash")
    with pytest.raises(AuditError, match="takes no more lines"):
        log.append("flash")
    log.close()


def test_a_line_that_did_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AuditLog(tmp_path / "audit.jsonl", Clock()) as log:
        monkeypatch.setattr("tspace_core.guard.audit.os.write", lambda _file, line: len(line) - 1)
        with pytest.raises(AuditError, match="fitted"):
            log.append("flash")


def test_what_cannot_be_written_is_the_callers_mistake(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, Clock()) as log:
        for wrong in ({"value": float("nan")}, {"value": object()}, {"seq": 3}, {"hash": ""}):
            with pytest.raises(AuditError):
                log.append("flash", **wrong)
        log.append("flash")
    assert verify(path).entries == 1
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.append("flash")


def test_every_line_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    with AuditLog(tmp_path / "audit.jsonl", Clock()) as log:
        monkeypatch.setattr("tspace_core.guard.audit.os.fsync", note)
        log.append("flash")
    assert synced == [(tmp_path / "audit.jsonl").stat().st_size]


def test_reading_passes_over_what_does_not_hold(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"nonsense\n", b"[1]\n", *lines[3:]]))
    assert [entry["seq"] for entry in read(path)] == [0, 1, 3, 4, 5]
