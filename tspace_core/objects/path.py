"""Paths in a bucket that read like those of a disk, and local copies where a real file is needed.

Numba, Arrow, polars and memory maps want a file. ``local_copy`` gives one: a copy in
``settings().s3.cache_dir`` named by the object's ETag, which is asked for each time. So it is never stale and
never changes.
(cloudpathlib, which does the like, decides by the time of the last change. Its resolution is a second: a
manifest that is replaced twice within one would be read stale.)
"""

import fnmatch
import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tspace_core.errors import ObjectError, ObjectExistsError, ObjectMissingError
from tspace_core.objects.cache import cached_file, cached_folder
from tspace_core.objects.store import ObjectInfo, ObjectStore

_SCHEME = "s3://"
_LOOKS = 5
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ObjectStat:
    """What a disk's ``stat`` says, of an object; times have a resolution of a second."""

    st_size: int
    st_mtime_ns: int
    etag: str

    @property
    def st_mtime(self) -> float:
        """Time of the last change, s since 1970 UTC."""
        return self.st_mtime_ns / 1e9


@total_ordering
class S3Path:
    """``s3://bucket/key``: the part of ``pathlib.Path`` that this project reads with.

    There are no folders in a bucket: one exists as long as an object lies below it, ``mkdir`` does nothing.
    """

    __slots__ = ("_key", "bucket")

    def __init__(self, url: "str | S3Path", *more: str) -> None:
        text = str(url)
        if not text.startswith(_SCHEME):
            message = f"{text!r} is no path in a bucket: give it as s3://bucket/prefix"
            raise ObjectError(message)
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
        if not bucket:
            message = f"{text!r} names no bucket: give it as s3://bucket/prefix"
            raise ObjectError(message)
        parts = [part for piece in (key, *more) for part in str(piece).split("/") if part not in ("", ".")]
        if ".." in parts:
            message = f"{'/'.join([text, *more])!r}: a path in a bucket cannot go up; leave out '..'"
            raise ObjectError(message)
        self.bucket = bucket
        self._key = "/".join(parts)

    @property
    def key(self) -> str:
        """The object's name in its bucket, without a slash at the ends; "" is the bucket itself."""
        return self._key

    @property
    def store(self) -> ObjectStore:
        """The bucket it lies in."""
        return ObjectStore(self.bucket)

    @property
    def parts(self) -> tuple[str, ...]:
        """``("s3://bucket", "a", "b")``."""
        return (
            (f"{_SCHEME}{self.bucket}", *self._key.split("/")) if self._key else (f"{_SCHEME}{self.bucket}",)
        )

    @property
    def name(self) -> str:
        """Last part of the key; "" of the bucket itself."""
        return self._key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """From the last dot of the name on."""
        return PurePosixPath(self.name).suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the name."""
        return PurePosixPath(self.name).suffixes

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "S3Path":
        """One level up; of the bucket itself: itself."""
        return self._at(self._key.rpartition("/")[0])

    @property
    def parents(self) -> tuple["S3Path", ...]:
        """All levels up to the bucket."""
        found, here = [], self
        while here._key:
            here = here.parent
            found.append(here)
        return tuple(found)

    def _at(self, key: str) -> "S3Path":
        return S3Path(f"{_SCHEME}{self.bucket}/{key}")

    def __truediv__(self, other: str | PurePosixPath) -> "S3Path":
        return self.joinpath(str(other))

    def joinpath(self, *parts: str) -> "S3Path":
        """The path below this one."""
        return S3Path(self, *parts)

    def with_name(self, name: str) -> "S3Path":
        """The path beside this one with another name."""
        if not self._key or not name or "/" in name:
            message = f"{self} cannot take the name {name!r}: give a name without a slash, of an object"
            raise ObjectError(message)
        return self.parent / name

    def with_suffix(self, suffix: str) -> "S3Path":
        """The path with another suffix."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def is_relative_to(self, other: "AnyPath") -> bool:
        """Whether it is ``other`` or lies below it."""
        if not isinstance(other, S3Path) or other.bucket != self.bucket:
            return False
        return not other._key or self._key == other._key or self._key.startswith(f"{other._key}/")

    def relative_to(self, other: "AnyPath") -> PurePosixPath:
        """The way from ``other`` to here.

        Raises:
            ValueError: it does not lie below ``other``.
        """
        if not self.is_relative_to(other):
            message = f"{self} does not lie below {other}"
            raise ValueError(message)
        assert isinstance(other, S3Path)
        return PurePosixPath(self._key[len(other._key) :].lstrip("/"))

    def resolve(self) -> "S3Path":
        """Itself: a path in a bucket is absolute."""
        return self

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self._key}" if self._key else f"{_SCHEME}{self.bucket}"

    def __repr__(self) -> str:
        return f"S3Path({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Path) and self.parts == other.parts

    def __lt__(self, other: "S3Path") -> bool:
        return self.parts < other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def info(self) -> ObjectInfo | None:
        """What the server says of the object; None: there is none."""
        return self.store.head(self._key) if self._key else None

    def stat(self) -> ObjectStat:
        """Size, time of change and ETag.

        Raises:
            ObjectMissingError: there is no such object.
        """
        found = self.info()
        if found is None:
            raise self._missing()
        return ObjectStat(found.size, int(found.modified.timestamp()) * 10**9, found.etag)

    def _missing(self) -> ObjectMissingError:
        message = f"{self} does not exist at {self.store.endpoint}: check bucket and key"
        return ObjectMissingError(message)

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        return self.info() is not None

    def is_dir(self) -> bool:
        """Whether there is an object below it."""
        return next(self.store.list(self._below(), limit=1), None) is not None

    def exists(self) -> bool:
        """Whether there is an object of this key, or one below it."""
        return self.is_file() or self.is_dir()

    def _below(self) -> str:
        return f"{self._key}/" if self._key else ""

    def iterdir(self) -> Iterator["S3Path"]:
        """What lies directly below: objects and folders."""
        for child in self.store.children(self._below()):
            yield self._at(child if isinstance(child, str) else child.key)

    def objects(self, pattern: str = "**") -> Iterator[tuple["S3Path", ObjectInfo]]:
        """Objects below whose way matches, with size and ETag; one listing, no request an object.

        Args:
            pattern: as ``glob`` takes it; ``**`` alone: all.
        """
        start, patterns = self._matching(pattern)
        for found in self.store.list(start):
            if _matches(self._way(found.key), patterns):
                yield self._at(found.key), found

    def _way(self, key: str) -> list[str]:
        return key[len(self._below()) :].split("/")

    def _matching(self, pattern: str) -> tuple[str, list[str]]:
        """What the keys begin with, as far as the pattern says, and its parts."""
        wild = _WILD.search(pattern)
        return self._below() + (pattern[: wild.start()] if wild else pattern), pattern.split("/")

    def glob(self, pattern: str) -> Iterator["S3Path"]:
        """Objects and folders below whose way matches: ``*`` within a part, ``**`` any number of parts."""
        start, patterns = self._matching(pattern)
        seen = set()
        for found in self.store.list(start):
            parts = self._way(found.key)
            for count in range(1, len(parts) + 1):
                way = "/".join(parts[:count])
                if way not in seen and _matches(parts[:count], patterns):
                    seen.add(way)
                    yield self._at(self._below() + way)

    def rglob(self, pattern: str) -> Iterator["S3Path"]:
        """As ``glob("**/" + pattern)``."""
        return self.glob(f"**/{pattern}")

    def read_bytes(self, *, limit: int | None = None) -> bytes:
        """The object's content; a larger one than ``limit`` is refused unread.

        Raises:
            ObjectMissingError: there is no such object.
        """
        return self.store.get(self._key, limit=limit)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
        """Open a local copy for reading; write with ``storage.files.atomic_write``.

        Raises:
            ObjectMissingError: there is no such object.
        """
        if mode not in ("r", "rb", "rt"):
            message = (
                f"{self} cannot be opened with mode {mode!r}: an object is written whole, by atomic_write"
            )
            raise io.UnsupportedOperation(message)
        return local_copy(self).open(mode, encoding=encoding or (None if "b" in mode else "utf-8"))

    def write_bytes(self, data: bytes) -> int:
        """Write the object whole; one that is there is replaced."""
        self.store.put(self._key, data)
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        """Write the object whole; one that is there is replaced."""
        return self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002  pathlib's signature
        """Remove the object.

        Raises:
            ObjectMissingError: there is none, and ``missing_ok`` is not set.
        """
        if not missing_ok and not self.is_file():
            raise self._missing()
        self.store.delete(self._key)

    def rmtree(self) -> None:
        """Remove all objects below."""
        self.store.delete(*(found.key for found in self.store.list(self._below())))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002
        """Nothing: there are no folders in a bucket."""


