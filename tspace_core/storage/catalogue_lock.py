"""One writer at a time: a lock that ends with its process, and a wait for it that has an end."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tspace_core.errors import WriterBusyError


@contextmanager
def only_writer(path: Path, what: str, *, wait_s: float) -> Iterator[None]:
    """Hold the lock file at ``path``, which is made; nothing else is in it.

    Args:
        path: the lock file; its folder exists. It stays behind, without meaning.
        what: what is written under it, for the message.
        wait_s: how long to wait for the writer before, s.

    Raises:
        WriterBusyError: somebody else holds it for longer than that.
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if _taken(descriptor):
        try:
            yield
        finally:
            os.close(descriptor)
        return
    # ``flock`` knows no time-out, so a thread waits in it. One that is given up closes the file as soon as it
    # gets it.
    taken, given_up, turn = threading.Event(), threading.Event(), threading.Lock()

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with turn:
            if given_up.is_set():
                os.close(descriptor)
            else:
                taken.set()

    threading.Thread(target=wait, name="catalogue-lock", daemon=True).start()
    try:
        taken.wait(wait_s)
    except BaseException:  # Ctrl-C: who waits no more must not get it, nor keep it
        with turn:
            given_up.set()
            if taken.is_set():
                os.close(descriptor)
        raise
    with turn:
        if not taken.is_set():
            given_up.set()
            message = (
                f"another process has been writing {what} for longer than {wait_s:g} s ({path} is locked): "
                "wait until it is done, or end it"
            )
            raise WriterBusyError(message)
    try:
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
