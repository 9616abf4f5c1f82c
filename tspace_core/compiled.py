"""Functions compiled by numba, and where their machine code is kept.

numba renews what it keeps when the function's own file changes, but not when a function that it calls, or a
constant of another file, does. So it is kept in a folder named after the content of all files that hold such
functions and constants: a change there, or another version of tspace, begins a folder of its own.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

PACKAGES = ("can", "storage/kernels", "twin")
"""Packages of tspace_core with compiled functions."""
FOLDERS_KEPT = 5

_F = TypeVar("_F", bound=Callable[..., object])


def compiled(function: _F) -> _F:
    """Compile, without Python objects and with strict arithmetic (a seed gives one result), and keep it."""
    return cast("_F", numba.njit(cache=True, nogil=True, fastmath=False)(function))


def fingerprint(root: Path) -> str:
    """Hash over the source files of the packages with compiled functions below ``root``."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def keep_in(folder: Path, name: str) -> Path:
    """Make ``folder/name``, drop all but the folders used last, and return it."""
    chosen = folder / name
    chosen.mkdir(parents=True, exist_ok=True)
    os.utime(chosen)
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-FOLDERS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return chosen


def _choose_folder() -> None:
    if numba.config.CACHE_DIR:
        return  # NUMBA_CACHE_DIR is somebody's own choice
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = keep_in(cache / "tspace" / "numba", fingerprint(Path(__file__).parent))
    except OSError:
        return  # no folder to write to: numba finds a place of its own or compiles each time
    numba.config.CACHE_DIR = str(folder)


_choose_folder()
