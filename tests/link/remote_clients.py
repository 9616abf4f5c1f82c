"""Clients of a test server with short limits, and what the tests of them share."""

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.link.remote_server import LIMIT_S, RemoteServer
from tspace_core.config import RemoteConfig, Vehicle, load_vehicle
from tspace_core.errors import RemoteCanError
from tspace_core.link.remote_can import RemoteCanClient

T = TypeVar("T")
ROWS: NDArray[np.float32] = (np.arange(68).reshape(4, 17) / 8).astype(np.float32)
SECRET = "Bearer s3cr3t-t0ken-0123456789"


@cache
def _truck() -> Vehicle:
    return load_vehicle("twin_remote")


def truck(**remote: Any) -> Vehicle:
    """The vehicle of the remote path, with quick pauses between tries."""
    config = RemoteConfig(**{"backoff_s": 0.01, "buckets": ("windows",), **remote})
    return _truck().model_copy(update={"remote": config})


def client(server: RemoteServer, **remote: Any) -> RemoteCanClient:
    return RemoteCanClient(truck(**remote), url=server.url, authorization=SECRET)


def failed(call: Callable[[], object]) -> RemoteCanError:
    """The error that a call ends with."""
    try:
        call()
    except RemoteCanError as error:
        return error
    raise AssertionError("the call did not fail")


class Later:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self.took_s = 0.0
        self.begun = threading.Event()
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        self.begun.set()
        try:
            self.result = self._call()
        except Exception as error:
            self.error = error
        self.took_s = time.monotonic() - begun

    def wait(self) -> "Later":
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self

    def remote_error(self) -> RemoteCanError:
        error = self.wait().error
        assert isinstance(error, RemoteCanError), repr(error)
        return error
