"""One HTTP connection to the remote CAN service: tries, pauses, and how much of an answer is read."""

import asyncio
import contextlib
import email.utils
import ipaddress
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import SplitResult, urlsplit

from tspace_core.config.remote import RemoteConfig
from tspace_core.errors import ConfigError, RemoteCanError
from tspace_core.link.remote_answer import shortened
from tspace_core.link.remote_codes import CONNECTION, NETWORK, NOT_OK, UNKNOWN_FORM, remote_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

RETRIED = frozenset((413, 429, 500, 502, 503, 504))
"""HTTP statuses after which a call is tried again."""
CONNECT_S = 5.0
"""Longest single try to connect."""
KEEP_ALIVE_S = 3.0
"""An idle connection is not used again after this: common servers close theirs after 5 s."""

_OK = 200
_EXCERPT = 4096
_SECRET_MIN = 8
_WAITS = ("connection.connect_tcp", "connection.start_tls", "http11.receive_response_")


@dataclass
class Progress:
    """What is known of a call while it runs.

    Attributes:
        sent: whether the request of this try has begun to go out.
        before: whether an earlier try may have had an effect.
        service_s: time waited for the service and the way to it so far.
        last: what went wrong last.
    """

    sent: bool = False
    before: bool = False
    service_s: float = 0.0
    last: str = ""

    @property
    def unchanged(self) -> bool:
        """Whether it is certain that the call has had no effect, where this try was not answered."""
        return not (self.sent or self.before)

    def error(
        self, code: int, detail: str, *, none_by_now: bool = False, next_step: str | None = None
    ) -> Any:
        """The error of a try; ``none_by_now``: its answer proves that it had no effect."""
        unchanged = not self.before if none_by_now else self.unchanged
        return remote_error(code, detail, unchanged=unchanged, next_step=next_step)


