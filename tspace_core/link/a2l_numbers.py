"""Numbers and linear conversions of A2L files."""

import math
from dataclasses import dataclass

from tspace_core.errors import ConfigError
from tspace_core.link.a2l_text import Node


@dataclass(frozen=True)
class Conversion:
    """physical = stored x factor + offset."""

    factor: float = 1.0
    offset: float = 0.0

    @property
    def identical(self) -> bool:
        """Whether it changes nothing."""
        return self.factor == 1.0 and self.offset == 0.0

    def physical(self, stored: float) -> float:
        """Physical value of a stored one."""
        return stored * self.factor + self.offset


def integer(node: Node, word: str) -> int:
    """A whole number, decimal or 0x hexadecimal.

    Raises:
        ConfigError: it is none; names the line.
    """
    try:
        return int(word, 16) if word[:2].lower() == "0x" else int(word)
    except ValueError:
        message = f"{node.where}: {node.kind} has {word!r} where a whole number is expected"
        raise ConfigError(message) from None


def number(node: Node, word: str) -> float:
    """A finite number.

    Raises:
        ConfigError: it is none; names the line.
    """
    try:
        value = float(int(word, 16)) if word[:2].lower() == "0x" else float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"{node.where}: {node.kind} has {word!r} where a number is expected"
        raise ConfigError(message)
    return value


def read_conversion(node: Node) -> tuple[Conversion, str]:
    """Conversion and unit of a COMPU_METHOD.

    Raises:
        ConfigError: it is not linear.
    """
    name, kind, unit = node.word(0, "name"), node.word(2, "type"), node.word(4, "unit")
    if kind == "IDENTICAL":
        return Conversion(), unit
    if kind == "LINEAR":
        factors = node.after("COEFFS_LINEAR", 2)
        if factors is not None:
            return Conversion(number(node, factors[0]), number(node, factors[1])), unit
    if kind == "RAT_FUNC":
        factors = node.after("COEFFS", 6)
        if factors is not None:
            a, b, c, d, e, f = (number(node, factor) for factor in factors)
            if a == d == e == 0.0 and b != 0.0 and f != 0.0:
                # stored = (b x physical + c) / f
                return Conversion(f / b, -c / b), unit
    message = (
        f"{node.where}: COMPU_METHOD {name} ({kind}) is not linear; only linear conversions are understood"
    )
    raise ConfigError(message)
