"""One bucket: whole objects by key, conditional writes, large ones in parts.

An object appears whole or not at all: a write becomes visible when the server has all of it, also where it
came in parts. A writer that dies leaves at most parts that no reader sees; ``abort_uploads`` removes them.
"""

import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tspace_core.errors import ObjectError, ObjectExistsError, ObjectMissingError, ObjectServerError
from tspace_core.objects.client import ATTEMPTS, broke_off, our_errors, s3_client
from tspace_core.objects.transfer import LARGE, download_ranges, etag_of, upload_parts

T = TypeVar("T")
_BATCH = 1000
_BLOCK = 1 << 20
_WRITER = "tspace-writer"


@dataclass(frozen=True)
class ObjectInfo:
    """What the server says of an object.

    Attributes:
        key: its name in the bucket.
        size: bytes.
        etag: changes with the content.
        modified: when it was written, whole seconds.
    """

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectStore:
    """One bucket of the object storage that ``settings().s3`` names; thread-safe.

    Every method raises ObjectAccessError where credentials are missing or refused, and ObjectServerError
    where the server is down, too slow or cannot serve it now; each after a few tries.
    """

    def __init__(self, bucket: str, client: Any | None = None) -> None:
        self.bucket = bucket
        self._client = client if client is not None else s3_client()

    def __repr__(self) -> str:
        return f"ObjectStore({self.bucket!r} at {self.endpoint})"

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return str(self._client.meta.endpoint_url)

    def head(self, key: str) -> ObjectInfo | None:
        """What there is at ``key``; None: nothing."""
        try:
            with our_errors(self._client, self.bucket, key, "look at"):
                return _info(key, self._client.head_object(Bucket=self.bucket, Key=key))
        except ObjectMissingError:
            return None

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        """The content of an object.

        Args:
            key: which.
            limit: a larger object is refused before it is read, bytes.

        Raises:
            ObjectMissingError: there is none.
            ObjectError: it is larger than ``limit``.
        """
        return self.get_with_info(key, limit=limit)[0]

    def get_with_info(self, key: str, *, limit: int | None = None) -> tuple[bytes, ObjectInfo]:
        """As ``get``, with the ETag that belongs to the content; for ``put(..., if_match=)``."""

        def read() -> tuple[bytes, ObjectInfo]:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            with closing(answer["Body"]) as body:
                size = answer.get("ContentLength")  # not every server says it of what it makes as it sends
                if limit is not None and (size or 0) > limit:
                    raise self._too_large(key, f"has {size} bytes", limit)
                most = None if size is not None or limit is None else limit
                content: bytes = body.read() if most is None else body.read(most + 1)
                if most is not None and len(content) > most:
                    raise self._too_large(key, f"has more than {most} bytes", most)
                return content, _info(key, {**answer, "ContentLength": len(content)})

        return self._tried(key, "read", read)

    def _too_large(self, key: str, what: str, limit: int) -> ObjectError:
        place = f"s3://{self.bucket}/{key} at {self.endpoint}"
        return ObjectError(f"{place} {what}, allowed are {limit}: it was not read; check what wrote it")

    def blocks(self, key: str) -> Iterator[bytes]:
        """The content of an object block by block; one that breaks off in the middle is an error.

        Raises:
            ObjectMissingError: there is none.
        """
        with our_errors(self._client, self.bucket, key, "read"):
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            with closing(answer["Body"]) as body:
                while block := body.read(_BLOCK):
                    yield block

    def tail(self, key: str, count: int) -> bytes:
        """The last ``count`` bytes of an object, or all of a shorter one; where formats keep their footer.

        Raises:
            ObjectMissingError: there is none.
        """

        def read() -> bytes:
            asked = f"bytes=-{count}"
            with closing(self._client.get_object(Bucket=self.bucket, Key=key, Range=asked)["Body"]) as body:
                found: bytes = body.read()
                return found

        return self._tried(key, "read", read)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write an object whole and return its ETag.

        Args:
            key: where to.
            data: the content.
            if_absent: only if there is none yet.
            if_match: only if the present one still has this ETag.

        Raises:
            ObjectExistsError: the condition does not hold (any more); nothing was written.
        """
        arguments, writer = _conditions(if_absent, if_match)

        def write() -> str:
            return etag_of(self._client.put_object(Bucket=self.bucket, Key=key, Body=data, **arguments))

        return self._written(key, write, writer)

    def upload(self, path: Path, key: str, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a file as an object and return its ETag; a large one in parts, visible when all are there.

        Raises:
            ObjectExistsError: the condition, as of ``put``, does not hold; nothing was written.
            OSError: the file cannot be read.
        """
        arguments, writer = _conditions(if_absent, if_match)

        def write() -> str:
            if path.stat().st_size > LARGE:
                return upload_parts(self._client, self.bucket, key, path, arguments)
            with path.open("rb") as file:
                return etag_of(self._client.put_object(Bucket=self.bucket, Key=key, Body=file, **arguments))

        return self._written(key, write, writer)

    def download(self, key: str, path: Path, info: ObjectInfo | None = None) -> ObjectInfo:
        """Copy an object into a file, which appears whole or not at all.

        Args:
            key: which.
            path: where to; its folder exists.
            info: of a ``head`` or listing just made; it is not asked for again.

        Raises:
            ObjectMissingError: there is none.
            ObjectExistsError: it was replaced while it was read, several times over.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            for _ in range(ATTEMPTS - 1):
                try:
                    return self._fetch(key, path, temporary, info)
                except ObjectExistsError:
                    info = None  # it was replaced since: take the new one
            return self._fetch(key, path, temporary, info)
        finally:
            temporary.unlink(missing_ok=True)

    def _fetch(self, key: str, path: Path, temporary: Path, known: ObjectInfo | None) -> ObjectInfo:
        def read() -> ObjectInfo:
            info = known or _info(key, self._client.head_object(Bucket=self.bucket, Key=key))
            download_ranges(self._client, self.bucket, key, temporary, size=info.size, etag=info.etag)
            temporary.replace(path)
            return info

        return self._tried(key, "read", read)

    def list(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix``, in the order of keys; asked for page by page.

        Args:
            prefix: beginning of the keys.
            after: only keys behind this one; those before cost nothing.
            limit: at most so many.
        """
        left = math.inf if limit is None else limit
        arguments: dict[str, Any] = {"StartAfter": after} if after else {}
        while left > 0:
            page = self._page(prefix, MaxKeys=int(min(left, _BATCH)), **arguments)
            for item in page.get("Contents", []):
                yield _listed(item)
                left -= 1
            if not page.get("IsTruncated"):
                return
            arguments = {"ContinuationToken": page["NextContinuationToken"]}

    def children(self, prefix: str) -> Iterator[ObjectInfo | str]:
        """What lies directly below ``prefix``: objects, and folders as keys that end with ``/``."""
        arguments: dict[str, Any] = {}
        while True:
            page = self._page(prefix, Delimiter="/", **arguments)
            for item in page.get("Contents", []):
                yield _listed(item)
            for item in page.get("CommonPrefixes", []):
                yield str(item["Prefix"])
            if not page.get("IsTruncated"):
                return
            arguments = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self, prefix: str) -> Iterator[str]:
        """Folders directly below ``prefix``: keys that end with ``/``."""
        return (item for item in self.children(prefix) if isinstance(item, str))

    def copy(
        self,
        source_key: str,
        key: str,
        *,
        bucket: str | None = None,
        source_etag: str | None = None,
        if_absent: bool = False,
    ) -> str:
        """Copy an object of at most 5 GB on the server and return the copy's ETag.

        Args:
            source_key: which.
            key: where to, in this bucket.
            bucket: that it lies in; this one by default.
            source_etag: only if it still has this ETag.
            if_absent: only if there is nothing at ``key`` yet.

        Raises:
            ObjectMissingError: there is no object at ``source_key``.
            ObjectExistsError: a condition does not hold; nothing was written.
        """
        source = {"Bucket": bucket or self.bucket, "Key": source_key}
        conditions = {"CopySourceIfMatch": f'"{source_etag}"'} if source_etag is not None else {}
        if if_absent:
            conditions["IfNoneMatch"] = "*"
        with our_errors(self._client, source["Bucket"], source_key, f"copy to s3://{self.bucket}/{key} from"):
            answer = self._client.copy_object(CopySource=source, Bucket=self.bucket, Key=key, **conditions)
            return etag_of(answer["CopyObjectResult"])

    def delete(self, *keys: str) -> None:
        """Remove objects; one that is not there is no error."""
        for first in range(0, len(keys), _BATCH):
            batch = keys[first : first + _BATCH]
            with our_errors(self._client, self.bucket, batch[0], "remove"):
                if len(batch) == 1:
                    self._client.delete_object(Bucket=self.bucket, Key=batch[0])
                    continue
                asked = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
                failed = self._client.delete_objects(Bucket=self.bucket, Delete=asked).get("Errors", [])
            if failed:
                message = (
                    f"{len(failed)} of {len(batch)} objects in {self.bucket} at {self.endpoint} were not "
                    f"removed, first {failed[0].get('Key')}: {failed[0].get('Code')} "
                    f"{failed[0].get('Message', '')}; check the rights and try again"
                )
                raise ObjectError(message)

    def abort_uploads(self, prefix: str = "", *, older_than_s: float = 86_400.0) -> int:
        """Throw away the parts of uploads that were begun long ago and never ended; return how many."""
        limit = datetime.now(UTC).timestamp() - older_than_s
        count = 0
        with our_errors(self._client, self.bucket, prefix, "look for unfinished uploads below"):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Uploads", []):
                    if item["Initiated"].timestamp() > limit:
                        continue
                    self._client.abort_multipart_upload(
                        Bucket=self.bucket, Key=item["Key"], UploadId=item["UploadId"]
                    )
                    count += 1
        return count

    def _page(self, prefix: str, **arguments: Any) -> dict[str, Any]:
        with our_errors(self._client, self.bucket, prefix, "list"):
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self.bucket, Prefix=prefix, **arguments
            )
            return page

    def _tried(self, key: str, doing: str, work: Callable[[], T]) -> T:
        """Do it again where a body breaks off: botocore itself tries again only until the body begins."""
        for _ in range(ATTEMPTS - 1):
            try:
                with our_errors(self._client, self.bucket, key, doing):
                    return work()
            except ObjectServerError as error:
                if not broke_off(error.__cause__):
                    raise
        with our_errors(self._client, self.bucket, key, doing):
            return work()

    def _written(self, key: str, write: Callable[[], str], writer: str | None) -> str:
        try:
            with our_errors(self._client, self.bucket, key, "write"):
                return write()
        except (ObjectExistsError, ObjectMissingError) as error:
            # An answer may have been lost and the write tried again: then it is our own that is in the way.
            again = _retries(error.__cause__)
            if not (writer and again):
                raise
            with our_errors(self._client, self.bucket, key, "look at"):
                found = self._client.head_object(Bucket=self.bucket, Key=key)
            if found.get("Metadata", {}).get(_WRITER) != writer:
                raise
            return etag_of(found)


def _conditions(if_absent: bool, if_match: str | None) -> tuple[dict[str, Any], str | None]:  # noqa: FBT001
    """Arguments of a conditional write, and a mark by which the writer knows its own again."""
    if not if_absent and if_match is None:
        return {}, None
    writer = secrets.token_hex(8)
    condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": f'"{if_match}"'}
    return {"Metadata": {_WRITER: writer}, **condition}, writer


def _retries(error: BaseException | None) -> int:
    answer = getattr(error, "response", {})
    return int(answer.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _info(key: str, answer: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, int(answer["ContentLength"]), etag_of(answer), answer["LastModified"])


def _listed(item: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(item["Key"], int(item["Size"]), etag_of(item), item["LastModified"])
