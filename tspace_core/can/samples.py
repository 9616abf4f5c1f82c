"""Samples of a signal as they were sent, and the rules that make them from physical values.

The rules are those of ``SignalSource`` in the vehicle's file: sentinels, range, sign, scale, offset, clip.
CAN logs and trip tables share them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tspace_core.can.report import ReadReport
from tspace_core.config.vehicle import SignalSource

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LARGEST = float(np.finfo(np.float32).max)
"""The lake keeps signals as float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Valid samples of one signal in log order.

    Attributes:
        time: int64[n], ns on the log's clock; it may repeat and jump back as the log does.
        value: float64[n], in the unit of the signal.
    """

    time: Times
    value: Floats

    def __post_init__(self) -> None:
        if self.time.shape != self.value.shape or self.time.ndim != 1:
            message = f"samples need one time a value, got {self.time.shape} times, {self.value.shape} values"
            raise ValueError(message)

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def empty(cls) -> Self:
        """No samples."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float64))

    @classmethod
    def concat(cls, parts: Iterable["Samples"]) -> Self:
        """The samples of all parts, one behind the other."""
        some = [part for part in parts if len(part)]
        if not some:
            return cls.empty()
        return cls(np.concatenate([one.time for one in some]), np.concatenate([one.value for one in some]))


def sentinel_mask(source: SignalSource, physical: Floats) -> Mask:
    """Where the physical value (before scale and sign) is one that means `no value`; bool[n]."""
    mask = np.zeros(len(physical), np.bool_)
    for sentinel in source.sentinels:
        mask |= physical == sentinel
    return mask


def valid_samples(
    name: str,
    source: SignalSource,
    time: Times,
    physical: Floats,
    no_value: Mask,
    report: ReadReport,
) -> Samples:
    """Apply the rules of ``source`` and count what they refuse.

    Args:
        name: our name of the signal, for the report.
        source: where it comes from and what is valid.
        time: int64[n], ns.
        physical: float64[n] as the database or table gives it.
        no_value: bool[n], samples that a sentinel of this or another signal makes invalid.
        report: counts ``sentinel``, ``not_finite`` and ``out_of_range``, in samples.

    Returns:
        The valid samples.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is counted below
        value = physical * source.scale
        value += source.offset
        value *= source.sign
    keep = ~no_value
    _count(report, "sentinel", name, no_value, time, physical, "means `no value`")
    broken = keep & ~(np.abs(value) <= _LARGEST)
    if broken.any():
        _count(report, "not_finite", name, broken, time, physical, "is no finite number of 32 bits")
        keep &= ~broken
    if source.valid is not None:
        low, high = source.valid
        outside = keep & ((value < low) | (value > high))
        limits = f"is outside the valid {low:g}..{high:g} {source.unit} of the vehicle's file"
        _count(report, "out_of_range", name, outside, time, value, limits)
        keep &= ~outside
    if source.clip is not None:
        value = np.clip(value, *source.clip)
    if keep.all():
        return Samples(time, value)
    return Samples(time[keep], value[keep])


def _count(
    report: ReadReport, reason: str, name: str, refused: Mask, time: Times, value: Floats, why: str
) -> None:
    count = int(np.count_nonzero(refused))
    if count:
        first = int(np.argmax(refused))
        place = f"{name} at {time[first] / 1e9:.6f} s"
        report.drop(reason, count=count, place=place, detail=f"{value[first]:g} {why}")
