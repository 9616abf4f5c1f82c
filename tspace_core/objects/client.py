"""The boto3 client of this installation, and what its errors mean in our words."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tspace_core.config.settings import settings
from tspace_core.errors import (
    ObjectAccessError,
    ObjectError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectServerError,
)

CONNECT_S = 5.0
READ_S = 30.0
ATTEMPTS = 3
CONNECTIONS = 16
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
)
_MISSING = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "NotFound", "404"}
_CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "412", "409"}
_ACCESS = {
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "RequestTimeTooSkewed", "TokenRefreshRequired", "AllAccessDisabled", "AccountProblem", "401", "403",
}  # fmt: skip
_SERVER = {"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling", "429"}
_clients: dict[str, Any] = {}
_lock = threading.Lock()


def s3_client() -> Any:
    """The client for ``settings().s3`` and the credentials of the environment; thread-safe and shared.

    Making one takes some 100 ms; it is made once a process, server and set of credentials.
    """
    found = settings().s3
    known = [str(os.getpid()), found.endpoint or "", found.region]
    known += [os.environ.get(name, "") for name in _CREDENTIALS]
    mark = hashlib.sha256("\0".join(known).encode()).hexdigest()
    with _lock:
        if mark not in _clients:
            _clients[mark] = _new_client(found.endpoint, found.region)
        return _clients[mark]


def _new_client(endpoint: str | None, region: str) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path"},
        # The checksums that newer clients add on their own are not understood by every server.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        message = (
            f"no client for object storage at {endpoint or 'Amazon'}, region {region!r}: {error}; "
            "correct TSPACE_S3__ENDPOINT (a URL such as https://s3.example.com) and the AWS_* settings"
        )
        kind = ObjectAccessError if "rofile" in type(error).__name__ else ObjectError
        raise kind(message) from error


@contextmanager
def our_errors(client: Any, bucket: str, key: str, doing: str) -> Iterator[None]:
    """Raise botocore's errors as ours; each message names the place, the endpoint and what to do."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ClientError, BotoCoreError, HTTPError, TimeoutError, ConnectionError, KeyError) as error:
        place = f"s3://{bucket}/{key} at {client.meta.endpoint_url}"
        if isinstance(error, ClientError):
            raise _by_code(error, place, doing) from error
        raise _by_class(error, place, doing) from error


def _by_code(error: Any, place: str, doing: str) -> ObjectError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{doing} {place}: {code or status} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    if code == "NoSuchBucket":
        return ObjectMissingError(f"{said}; make the bucket, or correct the URL")
    if code in _MISSING or status == 404:
        return ObjectMissingError(f"{said}; there is no such object: check bucket and key")
    if code in _CHANGED or status in (409, 412):
        return ObjectExistsError(f"{said}; somebody else has written it meanwhile: look at it again")
    if code in _ACCESS or status in (401, 403):
        return ObjectAccessError(
            f"{said}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, what they are allowed to do, "
            "and this machine's clock"
        )
    if code in _SERVER or status >= 500 or status == 429:
        return ObjectServerError(f"{said}; the server cannot serve it now: try again later")
    return ObjectError(f"{said}; the server refuses this request: check bucket and key")


def _by_class(error: Exception, place: str, doing: str) -> ObjectError:
    from botocore import exceptions

    if isinstance(error, KeyError):  # of a proxy's page, for example
        lacking = f"{doing} {place}: the answer lacks {error}"
        return ObjectServerError(f"{lacking}; check that TSPACE_S3__ENDPOINT leads to an object storage")
    said = f"{doing} {place}: {type(error).__name__}: {error}"
    credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
    )
    if isinstance(error, credentials):
        return ObjectAccessError(f"{said}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, (exceptions.ParamValidationError, exceptions.InvalidRegionError)):
        return ObjectError(f"{said}; correct bucket, key or region")
    return ObjectServerError(
        f"{said}; check that the server runs and is reached (TSPACE_S3__ENDPOINT), then try again"
    )


def broke_off(error: BaseException | None) -> bool:
    """Whether an answer had begun and then broke off; the client does not try such a read again itself."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    broken = (
        exceptions.ResponseStreamingError,
        exceptions.IncompleteReadError,
        exceptions.ReadTimeoutError,
        HTTPError,
    )
    return isinstance(error, broken)
