"""Paths as fields of pydantic models: on a disk or in a bucket, as text in JSON."""

from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

from tspace_core.objects.path import AnyPath, S3Path, any_path


def _path(value: object) -> AnyPath:
    if isinstance(value, S3Path | str):
        return any_path(value)
    try:
        return any_path(value)  # type: ignore[arg-type]  # what else Path takes
    except TypeError as error:
        message = f"{value!r} is no path"
        raise ValueError(message) from error


PathField = Annotated[AnyPath, PlainValidator(_path), PlainSerializer(str, return_type=str, when_used="json")]
"""``Path | S3Path``: a text that begins with ``s3://`` is one in a bucket."""
