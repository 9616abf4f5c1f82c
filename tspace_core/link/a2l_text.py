"""The text of an A2L file (ASAM MCD-2 MC, ASAP2 1.5 to 1.7): where its blocks are, and their words.

A production file has tens of megabytes and hundreds of kinds of blocks. So one pass notes where the blocks
of the wanted kinds are, without understanding the others, and only those asked for are taken apart.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tspace_core.errors import ConfigError

_STRING = r'"(?:[^"\\]|\\.|"")*"'
_COMMENT = r"/\*.*?\*/|//[^\n]*"
_MARKS = re.compile(
    rf"{_COMMENT}|{_STRING}"
    r"|/begin\s+(?P<begin>\S+)|/end\s+(?P<end>\S+)|/include\s+(?P<file>\"[^\"]*\"|\S+)"
    r"|(?P<open>/\*|\")",
    re.DOTALL,
)
_WORDS = re.compile(
    rf"{_COMMENT}|(?P<string>{_STRING})|(?P<word>(?:(?!/\*|//)[^\s\"])+)|(?P<open>/\*|\")", re.DOTALL
)
_ESCAPES = re.compile(r'\\(.)|""', re.DOTALL)
_END_OF_A2ML = re.compile(r"/end\s+A2ML\b")
_DEEPEST_INCLUDE = 16


class Quoted(str):
    """A word that stood in quotation marks, so that it is no keyword."""

    __slots__ = ()


@dataclass(frozen=True)
class Source:
    """One file's text."""

    path: Path
    text: str = field(repr=False)
    depth: int = 0

    def where(self, at: int) -> str:
        """File and line of a position, as messages name it."""
        return f"{self.path}, line {self.text.count(chr(10), 0, at) + 1}"


@dataclass(frozen=True)
class Node:
    """A block: its kind and its words and inner blocks in their order."""

    kind: str
    where: str
    items: tuple["str | Node", ...]

    @property
    def words(self) -> list[str]:
        """The words that stand directly in it."""
        return [item for item in self.items if isinstance(item, str)]

    def nodes(self, kind: str) -> list["Node"]:
        """Its inner blocks of a kind."""
        return [item for item in self.items if isinstance(item, Node) and item.kind == kind]

    def after(self, keyword: str, count: int) -> list[str] | None:
        """The ``count`` words after a keyword; None: it is not there.

        Raises:
            ConfigError: fewer words follow.
        """
        words = self.words
        for at, word in enumerate(words):
            if word == keyword and not isinstance(word, Quoted):
                found = words[at + 1 : at + 1 + count]
                if len(found) < count:
                    message = f"{self.where}: {keyword} needs {count} values, found {found}"
                    raise ConfigError(message)
                return found
        return None

    def word(self, at: int, what: str) -> str:
        """The word at a position.

        Raises:
            ConfigError: the block is shorter; says what is missing.
        """
        words = self.words
        if at >= len(words):
            message = f"{self.where}: {self.kind} ends before its {what}"
            raise ConfigError(message)
        return words[at]


@dataclass(frozen=True)
class Block:
    """Where a block is, not yet taken apart."""

    kind: str
    source: Source
    start: int
    end: int

    @property
    def where(self) -> str:
        """File and line of its begin."""
        return self.source.where(self.start)

    @property
    def name(self) -> str:
        """Its first word, the name of what it describes."""
        found = next(_words(self.source, self.start, self.end), None)
        if found is None:
            message = f"{self.where}: {self.kind} has no name"
            raise ConfigError(message)
        return found[2]

    def parse(self) -> Node:
        """Take it apart.

        Raises:
            ConfigError: its begins and ends do not match.
        """
        return _parse(self.kind, self.where, _words(self.source, self.start, self.end))


def find_blocks(path: Path, kinds: frozenset[str]) -> Iterator[Block]:
    """All blocks of the given kinds, in the file and those it includes; not inside each other.

    Raises:
        ConfigError: a file is missing, or begins and ends do not match; names file and line.
    """
    yield from _find(_read(path, path, 0), kinds)


