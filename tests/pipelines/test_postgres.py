"""Dagster's storage in PostgreSQL, on a real server: what dagster.postgres.yaml chooses, what it stands."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_postgres import utils

from tests.conftest import PROJECT
from tests.objects.seaweed import free_ports
from tests.pipelines.conftest import VEHICLE, put
from tests.pipelines.postgres_server import PostgresServer, postgres
from tests.pipelines.reporting import Told, report_at_once
from tspace_core.config import settings
from tspace_core.errors import ConfigError, StorageError
from tspace_core.storage.lake import Lake
from tspace_pipelines.instance_postgres import VARIABLE
from tspace_pipelines.new_episodes import EPISODES, Progress, advance
from tspace_pipelines.online_requests import VEHICLE_TAG
from tspace_pipelines.partitions import LOGS

__all__ = ["postgres"]
VEHICLES, ROUNDS = 4, 6
KEY = f"{VEHICLE}/2026-01-05/short.blf"


def make_home(folder: Path, file: str = "dagster.postgres.yaml") -> Path:
    """DAGSTER_HOME as the documentation makes it."""
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").symlink_to(PROJECT / file)
    return folder


@pytest.fixture
def home(tmp_path: Path, data_dir: Path) -> Path:
    return make_home(tmp_path / "home")


@pytest.fixture
def url(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, which the environment leads to."""
    found = postgres.new_database()
    monkeypatch.setenv(VARIABLE, found)
    return found


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's five further attempts at once."""
    monkeypatch.setattr(utils, "calculate_delay", lambda **_: 0.0)


@pytest.fixture(scope="module")
def reported(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[Path, list[Told]]]]:
    """Four vehicles and two people at once, on instances without tables, which all of them then make.

    First in PostgreSQL, then in SQLite: the instances, to be looked at, and what everybody told.
    """
    folder = tmp_path_factory.mktemp("reported")
    homes = [make_home(folder / "postgres"), make_home(folder / "sqlite", "dagster.yaml")]
    environment = {"TSPACE_DATA_DIR": str(folder / "data"), VARIABLE: postgres.new_database()}
    told = report_at_once(homes, vehicles=VEHICLES, readers=2, rounds=ROUNDS, environment=environment)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        yield list(zip(homes, told, strict=True))
    settings.cache_clear()


def test_both_files_agree_in_all_but_the_storage() -> None:
    lite, postgres = (
        yaml.safe_load((PROJECT / name).read_text()) for name in ("dagster.yaml", "dagster.postgres.yaml")
    )
    assert lite.pop("storage") != postgres.pop("storage")
    assert lite == postgres


