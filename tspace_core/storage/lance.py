"""LanceDB on the lake: how its tables and its server are reached, and what its errors mean in our words.

``lancedb`` takes two seconds to import: only inside functions.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tspace_core.config import settings
from tspace_core.errors import (
    ObjectAccessError,
    ObjectServerError,
    StorageError,
    TspaceError,
)
from tspace_core.objects.client import CONNECT_S, READ_S
from tspace_core.objects.path import AnyPath, S3Path

SUFFIX = ".lance"
RETRY_S = 20.0
"""How long LanceDB tries again before a server counts as down."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_ACCESS = re.compile(
    r"\b40[13]\b|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden", re.IGNORECASE
)
_DOWN = re.compile(
    r"error sending request|connect|timed? ?out|HTTP error|retries|\b50[0-9]\b|NoSuchBucket|broken pipe",
    re.IGNORECASE,
)


def connect(folder: AnyPath) -> Any:
    """The database of a folder, on a disk or in a bucket of the settings' server.

    Raises:
        ObjectAccessError: there are no credentials.
        StorageError: the folder cannot be used.
    """
    import lancedb

    with our_errors(folder):
        if isinstance(folder, S3Path):
            return lancedb.connect(str(folder), storage_options=_options())
        folder.mkdir(parents=True, exist_ok=True)
        return lancedb.connect(folder)


def _options() -> dict[str, str]:
    import boto3
    from botocore.exceptions import BotoCoreError

    found = settings().s3
    # LanceDB knows the variables but not the profiles that boto3 knows: it is given what that one finds.
    try:
        credentials = boto3.session.Session().get_credentials()
        keys = None if credentials is None else credentials.get_frozen_credentials()
    except BotoCoreError as error:
        message = f"no credentials for object storage ({error}): correct the AWS_* settings"
        raise ObjectAccessError(message) from error
    if keys is None or not keys.access_key:
        message = "no credentials for object storage: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise ObjectAccessError(message)
    options: dict[str, str] = {
        "region": found.region,
        "access_key_id": str(keys.access_key),
        "secret_access_key": str(keys.secret_key),
        "virtual_hosted_style_request": "false",
        "connect_timeout": f"{CONNECT_S:g}s",
        "timeout": f"{READ_S:g}s",
        "client_max_retries": "2",
        "client_retry_timeout": f"{RETRY_S:g}",
    }
    if keys.token:
        options["session_token"] = str(keys.token)
    if found.endpoint is not None:
        options["endpoint"] = found.endpoint
        options["allow_http"] = str(found.endpoint.startswith("http://")).lower()
    return options


@contextmanager
def our_errors(place: AnyPath, *, make_again: str = "") -> Iterator[None]:
    """Raise LanceDB's and Arrow's errors as ours.

    Args:
        place: table or folder, as people know it.
        make_again: what to do where it is damaged.
    """
    from pyarrow import ArrowException

    try:
        yield
    except TspaceError:
        raise
    except (RuntimeError, ValueError, OSError, TypeError, KeyError, ArrowException) as error:
        whole = " ".join(str(error).split())
        said = whole if len(whole) < 400 else f"{whole[:200]} ... {whole[-200:]}"
        if isinstance(place, S3Path):
            endpoint = settings().s3.endpoint or "Amazon"
            if _ACCESS.search(whole):
                message = (
                    f"{place} at {endpoint}: refused ({said}); check AWS_ACCESS_KEY_ID, its secret and rights"
                )
                raise ObjectAccessError(message) from error
            if _DOWN.search(whole):
                message = f"{place} at {endpoint}: the server does not answer ({said}); try again later"
                raise ObjectServerError(message) from error
        hint = f"; {make_again}" if make_again else ""
        message = f"{place} is damaged or no LanceDB table ({type(error).__name__}: {said}){hint}"
        raise StorageError(message) from error


def require_name(name: str) -> str:
    """The name, where it can be that of a table.

    Raises:
        StorageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot be the name of a LanceDB table: use letters, digits and _.-"
        raise StorageError(message)
    return name


def table_names(database: Any) -> list[str]:
    """Names of all tables of a database."""
    names: list[str] = []
    token: str | None = None
    while True:
        page = database.list_tables(page_token=token, limit=1000)  # a bucket's listing gives no more
        names += page.tables
        token = page.page_token
        if not token:
            return names


def is_foreign(table: AnyPath) -> bool:
    """Whether there is something of that name which is no table: one has a folder of versions."""
    if isinstance(table, S3Path):
        ways = [path.relative_to(table).parts[0] for path, _ in table.objects()]
        return bool(ways) and "_versions" not in ways
    return table.exists() and not (table / "_versions").is_dir()
