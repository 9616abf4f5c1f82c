"""The field's buffer form of float32 tables: 8 hex digits a cell, little endian bytes in memory order."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.errors import LinkError

CELL_BYTES = 4
_CELL_DIGITS = 2 * CELL_BYTES


def to_bytes(table: ArrayLike) -> bytes:
    """A table as it lies in the VCU's memory: row-major float32, little endian."""
    return np.ascontiguousarray(table, dtype="<f4").tobytes()


def from_bytes(data: bytes, columns: int) -> NDArray[np.float32]:
    """The inverse of ``to_bytes``, bit for bit, shape (rows, columns).

    Raises:
        LinkError: the bytes are no whole number of rows.
    """
    if columns < 1 or len(data) % (CELL_BYTES * columns):
        message = f"{len(data)} bytes are no whole number of rows of {columns} columns of float32"
        raise LinkError(message)
    return np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(-1, columns)


def to_hex(table: ArrayLike) -> str:
    """A table in the field's hex form."""
    return to_bytes(table).hex()


def from_hex(text: str, columns: int) -> NDArray[np.float32]:
    """The inverse of ``to_hex``, shape (rows, columns).

    Raises:
        LinkError: not 8 hex digits a cell, or no whole number of rows.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        message = f"a table in hex is {_CELL_DIGITS} hex digits a cell: {error}"
        raise LinkError(message) from error
    return from_bytes(data, columns)
