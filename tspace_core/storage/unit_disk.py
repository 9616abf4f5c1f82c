"""Units of work on a disk: staged files are renamed into their places, under one lock of the lake.

::

    <lake>/units/.lock          held while a unit is committed and done, and while one begins
                 <id>/.lock     held as long as the unit's writer lives
                 <id>/00000...  staged files and folders, synced

The lock makes commits follow one another: whoever holds it finishes first what a killed writer had committed.
So no two ever do the same unit, and conditions that hold when they are looked at hold until the unit is done,
but for what is written outside of units meanwhile.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tspace_core.errors import ObjectExistsError, UnitOfWorkError
from tspace_core.storage.files import read_version, sync, sync_tree, write_text
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.unit_log import (
    LAST,
    UNITS,
    Operation,
    UnitRecord,
    parse_record,
    record_path,
    records_in,
)

LOCK = ".lock"
_HEAD = 256
"""Bytes of a record that hold its id. The file's own figures do not tell: of two units within a tick of the
clock the second may have both the time and the inode of the one before the first."""


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the lock of the lake's units; waits for it."""
    folder = root / UNITS
    _make_folder(folder)
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; a crash does not lose them again."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


class DiskUnit:
    """One unit on a disk: staging, commit, discarding."""

    def __init__(self, root: Path, unit_id: str, name: str) -> None:
        self._root, self._id, self._name = root, unit_id, name
        self._folder = root / UNITS / unit_id
        self._alive = ExitStack()

    def begin(self) -> None:
        """Make the place for staged files; what dead writers left is finished first.

        Raises:
            UnitOfWorkError: what was committed before cannot be finished.
        """
        with locked(self._root):
            finish_locked(self._root)
            self._folder.mkdir()
            try:
                file = self._alive.enter_context((self._folder / LOCK).open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except BaseException:
                self._alive.close()
                shutil.rmtree(self._folder, ignore_errors=True)
                raise

    @contextmanager
    def stage_file(self, number: int, way: str) -> Iterator[tuple[Path, Operation]]:
        """Yield where to write a file, and what will make it visible."""
        path = self._place(number, way)
        try:
            yield path, Operation(do="file", path=way, staged=self._way(path))
            sync(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @contextmanager
    def stage_folder(self, number: int, way: str) -> Iterator[tuple[Path, Operation]]:
        """Yield a folder to fill, and what will make it visible."""
        path = self._place(number, way)
        path.mkdir()
        try:
            yield path, Operation(do="folder", path=way, staged=self._way(path))
            sync_tree(path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def stage_text(self, number: int, way: str, text: str) -> Operation:
        """Stage a text and return what will make it visible."""
        with self.stage_file(number, way) as (path, operation):
            path.write_text(text, encoding="utf-8")
        return operation

    def _place(self, number: int, way: str) -> Path:
        return self._folder / f"{number:05d}{Path(way).suffix}"

    def _way(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def commit(self, operations: list[Operation]) -> list[str]:
        """Make all of it visible; returns what was put aside instead, as someone else had written there.

        Raises:
            ObjectExistsError: a condition does not hold; nothing is visible.
            UnitOfWorkError: it is committed and will be visible, but is not yet.
            OSError: it cannot be written; nothing is visible.
        """
        with locked(self._root):
            finish_locked(self._root)
            noted = []
            for operation in operations:
                _check(self._root, operation)
                noted.append(
                    operation.model_copy(update={"found": _mark(self._root / operation.path)})
                    if operation.do == "remove"
                    else operation
                )
            sync(self._folder)
            record = UnitRecord.of(self._id, self._name, noted)
            path = record_path(self._root, self._id)
            try:
                write_text(path, record.model_dump_json(indent=1), if_absent=True)
                aside = apply(self._root, record)
            except OSError as error:
                if not path.exists():
                    raise
                raise _unfinished(path, error) from error
            finally:
                self._alive.close()
        return aside

    def discard(self) -> None:
        """Remove what is staged; where that fails ``finish_units`` does it later."""
        self._alive.close()
        if not record_path(self._root, self._id).exists():
            shutil.rmtree(self._folder, ignore_errors=True)


def _unfinished(path: Path, error: Exception) -> UnitOfWorkError:
    return UnitOfWorkError(
        f"{path} is committed but not all of it is visible ({error}): make room or correct the rights, then "
        "run `tspace doctor --repair`; the next unit of work does the same"
    )


def _check(root: Path, operation: Operation) -> None:
    """Look whether what an operation wants still holds."""
    path = root / operation.path
    if operation.do == "folder" and path.exists():
        message = f"{path} exists already and is never replaced: choose a new version or name"
        raise ObjectExistsError(message)
    if operation.if_absent and path.exists():
        message = f"{path} exists already and is never replaced: look at it, or choose another name"
        raise ObjectExistsError(message)
    if operation.seen is not None and (not path.is_file() or read_version(path)[1] != operation.seen):
        message = f"{path} was replaced by someone else meanwhile: read it again and repeat the change"
        raise ObjectExistsError(message)


def _mark(path: Path) -> str | None:
    """Tells what is there from what may be there later."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return f"{found.st_mtime_ns}-{found.st_size}"


def apply(root: Path, record: UnitRecord) -> list[str]:
    """Do what a committed unit says; to be called with the lock held, again after a crash.

    Returns:
        What was put aside, as someone outside of units had written there after the commit.
    """
    aside: list[str] = []
    if record.state == "committed":
        for operation in record.operations:
            if operation.do != "remove":
                aside += _take_place(root, record.id, operation)
        for parent in sorted({(root / operation.path).parent for operation in record.operations}):
            if parent.is_dir():
                sync(parent)
        for operation in record.operations:
            if operation.do == "remove":
                _remove(root / operation.path, operation.found)
    # One rename says that it is done and that something has changed: see read_together.
    record_path(root, record.id).replace(root / UNITS / LAST)
    shutil.rmtree(root / UNITS / record.id, ignore_errors=True)
    return aside


def _take_place(root: Path, unit_id: str, operation: Operation) -> list[str]:
    assert operation.staged is not None
    staged, target = root / operation.staged, root / operation.path
    if not os.path.lexists(staged):  # done before a crash
        return [] if target.exists() else [f"{target} is neither staged nor in its place: it was removed"]
    _make_folder(target.parent)
    if operation.if_absent and target.exists() and target.samefile(staged):
        staged.unlink()  # killed between the two
        return []
    try:
        _check(root, operation)
        if operation.if_absent and _linked(staged, target):
            return []
    except (ObjectExistsError, FileExistsError) as error:
        put = root / "quarantine" / UNITS / unit_id / operation.path
        _make_folder(put.parent)
        _move(staged, put)
        return [f"{error}; what the unit of work {unit_id} was to put there is {put}"]
    _move(staged, target)
    return []


def _linked(staged: Path, target: Path) -> bool:
    """Let a file take a place where nothing is; False: this file system cannot."""
    try:
        os.link(staged, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    staged.unlink()
    return True


def _move(staged: Path, target: Path) -> None:
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder of the lake lies on another disk.
        temporary = target.with_name(f".{target.name}.{staged.parent.name}.tmp")
        if staged.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(staged, temporary)
            sync_tree(temporary)
        else:
            shutil.copyfile(staged, temporary)
            sync(temporary)
        temporary.rename(target)


def _remove(path: Path, found: str | None) -> None:
    if found is None or _mark(path) != found:
        return  # removed before a crash; what is there now came later
    if path.is_dir() and not path.is_symlink():
        remove_directory(path)
    else:
        path.unlink(missing_ok=True)


def finish_locked(root: Path) -> list[str]:
    """Do what was committed and remove what dead writers staged, with the lock held; returns what was done.

    Raises:
        UnitOfWorkError: a record is damaged, or what it says cannot be done now.
    """
    done = []
    for unit_id in records_in(root):
        path = record_path(root, unit_id)
        record = parse_record(path, path.read_bytes())
        try:
            aside = apply(root, record)
        except OSError as error:
            raise _unfinished(path, error) from error
        done += [f"finished the committed unit of work {unit_id} ({record.name})", *aside]
    for folder in abandoned(root):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            done.append(f"removed what the unit of work {folder.name} had staged")
    for leftover in (root / UNITS).glob(".*.json.*.tmp"):
        leftover.unlink(missing_ok=True)
    return done


def abandoned(root: Path) -> list[Path]:
    """What units have staged whose writers are dead, and which were not committed."""
    units = root / UNITS
    if not units.is_dir():
        return []
    return [
        folder
        for folder in sorted(units.iterdir())
        if folder.is_dir() and not record_path(root, folder.name).exists() and not _alive(folder)
    ]


def _alive(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def finish(root: Path) -> list[str]:
    """As ``finish_locked``, taking the lock; nothing is made where there is no unit."""
    if not (root / UNITS).is_dir():
        return []
    with locked(root):
        return finish_locked(root)


def last_token(root: Path) -> str:
    """Changes whenever a unit was done."""
    try:
        with (root / UNITS / LAST).open("rb") as file:
            return file.read(_HEAD).decode(errors="replace")
    except FileNotFoundError:
        return ""
