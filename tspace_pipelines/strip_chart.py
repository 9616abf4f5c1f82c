"""Strip charts for metadata: one strip a quantity over time, drawn in milliseconds.

Assets of a log are made thousands of times; matplotlib would take longer than the asset itself. A column of
pixels shows the least and greatest value of its stretch of time, so that peaks stay visible; where there is
no value, the strip stays empty.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import ImageDraw

WIDTH, STRIP, LEFT, TOP, BOTTOM = 860, 62, 190, 26, 24
_INK, _FRAME, _CURVE, _GROUND = (60, 60, 60), (205, 205, 205), (0, 114, 178), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """One quantity.

    Attributes:
        label: name and unit.
        time_s: instants in s, shape (n,); a clock that steps back is drawn over itself.
        values: shape (n,); NaN where there is none.
    """

    label: str
    time_s: "NDArray[np.float64]"
    values: "NDArray[np.float64]"


def strip_chart(title: str, strips: Sequence[Strip]) -> dg.MetadataValue[Any]:
    """The strips below each other over a common time axis, as a picture in Markdown."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, TOP + STRIP * len(strips) + BOTTOM), _GROUND)
    draw = ImageDraw.Draw(image)
    draw.text((8, 7), title, fill=_INK)
    times = [strip.time_s for strip in strips if len(strip.time_s)]
    first = min((float(time.min()) for time in times), default=0.0)
    last = max((float(time.max()) for time in times), default=0.0)
    for number, strip in enumerate(strips):
        _strip(draw, strip, TOP + number * STRIP, first, last)
    end = f"{last - first:,.0f} s"
    below = TOP + STRIP * len(strips) + 4
    draw.text((LEFT, below), "0", fill=_INK)
    draw.text((WIDTH - 8 - draw.textlength(end), below), end, fill=_INK)
    buffer = io.BytesIO()
    image.quantize(16).save(buffer, format="png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return dg.MetadataValue.md(f"![strip chart](data:image/png;base64,{data})")


def _strip(draw: "ImageDraw.ImageDraw", strip: Strip, top: int, first: float, last: float) -> None:
    low, high, columns = envelope(strip, first, last, WIDTH - 8 - LEFT)
    draw.rectangle((LEFT, top + 2, WIDTH - 8, top + STRIP - 4), outline=_FRAME)
    draw.text((8, top + STRIP // 2 - 7), strip.label, fill=_INK)
    if not len(columns):
        draw.text((LEFT + 8, top + STRIP // 2 - 7), "no values", fill=_INK)
        return
    least, greatest = float(low.min()), float(high.max())
    for value, y in ((greatest, top + 3), (least, top + STRIP - 17)):
        text = f"{value:,.4g}"
        draw.text((LEFT - 6 - draw.textlength(text), y), text, fill=_INK)
    span = max(greatest - least, 1e-12)
    scale = (STRIP - 12) / span
    upper = top + 6 + (greatest - high) * scale
    lower = top + 6 + (greatest - low) * scale
    for x, y0, y1 in zip(columns.tolist(), upper.tolist(), lower.tolist(), strict=True):
        draw.line((LEFT + x, y0, LEFT + x, y1 + 1), fill=_CURVE)


def envelope(
    strip: Strip, first: float, last: float, width: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]":
    """Least and greatest value of every column of pixels that has one.

    Args:
        strip: what is drawn.
        first: time at the left edge, s.
        last: time at the right edge, s.
        width: columns.

    Returns:
        Least values, greatest values and the columns they belong to, of equal length, columns ascending.
    """
    import numpy as np

    known = np.isfinite(strip.values)
    values = strip.values[known]
    share = (strip.time_s[known] - first) / max(last - first, 1e-12)
    column = np.clip((share * width).astype(np.int64), 0, width - 1)
    order = np.argsort(column, kind="stable")
    values = values[order]
    columns, starts = np.unique(column[order], return_index=True)
    if not len(columns):
        return values, values, columns
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts), columns
