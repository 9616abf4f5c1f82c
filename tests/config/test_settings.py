"""Settings: conf/settings.yaml, overridden by the environment; secrets never shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tspace_core.config import settings
from tspace_core.config.settings import find_dbc, project_dir
from tspace_core.errors import ConfigError


@pytest.fixture(autouse=True)
def _fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TSPACE_DATA_DIR", "TSPACE_MLFLOW_URI", "TSPACE_HMI__UDP_PORT"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_paths_are_below_the_project() -> None:
    assert settings().data_dir == project_dir() / "data"
    assert settings().tracking_uri == f"sqlite:///{project_dir() / 'data' / 'mlflow.db'}"


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TSPACE_HMI__UDP_PORT", "9000")
    settings.cache_clear()
    assert settings().data_dir == tmp_path
    assert settings().hmi.udp_port == 9000


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_HMI__UDP_PORT", "99999")
    settings.cache_clear()
    with pytest.raises(ConfigError, match=r"hmi\.udp_port.*65535.*99999"):
        settings()


def test_agents_that_are_retrained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().retraining.agents == ("ddpg",)
    monkeypatch.setenv("TSPACE_RETRAINING__AGENTS", '["idql", "ddpg", "idql"]')
    settings.cache_clear()
    assert settings().retraining.agents == ("idql", "ddpg")
    monkeypatch.setenv("TSPACE_RETRAINING__AGENTS", '["ddqn"]')
    settings.cache_clear()
    with pytest.raises(ConfigError, match=r"retraining\.agents: .*no agent 'ddqn'; known are ddpg, rd"):
        settings()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_MONGODB_URI", "mongodb://user:secret@host/db")
    monkeypatch.setenv("TSPACE_REMOTE__AUTHORIZATION", "Bearer secret")
    monkeypatch.setenv("TSPACE_ROCKETMQ__SECRET_KEY", "secret")
    settings.cache_clear()
    assert settings().remote.authorization is not None
    assert "secret" not in repr(settings()).replace("secret_key", "")


def test_a_dbc_that_is_nowhere_names_the_folders() -> None:
    with pytest.raises(ConfigError, match=r"no_such\.dbc.*conf/dbc"):
        find_dbc("no_such.dbc")
