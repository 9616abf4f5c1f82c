"""Where readers collect frames until a batch is full."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tspace_core.can.frames import CLASSIC_BYTES, FD_BYTES, ID_MASK, UNKNOWN_BUS, FrameBatch

INT64_MAX = int(np.iinfo(np.int64).max)


class Columns(NamedTuple):
    """The columns of a `FrameBatch`, in a form that compiled code takes."""

    time: npt.NDArray[np.int64]
    bus: npt.NDArray[np.uint8]
    id: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint8]
    length: npt.NDArray[np.uint8]
    payload: npt.NDArray[np.uint8]


def bus_number(channel: int) -> int:
    """Bus of a channel counted from 0; `UNKNOWN_BUS` outside 0..254."""
    return channel if 0 <= channel < UNKNOWN_BUS else UNKNOWN_BUS


def _first_rows(columns: Columns, rows: int) -> Columns:
    return Columns(
        columns.time[:rows].copy(),
        columns.bus[:rows].copy(),
        columns.id[:rows].copy(),
        columns.flags[:rows].copy(),
        columns.length[:rows].copy(),
        columns.payload[:rows].copy(),
    )


class FrameBuilder:
    """Columns of `capacity` frames of which `count` are filled.

    Compiled code writes rows from `count` on into `columns` and the reader sets `count`; `append` writes one.
    `columns` must be taken anew after `append`, `widen` and `take`.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._allocate()

    def _allocate(self) -> None:
        rows = self.capacity
        self.count = 0
        self.columns = Columns(
            np.empty(rows, np.int64),
            np.empty(rows, np.uint8),
            np.empty(rows, np.uint32),
            np.empty(rows, np.uint8),
            np.empty(rows, np.uint8),
            np.empty((rows, CLASSIC_BYTES), np.uint8),
        )

    @property
    def full(self) -> bool:
        """No room for one more frame: `take` the batch."""
        return self.count == self.capacity

    def widen(self) -> None:
        """Makes room for payloads of CAN FD."""
        if self.columns.payload.shape[1] == FD_BYTES:
            return
        payload = np.zeros((self.capacity, FD_BYTES), np.uint8)
        payload[: self.count, :CLASSIC_BYTES] = self.columns.payload[: self.count]
        self.columns = self.columns._replace(payload=payload)

    def append(
        self, time: int, bus: int, identifier: int, flags: int, data: bytes = b"", length: int | None = None
    ) -> None:
        """Adds one frame.

        Args:
            time: ns on the log clock.
            bus: 0..255.
            identifier: without flag bits.
            flags: `FrameFlag` bits.
            data: payload; empty for a remote frame.
            length: where it is not the length of `data`, that is for a remote frame.

        Raises:
            ValueError: a value that no CAN frame can have.
        """
        if not 0 <= identifier <= ID_MASK:
            message = f"id {identifier:#x} is outside 0..{ID_MASK:#x}"
            raise ValueError(message)
        if len(data) > FD_BYTES:
            message = f"{len(data)} bytes of payload, a frame has at most {FD_BYTES}"
            raise ValueError(message)
        if not -INT64_MAX <= time <= INT64_MAX:
            message = f"stamp {time} ns is outside 64 bits"
            raise ValueError(message)
        if len(data) > CLASSIC_BYTES:
            self.widen()
        row, columns = self.count, self.columns
        columns.time[row] = time
        columns.bus[row] = bus
        columns.id[row] = identifier
        columns.flags[row] = flags
        columns.length[row] = len(data) if length is None else length
        columns.payload[row] = 0
        columns.payload[row, : len(data)] = np.frombuffer(data, np.uint8)
        self.count += 1

    def take(self) -> FrameBatch:
        """The frames so far as a batch; the builder is empty after."""
        rows = self.count
        batch = FrameBatch(*self.columns) if self.full else FrameBatch(*_first_rows(self.columns, rows))
        self._allocate()
        return batch
