"""Routes by name: standard cycles from their published tables, and the generated truck route."""

import csv
from functools import cache
from importlib.resources import files

import numpy as np

from tspace_core.errors import UnknownNameError
from tspace_core.twin.arrays import Array
from tspace_core.twin.route import Route, make_route
from tspace_core.twin.truck_route import generate_truck_route

UNITS_TO_MPS = {"speed_mph": 0.44704, "speed_kmh": 1.0 / 3.6}
PUBLISHED = ("udds", "hwfet", "us06", "wltc_class3b")


def read_table(name: str) -> tuple[Array, Array, str]:
    """A published table: instants in s, speeds as published, and the name of the speed's column.

    Raises:
        UnknownNameError: there is no such table.
    """
    if name not in PUBLISHED:
        message = f"no cycle table {name!r}; known: {', '.join(PUBLISHED)}"
        raise UnknownNameError(message)
    text = files("tspace_core.twin").joinpath("cycle_tables", f"{name}.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    values = np.array(rows[1:], dtype=np.float64)
    return values[:, 0], values[:, 1], rows[0][1]


def cycle_names() -> list[str]:
    """Names that ``load_route`` knows."""
    return [*PUBLISHED, "truck_route"]


def load_route(name: str, seed: int = 0) -> Route:
    """The route of that name.

    Args:
        name: one of ``cycle_names()``.
        seed: seed of the generated route; published cycles do not depend on it.

    Raises:
        UnknownNameError: lists the names there are.
    """
    if name == "truck_route":
        return generate_truck_route(seed)
    if name not in PUBLISHED:
        message = f"no cycle named {name!r}; known: {', '.join(cycle_names())}"
        raise UnknownNameError(message)
    return _published(name)


@cache
def _published(name: str) -> Route:
    time, speed, column = read_table(name)
    return make_route(name, time, speed * UNITS_TO_MPS[column])
