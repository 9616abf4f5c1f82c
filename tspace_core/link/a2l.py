"""Address, type, shape and axes of named parameters, from the A2L file of the VCU's software.

Understood are CHARACTERISTICs of float32 (MAP, CURVE, VAL_BLK, VALUE) and of text (ASCII), their axes
(STD_AXIS, COM_AXIS, FIX_AXIS), record layouts, linear conversions and limits; all else in the file is passed
over. Where something asked for is stored in a way that is not understood, it is refused by name and line,
never guessed.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tspace_core.errors import ConfigError
from tspace_core.link.a2l_layout import Layout, read_layout
from tspace_core.link.a2l_numbers import Conversion, integer, number, read_conversion
from tspace_core.link.a2l_text import Block, Node, Quoted, find_blocks

_KINDS = frozenset({"CHARACTERISTIC", "AXIS_PTS", "RECORD_LAYOUT", "COMPU_METHOD", "MOD_COMMON"})
_AXES = {"MAP": 2, "CURVE": 1, "VAL_BLK": 0, "VALUE": 0}
_FLOAT32 = "FLOAT32_IEEE"
_FLOAT32_BYTES = 4
_POSITIONAL = 9  # words of a CHARACTERISTIC before its keywords


@dataclass(frozen=True)
class Stored:
    """Numbers in the VCU's memory: ``count`` of a type at an address, and what they mean."""

    address: int
    extension: int
    datatype: str
    count: int
    big_endian: bool
    conversion: Conversion


@dataclass(frozen=True)
class Axis:
    """An axis of a parameter: its points are given here, or where they are stored, or neither is known.

    Attributes:
        name: of the AXIS_PTS, or of the parameter and X or Y.
        count: points.
        values: physical values, where the file gives them.
        stored: where they are in the VCU's memory, where it keeps them.
        unit: of the values, as written.
    """

    name: str
    count: int
    values: tuple[float, ...] | None
    stored: Stored | None
    unit: str


@dataclass(frozen=True)
class A2lParameter:
    """A parameter as it lies in the VCU's memory.

    Attributes:
        name: its name.
        kind: ``float32``, or ``text``.
        address: of its first value, in the VCU's units of address.
        extension: XCP address extension.
        length: bytes.
        shape: rows and columns in memory, the columns next to each other; (1, n) for one dimension.
        axes: that of the rows, that of the columns; None: the file gives none.
        limits: least and greatest value the maker allows.
        big_endian: byte order of its values; None: the file does not say, it is that of the VCU.
        where: file and line, for messages.
    """

    name: str
    kind: Literal["float32", "text"]
    address: int
    extension: int
    length: int
    shape: tuple[int, int]
    axes: tuple[Axis | None, Axis | None]
    limits: tuple[float, float]
    big_endian: bool | None
    where: str


def read_parameters(path: Path, names: Collection[str]) -> dict[str, A2lParameter]:
    """Read the named parameters.

    Args:
        path: A2L file; files that it includes are read too.
        names: of CHARACTERISTICs.

    Returns:
        By name, in the order asked for.

    Raises:
        ConfigError: the file is missing or broken, a name is not in it or twice, or is stored in a way that
            is not understood; names file, line and what was found.
    """
    module = _Module(path)
    return {name: module.parameter(name) for name in names}


