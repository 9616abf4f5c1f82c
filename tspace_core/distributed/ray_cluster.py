"""Finding, starting and leaving a Ray cluster.

``ray.init`` waits two minutes for an address that nobody answers, and then ends the process. So it is asked
first whether a head is there.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tspace_core.config import EngineConfig
from tspace_core.errors import EngineError

_HEALTH = "/grpc.health.v1.Health/Check"
_LONGEST_TEMP_DIR = 42
"""Characters: Ray puts 65 more behind it, and a Unix socket's path has at most 107."""


def import_ray() -> ModuleType:
    """Ray, without reports of its use, and with workers that stay in their folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray would forbid graphics cards to workers that ask for none, and warns that it will no longer.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    module: ModuleType = ray
    return module


class RayCluster:
    """A connection of this process to a cluster; what it started ends with ``close``.

    Where the process is connected already (dagster-ray's resources do it), that connection is used and left
    as it is.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._ours = False

    def connect(self) -> ModuleType:
        """Ray, connected.

        Raises:
            EngineError: nobody answers at the address, or no cluster can be started here.
        """
        ray = import_ray()
        if ray.is_initialized():
            return ray
        address = self._config.address
        if address not in (None, "auto"):
            check_answers(str(address), self._config.connect_timeout_s)
        try:
            with _own_signals():
                ray.init(**self._options())
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
            message = (
                f"{where} cannot be used: {error}; correct TSPACE_ENGINE__ADDRESS or start a head with "
                "'ray start --head', or train in one process with TSPACE_ENGINE__KIND=local"
            )
            raise EngineError(message) from error
        self._ours = True
        return ray

    def _options(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if config.address is not None:
            return {**options, "address": config.address}
        needed = max(config.workers * config.cpus_per_worker, config.actors * config.cpus_per_actor)
        return {
            **options,
            "address": "local",
            # As many as are asked for: with fewer cores they take turns, and the result is the same.
            "num_cpus": max(int(-(-needed // 1)), os.cpu_count() or 1),
            "object_store_memory": config.object_store_bytes,
            "include_dashboard": False,
            "_temp_dir": str(temp_dir(config)),
        }

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here; may be called twice."""
        if self._ours:
            self._ours = False
            ray = import_ray()
            with _own_signals():
                ray.shutdown()


def temp_dir(config: EngineConfig) -> Path:
    """Where a cluster on this machine keeps its sessions, logs and sockets.

    Raises:
        EngineError: the path is too long for sockets.
    """
    folder = config.temp_dir or Path(tempfile.gettempdir()) / f"tspace-ray-{os.getuid()}"
    if len(str(folder)) > _LONGEST_TEMP_DIR:
        message = (
            f"temp_dir of the engine is {folder}, {len(str(folder))} characters: Ray's sockets lie below it "
            f"and allow {_LONGEST_TEMP_DIR}; set TSPACE_ENGINE__TEMP_DIR to a shorter path"
        )
        raise EngineError(message)
    return folder


def check_answers(address: str, timeout_s: float) -> None:
    """Ask the head of a cluster whether it is there.

    Args:
        address: host:port of its GCS.
        timeout_s: for each of two questions.

    Raises:
        EngineError: it is not.
    """
    import grpc

    what_next = (
        "start one there with 'ray start --head', correct TSPACE_ENGINE__ADDRESS (host:port of the head's "
        "GCS, 6379 by default), or train in one process with TSPACE_ENGINE__KIND=local"
    )
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s):
            pass
    except OSError as error:
        message = f"no Ray head answers at {address} within {timeout_s:g} s ({error}); {what_next}"
        raise EngineError(message) from error
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_HEALTH)(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            message = f"what listens at {address} is no Ray head ({error.code().name}); {what_next}"
            raise EngineError(message) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers: Ray sets one for SIGTERM, which would take it from who started us."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            try:
                signal.signal(number, handler)
            except ValueError:  # not the main thread, where Ray sets none either
                break