def _find(source: Source, kinds: frozenset[str]) -> Iterator[Block]:
    stack: list[tuple[str, int]] = []
    wanted: int | None = None  # depth of the wanted block that is open
    at = 0
    while (mark := _MARKS.search(source.text, at)) is not None:
        at = mark.end()
        if (kind := mark["begin"]) is not None:
            if kind == "A2ML":  # another language
                end = _END_OF_A2ML.search(source.text, at)
                if end is None:
                    message = f"{source.where(mark.start())}: A2ML has no end"
                    raise ConfigError(message)
                at = end.end()
                continue
            stack.append((kind, at))
            if wanted is None and kind in kinds:
                wanted = len(stack)
        elif (kind := mark["end"]) is not None:
            if not stack or stack[-1][0] != kind:
                opened = f"{stack[-1][0]} of line {source.where(stack[-1][1])}" if stack else "no block"
                message = f"{source.where(mark.start())}: /end {kind} closes nothing, {opened} is open"
                raise ConfigError(message)
            if wanted == len(stack):
                yield Block(kind, source, stack[-1][1], mark.start())
                wanted = None
            stack.pop()
        elif mark["file"] is not None and wanted is None:
            yield from _find(_include(source, mark["file"], mark.start()), kinds)
        elif mark["open"] is not None:
            message = f"{source.where(mark.start())}: {mark['open']} is never closed"
            raise ConfigError(message)
    if stack:
        message = f"{source.where(stack[-1][1])}: {stack[-1][0]} has no end"
        raise ConfigError(message)


def _words(source: Source, start: int, end: int) -> Iterator[tuple[Source, int, str]]:
    """Each word from ``start`` to ``end`` with its place; included files' words in their stead."""
    at = start
    while (found := _WORDS.search(source.text, at, end)) is not None:
        at = found.end()
        if found["string"] is not None:
            text = _ESCAPES.sub(lambda escape: escape[1] or '"', found["string"][1:-1])
            yield source, found.start(), Quoted(text)
        elif found["word"] == "/include":
            name = _WORDS.search(source.text, at, end)
            if name is None:
                message = f"{source.where(found.start())}: /include without a file"
                raise ConfigError(message)
            at = name.end()
            inner = _include(source, name[0], found.start())
            yield from _words(inner, 0, len(inner.text))
        elif found["word"] is not None:
            yield source, found.start(), found["word"]
        elif found["open"] is not None:
            message = f"{source.where(found.start())}: {found['open']} is never closed"
            raise ConfigError(message)


def _parse(kind: str, where: str, words: Iterator[tuple[Source, int, str]]) -> Node:
    open_nodes: list[tuple[str, str, list[str | Node]]] = [(kind, where, [])]
    for source, at, word in words:
        if isinstance(word, Quoted) or word not in ("/begin", "/end"):
            open_nodes[-1][2].append(word)
            continue
        name = next(words, (source, at, ""))[2]
        if word == "/begin":
            open_nodes.append((name, source.where(at), []))
            continue
        if len(open_nodes) < 2 or open_nodes[-1][0] != name:
            message = f"{source.where(at)}: /end {name} closes nothing, {open_nodes[-1][0]} is open"
            raise ConfigError(message)
        inner_kind, inner_where, items = open_nodes.pop()
        open_nodes[-1][2].append(Node(inner_kind, inner_where, tuple(items)))
    return Node(kind, where, tuple(open_nodes[0][2]))


def _include(source: Source, name: str, at: int) -> Source:
    where = source.where(at)
    if source.depth >= _DEEPEST_INCLUDE:
        message = f"{where}: {_DEEPEST_INCLUDE} files include each other; a file includes itself"
        raise ConfigError(message)
    # Files written on Windows name their parts with backslashes.
    file = source.path.parent / name.strip('"').replace("\\", "/")
    return _read(file, where, source.depth + 1)


def _read(path: Path, asked: Path | str, depth: int) -> Source:
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"{asked}: {path} cannot be read: {error.strerror}; give the A2L file of the VCU's software"
        raise ConfigError(message) from error
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return Source(path, content.decode(encoding), depth)
    except UnicodeDecodeError:
        return Source(path, content.decode("cp1252", errors="replace"), depth)