class _Module:
    """The blocks of a file by kind and name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: dict[str, dict[str, list[Block]]] = {kind: {} for kind in _KINDS}
        for block in find_blocks(path, _KINDS):
            name = "" if block.kind == "MOD_COMMON" else block.name
            self._blocks[block.kind].setdefault(name, []).append(block)
        common = [block.parse() for block in self._blocks["MOD_COMMON"].get("", [])]
        self._common = common[0] if common else None

    def parameter(self, name: str) -> A2lParameter:
        known = self._blocks["CHARACTERISTIC"]
        near = ", ".join(difflib.get_close_matches(name, known, 3)) if name not in known else ""
        hint = (
            "" if name in known else f"it has {len(known)} ({near}); correct the name in xcp of the vehicle"
        )
        node = self._one("CHARACTERISTIC", name, hint)
        kind = node.word(2, "type")
        if kind == "ASCII":
            return self._text(name, node)
        if kind not in _AXES:
            message = f"{node.where}: {name} is a {kind}; understood are {', '.join(_AXES)} and ASCII"
            raise ConfigError(message)
        return self._floats(name, kind, node)

    def _text(self, name: str, node: Node) -> A2lParameter:
        length = self._count(node)
        return A2lParameter(
            name=name,
            kind="text",
            address=integer(node, node.word(3, "address")),
            extension=self._extension(node),
            length=length,
            shape=(1, length),
            axes=(None, None),
            limits=(0.0, 255.0),
            big_endian=None,
            where=node.where,
        )

    def _floats(self, name: str, kind: str, node: Node) -> A2lParameter:
        layout = read_layout(self._one("RECORD_LAYOUT", node.word(4, "record layout"), f"{name} needs it"))
        if layout.datatype != _FLOAT32:
            message = f"{node.where}: {name} is stored as {layout.datatype}; a map must be {_FLOAT32}"
            raise ConfigError(message)
        conversion, unit = self._conversion(node, node.word(6, "conversion"))
        if not conversion.identical:
            message = (
                f"{node.where}: {name} is converted by {node.word(6, 'conversion')} (x {conversion.factor:g} "
                f"+ {conversion.offset:g} {unit}); a map must be stored in its physical unit"
            )
            raise ConfigError(message)
        described = node.nodes("AXIS_DESCR")
        if len(described) != _AXES[kind]:
            message = f"{node.where}: {name} is a {kind} with {len(described)} axes, expected {_AXES[kind]}"
            raise ConfigError(message)
        counts = [integer(axis, axis.word(3, "number of points")) for axis in described]
        address = integer(node, node.word(3, "address"))
        big_endian = self._big_endian(node)
        places = layout.place(address, counts, self._common)
        axes: list[Axis | None] = [
            self._axis(name, node, axis, letter, places.get(f"AXIS_PTS_{letter}"), layout)
            for axis, letter in zip(described, "XY", strict=False)
        ]
        columns, rows = self._shape(node, kind, [axis.count if axis else 0 for axis in axes])
        x, y = (*axes, None, None)[:2]
        if layout.column_dir:
            rows, columns, x, y = columns, rows, y, x
        return A2lParameter(
            name=name,
            kind="float32",
            address=places["FNC_VALUES"],
            extension=self._extension(node),
            length=rows * columns * _FLOAT32_BYTES,
            shape=(rows, columns),
            axes=(y, x),
            limits=(number(node, node.word(7, "lower limit")), number(node, node.word(8, "upper limit"))),
            big_endian=big_endian,
            where=node.where,
        )

    def _shape(self, node: Node, kind: str, counts: list[int]) -> tuple[int, int]:
        """Points along X and Y."""
        if kind == "MAP":
            return counts[0], counts[1]
        if kind == "CURVE":
            return counts[0], 1
        if kind == "VALUE":
            return 1, 1
        matrix = _numbers_after(node, "MATRIX_DIM")
        if not matrix:
            return self._count(node), 1
        if any(size != 1 for size in matrix[2:]):
            message = f"{node.where}: MATRIX_DIM {matrix} has more than two dimensions"
            raise ConfigError(message)
        x, y = (*matrix, 1)[:2]
        return x, y

    def _count(self, node: Node) -> int:
        found = node.after("NUMBER", 1)
        if found is not None:
            return integer(node, found[0])
        matrix = _numbers_after(node, "MATRIX_DIM")
        if matrix:
            return matrix[0]
        message = f"{node.where}: its length is not given; NUMBER or MATRIX_DIM must say it"
        raise ConfigError(message)

    def _axis(
        self, name: str, node: Node, axis: Node, letter: str, address: int | None, layout: Layout
    ) -> Axis:
        kind = axis.word(0, "kind")
        count = integer(axis, axis.word(3, "number of points"))
        conversion, unit = self._conversion(axis, axis.word(2, "conversion"))
        if kind == "FIX_AXIS":
            points = tuple(conversion.physical(value) for value in _fixed_points(axis, count))
            return Axis(f"{name} {letter}", len(points), points, None, unit)
        if kind == "COM_AXIS":
            return self._common_axis(axis, count, conversion, unit)
        datatype = layout.axis_type(letter)
        if kind == "STD_AXIS" and address is not None and datatype is not None:
            stored = Stored(
                address,
                self._extension(node),
                datatype,
                count,
                bool(self._big_endian(axis) or self._big_endian(node)),
                conversion,
            )
            return Axis(f"{name} {letter}", count, None, stored, unit)
        message = (
            f"{axis.where}: {name} has an axis of kind {kind} that is not understood; understood are "
            "FIX_AXIS, COM_AXIS, and STD_AXIS with its points in the record layout"
        )
        raise ConfigError(message)

    def _common_axis(self, axis: Node, count: int, conversion: Conversion, unit: str) -> Axis:
        reference = axis.after("AXIS_PTS_REF", 1)
        if reference is None:
            message = f"{axis.where}: a COM_AXIS without AXIS_PTS_REF"
            raise ConfigError(message)
        points = self._one("AXIS_PTS", reference[0], f"an axis of line {axis.where} needs it")
        layout = read_layout(
            self._one("RECORD_LAYOUT", points.word(4, "record layout"), f"{reference[0]} needs it")
        )
        datatype = layout.axis_type("X")
        if datatype is None:
            message = f"{points.where}: the record layout of {reference[0]} has no AXIS_PTS_X"
            raise ConfigError(message)
        count = min(count, integer(points, points.word(7, "number of points")))
        places = layout.place(integer(points, points.word(2, "address")), [count], self._common)
        big_endian = bool(self._big_endian(points))
        stored = Stored(
            places["AXIS_PTS_X"], self._extension(points), datatype, count, big_endian, conversion
        )
        return Axis(reference[0], count, None, stored, unit)

    def _conversion(self, node: Node, name: str) -> tuple[Conversion, str]:
        if name == "NO_COMPU_METHOD":
            unit = node.after("PHYS_UNIT", 1)
            return Conversion(), unit[0] if unit else ""
        return read_conversion(self._one("COMPU_METHOD", name, f"line {node.where} needs it"))

    def _extension(self, node: Node) -> int:
        found = node.after("ECU_ADDRESS_EXTENSION", 1)
        return 0 if found is None else integer(node, found[0])

    def _big_endian(self, node: Node) -> bool | None:
        for one in (node, self._common):
            found = None if one is None else one.after("BYTE_ORDER", 1)
            if found is not None:
                # The old names LITTLE_ENDIAN and BIG_ENDIAN are used either way round: they say nothing.
                return {"MSB_FIRST": True, "MSB_LAST": False}.get(found[0])
        return None

    def _one(self, kind: str, name: str, why: str) -> Node:
        found = self._blocks[kind].get(name, [])
        if not found:
            message = f"{self._path}: there is no {kind} {name}; {why}"
            raise ConfigError(message)
        if len(found) > 1:
            places = " and ".join(block.where for block in found)
            message = f"{self._path}: {kind} {name} is there {len(found)} times: {places}; keep one"
            raise ConfigError(message)
        return found[0].parse()


def _numbers_after(node: Node, keyword: str) -> list[int]:
    """The whole numbers that follow a keyword, as many as there are (MATRIX_DIM has 1 to 5)."""
    words = node.words
    found: list[int] = []
    for at in range(_POSITIONAL, len(words)):
        if words[at] == keyword and not isinstance(words[at], Quoted):
            for word in words[at + 1 :]:
                if isinstance(word, Quoted) or not word.isdigit():
                    break
                found.append(int(word))
            break
    return found


def _fixed_points(axis: Node, count: int) -> list[float]:
    listed = axis.nodes("FIX_AXIS_PAR_LIST")
    if listed:
        points = [number(axis, word) for word in listed[0].words]
        if len(points) > count:
            message = f"{axis.where}: FIX_AXIS_PAR_LIST has {len(points)} points, {count} are allowed"
            raise ConfigError(message)
        return points
    shifted = axis.after("FIX_AXIS_PAR", 3)
    if shifted is not None:
        step = 2.0 ** integer(axis, shifted[1])
        return [number(axis, shifted[0]) + at * step for at in range(integer(axis, shifted[2]))]
    distant = axis.after("FIX_AXIS_PAR_DIST", 3)
    if distant is not None:
        first, step = number(axis, distant[0]), number(axis, distant[1])
        return [first + at * step for at in range(integer(axis, distant[2]))]
    message = f"{axis.where}: a FIX_AXIS without FIX_AXIS_PAR, FIX_AXIS_PAR_DIST or FIX_AXIS_PAR_LIST"
    raise ConfigError(message)
