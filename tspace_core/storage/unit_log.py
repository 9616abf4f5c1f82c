"""The records of units of work: what a unit does when it is committed, as data.

::

    <lake>/units/<id>.json     commit record: while it is there the unit is committed and not yet done
                 <id>/         what the unit has staged; no reader looks at it
                 last.json     which unit was finished last, see ``unit_of_work.read_together``

A record says ``discarded`` instead of ``committed`` where somebody found the unit's writer silent for long:
whichever of the two is written first is true for ever.
"""

import os
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import UnitOfWorkError
from tspace_core.objects.path import AnyPath, S3Path

P = TypeVar("P", Path, S3Path)
UNITS = "units"
LAST = "last.json"


class Operation(BaseModel):
    """One thing a unit does; paths are ways from the lake's root, with slashes.

    Attributes:
        do: a staged file or folder takes its place, a text is written, something is removed.
        path: where.
        staged: where it lies until then.
        text: the content of a text in a bucket, which needs no staging.
        if_absent: nothing may be there.
        seen: what is there must still be this, see ``files.read_version``.
        found: what was there at the commit: tells in a bucket whether this was done already, and at a removal
            whether what is there is still what was to go.
        sizes: files of a staged folder in a bucket and their bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["file", "folder", "text", "remove"]
    path: str
    staged: str | None = None
    text: str | None = None
    if_absent: bool = False
    seen: str | None = None
    found: str | None = None
    sizes: dict[str, int] = {}

    @property
    def conditional(self) -> bool:
        """Whether it may be done only if something still holds."""
        return self.if_absent or self.seen is not None or self.do == "folder"


class UnitRecord(BaseModel):
    """The commit record of a unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tspace-unit-1"] = "tspace-unit-1"
    id: str
    name: str
    state: Literal["committed", "discarded"] = "committed"
    at: datetime
    host: str
    pid: int
    operations: tuple[Operation, ...] = ()

    @classmethod
    def of(cls, unit_id: str, name: str, operations: list[Operation]) -> "UnitRecord":
        """The record of a unit of this process that is committed now."""
        return cls(
            id=unit_id,
            name=name,
            at=datetime.now(UTC),
            host=socket.gethostname(),
            pid=os.getpid(),
            operations=tuple(operations),
        )


def new_id() -> str:
    """An id that no other unit has; ids of later units come later in the alphabet."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def record_path(root: P, unit_id: str) -> P:
    """Where the commit record of a unit lies."""
    return root / UNITS / f"{unit_id}.json"


def records_in(root: AnyPath) -> list[str]:
    """Ids of the units that have a record, the oldest first."""
    folder = root / UNITS
    if isinstance(folder, S3Path):
        children = folder.store.children(f"{folder.key}/")
        names = [child.key.rpartition("/")[2] for child in children if not isinstance(child, str)]
    else:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        name.removesuffix(".json")
        for name in names
        if name.endswith(".json") and name != LAST and not name.startswith(".")
    )


def parse_record(path: AnyPath, content: bytes) -> UnitRecord:
    """The record that a file holds.

    Raises:
        UnitOfWorkError: it is damaged, or of a later version.
    """
    try:
        record = UnitRecord.model_validate_json(content)
    except ValidationError as error:
        message = (
            f"{path} is no record of a unit of work ({error.error_count()} fields wrong): restore it from a "
            "backup, or, if what the unit was to make visible may be lost, remove it; then run "
            "`tspace doctor --repair`"
        )
        raise UnitOfWorkError(message) from error
    for operation in record.operations:
        for way in (operation.path, operation.staged or "staged"):
            if not way or way.startswith("/") or ".." in way.split("/"):
                message = f"{path} names {way!r}, which is outside of the lake: look who wrote it, remove it"
                raise UnitOfWorkError(message)
    return record


def way_of(root: AnyPath, path: AnyPath) -> str:
    """The way from the lake's root to a path.

    Raises:
        UnitOfWorkError: it lies elsewhere, or where units keep their own files.
    """
    if isinstance(root, Path) and isinstance(path, Path):
        path = path.absolute()  # not resolved at once: a folder of the lake may be a link elsewhere
        if ".." in path.parts or not path.is_relative_to(root):
            path = path.resolve()
    try:
        way = path.relative_to(root).as_posix()  # type: ignore[arg-type]
    except (ValueError, TypeError):
        way = ".."
    if way in ("..", ".", "", UNITS) or way.startswith(f"{UNITS}/"):
        message = f"{path} is no place below {root} that a unit of work may write: begin the unit on its lake"
        raise UnitOfWorkError(message)
    return way
