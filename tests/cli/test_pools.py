"""``tspace episodes`` and ``tspace convert`` as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.storage.pools.builders import episode, fleet, same
from tspace_core.cli import app, main
from tspace_core.storage.pools.avro import AvroPool
from tspace_core.storage.pools.parquet import ParquetPool


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    with ParquetPool(tmp_path / "lake") as pool:
        pool.store(fleet())
    return tmp_path / "lake"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def found(*arguments: object) -> list[str]:
    result = call("episodes", *arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return [row["episode_id"] for row in content["episodes"]]


def test_episodes_are_listed_in_order(lake: Path) -> None:
    result = call("episodes", lake)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].startswith("2026-03-01 08:00:00.000")
    assert lines[1].endswith("v1/2026-03-01/log.blf#0000")
    assert lines[-1] == f"parquet:{lake}: 7 episodes, 33 matching records"


def test_each_option_narrows(lake: Path) -> None:
    one = "v1/2026-03-01/log.blf#000"
    assert len(found(f"parquet:{lake}")) == 7
    assert found(lake, "--vehicle", "v2") == ["v2/2026-03-01/log.blf#0000", "v2/2026-03-03/log.blf#0000"]
    assert len(found(lake, "--vehicle", "v2", "--vehicle", "v3")) == 3
    assert found(lake, "--driver", "d2", "--vehicle", "v1") == [f"{one}1"]
    assert found(lake, "--site", "s2", "--agent", "default_map") == ["v3/2026-03-02/log.blf#0000"]
    assert found(lake, "--episode", f"{one}2") == [f"{one}2"]
    assert found(lake, "--started-from", "2026-03-03T09:00:00+01:00") == ["v2/2026-03-03/log.blf#0000"]
    assert found(lake, "--started-before", "2026-03-01T08:00:01Z", "--length-to", "4") == [
        "v2/2026-03-01/log.blf#0000"
    ]
    assert found(lake, "--after", "2026-03-01T08:01:00Z", "--before", "2026-03-01T08:02:00Z") == [f"{one}1"]
    assert found(lake, "--rewards", "invalid", "--length-from", "5") == ["v1/2026-03-02/log.blf#0000"]


def test_the_settings_lake_is_the_default(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tspace_core.config import settings

    with monkeypatch.context() as patch:
        patch.setenv("TSPACE_DATA_DIR", str(lake))
        settings.cache_clear()
        assert len(found("--vehicle", "v1")) == 4
    settings.cache_clear()


def test_convert_brings_over_what_is_asked_for_and_goes_on(lake: Path, tmp_path: Path) -> None:
    target = f"avro:{tmp_path / 'other'}"
    first = call("convert", lake, target, "--vehicle", "v1", "--json")
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert (report["found"], report["new"], report["there"], report["records"]) == (4, 4, 0, 18)
    rest = call("convert", lake, target)
    assert rest.exit_code == 0
    assert "7 episodes, 3 new of 15 records, 4 there already, 0 refused" in rest.stdout
    with AvroPool(tmp_path / "other") as pool:
        assert all(same(pool.read(one.meta.episode_id), one) for one in fleet())


def test_what_is_refused_is_told_and_the_rest_done(lake: Path, tmp_path: Path) -> None:
    with AvroPool(tmp_path) as pool:
        pool.store([episode(0, 6)])
    result = call("convert", lake, f"avro:{tmp_path}", "--json")
    assert result.exit_code == 1
    assert list(json.loads(result.stdout)["refused"]) == ["v1/2026-03-01/log.blf#0000"]
    assert "another episode" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["episodes", "ftp://host"], "is of no known kind"),
        (["episodes", ".", "--after", "yesterday"], "--after"),
        (["episodes", ".", "--after", "2026-03-01T08:00:00"], "timezone"),
        (["episodes", ".", "--length-from", "0"], "--length-from"),
        (["convert", "avro:", "parquet:x"], "give what comes after avro:"),
        (["episodes", "no/such/lake"], "there is no folder"),
        (["convert", "no/such/lake", "avro:no/target"], "there is no folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(
    arguments: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tspace", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert what in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