def test_the_default_loads_nothing_of_postgresql(data_dir: Path) -> None:
    code = (
        "import sys, dagster as dg, tspace_pipelines.definitions;"
        "dg.DagsterInstance.from_config(sys.argv[1]);"
        "sys.exit(bool({'psycopg2', 'dagster_postgres'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, PROJECT], cwd=PROJECT, check=False).returncode == 0


def test_what_is_known_is_in_the_server_and_artifacts_are_with_the_lake(
    home: Path, url: str, data_dir: Path
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("logs", [KEY])
        assert Path(instance.storage_directory()).is_relative_to(data_dir / "dagster")
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None and queue.max_concurrent_runs == 30
        # A run worker is told the instance on its command line: by name of the variable only.
        assert url.split("@")[0] not in str(instance.get_ref()) + instance.info_str()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions("logs") == [KEY]
    assert not list(data_dir.rglob("*.db"))
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace(":secret-", ":wrong-secret-"), "password authentication failed"),
        (lambda url: f"{url}x", "does not exist"),
        (lambda url: url.replace("tspace:", "nobody:"), "password authentication failed"),
    ],
    ids=["password", "database", "user"],
)
def test_a_server_that_refuses(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    wrong = change(url)
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(StorageError, match=said) as error:
        dg.DagsterInstance.from_config(str(home))
    assert VARIABLE in str(error.value)
    assert wrong.split(":")[2].split("@")[0] not in str(error.value)


def test_a_server_that_is_down(
    home: Path,
    postgres: PostgresServer,
    url: str,
    no_waiting: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    postgres.stop()
    try:
        with pytest.raises(StorageError, match=r"Connection refused.*start the server") as error:
            dg.DagsterInstance.from_config(str(home))
    finally:
        postgres.start()
    assert postgres.password not in str(error.value) + caplog.text
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs() == []


def test_a_server_that_comes_back_is_used_again(
    home: Path, postgres: PostgresServer, url: str, no_waiting: None
) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("logs", ["a"])
        postgres.stop()
        with pytest.raises(utils.DagsterPostgresException):
            instance.add_dynamic_partitions("logs", ["b"])
        postgres.start()
        instance.add_dynamic_partitions("logs", ["b"])
        assert sorted(instance.get_dynamic_partitions("logs")) == ["a", "b"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("postgres-server", "is no URL"),
        ("postgresql://me:my-secret@host:port/name", "is no URL"),
        ("postgresql://me:my@my-secret@host/name", "%40"),
        ("mysql://me:my-secret@host/name", "'mysql'"),
        ("postgresql://me:my-secret@host", "name of a database"),
    ],
)
def test_a_url_that_is_none(home: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, said: str) -> None:
    monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(ConfigError, match=said) as error:
        dg.DagsterInstance.from_config(str(home))
    assert "secret" not in str(error.value)


def test_without_the_variable_dagster_names_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(dg.DagsterInvalidConfigError, match=VARIABLE):
        dg.DagsterInstance.from_config(str(home))


@pytest.mark.parametrize("number", [0, 1], ids=["postgresql", "sqlite"])
def test_four_vehicles_report_at_once_while_two_people_look(
    reported: list[tuple[Path, list[Told]]], number: int
) -> None:
    """All events are there, none twice, and whoever remembers where they were has seen each once."""
    home, told = reported[number]
    check_reports(home, told)


def check_reports(home: Path, told: list[Told]) -> None:
    assert [error for one in told for error in one.errors] == []
    keys = sorted(key for one in told if one.who.startswith("vehicle") for key in one.keys)
    assert len(set(keys)) == len(keys) == VEHICLES * ROUNDS
    for one in told:
        if one.who.startswith("reader"):
            assert one.keys == keys
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert sorted(instance.get_dynamic_partitions(str(LOGS.name))) == keys
        records = instance.fetch_materializations(EPISODES, limit=1000).records
        assert sorted(str(record.partition_key) for record in records) == keys
        assert len({record.storage_id for record in records}) == len(keys)
        progress = Progress()
        new = advance(instance, progress, [dg.AssetKey("replay_buffer")])
        assert {vehicle: found.episodes for vehicle, found in new.items()} == {
            f"truck_{number}": ROUNDS for number in range(VEHICLES)
        }
        assert not progress.open, "every one has its check"
        runs = instance.get_runs()
        assert len(runs) == VEHICLES and all(run.is_success for run in runs)
        for number in range(VEHICLES):
            (run,) = instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": f"truck_{number}#1"}))
            assert run.tags[VEHICLE_TAG] == f"truck_{number}"


def test_command_line(home: Path, url: str, data_dir: Path, drive: Path) -> None:
    """Register a log and make its frames, as the documentation says, on an empty database."""
    put(drive, data_dir / "raw" / VEHICLE / "2026-01-05", journal=False)
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(PROJECT)}

    def dagster(*words: str) -> str:
        command = [sys.executable, "-m", "dagster", *words, "-m", "tspace_pipelines.definitions"]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr + done.stdout

    assert KEY in dagster("job", "execute", "-j", "register_logs")
    said = dagster("asset", "materialize", "--select", "raw_can_logs,can_frames", "--partition", KEY)
    assert "RUN_SUCCESS" in said and url.split("@")[0] not in said
    lake = Lake(data_dir)
    assert lake.frames(lake.raw_log(KEY)).is_file()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("can_frames")) == {KEY}


@pytest.mark.slow
def test_pages_daemon_and_run_worker_on_postgresql(home: Path, url: str, tmp_path: Path) -> None:
    """``dagster dev``: a run that a person starts in the pages is queued, dequeued and carried out."""
    (tmp_path / "hello.py").write_text(
        "import dagster as dg\n\n@dg.op\ndef greet():\n    pass\n\n@dg.job\ndef hello():\n    greet()\n\n"
        "defs = dg.Definitions(jobs=[hello])\n"
    )
    (port,) = free_ports(1)
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "dagster", "dev", "-f", "hello.py", "-p", str(port), "-h", "127.0.0.1"]
    with (tmp_path / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            entries = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"
            loaded = {"workspaceOrError": {"locationEntries": [{"name": "hello.py", "loadStatus": "LOADED"}]}}
            until_true(lambda: ask(port, entries) == loaded, process)
            asked = ask(
                port,
                'mutation { launchRun(executionParams: {selector: {repositoryLocationName: "hello.py", '
                'repositoryName: "__repository__", jobName: "hello"}, runConfigData: {}}) '
                "{ __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            )["launchRun"]
            assert asked["__typename"] == "LaunchRunSuccess", asked
            run_id = asked["run"]["runId"]
            until_true(
                lambda: (run := instance.get_run_by_id(run_id)) is not None and run.is_finished, process
            )
            run = instance.get_run_by_id(run_id)
            assert run is not None and run.is_success, (tmp_path / "dev.log").read_text()[-3000:]
            events = [event.dagster_event_type for event in instance.all_logs(run_id)]
            assert dg.DagsterEventType.RUN_ENQUEUED in events, "the daemon takes runs from the queue"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(180)  # Dagster waits for each of its processes in turn
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert url.split("@")[0] not in (tmp_path / "dev.log").read_text()


def ask(port: int, query: str) -> dict[str, Any]:
    """An answer of the pages' GraphQL; nothing while they are not there."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())["data"]
        return found
    return {}


def until_true(look: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait until something is so; fail where the process ends before."""
    pause, until = threading.Event(), time.monotonic() + 120.0
    while not look():
        assert process.poll() is None and time.monotonic() < until
        pause.wait(0.2)