AnyPath = Path | S3Path
"""A path on this machine's disk or in a bucket."""


def any_path(url_or_path: str | AnyPath) -> AnyPath:
    """The path that a text names: ``s3://...`` one in a bucket, else one on the disk."""
    if isinstance(url_or_path, S3Path):
        return url_or_path
    text = str(url_or_path)
    if text.startswith(_SCHEME):
        return S3Path(text)
    if text.startswith("s3:/"):  # a URL that went through pathlib.Path lost a slash
        return S3Path(_SCHEME + text.removeprefix("s3:/"))
    return Path(url_or_path)


def within(path: AnyPath, folder: AnyPath) -> bool:
    """Whether ``path`` is ``folder`` or lies below it; never, where one is in a bucket and one is not."""
    if isinstance(path, S3Path) or isinstance(folder, S3Path):
        return isinstance(path, S3Path) and path.is_relative_to(folder)
    return path.is_relative_to(folder)


def relative(path: AnyPath, folder: AnyPath) -> str:
    """The way from ``folder`` to ``path``, with slashes.

    Raises:
        ValueError: it does not lie below it.
    """
    if isinstance(path, S3Path) or isinstance(folder, S3Path):
        if not isinstance(path, S3Path):
            message = f"{path} does not lie below {folder}"
            raise ValueError(message)  # noqa: TRY004  as pathlib does
        return str(path.relative_to(folder))
    return path.relative_to(folder).as_posix()


def local_copy(path: AnyPath) -> Path:
    """A file on this machine's disk with the content of ``path``: itself, or an immutable copy of an object.

    Raises:
        ObjectMissingError: there is no such object.
    """
    if isinstance(path, Path):
        return path

    def look() -> Path:
        info = path.info()
        if info is None:
            raise path._missing()
        return cached_file(path.store, info)

    return _settled(look)


def local_folder(path: AnyPath) -> Path:
    """The same of a folder, with all that lies below it.

    Raises:
        ObjectMissingError: nothing lies below it.
    """
    if isinstance(path, Path):
        return path
    store = path.store

    def look() -> Path:
        found = list(store.list(path._below()))
        if not found:
            raise path._missing()
        return cached_folder(store, path.name or path.bucket, path._below(), found)

    return _settled(look)


def _settled(look: Callable[[], Path]) -> Path:
    """Look again where an object was replaced between the look and its download."""
    for _ in range(_LOOKS - 1):
        with suppress(ObjectExistsError):
            return look()
    return look()


def _matches(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[skipped:], patterns[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
