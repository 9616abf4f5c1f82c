"""Client of the remote CAN service: windows of a vehicle's signals, and rows of its torque map.

The calls run in an asyncio loop in a thread of its own, so that each has a limit that nothing exceeds, also
no peer that sends a byte a second, and can be ended from any thread at once.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from tspace_core.config import FLASHED_ROWS, Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import (
    ConfigError,
    ObjectAccessError,
    ObjectError,
    ObjectMissingError,
    ObjectServerError,
    RemoteCanError,
    TspaceError,
)
from tspace_core.link.remote_answer import Link, read_signals, read_window, require_done, shortened
from tspace_core.link.remote_codes import (
    NETWORK,
    NO_DATA,
    TIMEOUT,
    TORQUE_RANGE,
    TORQUE_SHAPE,
    UNKNOWN_FORM,
    WRONG_PARAMETER,
    remote_error,
)
from tspace_core.link.remote_http import Progress, ServiceConnection, service_url

T = TypeVar("T")

GET_SIGNAL = "get_signal"
SET_TORQUE = "set_torque"
_OBJECT_PAUSE_MAX_S = 1.0
_ON_PURPOSE = "nothing needs to be done: it was ended on purpose"


@dataclass
class _Call:
    """One call, while it waits for its turn and while it runs."""

    name: str
    limit_s: float
    progress: Progress = field(default_factory=Progress)
    reading: str = ""
    ended: str | None = None
    expired: bool = False


class RemoteCanClient:
    """One vehicle at the remote CAN service, over one connection; any thread may call.

    Calls take turns in the order in which they came; the limit of each counts from its turn.

    Args:
        vehicle: whose; its ``remote`` section gives tries, limits and allowed buckets.
        url: base URL; None: ``TSPACE_REMOTE__URL``.
        authorization: value of the Authorization header; None: ``TSPACE_REMOTE__AUTHORIZATION``.
        ca: PEM file of a private authority; None: ``TSPACE_REMOTE__CA``.

    Attributes:
        failures: failed calls by code.
        last_service_s: how much of the last call was waiting for the service, for the object storage and
            between tries; the rest of its time was our own.

    Raises:
        ConfigError: there is no URL, it is not safe, or the vehicle has no ``remote`` section.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        *,
        url: str | None = None,
        authorization: str | None = None,
        ca: Path | None = None,
    ) -> None:
        if vehicle.remote is None:
            message = (
                f"{vehicle.id} has no telematics box: add a `remote:` section to its file in conf/vehicles"
            )
            raise ConfigError(message)
        found = settings().remote
        base = url or _revealed(found.url)
        if base is None:
            message = f"no remote CAN service for {vehicle.id}: set TSPACE_REMOTE__URL to its base URL"
            raise ConfigError(message)
        self._vehicle, self._config = vehicle, vehicle.remote
        self._service = ServiceConnection(
            service_url(base, self._config, vehicle.id),
            authorization or _revealed(found.authorization),
            ca or found.ca,
            self._config,
        )
        self.failures: Counter[int] = Counter()
        self.last_service_s = 0.0
        self._lock = threading.Lock()
        self._refusing: str | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._turn = asyncio.Lock()
        self._tasks: dict[asyncio.Task[Any], _Call] = {}
        self._reader: asyncio.Future[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"remote-can {vehicle.id}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"RemoteCanClient({self._vehicle.id!r} at {self._service.place})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_signals(self, duration_s: float) -> dict[str, object]:
        """Ask for a window of the next ``duration_s`` seconds and wait for it.

        Returns:
            The ``result`` of the wire contract as it came, also where it lay in object storage; it is for
            ``decode_window``.

        Raises:
            RemoteCanError: with the code; 1002 after ``duration_s`` + ``remote.get_signal_margin_s``.
        """
        limit_s = duration_s + self._config.get_signal_margin_s
        call = _Call(GET_SIGNAL, limit_s)
        if not math.isfinite(duration_s) or duration_s <= 0:
            raise self._failed(call, remote_error(WRONG_PARAMETER, f"signal_duration is {duration_s}"))
        seconds = int(duration_s) if duration_s == int(duration_s) else duration_s
        content = _json({"vin": self._vehicle.vin, "signal_duration": seconds})

        async def work(deadline: float) -> dict[str, object]:
            body = await self._service.post(GET_SIGNAL, content, call.progress, deadline, repeat=True)
            answer = read_signals(body, self._config, self._vehicle.vin)
            if isinstance(answer, Link):
                answer = read_window(await self._object(answer, call, deadline), self._vehicle.vin)
            return answer

        return self._do(call, work)

    def send_torque_map(
        self, first_row: int, rows: NDArray[np.float32], *, timeout_s: float | None = None
    ) -> bool:
        """Have rows of the torque map flashed; when this returns, the service has confirmed them.

        Args:
            first_row: index of the first row on the vehicle's speed axis.
            rows: (4 or more, pedal columns) torques in Nm.
            timeout_s: longest wait; None: ``remote.set_torque_s``.

        Returns:
            Whether this was its only doing: False where an earlier try was answered by a status after which
            the service may carry it out still, a second time.

        Raises:
            RemoteCanError: with the code; its ``unchanged`` tells whether it is certain that nothing changed.
        """
        call = _Call(SET_TORQUE, self._config.set_torque_s if timeout_s is None else timeout_s)
        try:
            torque = self._checked(first_row, rows)
        except RemoteCanError as error:
            raise self._failed(call, error) from None
        content = _json(
            {
                "vin": self._vehicle.vin,
                "torque": torque,
                "abswitch": self._config.ab_switch,
                "start_line": int(first_row),
            }
        )

        async def work(deadline: float) -> None:
            # Not sent again where an answer was lost: what then is in the vehicle is for the guard to settle.
            body = await self._service.post(SET_TORQUE, content, call.progress, deadline, repeat=False)
            require_done(body, self._vehicle.vin)

        self._do(call, work)
        return not call.progress.before

    def abort(self, cause: str) -> None:
        """End the running call and those that wait; they and all later ones fail until ``resume``."""
        with self._lock:
            if self._closed:
                return
            self._refusing = f"calls were aborted: {cause}"
            self._loop.call_soon_threadsafe(self._end_all, self._refusing)

    def resume(self) -> None:
        """Allow calls again after ``abort``."""
        with self._lock:
            if not self._closed:
                self._refusing = None

    def close(self) -> None:
        """End every call, close the connection and end the thread. Twice, or by two threads, is no harm."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._refusing = "the client is closed"
                self._loop.call_soon_threadsafe(self._end_all, self._refusing)
                self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()

    # The caller's thread.

    def _do(self, call: _Call, work: Callable[[float], Awaitable[T]]) -> T:
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._refusing is None:
                self._loop.call_soon_threadsafe(self._begin, call, work, outcome)
            else:
                call.ended = self._refusing
                error = remote_error(NETWORK, call.ended, unchanged=True, next_step=_ON_PURPOSE)
                outcome.set_exception(error)
        try:
            return outcome.result()
        except RemoteCanError as error:
            raise self._failed(call, error) from error.__cause__

    def _failed(self, call: _Call, error: RemoteCanError) -> RemoteCanError:
        """The error as the caller gets it: named after vehicle and call, and counted."""
        with self._lock:
            self.failures[error.code] += 1
        message = f"{self._vehicle.id} {call.name}: {error}"
        return type(error)(message, error.code, unchanged=error.unchanged and not call.progress.before)

    def _checked(self, first_row: int, rows: NDArray[np.float32]) -> list[list[float]]:
        axes = self._vehicle.torque_map
        height, columns = len(axes.speed_axis_kmh), len(axes.pedal_axis)
        try:
            table = np.asarray(rows, np.float32)
        except (TypeError, ValueError) as error:
            raise remote_error(TORQUE_SHAPE, f"the rows are no table of numbers ({error})") from None
        if table.ndim != 2 or table.shape[0] < FLASHED_ROWS or table.shape[1] != columns:
            detail = f"the rows have the shape {table.shape}, expected ({FLASHED_ROWS} or more, {columns})"
            raise remote_error(TORQUE_SHAPE, detail)
        if not isinstance(first_row, (int, np.integer)) or not 0 <= first_row <= height - len(table):
            detail = f"{len(table)} rows from row {first_row} on, the map has the rows 0 to {height - 1}"
            raise remote_error(TORQUE_SHAPE, detail)
        if not np.isfinite(table).all():
            row, column = np.argwhere(~np.isfinite(table))[0]
            raise remote_error(
                TORQUE_RANGE, f"row {first_row + row}, column {column} is {table[row, column]}, no torque"
            )
        torque: list[list[float]] = table.astype(np.float64).tolist()
        return torque

    # The loop's thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _begin(
        self, call: _Call, work: Callable[[float], Awaitable[T]], outcome: "concurrent.futures.Future[T]"
    ) -> None:
        def finish(task: "asyncio.Task[T]") -> None:
            del self._tasks[task]
            if task.cancelled():  # before it had begun
                outcome.set_exception(self._ended(call))
            elif (error := task.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

        task = self._loop.create_task(self._in_turn(call, work))
        self._tasks[task] = call
        task.add_done_callback(finish)

    def _end_all(self, cause: str) -> None:
        # Cancelled once only: a second time would end the clean-up after the first, and with it the one
        # connection would be taken for ever.
        for task, call in self._tasks.items():
            if call.ended is None:
                call.ended = cause
                if not call.expired:
                    task.cancel()

    def _expire(self, call: _Call, task: "asyncio.Task[Any]") -> None:
        if call.ended is None:
            call.expired = True
            task.cancel()

    def _stop(self) -> None:
        async def stop() -> None:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            try:
                await self._service.close()
            finally:
                self._loop.stop()

        self._stopping = self._loop.create_task(stop())

    async def _in_turn(self, call: _Call, work: Callable[[float], Awaitable[T]]) -> T:
        try:
            async with self._turn:
                task = asyncio.current_task()
                assert task is not None
                timer = self._loop.call_later(call.limit_s, self._expire, call, task)
                try:
                    return await work(time.monotonic() + call.limit_s)
                except asyncio.CancelledError:
                    timer.cancel()
                    await self._service.renew()
                    raise
                finally:
                    timer.cancel()
                    self.last_service_s = call.progress.service_s
        except TimeoutError:
            raise self._timed_out(call) from None
        except asyncio.CancelledError:
            raise (self._timed_out(call) if call.expired else self._ended(call)) from None

    def _ended(self, call: _Call) -> RemoteCanError:
        cause = call.ended or "the call was cancelled"
        return remote_error(NETWORK, cause, unchanged=call.progress.unchanged, next_step=_ON_PURPOSE)

    def _timed_out(self, call: _Call) -> RemoteCanError:
        progress = call.progress
        where = call.reading or ("it was sent" if progress.sent else "it was not sent yet")
        before = f"; before that: {progress.last}" if progress.last else ""
        detail = f"not done within {call.limit_s:g} s, {where}{before}"
        code = NO_DATA if call.reading else TIMEOUT
        return remote_error(code, detail, unchanged=progress.unchanged)

    async def _object(self, link: Link, call: _Call, deadline: float) -> bytes:
        """Read a linked object, which may still be on its way into the storage."""
        pause_s, begun = self._config.backoff_s, time.monotonic()
        name = shortened(f"s3://{link.bucket}/{link.key}")
        call.reading = f"reading {name}"
        try:
            while True:
                try:
                    return await self._read(link)
                except (ObjectMissingError, ObjectServerError) as error:
                    call.progress.last = shortened(str(error))
                    if time.monotonic() + pause_s >= deadline:
                        detail = f"not there within {call.limit_s:g} s: {call.progress.last}"
                        raise remote_error(NO_DATA, detail) from error
                except ObjectAccessError as error:
                    raise remote_error(NO_DATA, str(error)) from error
                except ObjectError as error:
                    raise remote_error(UNKNOWN_FORM, str(error)) from error
                except TspaceError:
                    raise
                except Exception as error:  # a server that speaks S3 wrongly surprises the libraries, too
                    detail = f"{name} cannot be read ({type(error).__name__}: {shortened(str(error))})"
                    raise remote_error(UNKNOWN_FORM, detail) from error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _OBJECT_PAUSE_MAX_S)
        finally:
            call.progress.service_s += time.monotonic() - begun

    async def _read(self, link: Link) -> bytes:
        """Read an object in a thread, one at a time.

        A read that nobody waits for any more cannot be ended; its thread ends by the storage client's own
        limits, and does not keep the process alive.
        """
        if self._reader is not None:
            await asyncio.wait((self._reader,))
        reader: asyncio.Future[bytes] = self._loop.create_future()
        self._reader = reader
        limit = self._config.answer_bytes

        def settle(data: bytes | None, error: Exception | None) -> None:
            if reader.cancelled():
                return
            if error is None:
                assert data is not None
                reader.set_result(data)
            else:
                reader.set_exception(error)
                reader.exception()  # looked at: nobody may be waiting any more

        def read() -> None:
            from tspace_core.objects.store import ObjectStore

            data, failed = None, None
            try:
                data = ObjectStore(link.bucket).get(link.key, limit=limit)
            except Exception as error:
                failed = error  # belongs to the caller
            with contextlib.suppress(RuntimeError):  # the client was closed meanwhile
                self._loop.call_soon_threadsafe(settle, data, failed)

        threading.Thread(target=read, name=f"{self._thread.name} object", daemon=True).start()
        return await asyncio.shield(reader)


def _json(content: dict[str, object]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
