"""Where data lies and which servers are used: conf/settings.yaml, overridden by TSPACE_* variables.

Secrets and hosts come from the environment only; conf/ never holds them. A nested field is reached with a
double underscore, e.g. ``TSPACE_HMI__SOURCE=dummy``.
"""

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from tspace_core.config.engine import EngineConfig
from tspace_core.config.hyperparameters import HYPERPARAMETERS
from tspace_core.errors import ConfigError


def project_dir() -> Path:
    """The project's folder: TSPACE_PROJECT_DIR, or the one the package was installed from in place."""
    given = os.environ.get("TSPACE_PROJECT_DIR")
    return Path(given).resolve() if given else Path(__file__).resolve().parents[2]


class HmiSettings(BaseModel):
    """Where the training HMI's requests come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["udp", "rmq", "dummy"] = "udp"
    udp_host: str = Field(default="127.0.0.1", description="address that the HMI's datagrams arrive at")
    udp_port: int = Field(default=8002, ge=1, le=65535)


class BridgeSettings(BaseModel):
    """Where the bridge, the one process that writes to the bus, answers agents and operators."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="address of its channel; loopback unless you mean it")
    port: int = Field(default=8003, ge=1, le=65535)
    key: SecretStr | None = Field(
        default=None, description="shared secret, from the environment only; None: a file in data_dir/online"
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file; with tls_key and tls_ca the channel may leave the machine"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the certificate's key")
    tls_ca: Path | None = Field(
        default=None, description="PEM file of the authority that signed the other end's certificate"
    )


class RemoteSettings(BaseModel):
    """The remote CAN service; from the environment only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = Field(default=None, description="base URL, e.g. https://can.example.com/api")
    authorization: SecretStr | None = Field(default=None, description="value of the Authorization header")
    ca: Path | None = Field(default=None, description="PEM file of the authority, where it is a private one")


class RocketMqSettings(BaseModel):
    """The message queue of the training HMI; from the environment only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: str | None = Field(default=None, description="host:port, several separated by ;")
    tls: bool = Field(default=True, description="without TLS only on loopback")
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None


class S3Settings(BaseModel):
    """Object storage; credentials are found as boto3 does: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ..."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(default=None, description="URL of the server; None: Amazon's")
    region: str = "us-east-1"
    cache_dir: Path = Field(
        default=Path("data/cache/s3"), description="local copies of objects that are read as files"
    )
    cache_bytes: int = Field(default=20 << 30, ge=0, description="least recently used copies beyond it go")


class RetrainingSettings(BaseModel):
    """What new episodes start, after a while and every night."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: tuple[str, ...] = Field(
        default=("ddpg",), min_length=1, description="agents that are trained, one run a vehicle for all"
    )
    new_episodes: int = Field(
        default=20, ge=1, description="new checked episodes of a vehicle that start a run before the night"
    )

    @field_validator("agents")
    @classmethod
    def _known(cls, agents: tuple[str, ...]) -> tuple[str, ...]:
        for agent in agents:
            if agent not in HYPERPARAMETERS:
                message = f"there is no agent {agent!r}; known are {', '.join(HYPERPARAMETERS)}"
                raise ValueError(message)
        return tuple(dict.fromkeys(agents))


class Settings(BaseSettings):
    """Settings of one installation."""

    model_config = SettingsConfigDict(
        env_prefix="TSPACE_", env_nested_delimiter="__", extra="ignore", frozen=True, env_ignore_empty=True
    )

    conf_dir: Path = Field(
        default=Path("conf"), description="vehicles, drivers, sites, hyperparameters, maps, DBCs"
    )
    data_dir: Path = Field(
        default=Path("data"), description="what stays on this machine, and the lake unless lake_url is given"
    )
    lake_url: str | None = Field(
        default=None, pattern=r"^s3://[^/]+(/.*)?$", description="root of the lake as s3://bucket/prefix"
    )
    out_dir: Path = Field(default=Path("out"), description="reports")
    inbox_dir: Path = Field(
        default=Path("data/inbox"), description="watched folder: <inbox>/<vehicle id>/<log>"
    )
    inbox_url: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="watched place in a bucket: <inbox>/<vehicle id>/<log>",
    )
    box_url: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="where telematics boxes upload windows: <box>/<vin>/<yyyy>/<mm>/<dd>/<HHMMSSfff>.json",
    )
    dbc_path: tuple[Path, ...] = Field(
        default=(Path("conf/dbc"),), description="folders searched for DBC files"
    )
    a2l_path: tuple[Path, ...] = Field(
        default=(Path("conf/a2l"),), description="folders searched for A2L files"
    )
    hmi: HmiSettings = HmiSettings()
    bridge: BridgeSettings = BridgeSettings()
    campaign_token: SecretStr | None = Field(
        default=None, description="signed campaign of online runs, from the environment only"
    )
    mlflow_uri: str | None = Field(default=None, description="tracking server; default: SQLite in data_dir")
    mongodb_uri: SecretStr | None = Field(
        default=None, description="document store, from the environment only"
    )
    remote: RemoteSettings = RemoteSettings()
    rocketmq: RocketMqSettings = RocketMqSettings()
    s3: S3Settings = S3Settings()
    engine: EngineConfig = EngineConfig()
    retraining: RetrainingSettings = RetrainingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before conf/settings.yaml."""
        file = project_dir() / "conf" / "settings.yaml"
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=file)

    @property
    def online_dir(self) -> Path:
        """State of online runs: requests, keys, audit logs, last live maps."""
        return self.data_dir / "online"

    @property
    def catalogue(self) -> Path:
        """The DuckDB catalogue."""
        return self.data_dir / "catalogue.duckdb"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking store."""
        return self.mlflow_uri or f"sqlite:///{self.data_dir / 'mlflow.db'}"


@cache
def settings() -> Settings:
    """The settings of this process; relative paths are below the project's folder.

    Call ``settings.cache_clear()`` after changing the environment.

    Raises:
        ConfigError: names each wrong setting and its value.
    """
    try:
        found = Settings()
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']} (value seen: {item['input']!r})"
            for item in error.errors()
        ]
        message = "wrong settings in conf/settings.yaml or TSPACE_*:\n  " + "\n  ".join(lines)
        raise ConfigError(message) from error
    root = project_dir()
    return found.model_copy(
        update={
            "conf_dir": root / found.conf_dir,
            "data_dir": root / found.data_dir,
            "out_dir": root / found.out_dir,
            "inbox_dir": root / found.inbox_dir,
            "s3": found.s3.model_copy(update={"cache_dir": root / found.s3.cache_dir}),
            "dbc_path": tuple(root / folder for folder in found.dbc_path),
            "a2l_path": tuple(root / folder for folder in found.a2l_path),
        }
    )


def find_dbc(name: str) -> Path:
    """The DBC file of that name along ``settings().dbc_path``.

    Raises:
        ConfigError: names the file and the folders looked in.
    """
    return _find("DBC", name, settings().dbc_path, "dbc_path")


def find_a2l(name: str) -> Path:
    """The A2L file of that name along ``settings().a2l_path``.

    Raises:
        ConfigError: names the file and the folders looked in.
    """
    return _find("A2L", name, settings().a2l_path, "a2l_path")


def _find(kind: str, name: str, folders: tuple[Path, ...], setting: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = ", ".join(str(folder) for folder in folders)
    message = f"{kind} file {name!r} not found in {looked}; put it there or add its folder to {setting}"
    raise ConfigError(message)
