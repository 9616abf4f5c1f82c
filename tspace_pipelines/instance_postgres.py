"""Dagster's runs, events and schedules in PostgreSQL, as ``dagster.postgres.yaml`` chooses it.

dagster-postgres does the work. This class tells in one sentence what is wrong where it cannot: which server,
as whom, and what to do, never with the password.
"""

from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
import psycopg2
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tspace_core.errors import ConfigError, StorageError

VARIABLE = "TSPACE_POSTGRES_URL"
FORM = "postgresql://user:password@host:5432/database"
CONNECT_S = 10
"""How long one attempt to reach the server may take, s, where the URL does not say; there are six."""


_REFUSALS = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
)


class PostgresStorage(DagsterPostgresStorage):
    """Runs, events and schedules in one PostgreSQL database; its tables are made at the first use."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """``postgres_url``, from the environment."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Build the storage and connect.

        Raises:
            ConfigError: the URL is none of a PostgreSQL database.
            StorageError: the server cannot be reached, or refuses user, password or database.
        """
        url = read_url(config_value["postgres_url"])
        text = url.render_as_string(hide_password=False)
        try:
            _stop_if_refused(url)
            return cls(postgres_url=text, inst_data=inst_data)
        except (DagsterPostgresException, SQLAlchemyError, psycopg2.Error) as error:
            message = (
                f"Dagster's storage {shown(url)} cannot be used: {_reason(error, url)}; start the server, "
                f"correct {VARIABLE}, or go back to SQLite with DAGSTER_HOME at the project's folder"
            )
            # Not its cause: who prints that prints what SQLAlchemy adds, pages of it.
            raise StorageError(message) from None


def read_url(text: str) -> URL:
    """The URL of a PostgreSQL database, with its driver and a time-out for connecting.

    Raises:
        ConfigError: it is none; the message does not quote it, as it may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _no_url() from None
    if "@" in f"{url.host}{url.username}":  # what is taken for the host is the end of a password
        raise _no_url()
    if url.get_backend_name() != "postgresql" or not url.database:
        what = f"a URL of {url.drivername!r}" if url.database else "without the name of a database"
        message = f"{VARIABLE} is {what}, expected {FORM}"
        raise ConfigError(message)
    if url.drivername == "postgresql":
        # dagster-postgres brings psycopg2; SQLAlchemy 2.1 takes psycopg, version 3, where none is named.
        url = url.set(drivername="postgresql+psycopg2")
    if "connect_timeout" in url.query:
        return url
    return url.update_query_dict({"connect_timeout": str(CONNECT_S)})


def _no_url() -> ConfigError:
    return ConfigError(
        f"{VARIABLE} is no URL of the form {FORM}; write @ : / % # ? in a password as %40 %3A ..."
    )


def _stop_if_refused(url: URL) -> None:
    """Say at once what waiting does not change; Dagster would ask for ten seconds."""
    try:
        psycopg2.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)).close()
    except psycopg2.OperationalError as error:
        if any(sign in str(error) for sign in _REFUSALS):
            raise


def shown(url: URL) -> str:
    """The URL for people: without driver, password and options."""
    return url.set(drivername="postgresql", password=None, query={}).render_as_string()


def _reason(error: BaseException, url: URL) -> str:
    while error.__cause__ is not None:  # the driver's own words are the last
        error = error.__cause__
    text = " ".join(str(error).split())
    return text.replace(str(url.password), "***") if url.password else text