class _Trace:
    """Follows a request through httpcore: when it begins to go out, and how long it waits for others."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun: dict[str, float] = {}
        self._unsafe: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        what, _, stage = event.rpartition(".")
        if event == "http11.send_request_headers.started":
            self._progress.sent = True
            self._unsafe = None
        elif event == "connection.connect_tcp.complete":
            self._unsafe = info["return_value"]
        if not what.startswith(_WAITS):
            return
        if stage == "started":
            self._begun[what] = time.monotonic()
        elif what in self._begun:
            self._progress.service_s += time.monotonic() - self._begun.pop(what)

    async def close_unsafe(self) -> None:
        """Close a connection that was ended in its TLS handshake, which httpcore leaves open then."""
        if self._unsafe is not None:
            await self._unsafe.aclose()


def service_url(text: str, config: RemoteConfig, vehicle: str) -> str:
    """The base URL without a slash at its end, checked.

    Raises:
        ConfigError: it is no http(s) URL, holds credentials, or would send everything in clear text.
    """
    try:
        url = urlsplit(text)
        port_is_right = url.port is None or url.port > 0
    except ValueError:
        url, port_is_right = SplitResult("", "", "", "", ""), False
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_right:
        message = (
            "TSPACE_REMOTE__URL is no URL of a service; expected something like https://can.example.com/api"
        )
        raise ConfigError(message)
    if url.username is not None or url.password is not None or url.query or url.fragment:
        message = (
            f"TSPACE_REMOTE__URL for {url.hostname} holds credentials, a query or a fragment; give the "
            "base URL alone, and credentials as TSPACE_REMOTE__AUTHORIZATION"
        )
        raise ConfigError(message)
    if url.scheme == "http" and not _is_loopback(url.hostname) and not config.plain_http:
        message = (
            f"TSPACE_REMOTE__URL leads to {url.hostname} by plain http, where anyone on the way could flash "
            f"{vehicle}; use https, or set remote.plain_http of {vehicle} if that network is trusted"
        )
        raise ConfigError(message)
    return text.rstrip("/")


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """How the service's certificate is checked: against ``ca`` alone, or the public authorities.

    Raises:
        ConfigError: the file is missing or holds no certificate.
    """
    import httpx

    if ca is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        message = f"TSPACE_REMOTE__CA: {ca} cannot be used ({error}); give a PEM file of the authority"
        raise ConfigError(message) from error


class ServiceConnection:
    """The one connection; every method runs in one asyncio loop, one call at a time.

    Args:
        url: as ``service_url`` gives it.
        authorization: value of the header, or None.
        ca: as ``tls_context`` takes it.
        config: tries, pauses and sizes.

    Raises:
        ConfigError: the authorization cannot be a header's value, or ``ca`` cannot be used.
    """

    def __init__(self, url: str, authorization: str | None, ca: Path | None, config: RemoteConfig) -> None:
        if authorization is not None and not (authorization.isascii() and authorization.isprintable()):
            message = "TSPACE_REMOTE__AUTHORIZATION has characters that a header cannot carry; correct it"
            raise ConfigError(message)
        _quieten()
        self.place = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        self._url, self._config = url, config
        self._secrets = _secrets(authorization)
        self._tls, self._authorization = tls_context(ca), authorization
        self._client = self._new_client()

    def _new_client(self) -> "httpx.AsyncClient":
        import httpx

        authorization = self._authorization
        return httpx.AsyncClient(
            verify=self._tls,
            timeout=httpx.Timeout(None, connect=CONNECT_S),  # the call as a whole has its limit
            limits=httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S
            ),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"}
            | ({"Authorization": authorization} if authorization else {}),
            follow_redirects=False,  # they could carry the authorization elsewhere
            trust_env=False,
        )

    async def post(
        self, call: str, content: bytes, progress: Progress, deadline: float, *, repeat: bool
    ) -> bytes:
        """Send a request until it is answered with HTTP status 200; return the body.

        Args:
            call: path below the base URL.
            content: JSON.
            progress: is kept up to date, also when this is cancelled.
            deadline: by ``time.monotonic``; no pause goes beyond it. The caller ends what takes longer.
            repeat: whether a request whose answer was lost may be sent again.

        Raises:
            RemoteNetworkError: no connection (1000), an answer lost (1001), or another status (1).
            RemoteFormatError: the answer is larger than allowed, or compressed.
        """
        import httpx

        tries = connects = 0
        pause_s = self._config.backoff_s
        while True:
            progress.before, progress.sent = progress.before or progress.sent, False
            wait_s = pause_s
            try:
                status, body, retry_after = await self._once(call, content, progress)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
                connects += 1
                error = self._not_connected(failure, connects, progress)
                final = connects >= self._config.connect_attempts or _is_untrusted(failure)
            except (httpx.RequestError, OSError) as failure:
                tries += 1
                detail = f"{self.place}: the connection broke ({_why(failure)}), {_counted(tries)}"
                error = progress.error(NETWORK, detail)
                final = not repeat or tries >= self._config.attempts
            else:
                tries += 1
                if status == _OK:
                    return body
                error = self._refused(status, body, retry_after, tries, progress)
                final = status not in RETRIED or tries >= self._config.attempts
                wait_s = max(pause_s, _seconds(retry_after) or 0.0)
            progress.last = str(error)
            if final or time.monotonic() + wait_s >= deadline:
                raise error
            begun = time.monotonic()
            await asyncio.sleep(wait_s)
            progress.service_s += time.monotonic() - begun
            pause_s *= 2

    async def renew(self) -> None:
        """After a request that was cancelled: httpx may count its connection as taken for ever."""
        spoilt, self._client = self._client, self._new_client()
        with contextlib.suppress(Exception):  # nothing depends on how it ends
            await spoilt.aclose()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _once(self, call: str, content: bytes, progress: Progress) -> tuple[int, bytes, str | None]:
        trace = _Trace(progress)
        try:
            async with self._client.stream(
                "POST",
                f"{self._url}/{call}",
                content=content,
                headers={"Content-Type": "application/json"},
                extensions={"trace": trace},
            ) as response:
                status = response.status_code
                if status == _OK:
                    body = await self._whole(response, progress)
                else:
                    body = await _beginning(response, _EXCERPT)
                detail = response.headers.get("location" if 300 <= status < 400 else "retry-after")
        except asyncio.CancelledError:
            await trace.close_unsafe()
            raise
        return status, self._without_secrets(body), detail

    async def _whole(self, response: "httpx.Response", progress: Progress) -> bytes:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            detail = f"the answer is compressed ({shortened(encoding)}), which was not asked for"
            raise progress.error(UNKNOWN_FORM, detail)
        limit = self._config.answer_bytes
        announced = int(response.headers.get("content-length", 0))
        body = b"" if announced > limit else await _beginning(response, limit)
        if max(announced, len(body)) <= limit:
            return body
        size = f"{announced} bytes" if announced > limit else f"more than {limit} bytes"
        detail = f"the answer has {size}, allowed are {limit}: the rest was not read"
        raise progress.error(
            UNKNOWN_FORM, detail, next_step="check the service; remote.answer_bytes sets the limit"
        )

    def _without_secrets(self, body: bytes) -> bytes:
        """Services that show what they were asked must not bring the authorization into our messages."""
        for secret in self._secrets:
            body = body.replace(secret, b"***")
        return body

    def _not_connected(self, failure: Exception, connects: int, progress: Progress) -> RemoteCanError:
        detail = f"{self.place}: {_why(failure)}, {_counted(connects)} to connect"
        next_step = None
        if _is_untrusted(failure):
            next_step = "check who answers there, and TSPACE_REMOTE__CA where its authority is a private one"
        error: RemoteCanError = progress.error(CONNECTION, detail, next_step=next_step)
        return error

    def _refused(
        self, status: int, body: bytes, header: str | None, tries: int, progress: Progress
    ) -> RemoteCanError:
        said = shortened(body)
        detail = f"{self.place}: HTTP status {status}, {_counted(tries)}{': ' + said if said else ''}"
        next_step = None
        if status in (401, 403):
            next_step = "check TSPACE_REMOTE__AUTHORIZATION and what it is allowed to do"
        elif 300 <= status < 400:
            target = urlsplit(self._without_secrets((header or "").encode()).decode())
            detail += f", a redirect to {shortened(target.netloc or target.path)}"
            next_step = "redirects are not followed, so correct TSPACE_REMOTE__URL"
        elif header is not None and (_seconds(header) or 0.0) > 0:
            detail += f", it asks to come back in {_seconds(header):.0f} s"
        # 408: it gave up waiting for a part of the request, or so it says.
        none_by_now = 400 <= status < 500 and status != 408
        error: RemoteCanError = progress.error(NOT_OK, detail, none_by_now=none_by_now, next_step=next_step)
        if none_by_now:
            progress.sent = False
        return error


async def _beginning(response: "httpx.Response", limit: int) -> bytes:
    """The body, or of a longer one a little more than ``limit`` bytes; an unread rest ends the connection."""
    body = bytearray()
    async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                break
    return bytes(body)


def _quieten() -> None:
    """Keep the URL, a line a call and what services echo in headers out of logs, unless asked for by name."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _secrets(authorization: str | None) -> list[bytes]:
    """What must not be shown: the whole value and its parts, the longest first."""
    parts = {authorization, *authorization.split()} if authorization else set()
    return sorted((part.encode() for part in parts if len(part) >= _SECRET_MIN), key=len, reverse=True)


def _seconds(retry_after: str | None) -> float | None:
    """How long the service asks to wait: seconds, or until a date."""
    if retry_after is None:
        return None
    if retry_after.isdecimal() and retry_after.isascii() and len(retry_after) < 10:
        return float(retry_after)
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _is_untrusted(failure: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(failure)


def _why(failure: Exception) -> str:
    return shortened(str(failure) or type(failure).__name__)


def _counted(tries: int) -> str:
    return "1 try" if tries == 1 else f"{tries} tries"
