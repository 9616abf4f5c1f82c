"""Clusters that are not there, and settings that cannot work: an error at once, with what to do."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.distributed.conftest import new_agent
from tests.ports import free_port
from tspace_core.agents import CheckpointStore
from tspace_core.config import EngineConfig
from tspace_core.config.settings import Settings
from tspace_core.distributed import LocalEngine, make_engine
from tspace_core.distributed.ray_cluster import check_answers, temp_dir
from tspace_core.errors import AgentError, EngineError
from tspace_core.storage.replay import Replay


@pytest.fixture
def nobodys_port() -> int:
    return free_port(socket.SOCK_STREAM)


@pytest.fixture
def web_server() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_nobody_answers(nobodys_port: int) -> None:
    with pytest.raises(EngineError, match=r"no Ray head answers at .* TSPACE_ENGINE__ADDRESS"):
        check_answers(f"127.0.0.1:{nobodys_port}", 2.0)


def test_somebody_else_answers(web_server: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="is no Ray head"):
        check_answers(f"127.0.0.1:{web_server}", 2.0)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(EngineError, match="no Ray head answers"):
        check_answers("no-such-host.invalid:6379", 2.0)


def test_training_says_it_before_anything_is_written(
    nobodys_port: int, replay: Replay, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path / "c")
    config = EngineConfig(kind="ray", address=f"127.0.0.1:{nobodys_port}", connect_timeout_s=2.0)
    with make_engine(config) as engine, pytest.raises(EngineError, match="TSPACE_ENGINE__KIND=local"):
        engine.train_offline(new_agent(), replay, updates=10, checkpoints=store)
    assert store.steps() == []


def test_more_learners_than_records_of_a_batch(replay: Replay, tmp_path: Path) -> None:
    with (
        make_engine(EngineConfig(kind="ray", workers=33)) as engine,
        pytest.raises(AgentError, match="cannot be shared by 33"),
    ):
        engine.train_offline(new_agent(), replay, updates=10, checkpoints=CheckpointStore(tmp_path / "c"))


def test_learners_need_checkpoints(replay: Replay) -> None:
    with (
        make_engine(EngineConfig(kind="ray")) as engine,
        pytest.raises(AgentError, match="give a CheckpointStore"),
    ):
        engine.train_offline(new_agent(), replay, updates=10)


def test_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="TEMP_DIR to a shorter path"):
        temp_dir(EngineConfig(temp_dir=tmp_path / ("long" * 10)))


def test_settings_choose_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_engine(Settings().engine), LocalEngine)
    monkeypatch.setenv("TSPACE_ENGINE__KIND", "ray")
    monkeypatch.setenv("TSPACE_ENGINE__ADDRESS", "head:6379")
    monkeypatch.setenv("TSPACE_ENGINE__WORKERS", "4")
    found = Settings().engine
    assert (found.kind, found.address, found.workers) == ("ray", "head:6379", 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "ray://head:10001"},
        {"address": "head"},
        {"workers": 1, "least_workers": 2},
        {"kind": "dask"},
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EngineConfig.model_validate(wrong)
