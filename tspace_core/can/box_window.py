"""Windows of a telematics box: from the JSON of the wire contract to samples in UTC, and back.

A box sends units of one second with 50 samples of each signal (the gear with 2), each unit with a stamp in
the vehicle's local time. What may be uneven and is put right, and what makes the window invalid:

- a unit that is short is stretched to 50 samples by linear interpolation, if it has at least 2; a long one
  is cut. The gear is held, not interpolated, and one sample of it is enough. An empty unit is invalid;
- a unit must begin 1 s after the one before, give or take ``STAMP_TOLERANCE_NS``; its samples are spread
  evenly up to the next one's stamp, so that stamps of 2 fraction digits never let time run backwards;
- the hour that there is twice at the end of daylight saving is told apart by the units next to it, and where
  they do not tell, by what time it is; a time within the hour that does not exist is invalid.
"""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle, load_site
from tspace_core.config.remote import UNIT_S, UNIT_SAMPLES
from tspace_core.config.settings import settings
from tspace_core.errors import RecordError

SIGNALS = ("velocity", "thrust", "brake", "current", "voltage", "gear")
"""Columns of ``BoxWindow.values``."""
KEYS = {
    "velocity": "list_speed_1s",
    "thrust": "list_pedal_1s",
    "brake": "list_brake_pressure_1s",
    "current": "list_current_1s",
    "voltage": "list_voltage_1s",
    "gear": "list_gears",
}
"""Key of each signal on the wire."""
GEAR_SAMPLES = 2
"""Samples of the gear in a whole unit."""
STAMP_TOLERANCE_NS = 100_000_000
"""A unit may begin this much before or after the end of the one before it, ns: 5 samples."""

_UNIT_NS = round(UNIT_S * 1e9)
_STAMP = re.compile(r"(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2,6})", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)
_SHOWN = 60
_NUMBERS = frozenset((int, float))
_INPUTS = frozenset((int, float, str))


@dataclass(frozen=True, eq=False)
class BoxWindow:
    """A window as a telematics box saw it.

    Attributes:
        time_ns: (n,) ns UTC of each sample, ascending; empty where the window cannot be used.
        values: (n, 6) in the order of ``SIGNALS``, in the vehicle's units and signs.
        reason: why it cannot be used; "" where it can. Whether values are plausible is judged by others.
    """

    time_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    reason: str = ""


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """The window cannot be used; the text says why."""


def decode_window(result: object, vehicle: Vehicle, *, near_ns: int, units: int | None = None) -> BoxWindow:
    """The samples of a window; never raises for bad content, ``reason`` says what is wrong with it.

    Args:
        result: the ``result`` of the wire contract, as JSON gives it.
        vehicle: gives the site whose zone the stamps are in, and the signs.
        near_ns: about when the window ended, ns UTC: now, or when its object was written. Tells the two hours
            apart that have the same local time.
        units: how many units it must have; None: any number.

    Raises:
        ConfigError: the vehicle's site does not exist.
    """
    zone = _zone(settings().conf_dir, vehicle.site)
    try:
        time_ns, values = _decoded(result, vehicle, zone, near_ns, units)
    except _Unusable as error:
        return BoxWindow(np.empty(0, np.int64), np.empty((0, len(SIGNALS))), str(error))
    return BoxWindow(time_ns, values)


def encode_window(
    values: NDArray[np.float64],
    start_ns: int,
    zone: ZoneInfo,
    *,
    as_strings: bool = False,
    fraction_digits: int = 3,
) -> dict[str, object]:
    """The ``result`` of the wire contract, as a telematics box makes it.

    Args:
        values: (units x 50, 6) in the order of ``SIGNALS``, in the box's units and signs. Of the gear the
            samples 0 and 25 of each unit are sent.
        start_ns: ns UTC of the first sample.
        zone: where the vehicle is; its local time is stamped, cut off after ``fraction_digits`` (2 to 6).
        as_strings: send numbers as decimal strings.
        fraction_digits: of the stamps.

    Raises:
        RecordError: the values are not whole units of six finite signals, or the digits are out of range.
    """
    values = np.asarray(values, np.float64)
    units, rest = divmod(len(values), UNIT_SAMPLES)
    if values.ndim != 2 or values.shape[1] != len(SIGNALS) or rest or not units:
        message = f"values of shape {values.shape}, expected (units x {UNIT_SAMPLES}, {len(SIGNALS)})"
        raise RecordError(message)
    if not np.isfinite(values).all() or not 2 <= fraction_digits <= 6:
        message = (
            f"values must be finite and fraction_digits 2 to 6, {fraction_digits} was given with "
            f"{np.count_nonzero(~np.isfinite(values))} values that are no numbers"
        )
        raise RecordError(message)
    result: dict[str, object] = {
        "timestamps": [_stamp(start_ns + unit * _UNIT_NS, zone, fraction_digits) for unit in range(units)]
    }
    in_units = values.reshape(units, UNIT_SAMPLES, len(SIGNALS))
    for column, name in enumerate(SIGNALS):
        step = UNIT_SAMPLES // GEAR_SAMPLES if name == "gear" else 1
        numbers = in_units[:, ::step, column].tolist()
        result[KEYS[name]] = [list(map(repr, unit)) for unit in numbers] if as_strings else numbers
    return result


