"""The connection to a MongoDB server, and what its errors become. Passwords are in no message."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError, PoolAccessError, PoolError, PoolServerError

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

    Document = dict[str, Any]
    Client = MongoClient[Document]
    Documents = Database[Document]

VARIABLE = "TSPACE_MONGODB_URI"
_TIMEOUTS_MS = {"serverSelectionTimeoutMS": 3_000, "connectTimeoutMS": 3_000, "socketTimeoutMS": 60_000}
"""Where the URI does not say otherwise."""
_DENIED = {13, 18, 8000}
"""Codes of the server: Unauthorized, AuthenticationFailed, and Atlas' word for it."""
_SERVER_CODES = {14031, 91, 11600, 11602, 189, 10107, 13435, 64}
"""Disk full, shutting down, interrupted, no primary, write concern not reached."""
_DUPLICATE = 11000


def connect(database: str | None, uri: str | None) -> "tuple[Client, Documents]":
    """A client and the database; nothing is sent before the first command.

    Args:
        database: its name; None: the one that the URI names.
        uri: ``mongodb://...``; None: that of the settings.

    Raises:
        ConfigError: no URI is set, it is none of MongoDB, or neither names a database.
    """
    from pymongo import MongoClient, ReadPreference
    from pymongo.errors import ConfigurationError, InvalidName, InvalidURI
    from pymongo.read_concern import ReadConcern
    from pymongo.write_concern import WriteConcern

    if uri is None:
        secret = settings().mongodb_uri
        if secret is None:
            message = f"no MongoDB server is known: set {VARIABLE}=mongodb://user:password@host:27017"
            raise ConfigError(message)
        uri = secret.get_secret_value()
    given = {name: value for name, value in _TIMEOUTS_MS.items() if name.lower() not in uri.lower()}
    try:
        client: Client = MongoClient(uri, tz_aware=True, appname="tspace", **given)  # type: ignore[arg-type]
    except (InvalidURI, ConfigurationError, ValueError, TypeError) as error:
        # Its text may quote a part of the password that was not escaped.
        message = (
            f"{VARIABLE} is no valid URI of MongoDB ({type(error).__name__}): expected "
            "mongodb://user:password@host:27017, with %-escapes in user and password"
        )
        raise ConfigError(message) from None
    try:
        found = client.get_default_database() if database is None else client[database]
    except (ConfigurationError, InvalidName) as error:
        client.close()
        message = (
            f"{database!r} is no name of a MongoDB database ({error}): give one like mongodb:episodes, or "
            f"name it in {VARIABLE} behind the host"
        )
        raise ConfigError(message) from None
    return client, found.with_options(
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority", j=True),
    )


@contextmanager
def pool_errors(place: str, doing: str, meaning: str = "") -> Iterator[None]:
    """Turn errors of the client into those of pools.

    Args:
        place: the pool.
        doing: what is being done.
        meaning: what a failure means for the content.

    Raises:
        PoolAccessError: the server refuses user or password.
        PoolServerError: it is gone, slow or ill.
        PoolError: it refuses what was sent.
    """
    from bson.errors import BSONError
    from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

    ends = f"; {meaning}" if meaning else ""
    try:
        yield
    except ConnectionFailure as error:
        message = (
            f"{place}: the MongoDB server did not answer while {doing} ({_short(error)}){ends}; check that "
            "it runs and that the network lets you reach it, then try again"
        )
        raise PoolServerError(message) from error
    except OperationFailure as error:
        codes = _codes(error)
        if codes & _DENIED:
            message = (
                f"{place}: the MongoDB server refuses user or password while {doing} ({_short(error)}){ends}"
                f"; correct {VARIABLE}, or ask for the rights to read and write this database"
            )
            raise PoolAccessError(message) from error
        kind = PoolServerError if codes & _SERVER_CODES else PoolError
        message = f"{place}: the MongoDB server failed while {doing} ({_short(error)}){ends}"
        raise kind(message) from error
    except (PyMongoError, BSONError, OverflowError) as error:
        message = f"{place}: MongoDB cannot do it while {doing} ({_short(error)}){ends}"
        raise PoolError(message) from error


def is_duplicate(error: Exception) -> bool:
    """Whether a write failed only because a unique value is there already."""
    from pymongo.errors import OperationFailure

    return isinstance(error, OperationFailure) and _codes(error) == {_DUPLICATE}


def _codes(error: Any) -> set[int]:
    details = error.details or {}
    found = {item.get("code") for item in details.get("writeErrors", ())}
    found |= {item.get("code") for item in details.get("writeConcernErrors", ())}
    return {code for code in found | {error.code} if code is not None}


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
