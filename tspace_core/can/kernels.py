"""Bits of payloads to numbers, compiled: one loop a signal over the frames of one message.

A payload of 8 bytes is one 64-bit word, so a signal is a shift and a mask. Longer payloads give up to 9 bytes
to a word first. Whole numbers of up to 31 bits are turned to doubles from 32 bits, which vectorises.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tspace_core.compiled import compiled

Word = int | np.uint64
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


@compiled
def scale_narrow(
    words: Any, shift: int, mask: Word, sign: Word, scale: float, offset: float, out: Any
) -> None:
    """``out = raw * scale + offset`` for raw values of up to 31 bits; ``sign`` is their sign bit or 0."""
    right, low, flip = np.uint64(shift), np.uint64(mask), np.uint64(sign)
    for i in range(words.size):
        raw = ((words[i] >> right) & low) ^ flip
        out[i] = np.float64(np.int32(np.int64(raw) - np.int64(flip))) * scale + offset


@compiled
def scale_unsigned(words: Any, shift: int, mask: Word, scale: float, offset: float, out: Any) -> None:
    """``out = raw * scale + offset`` for unsigned raw values of up to 64 bits."""
    right, low = np.uint64(shift), np.uint64(mask)
    for i in range(words.size):
        out[i] = np.float64((words[i] >> right) & low) * scale + offset


@compiled
def scale_signed(
    words: Any, shift: int, mask: Word, sign: Word, scale: float, offset: float, out: Any
) -> None:
    """``out = raw * scale + offset`` for signed raw values of up to 64 bits."""
    right, low, flip = np.uint64(shift), np.uint64(mask), np.uint64(sign)
    for i in range(words.size):
        raw = ((words[i] >> right) & low) ^ flip
        out[i] = np.float64(np.int64(raw - flip)) * scale + offset


@compiled
def gather_little(payload: Any, start: int, length: int, out: Any) -> None:
    """The ``length`` <= 64 bits from little endian bit ``start`` on, at the low end of each word."""
    first, shift = start // 8, start % 8
    count = min((shift + length + 7) // 8, 8)
    for i in range(payload.shape[0]):
        word = np.uint64(0)
        for k in range(count):
            word |= np.uint64(payload[i, first + k]) << np.uint64(8 * k)
        word >>= np.uint64(shift)
        if shift + length > 64:
            word |= np.uint64(payload[i, first + 8]) << np.uint64(64 - shift)
        out[i] = word


@compiled
def gather_big(payload: Any, first_bit: int, length: int, out: Any) -> None:
    """The ``length`` <= 64 bits from big endian bit ``first_bit`` on, at the low end of each word."""
    end = first_bit + length
    last, shift = (end - 1) // 8, (8 - end % 8) % 8
    count = min((length + shift + 7) // 8, 8)
    for i in range(payload.shape[0]):
        word = np.uint64(0)
        for k in range(count):
            word |= np.uint64(payload[i, last - k]) << np.uint64(8 * k)
        word >>= np.uint64(shift)
        if shift + length > 64:
            word |= np.uint64(payload[i, last - 8]) << np.uint64(64 - shift)
        out[i] = word


@compiled
def group_rows(ids: Any, flags: Any, refused: int, standard: Any, extended: Any, rows: Any) -> Any:
    """Sort the rows of a batch by wanted message, keeping their order, in two passes.

    Args:
        ids: uint32[n].
        flags: uint8[n]; bit 0 is the extended flag.
        refused: flag bits of frames that carry no signals.
        standard: int32[2048], slot of each 11-bit id or -1.
        extended: uint32[m], wanted 29-bit ids, ascending; their slots follow those of the standard ids.
        rows: int64[n], written: rows of slot 0, then of slot 1, ...

    Returns:
        int64[slots + 1], where the rows of each slot begin; ``slots`` is the largest slot + 1.
    """
    base = np.int64(0)
    for slot in standard:
        base = max(base, np.int64(slot) + 1)
    slots = base + extended.size
    starts = np.zeros(slots + 1, np.int64)
    slot_of = np.empty(ids.size, np.int32)
    for i in range(ids.size):
        slot = np.int32(-1)
        if flags[i] & refused == 0:
            if flags[i] & 1:
                k = np.searchsorted(extended, ids[i]) if extended.size else 0
                if k < extended.size and extended[k] == ids[i]:
                    slot = np.int32(base + k)
            elif ids[i] < 2048:
                slot = standard[ids[i]]
        slot_of[i] = slot
        if slot >= 0:
            starts[slot + 1] += 1
    for k in range(slots):
        starts[k + 1] += starts[k]
    place = starts.copy()
    for i in range(ids.size):
        slot = slot_of[i]
        if slot >= 0:
            rows[place[slot]] = i
            place[slot] += 1
    return starts


@compiled
def order_by_id(ids: Any, order: Any) -> None:
    """Write the stable order of uint32[n] ids to int64[n] ``order``: three passes of a radix sort."""
    spare = np.empty_like(order)
    for i in range(ids.size):
        spare[i] = i
    source, target = spare, order
    for digit in range(3):
        shift = np.uint32(11 * digit)
        starts = np.zeros((1 << 11) + 1, np.int64)
        for i in range(ids.size):
            starts[((ids[i] >> shift) & np.uint32(0x7FF)) + 1] += 1
        for k in range(1 << 11):
            starts[k + 1] += starts[k]
        for i in range(ids.size):
            row = source[i]
            place = (ids[row] >> shift) & np.uint32(0x7FF)
            target[starts[place]] = row
            starts[place] += 1
        source, target = target, source


@compiled
def newest(times: Any, rows: Any, position: Any, age: Any) -> None:
    """For each row the last sample at or before it, in one walk over both.

    Args:
        times: int64[m], ns, stamps of samples, not descending.
        rows: int64[n], ns, ascending.
        position: int64[n], written: number of the sample, -1 where there is none.
        age: float32[n], written: s since the sample, NaN where there is none.
    """
    following = 0
    for i in range(rows.size):
        while following < times.size and times[following] <= rows[i]:
            following += 1
        position[i] = following - 1
        age[i] = (rows[i] - times[following - 1]) / 1e9 if following else np.nan


@compiled
def carry(times: Any, values: Any, position: Any, rows: Any, max_age_ns: int, out: Any) -> None:
    """``out`` = value of the sample at ``position`` of each row; NaN without one, or where it is too old."""
    for i in range(rows.size):
        k = position[i]
        out[i] = values[k] if k >= 0 and rows[i] - times[k] <= max_age_ns else np.nan
