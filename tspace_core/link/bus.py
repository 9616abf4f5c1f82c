"""One CAN bus shared by the parts of a process: one reader, many subscribers, any thread may send.

``SharedBus`` is what the bridge, the XCP master and the twin's nodes use; which interface lies below
(docs/bus.md) is the vehicle's config and nothing above knows it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import can

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.opening import describe, is_overflow, open_bus

_log = logging.getLogger(__name__)

FD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)
"""Payload lengths of CAN FD frames in bytes; classic CAN has the first nine."""

_CLASSIC_BYTES = 8
_STANDARD_IDS = 0x7FF
_EXTENDED_IDS = 0x1FFFFFFF
_LISTEN_S = 0.05
"""Longest wait for a frame before the reader looks whether the bus is to be closed."""
_ROOM_S = 0.1
"""Longest wait for room in a full transmit buffer: some 400 frames at 500 kbit/s."""
_RETRY_S = 0.001
_CLOSE_S = 2.0

_Callback = Callable[[can.Message], None]
_OnError = Callable[[BusError], None]


@dataclass(frozen=True, slots=True)
class BusCounters:
    """What happened on a bus since it was opened.

    Attributes:
        rx: data frames heard and given to the subscribers that want them.
        tx: frames sent.
        filtered: data frames heard whose id is not among the bus' ``ids`` (0 where the driver filters).
        error_frames: error frames heard.
        remote_frames: remote frames heard; nothing answers them.
        refused: frames and datagrams that contradict themselves or the config, as a wrong length or FD on a
            classic bus.
        own: frames of this bus that came back and were dropped.
        tx_failed: frames that could not be sent.
        callbacks_failed: subscribers that raised and were unsubscribed.
        last_error: the last failure in words, empty if there was none.
    """

    rx: int = 0
    tx: int = 0
    filtered: int = 0
    error_frames: int = 0
    remote_frames: int = 0
    refused: int = 0
    own: int = 0
    tx_failed: int = 0
    callbacks_failed: int = 0
    last_error: str = ""


class Subscription:
    """What ``SharedBus.subscribe`` returns; ``cancel`` ends it."""

    def __init__(
        self,
        bus: "SharedBus",
        callback: _Callback,
        ids: frozenset[int] | None,
        on_error: _OnError | None,
    ) -> None:
        self._bus = bus
        self.callback = callback
        self.ids = ids
        self._on_error = on_error
        self._told = threading.Lock()

    def cancel(self) -> None:
        """End it, from any thread, as often as you like; a frame under way may still arrive."""
        self._bus._unsubscribe(self)

    def _tell(self, error: BusError) -> None:
        """Call ``on_error``, at most once in a subscription's life."""
        if self._on_error is None or not self._told.acquire(blocking=False):
            return
        try:
            self._on_error(error)
        except Exception:
            _log.exception("on_error of a subscriber failed")


_Routes = tuple[dict[int, tuple[Subscription, ...]], tuple[Subscription, ...]]
"""Who wants a frame: by id (with those who want all), and for every other id."""


