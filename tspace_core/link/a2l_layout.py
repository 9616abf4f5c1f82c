"""Record layouts of A2L files: in which order, type and alignment a parameter's parts lie in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from tspace_core.errors import ConfigError
from tspace_core.link.a2l_numbers import integer
from tspace_core.link.a2l_text import Node

SIZES = {
    "UBYTE": 1,
    "SBYTE": 1,
    "UWORD": 2,
    "SWORD": 2,
    "ULONG": 4,
    "SLONG": 4,
    "A_UINT64": 8,
    "A_INT64": 8,
    "FLOAT32_IEEE": 4,
    "FLOAT64_IEEE": 8,
}
"""Bytes of each type."""
_ALIGNMENTS = {
    "UBYTE": ("ALIGNMENT_BYTE", 1),
    "SBYTE": ("ALIGNMENT_BYTE", 1),
    "UWORD": ("ALIGNMENT_WORD", 2),
    "SWORD": ("ALIGNMENT_WORD", 2),
    "ULONG": ("ALIGNMENT_LONG", 4),
    "SLONG": ("ALIGNMENT_LONG", 4),
    "A_UINT64": ("ALIGNMENT_INT64", 8),
    "A_INT64": ("ALIGNMENT_INT64", 8),
    "FLOAT32_IEEE": ("ALIGNMENT_FLOAT32_IEEE", 4),
    "FLOAT64_IEEE": ("ALIGNMENT_FLOAT64_IEEE", 8),
}
_SINGLE = ("NO_AXIS_PTS_X", "NO_AXIS_PTS_Y", "IDENTIFICATION", "SRC_ADDR_X", "SRC_ADDR_Y")
_POINTS = ("AXIS_PTS_X", "AXIS_PTS_Y")
_VALUES = "FNC_VALUES"
_HARMLESS = (
    "ALIGNMENT_BYTE",
    "ALIGNMENT_WORD",
    "ALIGNMENT_LONG",
    "ALIGNMENT_INT64",
    "ALIGNMENT_FLOAT16_IEEE",
    "ALIGNMENT_FLOAT32_IEEE",
    "ALIGNMENT_FLOAT64_IEEE",
    "FIX_NO_AXIS_PTS_X",
    "FIX_NO_AXIS_PTS_Y",
    "STATIC_RECORD_LAYOUT",
    "STATIC_ADDRESS_OFFSETS",
)


@dataclass(frozen=True)
class Layout:
    """One RECORD_LAYOUT.

    Attributes:
        node: the block.
        parts: (position, keyword, type), in the order of position.
        datatype: of the values, empty for a layout of axis points.
        column_dir: whether the values of one X lie next to each other (COLUMN_DIR), not those of one Y.
    """

    node: Node
    parts: tuple[tuple[int, str, str], ...]
    datatype: str
    column_dir: bool

    def axis_type(self, letter: str) -> str | None:
        """Type of the axis points in it; None: it has none."""
        return next((kind for _, part, kind in self.parts if part == f"AXIS_PTS_{letter}"), None)

    def place(self, address: int, counts: Sequence[int], common: Node | None) -> dict[str, int]:
        """Address of each part of a record.

        Args:
            address: of the record.
            counts: points along X and Y.
            common: MOD_COMMON, which gives alignments where the layout does not.
        """
        places: dict[str, int] = {}
        at = address
        for _, part, datatype in self.parts:
            step = self._alignment(datatype, common)
            at = (at + step - 1) // step * step
            places[part] = at
            if part in _POINTS:
                axis = _POINTS.index(part)
                at += SIZES[datatype] * (counts[axis] if axis < len(counts) else 0)
            else:
                at += SIZES[datatype]
        return places

    def _alignment(self, datatype: str, common: Node | None) -> int:
        keyword, natural = _ALIGNMENTS[datatype]
        for node in (self.node, common):
            found = None if node is None else node.after(keyword, 1)
            if node is not None and found is not None:
                return max(1, integer(node, found[0]))
        return natural


def read_layout(node: Node) -> Layout:
    """Understand a RECORD_LAYOUT.

    Raises:
        ConfigError: it has parts, types or an order that are not understood; names them and the line.
    """
    parts: list[tuple[int, str, str]] = []
    datatype, column_dir = "", False
    for part in (*_SINGLE, *_POINTS, _VALUES):
        found = node.after(part, 4 if part == _VALUES else 2)
        if found is None:
            continue
        if found[1] not in SIZES:
            message = f"{node.where}: {part} of type {found[1]}; understood are {', '.join(SIZES)}"
            raise ConfigError(message)
        parts.append((integer(node, found[0]), part, found[1]))
        if part == _VALUES:
            datatype = found[1]
            if found[2] not in ("ROW_DIR", "COLUMN_DIR") or found[3] != "DIRECT":
                message = (
                    f"{node.where}: {part} is stored {found[2]} {found[3]}; understood are ROW_DIR and "
                    "COLUMN_DIR, DIRECT"
                )
                raise ConfigError(message)
            column_dir = found[2] == "COLUMN_DIR"
    known = {*_SINGLE, *_POINTS, _VALUES, *_HARMLESS}
    unknown = [word for word in node.words[1:] if _is_keyword(word) and word not in known]
    if unknown:
        message = (
            f"{node.where}: RECORD_LAYOUT {node.word(0, 'name')} has {unknown}, which are not understood"
        )
        raise ConfigError(message)
    return Layout(node, tuple(sorted(parts)), datatype, column_dir)


def _is_keyword(word: str) -> bool:
    """Whether a word of a layout names a part of it rather than a number, type, order or addressing."""
    values = {"DIRECT", "PBYTE", "PWORD", "PLONG", "INDEX_INCR", "INDEX_DECR", "ROW_DIR", "COLUMN_DIR"}
    return not word.lstrip("-").isdigit() and word not in SIZES and word not in values