def _decoded(
    result: object, vehicle: Vehicle, zone: ZoneInfo, near_ns: int, units: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if not isinstance(result, Mapping):
        message = f"the window is {_shown(result)}, expected an object with timestamps and list_*"
        raise _Unusable(message)
    stamps = _list(result, "timestamps")
    if not stamps or (units is not None and len(stamps) != units):
        message = f"the window has {len(stamps)} units, expected {units or 'at least one'}"
        raise _Unusable(message)
    time_ns = _sample_times(_starts(stamps, zone, near_ns))
    values = np.empty((len(time_ns), len(SIGNALS)))
    signs = vehicle.remote.sign if vehicle.remote is not None else {}
    for column, name in enumerate(SIGNALS):
        samples = _samples(result, name, len(stamps))
        values[:, column] = -samples if signs.get(name, 1) < 0 else samples
    return time_ns, values


@cache
def _zone(conf_dir: Path, site: str) -> ZoneInfo:
    """The zone of a site; read once, for windows come every second. The folder is part of the key."""
    del conf_dir
    return load_site(site).zone


def _stamp(time_ns: int, zone: ZoneInfo, fraction_digits: int) -> str:
    utc = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    fraction = f"{time_ns % 1_000_000_000:09d}"
    return utc.astimezone(zone).strftime("%y%m%d%H%M%S") + fraction[:fraction_digits]


def _list(result: Mapping[str, object], key: str) -> list[object]:
    if key not in result:
        message = f"{key} is missing"
        raise _Unusable(message)
    value = result[key]
    if not isinstance(value, list):
        message = f"{key} is {_shown(value)}, expected a list of units"
        raise _Unusable(message)
    return value


def _samples(result: Mapping[str, object], name: str, units: int) -> NDArray[np.float64]:
    """All samples of a signal, whole units."""
    key = KEYS[name]
    found = _list(result, key)
    if len(found) != units:
        message = f"{key} has {len(found)} units, there are {units} timestamps"
        raise _Unusable(message)
    whole, least = (GEAR_SAMPLES, 1) if name == "gear" else (UNIT_SAMPLES, 2)
    rows: list[list[object]] = []
    for place, unit in enumerate(found):
        if not isinstance(unit, list):
            message = f"{key}, unit {place} is {_shown(unit)}, expected a list of samples"
            raise _Unusable(message)
        if len(unit) < least:
            message = f"{key}, unit {place} has {len(unit)} samples, at least {least} are needed"
            raise _Unusable(message)
        rows.append(unit if len(unit) <= whole else unit[:whole])
    flat = _numbers(list(itertools.chain.from_iterable(rows)), key)
    if len(flat) < units * whole:
        flat = _filled(flat, [len(row) for row in rows], whole, hold=name == "gear")
    return np.repeat(flat, UNIT_SAMPLES // whole) if name == "gear" else flat


def _filled(
    flat: NDArray[np.float64], lengths: Sequence[int], whole: int, *, hold: bool
) -> NDArray[np.float64]:
    """Every unit at its whole length: the first and last sample stay, what lies between is interpolated."""
    filled = np.empty((len(lengths), whole))
    grid, begin = np.linspace(0.0, 1.0, whole), 0
    for row, length in zip(filled, lengths, strict=True):
        unit = flat[begin : begin + length]
        begin += length
        if length == whole:
            row[:] = unit
        elif hold:
            row[:length], row[length:] = unit, unit[-1]
        else:
            row[:] = np.interp(grid, np.linspace(0.0, 1.0, length), unit)
    return filled.reshape(-1)


def _numbers(flat: list[object], key: str) -> NDArray[np.float64]:
    """Numbers and decimal strings as floats; nothing else, so no booleans and no `nan`."""
    kinds = set(map(type, flat))
    try:
        if kinds <= _NUMBERS:
            numbers = np.array(flat, np.float64)
        elif kinds <= _INPUTS and all(_DECIMAL.fullmatch(text) for text in flat if isinstance(text, str)):
            numbers = np.array(list(map(float, flat)), np.float64)  # type: ignore[arg-type]
        else:
            raise _Unusable(_no_number(flat, key))
    except OverflowError:
        raise _Unusable(_no_number(flat, key)) from None
    if not np.isfinite(numbers).all():
        raise _Unusable(_no_number(flat, key))
    return numbers


def _no_number(flat: list[object], key: str) -> str:
    wrong = next(value for value in flat if not _is_number(value))
    return f"{key} has a sample {_shown(wrong)}, expected a finite number or a decimal string"


def _is_number(value: object) -> bool:
    try:
        if isinstance(value, str):
            return _DECIMAL.fullmatch(value) is not None and math.isfinite(float(value))
        return type(value) in _NUMBERS and math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def _starts(stamps: list[object], zone: ZoneInfo, near_ns: int) -> list[int]:
    """When each unit begins, ns UTC."""
    choices = [_instants(stamp, place, zone) for place, stamp in enumerate(stamps)]
    if all(len(choice) == 1 for choice in choices):
        starts = [choice[0] for choice in choices]
    else:
        # In the doubled hour: each way to begin, and from there on the instant nearest to what must follow.
        ways = []
        for first in choices[0]:
            way = [first]
            for choice in choices[1:]:
                due = way[-1] + _UNIT_NS
                way.append(min(choice, key=lambda instant: abs(instant - due)))
            ways.append(way)
        starts = min(ways, key=lambda way: (_break_in(way) is not None, abs(way[-1] + _UNIT_NS - near_ns)))
    place = _break_in(starts)
    if place is not None:
        apart = (starts[place] - starts[place - 1]) / 1e9
        message = (
            f"unit {place}, stamped {_shown(stamps[place])}, begins {apart:g} s after the one before, "
            f"expected {UNIT_S:g} s, give or take {STAMP_TOLERANCE_NS / 1e9:g} s"
        )
        raise _Unusable(message)
    return starts


def _break_in(starts: Sequence[int]) -> int | None:
    for place, (before, this) in enumerate(itertools.pairwise(starts), 1):
        if abs(this - before - _UNIT_NS) > STAMP_TOLERANCE_NS:
            return place
    return None


def _instants(stamp: object, place: int, zone: ZoneInfo) -> list[int]:
    """Every ns UTC that a local stamp may mean: one, in the doubled hour two."""
    match = _STAMP.fullmatch(stamp) if isinstance(stamp, str) else None
    local = _local(match)
    if match is None or local is None:
        message = (
            f"timestamps, unit {place} is {_shown(stamp)}, expected yymmddHHMMSS and 2 to 6 fraction digits"
        )
        raise _Unusable(message)
    fraction_ns = int(match[7].ljust(9, "0"))
    offsets = [_offset(local.replace(fold=fold), zone) for fold in (0, 1)]
    instants = []
    for offset in dict.fromkeys(offsets):
        seconds = (local - _EPOCH - offset) // timedelta(seconds=1)
        # Where both folds have one offset, the time exists and is unique: most of the year.
        if offsets[0] == offsets[1] or _wall(seconds, zone) == local:
            instants.append(seconds * 1_000_000_000 + fraction_ns)
    if not instants:
        message = (
            f"timestamps, unit {place} is {_shown(stamp)}: that time does not exist in {zone.key}, where the "
            "clocks were put forward then; check the box's clock and the site's zone"
        )
        raise _Unusable(message)
    return instants


def _local(match: re.Match[str] | None) -> datetime | None:
    """What the clock on the vehicle's wall showed, whole seconds; None: no such date or time."""
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    try:
        return datetime(2000 + year, month, day, hour, minute, second)
    except ValueError:
        return None


def _offset(local: datetime, zone: ZoneInfo) -> timedelta:
    offset = local.replace(tzinfo=zone).utcoffset()
    assert offset is not None
    return offset


def _wall(seconds: int, zone: ZoneInfo) -> datetime:
    """Local time, without a zone, of an instant."""
    return datetime.fromtimestamp(seconds, zone).replace(tzinfo=None, fold=0)


def _sample_times(starts: list[int]) -> NDArray[np.int64]:
    """When each sample was taken, ns UTC: spread evenly up to the next unit's begin."""
    begins = np.array(starts, np.int64)
    lengths = np.diff(begins, append=begins[-1] + _UNIT_NS)
    steps = np.arange(UNIT_SAMPLES, dtype=np.int64)
    return (begins[:, None] + lengths[:, None] * steps // UNIT_SAMPLES).reshape(-1)


def _shown(value: object) -> str:
    """A value as a reason shows it: JSON, at most a line."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