class SharedBus:
    """A CAN bus that hears continuously and lets any thread send.

    Args:
        config: the vehicle's bus.
        ids: arbitration ids that matter, 11 and 29 bits alike; others are dropped as early as the interface
            can. None: all.

    Callbacks run on the reader's thread: they must be quick and must not wait for another frame. A frame
    that this object sent is not given to its subscribers. Nothing piles up behind a slow callback: where the
    driver's buffer is full, the oldest frames are lost.

    Raises:
        BusError: the bus cannot be opened; one sentence with what to do.
    """

    def __init__(self, config: BusConfig, *, ids: Collection[int] | None = None) -> None:
        self.config = config
        self.name = describe(config)
        self._ids = None if ids is None else frozenset(ids)
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._released = False
        self._error: BusError | None = None
        self._subscriptions: tuple[Subscription, ...] = ()
        self._routes: _Routes = ({}, ())
        self._rx = self._tx = self._filtered = self._refused = 0
        self._error_frames = self._remote_frames = self._tx_failed = self._callbacks_failed = 0
        self._last_error = ""
        self._bus = open_bus(config, self._ids)
        self._reader = threading.Thread(target=self._listen, name=f"bus {self.name}", daemon=True)
        self._reader.start()

    @property
    def error(self) -> BusError | None:
        """Why the bus is lost; None while it is heard."""
        return self._error

    @property
    def counters(self) -> BusCounters:
        """What happened so far."""
        return BusCounters(
            rx=self._rx,
            tx=self._tx,
            filtered=self._filtered,
            error_frames=self._error_frames,
            remote_frames=self._remote_frames,
            refused=self._refused + getattr(self._bus, "refused", 0),
            own=getattr(self._bus, "own", 0),
            tx_failed=self._tx_failed,
            callbacks_failed=self._callbacks_failed,
            last_error=self._last_error or getattr(self._bus, "last_refusal", ""),
        )

    def subscribe(
        self,
        callback: Callable[[can.Message], None],
        ids: Collection[int] | None = None,
        on_error: Callable[[BusError], None] | None = None,
    ) -> Subscription:
        """Have ``callback`` called with every data frame heard from now on.

        Args:
            callback: gets the frame on the reader's thread. One that raises is unsubscribed, counted and its
                ``on_error`` told; the others go on.
            ids: arbitration ids wanted; None: all that the bus hears.
            on_error: called once, with the first cause, when the bus is lost (at once if it is lost already).

        Raises:
            BusError: the bus is closed.
        """
        subscription = Subscription(self, callback, None if ids is None else frozenset(ids), on_error)
        with self._lock:
            if self._closing.is_set():
                message = f"{self.name} is closed: open it again before subscribing"
                raise BusError(message)
            self._index((*self._subscriptions, subscription))
            error = self._error
        if error is not None:
            subscription._tell(error)
        return subscription

    def send(self, id: int, data: bytes, *, extended: bool = False, fd: bool | None = None) -> None:
        """Put a data frame on the bus.

        Args:
            id: arbitration id, 11 bits, or 29 with ``extended``.
            data: at most 8 bytes, or one of ``FD_LENGTHS`` in an FD frame.
            extended: a 29-bit id.
            fd: an FD frame with the data rate switched; None: as the bus is. False sends a classic frame on
                an FD bus.

        Raises:
            BusError: the frame is impossible, or the bus is closed, lost or full.
        """
        fd = self.config.fd if fd is None else fd
        self._check(id, data, extended=extended, fd=fd)
        frame = can.Message(
            arbitration_id=id, data=data, is_extended_id=extended, is_fd=fd, bitrate_switch=fd, is_rx=False
        )
        with self._send_lock:
            if self._closing.is_set() or self._error is not None:
                cause = self._error or f"{self.name} is closed: open it again"
                message = f"frame {id:#x} was not sent: {cause}"
                raise BusError(message) from self._error
            try:
                self._put(frame)
            except Exception as error:
                self._tx_failed += 1
                self._last_error = _reason(error)
                message = (
                    f"frame {id:#x} was not sent on {self.name}: {_reason(error)}; check its cable, "
                    "termination and bitrate, and that another node acknowledges frames"
                )
                raise BusError(message) from error
            self._tx += 1

    def close(self) -> None:
        """Stop hearing and release the interface; from any thread, also in a callback, and twice."""
        with self._lock:
            self._closing.set()
            self._index(())
        if threading.current_thread() is not self._reader:
            self._reader.join(_CLOSE_S)
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, id: int, data: bytes, *, extended: bool, fd: bool) -> None:
        message = ""
        highest = _EXTENDED_IDS if extended else _STANDARD_IDS
        if not 0 <= id <= highest:
            message = f"id {id:#x} is outside 0..{highest:#x}; 29-bit ids need extended=True"
        elif fd and not self.config.fd:
            message = (
                f"{self.name} is a classic bus: set fd and data_bitrate of the vehicle's bus for FD frames"
            )
        elif not fd and len(data) > _CLASSIC_BYTES:
            message = f"{len(data)} bytes do not fit into a classic frame: at most 8, or an FD bus"
        elif len(data) not in FD_LENGTHS:
            message = f"{len(data)} bytes are no length of an FD frame: pad to one of {FD_LENGTHS}"
        if message:
            message = f"frame {id:#x} was not sent: {message}"
            raise BusError(message)

    def _put(self, frame: can.Message) -> None:
        """Send; where the transmit buffer is full, wait a little for room."""
        deadline = time.monotonic() + _ROOM_S
        while True:
            try:
                self._bus.send(frame)
            except Exception as error:
                if not is_overflow(error) or time.monotonic() > deadline or self._closing.wait(_RETRY_S):
                    raise
            else:
                return

    def _index(self, subscriptions: tuple[Subscription, ...]) -> None:
        """Make the table that the reader looks in; replaced whole, so that it needs no lock."""
        ids = {id for one in subscriptions for id in one.ids or ()}
        self._subscriptions = subscriptions
        by_id = {id: tuple(one for one in subscriptions if one.ids is None or id in one.ids) for id in ids}
        self._routes = (by_id, tuple(one for one in subscriptions if one.ids is None))

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._index(tuple(one for one in self._subscriptions if one is not subscription))

    def _listen(self) -> None:
        try:
            while not self._closing.is_set():
                frame = self._bus.recv(_LISTEN_S)
                if frame is not None:
                    self._take(frame)
        except Exception as error:  # drivers raise what they like
            if not self._closing.is_set():
                self._lose(error)
        finally:
            self._release()

    def _take(self, frame: can.Message) -> None:
        if frame.is_error_frame:
            self._error_frames += 1
            return
        if frame.is_remote_frame:
            self._remote_frames += 1
            return
        if self._ids is not None and frame.arbitration_id not in self._ids:
            self._filtered += 1
            return
        if (fault := self._fault(frame)) is not None:
            self._refused += 1
            self._last_error = f"frame {frame.arbitration_id:#x} refused: {fault}"
            return
        self._rx += 1
        by_id, everything = self._routes
        for subscription in by_id.get(frame.arbitration_id, everything):
            try:
                subscription.callback(frame)
            except Exception as error:
                self._drop(subscription, error)

    def _fault(self, frame: can.Message) -> str | None:
        if frame.is_fd and not self.config.fd:
            return "an FD frame on a bus configured as classic"
        length = len(frame.data)
        if length != frame.dlc:
            return f"{length} bytes where its length says {frame.dlc}"
        if length > _CLASSIC_BYTES and (not frame.is_fd or length not in FD_LENGTHS):
            return f"{length} bytes"
        return None

    def _drop(self, subscription: Subscription, error: Exception) -> None:
        """A subscriber that raised does not cost the others their frames."""
        self._callbacks_failed += 1
        self._last_error = f"a subscriber failed: {_reason(error)}"
        _log.error("%s: a subscriber failed and hears no more", self.name, exc_info=error)
        subscription.cancel()
        told = BusError(f"{self.name}: this subscriber failed and hears no more: {_reason(error)}")
        told.__cause__ = error
        subscription._tell(told)

    def _lose(self, error: Exception) -> None:
        lost = BusError(
            f"{self.name} is lost: {_reason(error)}; check its cable and power, then open it again"
        )
        lost.__cause__ = error
        self._last_error = str(lost)
        with self._lock:
            self._error = lost
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription._tell(lost)

    def _release(self) -> None:
        with self._send_lock:
            if self._released:
                return
            self._released = True
            try:
                self._bus.shutdown()
            except Exception as error:  # a bus that is gone cannot be shut down in order
                _log.info("%s was not closed in order: %s", self.name, _reason(error))


def _reason(error: BaseException) -> str:
    """The error's words and those of what caused it."""
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(parts))
