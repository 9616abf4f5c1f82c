"""What an asset shows of itself: numbers, tables, paths and a plot, in Dagster's forms."""

import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from tspace_core.errors import TspaceError
from tspace_core.objects.path import S3Path

if TYPE_CHECKING:
    from tspace_core.evaluation.figures import Picture

MAX_PLOT_BYTES = 50_000
"""A picture in metadata is part of the event log: it stays below this size."""

Metadata = dict[str, Any]


@contextmanager
def clear_failure() -> Iterator[None]:
    """Turn an error that tspace raised on purpose into a failed step that says it in plain words."""
    try:
        yield
    except TspaceError as error:
        raise dg.Failure(description=f"{type(error).__name__}: {error}", allow_retries=False) from error


def as_metadata(values: Mapping[str, object]) -> Metadata:
    """Turn a summary into metadata: numbers stay numbers, paths become paths, the rest becomes JSON."""
    return {name: _value(value) for name, value in values.items() if value is not None}


def _value(value: object) -> dg.MetadataValue[Any]:
    if isinstance(value, dg.MetadataValue):
        return value
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value) if math.isfinite(value) else dg.MetadataValue.text(str(value))
    if isinstance(value, S3Path):
        return dg.MetadataValue.path(str(value))
    if isinstance(value, Path):
        return dg.MetadataValue.path(str(value))
    if isinstance(value, str):
        return dg.MetadataValue.text(value)
    return dg.MetadataValue.json(json.loads(json.dumps(value, default=str)))


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue[Any]:
    """A table of rows with equal columns."""
    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    if not cells:
        return dg.MetadataValue.text("none")
    header = "| " + " | ".join(cells[0]) + " |\n|" + "---|" * len(cells[0])
    lines = ["| " + " | ".join(row.values()) + " |" for row in cells]
    return dg.MetadataValue.md("\n".join([header, *lines]))


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def plot(picture: "Picture") -> dg.MetadataValue[Any]:
    """The picture for the page, made smaller until it fits into ``MAX_PLOT_BYTES``."""
    if len(picture.markdown) < MAX_PLOT_BYTES:
        return dg.MetadataValue.md(picture.markdown)
    from PIL import Image

    with Image.open(io.BytesIO(picture.png)) as image:
        full = image.convert("RGB")
    for width in (880, 700, 530, 350, 220):
        size = (min(width, full.width), round(full.height * min(1.0, width / full.width)))
        buffer = io.BytesIO()
        full.resize(size).quantize(32).save(buffer, format="png", optimize=True)
        smaller = replace(picture, png=buffer.getvalue()).markdown
        if len(smaller) < MAX_PLOT_BYTES:
            return dg.MetadataValue.md(smaller)
    return dg.MetadataValue.text(f"{picture.caption} (its picture is larger than {MAX_PLOT_BYTES} bytes)")
