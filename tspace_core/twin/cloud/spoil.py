"""Spoils windows and answers as the simulated faults ask for it."""

from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta

from tspace_core.can.box_window import KEYS
from tspace_core.twin.cloud.faults import RemoteFault
from tspace_core.twin.cloud.windows import Window

OTHER_VIN = "TWNSOMEBODYELSE01"


def spoil_window(window: Window, fault: RemoteFault) -> Window:
    """A copy of a valid window with the fault in it; the same where the fault is none of a window."""
    change = _CHANGES.get(fault.kind)
    if change is None:
        return window
    window = deepcopy(window)
    change(window, fault)
    return window


def spoils_window(fault: RemoteFault) -> bool:
    """Whether a fault is one of the window rather than of the answer."""
    return fault.kind in _CHANGES


def _units(window: Window, signal: str) -> list[list[object]]:
    units = window[KEYS[signal]]
    assert isinstance(units, list)
    return units


def _nan(window: Window, fault: RemoteFault) -> None:
    _units(window, "velocity")[-1][7] = "NaN" if fault.kind == "nan" else float("nan")


def _strings(window: Window, fault: RemoteFault) -> None:
    del fault
    for name in KEYS:
        window[KEYS[name]] = [[str(value) for value in unit] for unit in _units(window, name)]


def _ragged(window: Window, fault: RemoteFault) -> None:
    del fault
    for name in KEYS:
        if name != "gear":
            units = _units(window, name)
            units[0] = units[0][:47]
            units[-1] = [*units[-1], *units[-1][-3:]] if len(units) > 1 else units[-1]


def _empty_unit(window: Window, fault: RemoteFault) -> None:
    del fault
    _units(window, "current")[0] = []


def _no_signal(window: Window, fault: RemoteFault) -> None:
    del fault
    del window[KEYS["brake"]]


def _few_units(window: Window, fault: RemoteFault) -> None:
    del fault
    for key, units in window.items():
        assert isinstance(units, list)
        window[key] = units[:-1]


def _shifted(window: Window, fault: RemoteFault) -> None:
    seconds = fault.number if fault.kind == "future" else -fault.number
    stamps = window["timestamps"]
    assert isinstance(stamps, list)
    window["timestamps"] = [_later(str(stamp), seconds) for stamp in stamps]


def _later(stamp: str, seconds: float) -> str:
    moved = datetime.strptime(stamp[:12], "%y%m%d%H%M%S") + timedelta(seconds=round(seconds))
    return moved.strftime("%y%m%d%H%M%S") + stamp[12:]


def _wrong_vin(window: Window, fault: RemoteFault) -> None:
    del fault
    window["vin"] = OTHER_VIN


_CHANGES: dict[str, Callable[[Window, RemoteFault], None]] = {
    "nan": _nan,
    "nan_literal": _nan,
    "strings": _strings,
    "ragged": _ragged,
    "empty_unit": _empty_unit,
    "no_signal": _no_signal,
    "few_units": _few_units,
    "future": _shifted,
    "past": _shifted,
    "wrong_vin": _wrong_vin,
}
