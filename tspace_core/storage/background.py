"""Work ahead in a second thread: the next part is made while the last one is written."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
_END = object()


def ahead(parts: Iterable[T]) -> Generator[T, None, None]:
    """Yield the parts in order, each made in another thread while the one before it is in use.

    Two parts are in memory at most. What the making raises is raised here, in its place. Closing the
    iterator waits for the part that is being made; use ``contextlib.closing`` where it may be left early.
    """
    source = iter(parts)
    with ThreadPoolExecutor(1, "ahead") as thread:
        following = thread.submit(next, source, _END)
        while (part := following.result()) is not _END:
            following = thread.submit(next, source, _END)
            yield cast("T", part)
