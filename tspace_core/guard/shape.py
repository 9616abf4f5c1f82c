"""The shape rules of a map: not falling along the pedal, bounded steps between neighbours.

Both are difference constraints (``x <= y + c``), so among the maps below a given one that hold them there is
a highest, and among those above it a lowest: `lowered` and `raised`. All sums are rounded to float32 towards
the inside of the limit, so that what comes out holds the limit exactly as it will lie in the VCU.
"""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
"""Values that are float32 numbers, held in float64 so that differences are exact."""


def down(values: Doubles) -> Doubles:
    """The greatest float32 numbers that are not above ``values``."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near).astype(np.float64)


def up(values: Doubles) -> Doubles:
    """The least float32 numbers that are not below ``values``."""
    return -down(-values)


def lowered(block: Doubles, step: float) -> Doubles:
    """The highest map below ``block`` (speed x pedal, Nm) that holds the shape rules."""
    while True:
        held = block.copy()
        held[:, :-1] = np.minimum(held[:, :-1], held[:, 1:])
        most = down(held + step)
        held[:, 1:] = np.minimum(held[:, 1:], most[:, :-1])
        held[1:] = np.minimum(held[1:], most[:-1])
        held[:-1] = np.minimum(held[:-1], most[1:])
        if np.array_equal(held, block):
            return held
        block = held


def raised(block: Doubles, step: float) -> Doubles:
    """The lowest map above ``block`` that holds the shape rules."""
    # Upside down and the pedal reversed, a map that does not fall along the pedal still does not.
    return -lowered(-block[:, ::-1], step)[:, ::-1]


def first_break(table: Doubles, step: float) -> tuple[str, int, int, float] | None:
    """The first cell that breaks a shape rule: what, row, column, and the step in Nm; None: it holds."""
    along = np.diff(table, axis=1)
    across = np.diff(table, axis=0)
    for what, steps, wrong in (
        ("falls along the pedal", along, along < 0),
        ("steps along the pedal", along, along > step),
        ("steps along the speed", across, np.abs(across) > step),
    ):
        if wrong.any():
            row, column = (int(index) for index in np.argwhere(wrong)[0])
            return what, row, column, float(steps[row, column])
    return None
