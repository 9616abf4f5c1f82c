"""One process at a time does something: a lock that ends with its process, however that ends."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tspace_core.errors import TspaceError


@contextmanager
def only_one(path: Path, refuse: Callable[[str], TspaceError]) -> Iterator[None]:
    """Hold a lock while something is done; never wait for it.

    The file stays: removing it would let two processes hold locks of one name. Processes on other machines
    are not held off.

    Args:
        path: of the lock's file, made with its folder.
        refuse: makes the error to raise from the number of the process that holds the lock.

    Raises:
        TspaceError: somebody holds it, a thread of this process included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise refuse(file.read().strip() or "unknown") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
