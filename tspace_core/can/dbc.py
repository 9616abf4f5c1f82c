"""DBC files, through cantools' parser, into layouts; what had to be mended or left out is told by name."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cantools.database.can import Database

from tspace_core.can.layout import MessageLayout, SignalLayout, nearest
from tspace_core.can.overlaps import without_conflicts
from tspace_core.errors import DatabaseError

_NEW_SYMBOLS = re.compile(r"^NS_[ \t]*:[^\n]*\n(?:[ \t]+\w+[ \t]*\r?\n)*", re.MULTILINE)
_VERSION = re.compile(r"^VERSION[^\n]*\n", re.MULTILINE)
_REFUSED_MESSAGE = re.compile(r"in\s+message (\w+)")
_MOST_REFUSED = 50


@dataclass(frozen=True, slots=True)
class CanDatabase:
    """The messages of a vehicle's DBC files.

    Attributes:
        layouts: by (arbitration id, extended); the first file that defines an id wins.
        dropped: one sentence for everything that was mended, left out or defined twice.
        fingerprint: SHA-256 over the contents of the files, hexadecimal.
        files: the files, in the order in which they win.
    """

    layouts: Mapping[tuple[int, bool], MessageLayout]
    dropped: list[str]
    fingerprint: str
    files: tuple[Path, ...]

    @property
    def lost(self) -> list[str]:
        """Those of ``dropped`` that name a signal or message which no layout has."""
        return [one for one in self.dropped if " loses signal " in one or " is left out: " in one]

    def find(self, message: int | str, *, extended: bool | None = None) -> MessageLayout:
        """The layout of a message.

        Args:
            message: arbitration id or name.
            extended: 29-bit id or not; None: as the database has it, 11 bits first.

        Raises:
            DatabaseError: there is no such message; names the nearest ones or what became of it.
        """
        kinds = (False, True) if extended is None else (extended,)
        if isinstance(message, int):
            for kind in kinds:
                if (message, kind) in self.layouts:
                    return self.layouts[message, kind]
            wanted = f"id 0x{message:X}"
            hint = f"it has {len(self.layouts)} messages; correct the id or add the DBC file that has it"
        else:
            found = [one for one in self.layouts.values() if one.name == message and one.extended in kinds]
            if found:
                return min(found, key=lambda one: one.extended)
            wanted = repr(message)
            hint = nearest(message, (one.name for one in self.layouts.values()))
        told = [sentence for sentence in self.dropped if f" {message} " in sentence]
        text = f"no message {wanted} in {', '.join(map(str, self.files))}; {' '.join([*told, hint])}"
        raise DatabaseError(text)


def load_database(paths: Sequence[Path]) -> CanDatabase:
    """Read the DBC files of a vehicle; the first one wins for an id.

    Strict first; a file with signals that overlap or do not fit loses only these, a file without ``BS_:`` or
    ``BU_:`` is mended in memory. ``dropped`` tells each.

    Raises:
        DatabaseError: a file is missing or not readable; names the file and the line.
    """
    layouts: dict[tuple[int, bool], MessageLayout] = {}
    notes: list[str] = []
    digest = hashlib.sha256()
    for path in paths:
        content = _content(path)
        digest.update(hashlib.sha256(content).digest())
        for layout in _read(path, _text(content), notes):
            key = (layout.id, layout.extended)
            if key in layouts:
                notes.append(
                    f"{path.name}: message {layout.place} is defined before in {layouts[key].file} as "
                    f"{layouts[key].name}; that definition is used"
                )
            else:
                layouts[key] = layout
    return CanDatabase(layouts, notes, digest.hexdigest(), tuple(paths))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); put the DBC file there or correct its name"
        raise DatabaseError(message) from error


def _text(content: bytes) -> str:
    """UTF-8 where it is, otherwise the code page that DBC editors write."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _read(path: Path, text: str, notes: list[str]) -> list[MessageLayout]:
    text = _mended(path, text, notes)
    for _ in range(_MOST_REFUSED):
        try:
            database = _parse(text)
            break
        except Exception as error:  # the parser's errors have no common base
            refused = _REFUSED_MESSAGE.search(str(error))
            shorter = _without_message(text, refused[1]) if refused else text
            if refused is None or shorter == text:
                message = (
                    f"{path}: not readable as DBC: {_reason(error)}; correct the file there, or take it out "
                    "of the vehicle's dbc list"
                )
                raise DatabaseError(message) from error
            notes.append(f"{path.name}: message {refused[1]} is left out: {error}")
            text = shorter
    else:
        message = (
            f"{path}: more than {_MOST_REFUSED} messages are refused, the last: {notes[-1]}; correct the file"
        )
        raise DatabaseError(message)
    return [
        layout
        for one in database.messages
        if (layout := _layout(path, one, notes)) is not None and (layout.signals or not one.signals)
    ]


