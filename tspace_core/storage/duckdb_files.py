"""DuckDB on files in a bucket, by Arrow's own client: its ``httpfs`` is a download, not to be relied on."""

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tspace_core.config import settings
from tspace_core.objects.path import AnyPath, S3Path

if TYPE_CHECKING:
    import duckdb


def let_read(connection: "duckdb.DuckDBPyConnection", root: AnyPath) -> None:
    """Let a connection read what lies below ``root``; on a disk it can anyway."""
    if isinstance(root, S3Path):
        connection.register_filesystem(_filesystem())


def _filesystem() -> Any:
    import pyarrow.fs as arrow

    found = settings().s3
    place: dict[str, str] = {}
    if found.endpoint is not None:
        server = urlsplit(found.endpoint)
        place = {"endpoint_override": server.netloc, "scheme": server.scheme}
    return _bucket_class()(arrow.S3FileSystem(region=found.region, **place))


@cache
def _bucket_class() -> type:
    from importlib import import_module  # fsspec has no types

    wrapper: Any = import_module("fsspec.implementations.arrow").ArrowFSWrapper

    class Buckets(wrapper):  # type: ignore[misc]
        """Paths that begin with ``s3://``."""

        protocol = "s3"
        cachable = False

        def glob(self, path: str, **options: object) -> list[str]:
            """What matches, by one listing; the base asks for every folder apart."""
            bucket, _, key = path.removeprefix("s3://").partition("/")
            return sorted(str(found).removeprefix("s3://") for found in S3Path(f"s3://{bucket}").glob(key))

    return Buckets
