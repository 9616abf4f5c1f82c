"""``tspace retention`` and ``tspace quarantine`` as a person calls them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.storage.replay_episodes import coded_episode
from tspace_core.cli import app
from tspace_core.config import settings
from tspace_core.errors import ConfigError, StorageError
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay, versions_of


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake with four versions of a buffer and something in the quarantine; the settings lead to it."""
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TSPACE_OUT_DIR", str(tmp_path / "out"))
    settings.cache_clear()
    found = Lake(tmp_path / "data")
    for number in range(4):
        build_replay(found.replay("v1"), [coded_episode(number, 4)])
    (tmp_path / "log.blf").write_text("x")
    found.quarantine("raw", tmp_path / "log.blf", "its clock jumps")
    yield found
    settings.cache_clear()


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_without_apply_nothing_goes(lake: Lake) -> None:
    done = invoke("retention")
    assert done.exit_code == 0, done.output
    assert "v1/000001" in done.output and "add --apply" in done.output
    assert "the newest 3 are kept" in done.output
    assert len(versions_of(lake.replay("v1"))) == 4


def test_apply_removes_what_was_shown(lake: Lake) -> None:
    before = json.loads(invoke("retention", "--json").stdout)
    assert [(row["area"], row["name"], row["in_use"]) for row in before["goes"]] == [
        ("replay", "v1/000001", None)
    ]
    assert before["applied"] is None and before["bytes"] == before["goes"][0]["bytes"]
    done = json.loads(invoke("retention", "--apply", "--json").stdout)
    assert done["applied"] == {"removed": 1, "size": before["bytes"], "stayed": {}, "failed": {}}
    assert versions_of(lake.replay("v1")) == ["000002", "000003", "000004"]
    assert "0 items" in invoke("retention").output


def test_areas_and_what_is_in_use(lake: Lake) -> None:
    assert "0 items" in invoke("retention", "--area", "frames").output
    content = {"run": "v1-a", "step": 1, "summary": {"replay": "v1", "replay_version": "000001"}}
    write_text(lake.checkpoints("ddpg", "v1.json"), json.dumps(content))
    said = invoke("retention", "--area", "replay").output
    assert "stays" in said and "in use: the latest agent of v1 was trained on it" in said
    write_text(lake.checkpoints("ddpg", "v1.json"), "{")
    assert "nothing of replay goes" in invoke("retention").output
    done = invoke("retention", "--area", "signals")
    assert isinstance(done.exception, StorageError)


def test_reports_belong_to_the_settings_lake_only(lake: Lake, tmp_path: Path) -> None:
    report = tmp_path / "out" / "night" / "report.html"
    write_text(report, "x")
    os.utime(report, (0, 0))
    other = invoke("retention", "--data-dir", str(lake.root), "--area", "reports").output
    assert "0 items" in other
    assert "night" in invoke("retention", "--area", "reports").output


def test_what_cannot_be_removed_is_exit_code_1(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        message = "no room"
        raise StorageError(message)

    monkeypatch.setattr("tspace_core.storage.retention.UnitOfWork", refuse)
    done = invoke("retention", "--apply")
    assert done.exit_code == 1 and "no room" in done.output
    assert len(versions_of(lake.replay("v1"))) == 4


def test_wrong_rules_are_named(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "retention.yaml").write_text("raw: {}")
    monkeypatch.setenv("TSPACE_CONF_DIR", str(tmp_path / "conf"))
    settings.cache_clear()
    assert isinstance(invoke("retention").exception, ConfigError)


def test_the_quarantine_is_listed_shown_and_dropped(lake: Lake) -> None:
    said = invoke("quarantine", "list").output
    assert "log.blf" in said and "its clock jumps" in said and "1 in the quarantine" in said
    assert "0 in the quarantine" in invoke("quarantine", "list", "--kind", "episodes").output
    (row,) = json.loads(invoke("quarantine", "list", "--json").stdout)
    assert row == json.loads(invoke("quarantine", "show", "log.blf", "--json").stdout)
    assert (row["kind"], row["reason"]) == ("raw", "its clock jumps")
    assert row["source"] in invoke("quarantine", "show", row["name"]).output
    assert "would remove" in invoke("quarantine", "drop", "log.blf", "--dry-run").output
    assert "1 in" in invoke("quarantine", "list").output
    assert "removed raw/" in invoke("quarantine", "drop", "log.blf").output
    assert "0 in" in invoke("quarantine", "list").output
    assert isinstance(invoke("quarantine", "show", "log.blf").exception, StorageError)


def test_a_raw_log_is_released_to_the_inbox(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSPACE_INBOX_DIR", str(tmp_path / "inbox"))
    settings.cache_clear()
    log = lake.raw("twin_truck", "2026-01-05", "drive.blf")
    write_text(log, "frames")
    lake.quarantine("raw", log, "its clock jumps")
    assert "would put" in invoke("quarantine", "release", "drive.blf", "--dry-run").output
    assert not (tmp_path / "inbox").exists()
    assert invoke("quarantine", "release", "drive.blf").exit_code == 0
    assert (tmp_path / "inbox" / "twin_truck" / "drive.blf").is_file()
