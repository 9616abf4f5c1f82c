"""Pools by their URL: one line a kind."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tspace_core.errors import PoolError

if TYPE_CHECKING:
    from tspace_core.storage.pools.pool import Pool


def _parquet(rest: str) -> "Pool":
    from tspace_core.storage.pools.parquet import ParquetPool

    return ParquetPool(rest)


def _avro(rest: str) -> "Pool":
    from tspace_core.storage.pools.avro import AvroPool

    return AvroPool(rest)


def _mongodb(rest: str) -> "Pool":
    from tspace_core.storage.pools.mongo import MongoPool

    return MongoPool(rest)


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_KINDS: dict[str, Callable[[str], "Pool"]] = {"parquet": _parquet, "avro": _avro, "mongodb": _mongodb}


def open_pool(url: str) -> "Pool":
    """Open a pool by its URL.

    Args:
        url: ``parquet:<root>`` or ``avro:<root>``, the root being a folder or ``s3://bucket/prefix``;
            ``mongodb:<database>`` on the server of ``settings().mongodb_uri``; a root alone is a lake's:
            Parquet.

    Raises:
        PoolError: the URL names no pool.
        PoolAccessError, PoolServerError: a server refuses, or does not answer.
    """
    kind, separator, rest = str(url).partition(":")
    if separator and kind in _KINDS:
        if not rest or rest.startswith("//") or not _can_be(kind, rest):
            message = f"pool {hidden(url)!r}: give what comes after {kind}: as {_FORMS[kind]}"
            raise PoolError(message)
        return _KINDS[kind](rest)
    if not url or (separator and _SCHEME.fullmatch(kind) and kind != "s3") or not _can_be("parquet", url):
        message = (
            f"pool {hidden(url)!r} is of no known kind: give it as {', '.join(_FORMS.values())}; a folder "
            "with a colon in its name as parquet:<folder>"
        )
        raise PoolError(message)
    return _parquet(url)


def _can_be(kind: str, rest: str) -> bool:
    """Whether this may be a pool's place; one with a password would be shown in messages."""
    if kind == "mongodb":
        return not set(rest) & set(":@/")
    scheme, separator, path = rest.partition("://")
    return not separator or (scheme == "s3" and "@" not in path.partition("/")[0])


_FORMS = {
    "parquet": "parquet:<folder or s3://bucket/prefix>",
    "avro": "avro:<folder or s3://bucket/prefix>",
    "mongodb": "mongodb:<database>",
}


def hidden(url: str) -> str:
    """A URL without what stands before an @: user and password are not for messages."""
    before, separator, after = url.rpartition("@")
    scheme = before.partition(":")[0] if ":" in before else ""
    return f"{scheme}:...@{after}" if separator else url
