"""A file system whose n-th write point fails, or at whose n-th write point the process is killed.

Write points are what changes a disk below a folder: opening a file for writing, fsync, mkdir, rename,
replace, link, unlink. What libraries write in C is not seen: a full disk and a kill at a random time
cover that.
"""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


class Killed(BaseException):
    """Stands for the end of a process where it is not really killed."""


class Faults:
    """Counts write points below ``root``; at number ``at`` something happens."""

    def __init__(self, root: Path, at: int | None, act: Callable[[str], object]) -> None:
        self.points: list[str] = []
        self._root, self._at, self._act = root, at, act

    def point(self, what: str, *places: Any) -> None:
        """A write point; may not return."""
        if not any(self._below(place) for place in places):
            return
        self.points.append(f"{what} {places[-1]}")
        if len(self.points) - 1 == self._at:
            self._act(self.points[-1])

    def _below(self, place: Any) -> bool:
        if isinstance(place, int):
            place = Path(f"/proc/self/fd/{place}").readlink()
        return Path(os.fsdecode(place)).absolute().is_relative_to(self._root)

    @contextmanager
    def installed(self) -> Iterator["Faults"]:
        """Watch this process in the block."""
        real, watched = io.open, {name: self._watched(name) for name in _CALLS}
        with mock.patch.multiple(os, **watched):  # type: ignore[call-overload]

            def opened(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
                if set(mode) & set("wax+"):
                    self.point(f"open({mode})", file)
                return real(file, mode, *args, **named)

            with mock.patch.object(io, "open", opened), mock.patch.object(builtins, "open", opened):
                yield self

    def _watched(self, name: str) -> Callable[..., Any]:
        real, count = getattr(os, name), _CALLS[name]

        def call(*args: Any, **named: Any) -> Any:
            places = [named["dir_fd"]] if named.get("dir_fd") is not None else list(args[:count])
            self.point(name, *places)
            return real(*args, **named)

        return call


_CALLS = {"fsync": 1, "mkdir": 1, "rename": 2, "replace": 2, "link": 2, "unlink": 1}


def fail(number: int) -> Callable[[str], None]:
    """Raise the error of that number."""

    def act(what: str) -> None:
        raise OSError(number, f"{os.strerror(number)} (injected at {what})")

    return act


def kill(_what: str) -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


ERRORS = (errno.ENOSPC, errno.EIO)