def _parse(text: str) -> Any:
    with _cantools_silent():
        try:
            database = Database(strict=True)
            database.add_dbc_string(text)
        except Exception:  # any refusal: once more without its check of overlaps, which is done here
            database = Database(strict=False)
            database.add_dbc_string(text)
    return database


@contextmanager
def _cantools_silent() -> Iterator[None]:
    """Its warnings on names used twice are told in ``dropped``."""
    logger = logging.getLogger("cantools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reason(error: Exception) -> str:
    """The parser's words, with the line in front where it knows it."""
    line = getattr(error, "line", None)
    return f"line {line}: {error}" if line is not None else f"{type(error).__name__}: {error}"


def _mended(path: Path, text: str, notes: list[str]) -> str:
    """Add the sections that a DBC must have, where people cut them off."""
    lines = [
        f"{section}:"
        for section in ("BS_", "BU_")
        if not re.search(rf"^\s*{section}\s*:", text, re.MULTILINE)
    ]
    if not lines:
        return text
    notes.append(f"{path.name}: has no {' and no '.join(lines)}; read as if it had an empty one")
    place = _NEW_SYMBOLS.search(text) or _VERSION.search(text)
    position = place.end() if place else 0
    return text[:position] + "\n".join(lines) + "\n" + text[position:]


def _without_message(text: str, name: str) -> str:
    """The text without the definition of one message; every line keeps its number."""
    block = re.compile(rf"^BO_ \d+ {re.escape(name)}\s*:[^\n]*\n(?:[ \t]*(?:SG_[^\n]*)?\r?\n)*", re.MULTILINE)
    return block.sub(lambda found: "\n" * found[0].count("\n"), text, count=1)


def _layout(path: Path, message: Any, notes: list[str]) -> MessageLayout | None:
    if message.is_container:
        notes.append(f"{path.name}: message {message.name} is left out: container messages are not decoded")
        return None
    kept, gone = without_conflicts([_signal(one) for one in message.signals], message.length)
    for signal, reason in gone:
        notes.append(
            f"{path.name}: message 0x{message.frame_id:X} {message.name} loses signal {signal.name}: {reason}"
        )
    choices = {one.name: frozenset(one.choices or ()) for one in message.signals}
    known: dict[str, frozenset[int]] = {}
    for signal in kept:
        if signal.multiplexer:
            seen = known.get(signal.multiplexer, choices[signal.multiplexer])
            known[signal.multiplexer] = seen | signal.multiplexer_ids
    return MessageLayout(
        id=message.frame_id,
        extended=message.is_extended_frame,
        name=message.name,
        length=message.length,
        signals={signal.name: signal for signal in kept},
        multiplexer_ids=known,
        file=path.name,
    )


def _signal(signal: Any) -> SignalLayout:
    return SignalLayout(
        name=signal.name,
        start=signal.start,
        length=signal.length,
        little_endian=signal.byte_order == "little_endian",
        signed=signal.is_signed,
        is_float=signal.conversion.is_float,
        scale=signal.conversion.scale,
        offset=signal.conversion.offset,
        unit=signal.unit or "",
        multiplexer=signal.multiplexer_signal,
        multiplexer_ids=frozenset(signal.multiplexer_ids or ()),
    )
