"""Units of work in a bucket: staged objects are copied into their places by the server.

::

    <lake>/units/<id>/00000...   staged objects
                 claims/<hash>   which unit may replace this version of this object

A bucket has neither locks nor a rename. Three things take their place:

- A unit claims what it replaces on a condition before it looks whether the condition holds, and keeps the
  claim until it is done. So of two units that saw the same version one is refused, and nothing of it is
  visible.
- The record, written only where there is none, decides: whoever gives a silent unit up writes ``discarded``
  there, and the unit can no longer be committed.
- Everything is done on the condition that the object is as it was found at the commit. So it may be done by
  several at once, and by somebody slow, without undoing what came later.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tspace_core.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    UnitOfWorkError,
    WriterBusyError,
)
from tspace_core.objects.path import S3Path, local_copy
from tspace_core.objects.transfer import side_by_side
from tspace_core.storage.bucket_folder import LEFT_BEHIND_S, MANIFEST
from tspace_core.storage.files import COPIED_BYTES, scratch
from tspace_core.storage.unit_log import (
    LAST,
    UNITS,
    Operation,
    UnitRecord,
    parse_record,
    record_path,
    records_in,
)

CLAIMS = "claims"
ABANDONED_S = 86_400.0
"""A unit that has not been heard of for this time is given up, s."""


class BucketUnit:
    """One unit in a bucket: staging, commit, discarding."""

    def __init__(self, root: S3Path, unit_id: str, name: str) -> None:
        self._root, self._id, self._name = root, unit_id, name
        self._folder = root / UNITS / unit_id
        self._claims: list[str] = []

    def begin(self) -> None:
        """Finish what was committed and left by others."""
        roll_forward(self._root)

    @contextmanager
    def stage_file(self, number: int, way: str) -> Iterator[tuple[Path, Operation]]:
        """Yield where to write a file on this disk, and what will make it visible."""
        target = self._folder / f"{number:05d}{Path(way).suffix}"
        with scratch(target) as path:
            staged = target.relative_to(self._root).as_posix()
            yield path, Operation(do="file", path=way, staged=staged)
            target.store.upload(path, target.key)

    @contextmanager
    def stage_folder(self, number: int, way: str) -> Iterator[tuple[Path, Operation]]:
        """Yield a folder on this disk to fill, and what will make it visible."""
        target = self._folder / f"{number:05d}"
        sizes: dict[str, int] = {}
        with scratch(target) as folder:
            folder.mkdir()
            staged = target.relative_to(self._root).as_posix()
            yield folder, Operation.model_construct(
                do="folder", path=way, staged=staged, text=None, if_absent=False, seen=None, found=None,
                sizes=sizes,
            )  # fmt: skip
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    sizes[file.relative_to(folder).as_posix()] = file.stat().st_size
            if MANIFEST not in sizes:
                message = f"{way} was written without {MANIFEST}: in a bucket a folder becomes visible by it"
                raise StorageError(message)
            side_by_side(lambda name: target.store.upload(folder / name, f"{target.key}/{name}"), list(sizes))

    def stage_text(self, _number: int, way: str, text: str) -> Operation:
        """What will write the text; it lies in the record."""
        return Operation(do="text", path=way, text=text)

    def commit(self, operations: list[Operation]) -> list[str]:
        """Make all of it visible; returns what was put aside instead, as someone else had written there.

        Raises:
            ObjectExistsError: a condition does not hold; nothing is visible.
            WriterBusyError: another unit is just replacing the same; nothing is visible.
            UnitOfWorkError: it was given up by others, or it is committed and not all of it is visible yet.
            ObjectError: it cannot be written; nothing is visible.
        """
        for operation in sorted(operations, key=lambda found: found.path):
            if operation.conditional:
                self._claim(operation)
        found = side_by_side(lambda operation: _look(self._root, operation), operations)
        record = UnitRecord.of(self._id, self._name, found)
        path = record_path(self._root, self._id)
        try:
            path.store.put(path.key, record.model_dump_json(indent=1).encode(), if_absent=True)
        except ObjectExistsError as error:
            message = (
                f"the unit of work {self._id} ({self._name}) was not heard of for long and was given up by "
                "others; nothing of it is visible: do the same again"
            )
            raise UnitOfWorkError(message) from error
        try:
            return apply(self._root, record, mine=True, claims=self._claims)
        except (StorageError, OSError) as error:
            raise _unfinished(path, error) from error

    def _claim(self, operation: Operation) -> None:
        store = self._root.store
        # Anew for each that was given up before: its claim stays until it is removed with it.
        mark = hashlib.sha256(f"{operation.path}\n{operation.seen}".encode()).hexdigest()[:32]
        key = f"{self._root.key}/{UNITS}/{CLAIMS}/{mark}".lstrip("/")
        content = json.dumps({"unit": self._id, "path": operation.path}).encode()
        try:
            store.put(key, content, if_absent=True)
        except ObjectExistsError:
            self._take_over(key, content, operation)
        self._claims.append(key)

    def _take_over(self, key: str, content: bytes, operation: Operation) -> None:
        store, place = self._root.store, self._root / operation.path
        busy = f"{place} is being replaced by another unit of work: read it again and repeat the change"
        try:
            found, info = store.get_with_info(key)
            holder = str(json.loads(found)["unit"])
        except (ObjectMissingError, ValueError, KeyError) as error:
            raise WriterBusyError(busy) from error  # it has just been done
        if holder == self._id:
            return
        record = _read(self._root, holder)
        if record is None and time.time() - info.modified.timestamp() > LEFT_BEHIND_S:
            # Between claim and record lie moments: its writer was killed, or is stopped by this.
            give_up(self._root, holder)
            record = _read(self._root, holder)
        if record is None:
            raise WriterBusyError(busy)
        if record.state == "committed":
            apply(self._root, record)
            raise ObjectExistsError(busy)
        try:
            store.put(key, content, if_match=info.etag)
        except ObjectExistsError as error:
            raise WriterBusyError(busy) from error

    def discard(self) -> None:
        """Remove what is staged and claimed; where that fails ``finish_units`` does it later."""
        with suppress(StorageError):
            if _read(self._root, self._id) is None:
                _clear(self._root, self._id, self._claims)


def _unfinished(path: S3Path, error: Exception) -> UnitOfWorkError:
    return UnitOfWorkError(
        f"{path} is committed but not all of it is visible ({error}): when the server can be reached and "
        "written again run `tspace doctor --repair`; the next unit of work does the same"
    )


def _look(root: S3Path, operation: Operation) -> Operation:
    """Look whether what an operation wants holds; returns it with what was found."""
    path = root / operation.path
    if operation.do == "folder":
        _require_free(path)
        return operation
    info = path.info()
    if operation.if_absent and info is not None:
        message = f"{path} exists already and is never replaced: look at it, or choose another name"
        raise ObjectExistsError(message)
    if operation.seen is not None and (info is None or info.etag != operation.seen):
        message = f"{path} was replaced by someone else meanwhile: read it again and repeat the change"
        raise ObjectExistsError(message)
    if operation.do == "remove" and info is None and path.is_dir():
        return operation.model_copy(update={"found": "folder"})
    return operation.model_copy(update={"found": None if info is None else info.etag})


def _require_free(path: S3Path) -> None:
    found = list(path.store.list(f"{path.key}/"))
    if any(info.key == f"{path.key}/{MANIFEST}" for info in found):
        message = f"{path} exists already and is never replaced: choose a new version or name"
        raise ObjectExistsError(message)
    if found and time.time() - max(info.modified.timestamp() for info in found) < LEFT_BEHIND_S:
        message = f"{path} is being written by someone else: choose a new version or name"
        raise WriterBusyError(message)
    path.store.delete(*(info.key for info in found))  # left by a killed writer


def _read(root: S3Path, unit_id: str) -> UnitRecord | None:
    path = record_path(root, unit_id)
    try:
        return parse_record(path, path.read_bytes())
    except ObjectMissingError:
        return None


def apply(
    root: S3Path, record: UnitRecord, *, mine: bool = False, claims: list[str] | None = None
) -> list[str]:
    """Do what a committed unit says; may be done again, and by several at once.

    Args:
        root: of the lake.
        record: of the unit.
        mine: by the unit's own writer, who knows that nobody did it before.
        claims: of the unit, where they are known.

    Returns:
        What was put aside, as someone outside of units had written there after the commit.
    """
    aside: list[str] = []
    if record.state == "discarded":
        return aside
    try:
        for operation in record.operations:
            if operation.do != "remove" and not _do(root, operation) and mine:
                aside += _put_aside(root, record.id, operation)
    except ObjectMissingError:
        if _read(root, record.id) is None:
            return aside  # somebody else has done all of it meanwhile
        if (root / UNITS / record.id).is_dir():
            raise
        # What was staged goes when all is done: somebody else has just done it, the record goes next.
    gone: list[str] = []
    for operation in record.operations:
        path = root / operation.path
        if operation.do == "remove" and operation.found == "folder":
            (path / MANIFEST).unlink(missing_ok=True)
            gone += [info.key for info in path.store.list(f"{path.key}/")]
        elif operation.do == "remove" and operation.found is not None:
            info = path.info()
            gone += [path.key] if info is not None and info.etag == operation.found else []
    root.store.delete(*gone)
    # Anew each time: see read_together.
    last = json.dumps({"unit": record.id, "token": secrets.token_hex(8)})
    root.store.put((root / UNITS / LAST).key, last.encode())
    _clear(root, record.id, claims)
    root.store.delete(record_path(root, record.id).key)
    return aside


def _do(root: S3Path, operation: Operation) -> bool:
    """Let one thing take its place; False: it, or something later, is there already."""
    target, store = root / operation.path, root.store
    try:
        if operation.do == "text":
            assert operation.text is not None
            _put_text(target, operation)
        elif operation.do == "folder":
            return _put_folder(root / str(operation.staged), target, operation.sizes)
        elif operation.found is None:
            _copy(root / str(operation.staged), target)
        else:
            local = local_copy(root / str(operation.staged))
            store.upload(local, target.key, if_match=operation.found)
    except ObjectExistsError:
        return False
    except ObjectMissingError:
        if operation.found is not None and target.info() is None:
            return False  # what was to be replaced is gone
        raise
    return True


def _put_text(target: S3Path, operation: Operation) -> None:
    content = str(operation.text).encode()
    absent = operation.found is None
    target.store.put(target.key, content, if_absent=absent, if_match=operation.found)


def _copy(staged: S3Path, target: S3Path) -> None:
    info = staged.info()
    if info is None or info.size > COPIED_BYTES:
        target.store.upload(local_copy(staged), target.key, if_absent=True)
        return
    target.store.copy(staged.key, target.key, source_etag=info.etag, if_absent=True)


def _put_folder(staged: S3Path, target: S3Path, sizes: dict[str, int]) -> bool:
    if (target / MANIFEST).is_file():
        return False

    def put(name: str) -> None:
        with suppress(ObjectExistsError):
            _copy(staged / name, target / name)

    side_by_side(put, [name for name in sizes if name != MANIFEST])
    prefix = f"{target.key}/"
    there = {info.key.removeprefix(prefix): info.size for info in target.store.list(prefix)}
    if MANIFEST not in there and there != {name: size for name, size in sizes.items() if name != MANIFEST}:
        return False
    _copy(staged / MANIFEST, target / MANIFEST)
    return True


def _put_aside(root: S3Path, unit_id: str, operation: Operation) -> list[str]:
    """Keep what did not get its place, unless it is there and somebody else has just put it."""
    target, put = root / operation.path, root / "quarantine" / UNITS / unit_id / operation.path
    if operation.do == "text":
        with suppress(ObjectMissingError):
            if target.read_bytes() == str(operation.text).encode():
                return []
        put.store.put(put.key, str(operation.text).encode())
    elif operation.do == "folder":
        names = [*operation.sizes]
        if _same(root / str(operation.staged) / MANIFEST, target / MANIFEST):
            return []
        side_by_side(lambda name: _copy(root / str(operation.staged) / name, put / name), names)
    else:
        if _same(root / str(operation.staged), target):
            return []
        _copy(root / str(operation.staged), put)
    what = f"what the unit of work {unit_id} was to put there is {put}"
    return [f"{target} was written by someone else meanwhile: look at it; {what}"]


def _same(one: S3Path, other: S3Path) -> bool:
    first, second = one.info(), other.info()
    if first is None or second is None or first.size != second.size:
        return False
    return first.etag == second.etag or local_copy(one).read_bytes() == local_copy(other).read_bytes()


def _clear(root: S3Path, unit_id: str, claims: list[str] | None) -> None:
    """Remove what a unit has staged and claimed."""
    store, folder = root.store, root / UNITS / unit_id
    held = [key for key, unit, _ in _holders(root) if unit == unit_id] if claims is None else claims
    store.delete(*held, *(info.key for info in store.list(f"{folder.key}/")))


def _holders(root: S3Path) -> Iterator[tuple[str, str, float]]:
    """Of each claim: its key, the unit that holds it and when it was made, s since 1970 UTC."""
    folder = root / UNITS / CLAIMS
    for info in folder.store.list(f"{folder.key}/"):
        with suppress(ObjectMissingError, ValueError, KeyError):
            holder = str(json.loads(folder.store.get(info.key))["unit"])
            yield info.key, holder, info.modified.timestamp()


def give_up(root: S3Path, unit_id: str) -> None:
    """Decide that a unit is not committed, unless it is; then remove what it staged."""
    path = record_path(root, unit_id)
    record = UnitRecord.of(unit_id, "", []).model_copy(update={"state": "discarded"})
    with suppress(ObjectExistsError):
        path.store.put(path.key, record.model_dump_json().encode(), if_absent=True)
        folder = root / UNITS / unit_id
        path.store.delete(*(info.key for info in path.store.list(f"{folder.key}/")))


def roll_forward(root: S3Path) -> list[str]:
    """Do what was committed and not done.

    Raises:
        UnitOfWorkError: a record is damaged, or what it says cannot be done now.
    """
    done = []
    for unit_id in records_in(root):
        record = _read(root, unit_id)
        if record is None or record.state == "discarded":
            continue
        path = record_path(root, unit_id)
        try:
            apply(root, record)
        except (StorageError, OSError) as error:
            raise _unfinished(path, error) from error
        done.append(f"finished the committed unit of work {unit_id} ({record.name})")
    return done


def pending(root: S3Path) -> list[str]:
    """Ids of units that are committed and not done."""
    found = ((unit_id, _read(root, unit_id)) for unit_id in records_in(root))
    return [unit_id for unit_id, record in found if record is not None and record.state == "committed"]


def abandoned(root: S3Path, older_than_s: float) -> list[str]:
    """Ids of units that have staged something, are not committed and have not been heard of for so long."""
    folder = root / UNITS
    youngest: dict[str, float] = {}
    for info in folder.store.list(f"{folder.key}/"):
        parts = info.key.removeprefix(f"{folder.key}/").split("/")
        if len(parts) > 1 and parts[0] != CLAIMS:
            youngest[parts[0]] = max(youngest.get(parts[0], 0.0), info.modified.timestamp())
    for _, holder, at in _holders(root):
        youngest[holder] = max(youngest.get(holder, 0.0), at)
    limit, decided = time.time() - older_than_s, records_in(root)
    return sorted(unit for unit, at in youngest.items() if at <= limit and unit not in decided)


def finish(root: S3Path, older_than_s: float) -> list[str]:
    """Do what was committed, give up who has been silent for so long; returns what was done."""
    done = roll_forward(root)
    for unit_id in abandoned(root, older_than_s):
        give_up(root, unit_id)
        done.append(f"removed what the unit of work {unit_id} had staged")
    _forget(root, older_than_s)
    return done


def _forget(root: S3Path, older_than_s: float) -> None:
    """Remove what says that a unit was given up, and its claims, when its writer cannot live any more."""
    for unit_id in records_in(root):
        path = record_path(root, unit_id)
        info, record = path.info(), _read(root, unit_id)
        if info is None or record is None or record.state == "committed":
            continue
        if time.time() - info.modified.timestamp() > older_than_s:
            _clear(root, unit_id, None)
            root.store.delete(path.key)


def last_token(root: S3Path) -> str:
    """Changes whenever a unit was done."""
    with suppress(ObjectMissingError):
        return (root / UNITS / LAST).read_bytes().decode(errors="replace")
    return ""
