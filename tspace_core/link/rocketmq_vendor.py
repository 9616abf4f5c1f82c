"""Brings in Apache's RocketMQ client without what its import does to a process.

Importing ``rocketmq`` makes ``~/logs/rocketmq_python`` and opens a log of up to 1.1 GB there. Here its
logging module is stood in for before it is looked for, so HOME is neither written nor changed; its records go
to ``data_dir/logs/rocketmq.log``. It is imported where it is needed: that takes some 0.2 s.

Its protocol files are called ``service.proto`` and the like, as MLflow's are, and protobuf takes each name
once in a process. The vendor's are registered below a folder of their own: both load, in any order.
"""

import importlib
import logging
import logging.handlers
import os
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tspace_core.config.settings import settings
from tspace_core.errors import QueueError

LOGGER = "rocketmq-python-client"
_LOG_MODULE = "rocketmq.v5.log.log_config"
_LOG_BYTES = 4 << 20
_PACKAGE, _FOLDER = "apache.rocketmq.v2", "apache/rocketmq/v2/"
_lock = threading.Lock()


@dataclass(frozen=True)
class Vendor:
    """The parts of the vendor's package that are used.

    Attributes:
        client: classes for users, e.g. ``SimpleConsumer``.
        protocol: messages, codes, stubs and the servicer of its gRPC service.
    """

    client: Any
    protocol: Any


def vendor() -> Vendor:
    """The vendor's package, loaded on first use; from any thread.

    Raises:
        QueueError: it is not installed or cannot be loaded; says what to do.
    """
    with _lock:
        if "rocketmq" not in sys.modules:
            # gRPC's C core writes each lost connection to stderr; the callers say it themselves.
            os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
            stand_in = types.ModuleType(_LOG_MODULE)
            stand_in.logger = _logger()  # type: ignore[attr-defined]
            sys.modules.setdefault(_LOG_MODULE, stand_in)
        try:
            with _files_of_their_own(), warnings.catch_warnings():
                # Generated code for other versions of protobuf and grpc warns; the tests prove that it works.
                warnings.simplefilter("ignore")
                return Vendor(
                    importlib.import_module("rocketmq"), importlib.import_module("rocketmq.grpc_protocol")
                )
        except ImportError as error:
            message = (
                f"the RocketMQ client cannot be loaded ({error}); install rocketmq-python-client, or set "
                "TSPACE_HMI__SOURCE to udp or dummy"
            )
            raise QueueError(message) from error


class _Pool:
    """Protobuf's pool of files, where the vendor's get a folder of their own."""

    def __init__(self, pool: Any, file_type: Any) -> None:
        self._pool, self._file_type = pool, file_type

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def AddSerializedFile(self, content: bytes) -> Any:  # noqa: N802 - protobuf's name
        file = self._file_type.FromString(content)
        if file.package != _PACKAGE:  # another thread loads something else meanwhile
            return self._pool.AddSerializedFile(content)
        file.name = _FOLDER + file.name
        for place, needed in enumerate(file.dependency):
            if not needed.startswith("google/"):
                file.dependency[place] = _FOLDER + needed
        return self._pool.AddSerializedFile(file.SerializeToString())


@contextmanager
def _files_of_their_own() -> Iterator[None]:
    from google.protobuf import descriptor_pb2, descriptor_pool

    default, file_type = descriptor_pool.Default, descriptor_pb2.FileDescriptorProto
    descriptor_pool.Default = lambda: _Pool(default(), file_type)
    try:
        yield
    finally:
        descriptor_pool.Default = default


def _logger() -> logging.Logger:
    """The vendor's logger with a small file of its own, which is made with the first record."""
    logger = logging.getLogger(LOGGER)
    # Each failure reaches the caller as an exception; on top of that the vendor logs every try and every
    # heartbeat, which belongs into a file for the one who searches.
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    # It calls the deprecated name, which is an error where warnings are errors.
    logger.warn = logger.warning  # type: ignore[method-assign]
    folder = settings().data_dir / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = logging.handlers.RotatingFileHandler(
            folder / "rocketmq.log", maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True
        )
    except OSError:
        handler = logging.NullHandler()
    # Its callbacks raise what nobody catches: a heartbeat that failed would be a traceback on the screen.
    logging.getLogger("concurrent.futures").addFilter(_not_of_the_vendor)
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(process)d %(message)s"))
    logger.addHandler(handler)
    return logger


def _not_of_the_vendor(record: logging.LogRecord) -> bool:
    """False for an exception in one of the vendor's callbacks, which goes to the vendor's log instead."""
    if not record.exc_info or record.exc_info[2] is None:
        return True
    frames = traceback.extract_tb(record.exc_info[2])
    if not any("/rocketmq/v5/" in frame.filename.replace(os.sep, "/") for frame in frames):
        return True
    logging.getLogger(LOGGER).warning("%s", record.exc_info[1])
    return False
