"""Random DBC files and an oracle that decodes with cantools, for the tests of this area."""

import math
import struct
from typing import Any

import numpy as np
from cantools.database.can import Database, Message, Signal
from cantools.database.conversion import BaseConversion
from cantools.database.utils import decode_data

FLOAT_BITS = (32, 64)  # cantools writes no other into a DBC


class RandomMessage:
    """Places random signals in a message of random length; multiplexed ones share bits, others never."""

    def __init__(self, generator: np.random.Generator, number: int) -> None:
        self.generator = generator
        self.length = int(generator.choice([1, 2, 3, 5, 7, 8, 8, 8, 12, 20, 64]))
        self.signals: list[Signal] = []
        taken: set[int] = set()
        for _ in range(int(generator.integers(1, 6))):
            self.add(taken)
        if generator.random() < 0.6:
            self.multiplex(taken, depth=int(generator.integers(1, 3)))
        extended = bool(generator.random() < 0.3)
        self.message = Message(
            0x100 + number + (0x10000 if extended else 0),
            f"M{number}",
            self.length,
            self.signals,
            is_extended_frame=extended,
        )

    def multiplex(self, taken: set[int], depth: int, above: tuple[str, list[int]] | None = None) -> None:
        selector = self.add(taken, above=above, multiplexer=True)
        if selector is None:
            return
        for value in self.generator.choice(
            1 << selector.length, size=min(3, 1 << selector.length), replace=False
        ):
            branch = set(taken)
            ids = [int(value)]
            for _ in range(int(self.generator.integers(1, 4))):
                self.add(branch, above=(selector.name, ids))
            if depth > 1 and self.generator.random() < 0.7:
                self.multiplex(branch, depth - 1, above=(selector.name, ids))

    def add(
        self, taken: set[int], *, above: tuple[str, list[int]] | None = None, multiplexer: bool = False
    ) -> Signal | None:
        generator = self.generator
        is_float = bool(generator.random() < 0.2) and not multiplexer
        for _ in range(20):
            longest = 4 if multiplexer else min(64, 8 * self.length)
            length = (
                int(generator.choice(FLOAT_BITS)) if is_float else int(generator.integers(1, longest + 1))
            )
            little = bool(generator.random() < 0.5)
            first = int(generator.integers(0, 8 * self.length))
            order = range(first, first + length)
            bits = set(order) if little else {8 * (bit // 8) + 7 - bit % 8 for bit in order}
            if order[-1] < 8 * self.length and not bits & taken:
                break
        else:
            return None
        taken |= bits
        scale, offset = (1, 0) if multiplexer else self.scaling()
        signal = Signal(
            f"S{len(self.signals)}",
            first if little else 8 * (first // 8) + 7 - first % 8,
            length,
            "little_endian" if little else "big_endian",
            is_signed=bool(generator.random() < 0.5) and not multiplexer and not is_float,
            conversion=BaseConversion.factory(scale, offset, None, is_float),
            is_multiplexer=multiplexer,
            multiplexer_ids=above[1] if above else None,
            multiplexer_signal=above[0] if above else None,
        )
        self.signals.append(signal)
        return signal

    def scaling(self) -> tuple[float, float]:
        generator = self.generator
        kind = generator.integers(0, 6)
        if kind == 0:
            return 1, 0
        if kind == 1:
            return int(generator.integers(-9, 10)) or 1, int(generator.integers(-1000, 1000))
        if kind == 2:
            return 0.1, -40
        if kind == 3:
            return 3, 0.5
        return float(f"{generator.normal():.6g}"), float(f"{generator.normal(scale=100):.6g}")


def random_database(generator: np.random.Generator, messages: int) -> Database:
    return Database([RandomMessage(generator, number).message for number in range(messages)])


def reference(message: Message, data: bytes) -> dict[str, float]:
    """What cantools decodes, with its error on an unknown multiplexer value turned into absence."""
    codec: Any = message._codecs
    return _branch(message, codec, data)


def _branch(message: Message, codec: Any, data: bytes) -> dict[str, float]:
    found: dict[str, Any] = decode_data(
        data, message.length, codec["signals"], codec["formats"], False, True, True, True
    )
    for name, branches in codec["multiplexers"].items():
        if name in found and int(found[name]) in branches:
            found |= _branch(message, branches[int(found[name])], data)
    return found


def same_bits(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return struct.pack("<d", one) == struct.pack("<d", other)


def payloads(
    generator: np.random.Generator, count: int, longest: int
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Random payloads with many zeros and ones, zero padded, and their lengths."""
    width = 8 if longest <= 8 else 64
    payload = generator.integers(0, 256, (count, width), dtype=np.uint8)
    payload[generator.random(payload.shape) < 0.15] = 0
    payload[generator.random(payload.shape) < 0.15] = 255
    length = np.where(generator.random(count) < 0.7, longest, generator.integers(0, longest + 1, count))
    payload[np.arange(width) >= length[:, None]] = 0
    return payload, length.astype(np.uint8)
