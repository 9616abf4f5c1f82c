"""``tspace catalogue``: SQL, queries by name with parameters, their list, and warnings beside the answer."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.storage import catalogue_work as work
from tspace_core.cli import app
from tspace_core.errors import StorageError, TspaceError, UnknownNameError
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.catalogue_queries import query_names
from tspace_core.storage.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    for number in range(2):
        work.store(found, number)
    return found


def ask(*arguments: str, lake: Lake | None = None) -> Result:
    place = [] if lake is None else ["--data-dir", str(lake.root)]
    return CliRunner().invoke(app, ["catalogue", *arguments, *place], catch_exceptions=False)


def test_a_named_query_answers_for_people_and_for_programs(lake: Lake) -> None:
    rows = ask("--named", "reward_by_agent", "--json", lake=lake).stdout
    assert [json.loads(line)["records"] for line in rows.splitlines()] == [20]
    assert "agent" in ask("--named", "reward_by_agent", lake=lake).stdout
    chosen = ask("--named", "reward_by_agent", "--param", "vehicle=nobody", "--json", lake=lake)
    assert (chosen.exit_code, chosen.stdout) == (0, "")


def test_a_statement_takes_parameters_too(lake: Lake) -> None:
    sql = "SELECT count(*) AS n FROM episodes WHERE vehicle = $v"
    assert json.loads(ask(sql, "--param", "v=twin_truck", "--json", lake=lake).stdout) == {"n": 4}


def test_the_list_names_every_query_and_what_it_takes() -> None:
    listed = ask("--list").stdout
    for name in query_names():
        assert f"\n{name} " in f"\n{listed}"
    assert "--param days=...  how far back, days (default: 7)" in listed
    text = ask("--list", "--named", "energy_per_km").stdout
    assert text.startswith("-- Energy per km by driver and week.") and "FROM episodes" in text


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((), TspaceError, "give one SQL statement, or --named NAME"),
        (("SELECT 1", "--named", "energy_per_km"), TspaceError, "give one SQL statement, or --named"),
        (("--named", "energy"), UnknownNameError, "no query 'energy'; there are: "),
        (("--named", "energy_per_km", "--param", "vehicle"), TspaceError, "must have the form NAME=VALUE"),
        (("--named", "energy_per_km", "--param", "day=1"), StorageError, "takes: vehicle, driver"),
    ],
)
def test_wrong_questions_are_explained(
    lake: Lake, arguments: tuple[str, ...], error: type[TspaceError], words: str
) -> None:
    with pytest.raises(error, match=words):
        ask(*arguments, lake=lake)


def test_what_was_left_out_is_said_beside_the_answer(lake: Lake) -> None:
    path = lake.episode_manifests()[0]
    assert isinstance(path, Path)
    path.write_text("{")
    told = ask("SELECT count(*) AS n FROM episodes", "--json", lake=lake)
    assert json.loads(told.stdout) == {"n": 2}
    assert f"warning: left out {path}: " in told.stderr


def test_a_catalogue_that_cannot_be_made_now_answers_as_it_was(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = "SELECT count(*) AS n FROM episodes"
    assert json.loads(ask(sql, "--json", lake=lake).stdout) == {"n": 4}

    def refused(_self: Catalogue) -> None:
        message = "read-only"
        raise StorageError(message)

    monkeypatch.setattr(Catalogue, "refresh", refused)
    told = ask(sql, "--json", lake=lake)
    assert json.loads(told.stdout) == {"n": 4}
    assert "warning: the answer may be of an older state of the lake: read-only" in told.stderr
