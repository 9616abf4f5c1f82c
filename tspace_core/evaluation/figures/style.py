"""One look for all figures: colours that colour-blind readers tell apart, text that follows the page.

Figures are built on ``matplotlib.figure.Figure`` without pyplot: no display and no figures left behind.
"""

import base64
import html
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COLOURS = {
    "default": "#7f7f7f",
    "policy": "#0072b2",
    "minus_budget": "#d55e00",
    "random": "#cc79a7",
    "best_static": "#009e73",
}
"""Okabe-Ito colours of the candidates that have a name."""
_OTHERS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442")
PRIMARY, SECONDARY, TERTIARY = "#0072b2", "#d55e00", "#009e73"
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"
INK = "#13579b"
"""Stands for the colour of the text; the SVG replaces it by the page's, so that dark pages stay readable."""
_PRINT_INK = "#333333"

_STYLE: Mapping[str, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#9a9a9a",
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "tspace",
}
_NAMESPACES = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: identifier, e.g. ``energy_saving``; for file names and metadata keys.
        caption: what is to be seen, for people and for screen readers.
        svg: a standalone SVG file as text; its ink is ``currentColor``, so that it follows the page's text.
        png: the same as PNG bytes on a white ground; empty where it was drawn for a page alone.
    """

    name: str
    caption: str
    svg: str
    png: bytes

    @property
    def inline_svg(self) -> str:
        """The SVG element to put into an HTML page: no prolog, no namespace declarations."""
        element = self.svg[self.svg.index("<svg") :]
        head, rest = element.split(">", 1)
        label = html.escape(self.caption, quote=True)
        return f'{_NAMESPACES.sub("", head)} role="img" aria-label="{label}">{rest}'

    @property
    def markdown(self) -> str:
        """The PNG as a Markdown image with its data inside, as Dagster's metadata shows it."""
        data = base64.b64encode(self.png).decode("ascii")
        caption = re.sub(r"[\[\]]", "", self.caption)
        return f"![{caption}](data:image/png;base64,{data})"


@contextmanager
def style() -> Iterator[None]:
    """Draw within the common look."""
    import matplotlib as mpl

    with mpl.rc_context(dict(_STYLE)):
        yield


def new_figure(width: float = 8.0, height: float = 3.6) -> Any:
    """An empty figure of that size in inches; call within ``style()``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def picture(figure: Any, name: str, caption: str, *, png: bool = True) -> Picture:
    """Render ``figure``; call within ``style()``. ``png=False``: for a page alone, at half the cost."""
    vector = io.StringIO()
    figure.savefig(
        vector, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", vector.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg, flags=re.DOTALL)
    pixels = io.BytesIO()
    if png:
        _print_ink(figure)
        figure.savefig(pixels, format="png", dpi=110, facecolor="white")
    return Picture(name=name, caption=caption, svg=svg.replace(INK, "currentColor"), png=pixels.getvalue())


def colour(name: str, position: int = 0) -> str:
    """The colour of a candidate; ``position`` tells candidates without a colour of their own apart."""
    return COLOURS.get(name, _OTHERS[position % len(_OTHERS)])


def label(name: str) -> str:
    """A candidate's or signal's name for people."""
    return name.replace("_", " ")


def _print_ink(figure: Any) -> None:
    """Give everything drawn in the stand-in ink the ink of paper."""
    import matplotlib.colors as mcolors

    ink = mcolors.to_rgba(INK)
    for artist in figure.findobj():
        for kind in ("color", "edgecolor", "facecolor", "markeredgecolor"):
            getter, setter = getattr(artist, f"get_{kind}", None), getattr(artist, f"set_{kind}", None)
            if getter is None or setter is None:
                continue
            value = getter()
            if isinstance(value, str | tuple) and mcolors.to_rgba(value) == ink:
                setter(_PRINT_INK)
    for axes in figure.axes:
        axes.tick_params(which="both", colors=_PRINT_INK)
