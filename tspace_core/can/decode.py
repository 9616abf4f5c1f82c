"""Payloads of one message to physical values, all frames at once, bit for bit as cantools decodes them.

The same float operations in the same order: ``raw * scale + offset`` in doubles. cantools scales whole
numbers by whole factors as unlimited integers; where a double cannot follow (beyond 2**53) these few signals
take the same integers here. Where cantools raises, a value is absent instead: a frame too short for a signal
(as with ``allow_truncated=True``), or a multiplexer value that the database does not know.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tspace_core.can import kernels
from tspace_core.can.layout import MessageLayout, SignalLayout

Payload = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One signal of n frames.

    Attributes:
        value: float64[n], physical; NaN where absent.
        present: bool[n].
        too_short: bool[n], absent because the frame ends before it, or before its multiplexer.
        unknown_multiplexer: bool[n], absent because the database lacks the multiplexer's value.
    """

    value: Floats
    present: Mask
    too_short: Mask
    unknown_multiplexer: Mask


def decode(
    layout: MessageLayout, payload: Payload, length: Lengths, signals: Iterable[str] | None = None
) -> dict[str, tuple[Floats, Mask]]:
    """Decode the frames of one message.

    Args:
        layout: of the message.
        payload: uint8[n, 8] or uint8[n, 64], zero padded.
        length: uint8[n], bytes of each payload.
        signals: names of the signals wanted; None: all.

    Returns:
        For each signal its values float64[n] (NaN where absent) and whether it is present bool[n].

    Raises:
        DatabaseError: a name is not in the layout.
    """
    decoded = decode_signals(layout, payload, length, layout.signals if signals is None else signals)
    return {name: (one.value, one.present) for name, one in decoded.items()}


def decode_signals(
    layout: MessageLayout, payload: Payload, length: Lengths, signals: Iterable[str]
) -> dict[str, Decoded]:
    """As ``decode``, and why a value is absent."""
    wanted = list(dict.fromkeys(signals))
    work = _Work(layout, np.ascontiguousarray(payload), length)
    return {name: work.signal(name) for name in wanted}


class _Work:
    """One call's frames; multiplexers are decoded once."""

    def __init__(self, layout: MessageLayout, payload: Payload, length: Lengths) -> None:
        self.layout = layout
        self.payload = payload
        self.length = length
        self.count = len(length)
        self.shortest = 8 * int(length.min()) if self.count else 0
        self.done: dict[str, Decoded] = {}
        self.words = payload.view("<u8")[:, 0] if payload.shape[1] == 8 else None
        self.swapped: npt.NDArray[np.uint64] | None = None
        self.none = np.zeros(self.count, np.bool_)
        self.all = np.ones(self.count, np.bool_)

    def signal(self, name: str) -> Decoded:
        if name not in self.done:
            self.done[name] = self._decode(self.layout.signal(name))
        return self.done[name]

    def _decode(self, signal: SignalLayout) -> Decoded:
        inside = signal.end_bit <= 8 * self.payload.shape[1]
        value = self._values(signal) if inside else np.full(self.count, np.nan)
        if signal.multiplexer is None and inside and self.shortest >= signal.end_bit:
            return Decoded(value, self.all, self.none, self.none)
        short = self.length.astype(np.int64) * 8 < signal.end_bit if inside else self.all
        unknown = self.none
        present = ~short
        if signal.multiplexer is not None:
            above = self.signal(signal.multiplexer)
            with np.errstate(invalid="ignore"):
                number = np.where(above.present, above.value, 0.0).astype(np.int64)
            chosen = above.present & _among(number, signal.multiplexer_ids)
            known = _among(number, self.layout.multiplexer_ids.get(signal.multiplexer, frozenset()))
            unknown = above.unknown_multiplexer | (above.present & ~known)
            short = above.too_short | (chosen & short)
            present = chosen & ~short
        value[~present] = np.nan
        return Decoded(value, present, short, unknown)

    def _values(self, signal: SignalLayout) -> Floats:
        if signal.needs_integers:
            return _integer_values(self.payload, signal)
        words, shift = self._bits(signal)
        if signal.is_float:
            return _float_values(words, shift, signal)
        out = np.empty(self.count, np.float64)
        mask = (1 << signal.length) - 1
        sign = 1 << (signal.length - 1) if signal.signed else 0
        scale, offset = float(signal.scale), float(signal.offset)
        if signal.length < 32:
            kernels.scale_narrow(words, shift, mask, sign, scale, offset, out)
        elif signal.signed:
            kernels.scale_signed(words, shift, np.uint64(mask), np.uint64(sign), scale, offset, out)
        else:
            kernels.scale_unsigned(words, shift, np.uint64(mask), scale, offset, out)
        return out

    def _bits(self, signal: SignalLayout) -> tuple[npt.NDArray[np.uint64], int]:
        """Words and the shift at which the signal's lowest bit stands in them."""
        if self.words is None:
            words = np.empty(self.count, np.uint64)
            gather = kernels.gather_little if signal.little_endian else kernels.gather_big
            gather(self.payload, signal.first_bit, signal.length, words)
            return words, 0
        if signal.little_endian:
            return self.words, signal.start
        if self.swapped is None:
            self.swapped = self.words.byteswap()
        return self.swapped, 64 - signal.end_bit


def _float_values(words: npt.NDArray[np.uint64], shift: int, signal: SignalLayout) -> Floats:
    bits = (words >> np.uint64(shift)) & np.uint64((1 << signal.length) - 1)
    kind = {16: (np.uint16, np.float16), 32: (np.uint32, np.float32), 64: (np.uint64, np.float64)}
    whole, real = kind[signal.length]
    with np.errstate(invalid="ignore", over="ignore"):
        value = bits.astype(whole).view(real).astype(np.float64)
        return value if signal.is_identity else value * float(signal.scale) + float(signal.offset)


def _integer_values(payload: Payload, signal: SignalLayout) -> Floats:
    """Signals whose scaling needs more than a double: as integers without limit, frame by frame."""
    width = payload.shape[1]
    sign = 1 << (signal.length - 1) if signal.signed else 0
    mask = (1 << signal.length) - 1
    out = np.empty(len(payload), np.float64)
    for row, data in enumerate(payload):
        if signal.little_endian:
            word = int.from_bytes(data.tobytes(), "little") >> signal.start
        else:
            word = int.from_bytes(data.tobytes(), "big") >> (8 * width - signal.end_bit)
        out[row] = signal.physical(((word & mask) ^ sign) - sign)
    return out


def _among(number: npt.NDArray[np.int64], ids: frozenset[int]) -> Mask:
    if len(ids) == 1:
        return np.equal(number, next(iter(ids)))
    return np.isin(number, np.fromiter(ids, np.int64, len(ids)))
