"""Compiled scanning of log text: small steps over a uint8 buffer whose last byte is a line feed.

Each step takes a position and returns where it ended, or -1 where the text is not what it looks for. The line
feed at the end of the buffer is no digit and no blank, so no step runs over it.
"""

import numpy as np
import numpy.typing as npt

from tspace_core.compiled import compiled

Buffer = npt.NDArray[np.uint8]

DONE, FULL, SLOW = 0, 1, 2
"""Why a line parser stopped: at the end of the buffer, of the batch, or at a line that it does not know."""

LINE_FEED, RETURN, TAB, SPACE = 10, 13, 9, 32
ZERO, DOT, HASH = 48, 46, 35
MAX_SECONDS_DIGITS = 10
MAX_SECONDS = 9_223_372_035
"""Whole seconds whose nanoseconds, with any fraction, stay within 64 bits."""
MAX_ID_DIGITS = 8
FRACTION_DIGITS = 9

_digits = np.full(256, -1, np.int8)
for _value, _letters in enumerate(
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "aA", "bB", "cC", "dD", "eE", "fF"]
):
    for _letter in _letters:
        _digits[ord(_letter)] = _value
DIGIT = _digits
"""Value of a hexadecimal digit, -1 for any other byte."""


@compiled
def byte_at(buffer: Buffer, at: int) -> int:
    """One byte as a signed integer: numba's own arithmetic on uint8 would end in floats."""
    value: int = 0 + buffer[at]
    return value


@compiled
def digit_at(buffer: Buffer, at: int) -> int:
    """Value of the hexadecimal digit, -1 for any other byte."""
    value: int = 0 + DIGIT[buffer[at]]
    return value


@compiled
def skip_blanks(buffer: Buffer, at: int) -> int:
    """Over spaces and tabs."""
    while buffer[at] == SPACE or buffer[at] == TAB:
        at += 1
    return at


@compiled
def next_line(buffer: Buffer, at: int) -> int:
    """To the start of the next line."""
    while buffer[at] != LINE_FEED:
        at += 1
    return at + 1


@compiled
def line_end(buffer: Buffer, at: int) -> int:
    """To the start of the next line, if only blanks are left of this one."""
    at = skip_blanks(buffer, at)
    if buffer[at] == RETURN:
        at += 1
    return at + 1 if buffer[at] == LINE_FEED else -1


@compiled
def number(buffer: Buffer, at: int, base: int, most: int) -> tuple[int, int]:
    """Value and end of 1 to `most` digits of base 10 or 16."""
    value = 0
    start = at
    while True:
        digit = digit_at(buffer, at)
        if digit < 0 or digit >= base:
            break
        value = value * base + digit
        at += 1
    if at == start or at - start > most:
        return 0, -1
    return value, at


@compiled
def seconds(buffer: Buffer, at: int) -> tuple[int, int]:
    """Nanoseconds and end of decimal seconds up to `MAX_SECONDS`, at most 9 digits behind the point."""
    whole, at = number(buffer, at, 10, MAX_SECONDS_DIGITS)
    if at < 0 or whole > MAX_SECONDS:
        return 0, -1
    scale = 1_000_000_000
    part = 0
    if buffer[at] == DOT:
        at += 1
        while True:
            digit = digit_at(buffer, at)
            if digit < 0 or digit > 9:
                break
            if scale == 1:
                return 0, -1
            scale //= 10
            part += digit * scale
            at += 1
    return whole * 1_000_000_000 + part, at


@compiled
def hex_byte(buffer: Buffer, at: int) -> int:
    """Value of exactly two hexadecimal digits, else -1."""
    high = digit_at(buffer, at)
    if high < 0:
        return -1
    low = digit_at(buffer, at + 1)
    if low < 0:
        return -1
    return high * 16 + low


@compiled
def finish_payload(payload: Buffer, length: int) -> None:
    """Zeroes what follows the first `length` bytes of a row."""
    for index in range(length, len(payload)):
        payload[index] = 0
