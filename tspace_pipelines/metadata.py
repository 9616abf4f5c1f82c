"""What an asset shows of itself: numbers, tables, paths and a plot, in Dagster's forms."""

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def plot(figure: "Figure", title: str) -> dg.MetadataValue[Any]:
    """The figure as a picture in the page, as sharp as fits into ``MAX_PLOT_BYTES``."""
    for dpi in (110, 80, 60, 40, 25):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        text = f"![{title}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
        if len(text) < MAX_PLOT_BYTES:
            return dg.MetadataValue.md(text)
    return dg.MetadataValue.text(f"{title}: the picture would be larger than {MAX_PLOT_BYTES} bytes")


def new_figure(rows: int = 1) -> "Figure":
    """An empty figure that needs no display and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8.0, 1.2 + 1.6 * rows), layout="constrained")
