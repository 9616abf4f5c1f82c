"""The one batch form that all log readers give: CAN frames as columns, in log order."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tspace_core.errors import LogError

ID_MASK = 0x1FFFFFFF
CLASSIC_BYTES = 8
FD_BYTES = 64
UNKNOWN_BUS = 255
"""Bus of a frame whose log names no channel, or one that has no place in 0..254."""


class FrameFlag(IntFlag):
    """What a frame is, beside its id and its bytes."""

    EXTENDED = 1
    """29-bit id. An error frame that has no id of its own carries it too, as python-can's do."""
    REMOTE = 2
    """Asks for data and has none: `length` is the length asked for, the payload is zero."""
    ERROR = 4
    """The controller saw an error; its id and bytes describe the error, they are no signals."""
    FD = 8
    BRS = 16
    """CAN FD: the data phase had the faster bit rate."""
    ESI = 32
    """CAN FD: the sender was error passive."""
    TX = 64
    """Sent by the recorder itself."""


_COLUMNS: dict[str, type[np.generic]] = {
    "time": np.int64,
    "bus": np.uint8,
    "id": np.uint32,
    "flags": np.uint8,
    "length": np.uint8,
}


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """n CAN frames in log order.

    Attributes:
        time: int64[n], ns on the log's own clock, as it stands in the log; it may repeat and jump back.
        bus: uint8[n], numbered from 0; `UNKNOWN_BUS` where the log names none.
        id: uint32[n], arbitration id without flag bits.
        flags: uint8[n], `FrameFlag` bits.
        length: uint8[n], bytes of payload; for a remote frame the length it asks for.
        payload: uint8[n, w], zero padded; w is 8, or 64 where a frame of the batch is longer than 8 bytes.

    Raises:
        LogError: a column has another type or shape.
    """

    time: npt.NDArray[np.int64]
    bus: npt.NDArray[np.uint8]
    id: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint8]
    length: npt.NDArray[np.uint8]
    payload: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        count = len(self.time)
        for name, dtype in _COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != (count,):
                message = (
                    f"FrameBatch.{name} is {column.dtype}{list(column.shape)}, expected "
                    f"{np.dtype(dtype)}[{count}] (as long as `time`); build batches with FrameBuilder"
                )
                raise LogError(message)
        widths = ((count, CLASSIC_BYTES), (count, FD_BYTES))
        if self.payload.dtype != np.uint8 or self.payload.shape not in widths:
            message = (
                f"FrameBatch.payload is {self.payload.dtype}{list(self.payload.shape)}, expected "
                f"uint8[{count}, {CLASSIC_BYTES}] or [{count}, {FD_BYTES}]; build batches with FrameBuilder"
            )
            raise LogError(message)

    def __len__(self) -> int:
        return len(self.time)

    def select(self, index: npt.NDArray[Any] | slice) -> Self:
        """The frames at `index` (a mask, positions or a slice), with the same payload width."""
        if isinstance(index, np.ndarray) and index.dtype != np.bool_:
            # eight times as fast as indexing rows of 8 bytes
            payload = self.payload.take(index, axis=0)
        else:
            payload = self.payload[index]
        return type(self)(
            self.time[index],
            self.bus[index],
            self.id[index],
            self.flags[index],
            self.length[index],
            payload,
        )

    @classmethod
    def concat(cls, batches: Iterable["FrameBatch"]) -> Self:
        """All frames of `batches` behind one another; an empty batch where there are none."""
        parts = [batch for batch in batches if len(batch)]
        if not parts:
            return cls.empty()
        width = max(part.payload.shape[1] for part in parts)
        payload = np.zeros((sum(map(len, parts)), width), np.uint8)
        row = 0
        for part in parts:
            payload[row : row + len(part), : part.payload.shape[1]] = part.payload
            row += len(part)
        return cls(
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.bus for part in parts]),
            np.concatenate([part.id for part in parts]),
            np.concatenate([part.flags for part in parts]),
            np.concatenate([part.length for part in parts]),
            payload,
        )

    @classmethod
    def empty(cls) -> Self:
        """A batch of no frames."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.uint8),
            np.empty(0, np.uint32),
            np.empty(0, np.uint8),
            np.empty(0, np.uint8),
            np.empty((0, CLASSIC_BYTES), np.uint8),
        )
