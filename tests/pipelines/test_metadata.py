"""What assets show: numbers as numbers, plots that stay small, tables, clear failures."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from tspace_core.errors import StorageError
from tspace_core.evaluation.figures import Picture
from tspace_pipelines.metadata import MAX_PLOT_BYTES, as_metadata, clear_failure, plot, table


def noise(width: int, height: int) -> Picture:
    """A picture that PNG cannot compress."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return Picture(name="noise", caption="Noise [all of it]", svg="<svg></svg>", png=buffer.getvalue())


@pytest.mark.parametrize("size", [(50, 40), (300, 200), (880, 200)])
def test_a_plot_stays_below_the_limit(size: tuple[int, int]) -> None:
    shown = plot(noise(*size)).value
    assert len(shown) < MAX_PLOT_BYTES
    found = re.fullmatch(r"!\[Noise all of it\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", shown)
    assert found is not None
    with Image.open(BytesIO(b64decode(found.group(1)))) as image:
        assert image.format == "PNG" and image.width <= size[0]


def test_a_plot_that_cannot_be_made_small_says_so() -> None:
    assert "larger than 50000 bytes" in plot(noise(220, 600)).value


def test_values_keep_their_kind() -> None:
    shown = as_metadata(
        {
            "n": 3,
            "share": 0.5,
            "bad": float("nan"),
            "on": True,
            "file": Path("/a"),
            "gone": None,
            "by": {1: 2},
        }
    )
    assert {name: type(value) for name, value in shown.items()} == {
        "n": dg.IntMetadataValue,
        "share": dg.FloatMetadataValue,
        "bad": dg.TextMetadataValue,
        "on": dg.BoolMetadataValue,
        "file": dg.PathMetadataValue,
        "by": dg.JsonMetadataValue,
    }


def test_a_table_keeps_its_cells() -> None:
    shown = table([{"a": 1.23456, "b": "x|y\nz"}, {"a": 2, "b": ""}]).value.splitlines()
    assert shown == ["| a | b |", "|---|---|", "| 1.235 | x\\|y z |", "| 2 |  |"]
    assert table([]).value == "none"


def test_our_errors_become_failures_in_plain_words() -> None:
    with pytest.raises(dg.Failure, match="StorageError: no such log") as raised, clear_failure():
        message = "no such log"
        raise StorageError(message)
    assert raised.value.allow_retries is False
