"""Large objects in parts, both ways, several at a time; memory holds some blocks, never the object."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

LARGE = 64 << 20
"""Larger files go in parts, bytes."""
PART = 16 << 20
"""Size of a part, bytes."""
_MOST_PARTS = 10_000
_THREADS = 4
_BLOCK = 1 << 20


def etag_of(answer: dict[str, Any]) -> str:
    """The ETag of an answer, without its quotes."""
    return str(answer["ETag"]).strip('"')


def upload_parts(client: Any, bucket: str, key: str, path: Path, arguments: dict[str, Any]) -> str:
    """Upload a file in parts; visible when the server has put all of them together.

    Args:
        client: boto3's.
        bucket: where to.
        key: where to.
        path: the file.
        arguments: ``Metadata`` and a condition (``IfNoneMatch``, ``IfMatch``), as of a put.

    Returns:
        The object's ETag.
    """
    place = {"Bucket": bucket, "Key": key}
    metadata = {name: value for name, value in arguments.items() if name == "Metadata"}
    condition = {name: value for name, value in arguments.items() if name != "Metadata"}
    size = path.stat().st_size
    part = max(PART, -(-size // _MOST_PARTS))
    upload = client.create_multipart_upload(**place, **metadata)["UploadId"]

    def send(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * part)
            answer = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=file.read(part))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        parts = side_by_side(send, range(1, -(-size // part) + 1))
        done = client.complete_multipart_upload(
            **place, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
        )
    except BaseException:
        _abort(client, place, upload)
        raise
    return etag_of(done)


def _abort(client: Any, place: dict[str, str], upload: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.abort_multipart_upload(**place, UploadId=upload)
    except (BotoCoreError, ClientError):
        return  # the first error is the one to tell; abort_uploads removes the parts later


def download_ranges(client: Any, bucket: str, key: str, path: Path, *, size: int, etag: str) -> None:
    """Read the object of this size and ETag into a file, a large one by several ranges at a time.

    The server refuses (412) where the object was replaced meanwhile, so ranges of two contents never mix.
    """
    place = {"Bucket": bucket, "Key": key, "IfMatch": f'"{etag}"'}
    with path.open("wb") as file:
        file.truncate(size)
    if size <= LARGE:
        _read_into(path, 0, client.get_object(**place))
        return

    def read(first: int) -> None:
        last = min(first + PART, size) - 1
        _read_into(path, first, client.get_object(**place, Range=f"bytes={first}-{last}"))

    side_by_side(read, range(0, size, PART))


def _read_into(path: Path, first: int, answer: dict[str, Any]) -> None:
    with closing(answer["Body"]) as body, path.open("r+b") as file:
        file.seek(first)
        while block := body.read(_BLOCK):
            file.write(block)


def side_by_side(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Do requests several at a time; the results in order. The first failure ends what has not begun."""
    with ThreadPoolExecutor(_THREADS, "object") as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            return [found.result() for found in running]
        except BaseException:
            for waiting in running:
                waiting.cancel()
            raise
